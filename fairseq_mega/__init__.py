"""Mega (Moving Average Equipped Gated Attention) for fairseq: what ``--user-dir`` imports.

Registers the models ``mega`` and ``mega_lm`` with their presets (``models``), built from the
layers in ``modules`` and the mathematics in ``ops``; the learning-rate schedule ``linear_decay``
(``optim``); and lets torch load fairseq's checkpoints (``checkpoints``).
"""

from .checkpoints import allow_checkpoint_types

allow_checkpoint_types()

from . import optim  # noqa: E402
from .models.mega import MegaModel  # noqa: E402
from .models.mega_lm import MegaLanguageModel  # noqa: E402

__all__ = ["MegaLanguageModel", "MegaModel", "optim"]
