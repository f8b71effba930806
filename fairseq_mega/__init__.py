"""Mega (Moving Average Equipped Gated Attention) for fairseq: what ``--user-dir`` imports.

Registers the models ``mega`` and ``mega_lm`` with their presets (``models``), built from the
layers in ``modules`` and the mathematics in ``ops``; the learning-rate schedule ``linear_decay``
(``optim``); and lets torch load fairseq's checkpoints (``checkpoints``).
"""

from . import optim
from .checkpoints import allow_checkpoint_types
from .models.mega import MegaModel
from .models.mega_lm import MegaLanguageModel

allow_checkpoint_types()

__all__ = ["MegaLanguageModel", "MegaModel", "optim"]
