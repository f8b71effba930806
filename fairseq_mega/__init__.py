"""Mega (Moving Average Equipped Gated Attention) for fairseq: what ``--user-dir`` imports.

Registers the models ``mega``, ``mega_lm``, ``mega_masked_lm``, ``lra`` and ``sc_raw`` for
classification and ``mega_base_patch16_224`` for images, with their presets (``models``), built from
the layers in ``modules`` and the mathematics in ``ops``; the task ``mega_language_modeling`` for
long text, ``lra-text``, ``lra-image`` and ``speech_commands`` with their loss (``criterions``), and
``image_folder`` (``tasks``, ``data``); the learning-rate schedule ``linear_decay`` and the
optimizer ``mega_adam`` (``optim``); and lets torch load fairseq's checkpoints (``checkpoints``).
"""

from . import optim
from .checkpoints.types import allow_checkpoint_types
from .criterions.lra_cross_entropy import LRACrossEntropyCriterion
from .models.classifier import MegaClassifier
from .models.imagenet import MegaImageNet
from .models.masked_lm import MegaMaskedLM
from .models.mega import MegaModel
from .models.mega_lm import MegaLanguageModel
from .models.text_state import TextState
from .numpy_names import supply_numpy_names
from .tasks.image_folder import ImageFolderTask
from .tasks.language_modeling import MegaLanguageModelingTask
from .tasks.long_range_arena import LRAImageTask, LRATextTask
from .tasks.speech_commands import SpeechCommandsTask

allow_checkpoint_types()
supply_numpy_names()

__all__ = [
    "ImageFolderTask",
    "LRACrossEntropyCriterion",
    "LRAImageTask",
    "LRATextTask",
    "MegaClassifier",
    "MegaImageNet",
    "MegaLanguageModel",
    "MegaLanguageModelingTask",
    "MegaMaskedLM",
    "MegaModel",
    "SpeechCommandsTask",
    "TextState",
    "optim",
]
