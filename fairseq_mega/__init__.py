"""Mega (Moving Average Equipped Gated Attention) for fairseq: what ``--user-dir`` imports.

Registers the models ``mega`` and ``mega_lm`` with their presets (``models``), built from the
layers in ``modules`` and the mathematics in ``ops``; the task ``mega_language_modeling`` for long
text (``tasks``, ``data``); the learning-rate schedule ``linear_decay`` (``optim``); and lets torch
load fairseq's checkpoints (``checkpoints``).
"""

from . import optim
from .checkpoints import allow_checkpoint_types
from .models.mega import MegaModel
from .models.mega_lm import MegaLanguageModel
from .models.text_state import TextState
from .tasks.language_modeling import MegaLanguageModelingTask

allow_checkpoint_types()

__all__ = ["MegaLanguageModel", "MegaLanguageModelingTask", "MegaModel", "TextState", "optim"]
