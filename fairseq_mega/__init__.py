"""Mega (Moving Average Equipped Gated Attention) for fairseq: the package for ``--user-dir``.

Importing it registers with fairseq

* the models ``mega``, ``mega_lm`` and ``mega_masked_lm``, the classifiers ``lra``, ``sc_raw`` and
  ``mega_base_patch16_224``, and their presets (``models``);
* the tasks ``mega_language_modeling``, ``lra-text``, ``lra-image``, ``speech_commands`` and
  ``image_folder`` (``tasks``), and the loss of classifiers (``criterions``);
* the learning-rate schedule ``linear_decay`` and the optimizer ``mega_adam`` (``optim``);

and allows ``torch.load`` the types in fairseq's checkpoints (``checkpoints``).
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
