"""What both models share: how options and checkpoints are read, and presets registered."""

import os
from functools import partial
from typing import Dict

from fairseq import hub_utils
from fairseq.dataclass import FairseqDataclass
from fairseq.dataclass.utils import merge_with_parent
from fairseq.models import register_model_architecture
from omegaconf import DictConfig
from torch import Tensor


def complete_options(cfg: DictConfig, defaults: FairseqDataclass) -> DictConfig:
    """``cfg`` with the defaults that it lacks, as a YAML that names a preset does."""
    return merge_with_parent(defaults, cfg)


class MegaCheckpointMixin:
    """Reads checkpoints of this package and of the published code; refuses others."""

    def upgrade_state_dict_named(self, state_dict: Dict[str, Tensor], name: str) -> None:
        if not any(".mega_layer." in key for key in state_dict):
            raise ValueError(
                f"not a checkpoint of a Mega model: it holds no Mega layers, but "
                f"{', '.join(sorted(state_dict)[:3])}, ..."
            )
        super().upgrade_state_dict_named(state_dict, name)

    @classmethod
    def from_pretrained(
        cls, model_name_or_path, checkpoint_file="model.pt", data_name_or_path=".", **kwargs
    ) -> hub_utils.GeneratorHubInterface:
        """fairseq's hub interface to checkpoints of this model.

        Args:
            model_name_or_path: the folder of the checkpoints.
            checkpoint_file: a checkpoint, or several with colons between them for an ensemble.
            data_name_or_path: the folder of the dictionaries; ``.`` for that of the checkpoints.
            **kwargs: options that replace those in the checkpoint, ``bpe``, ``tokenizer``, ...

        Raises:
            ValueError: where a checkpoint is of another model.
            FileNotFoundError: where there is none.
        """
        if "://" not in model_name_or_path and not os.path.exists(model_name_or_path):
            raise FileNotFoundError(f"no folder of checkpoints at {model_name_or_path}")
        hub = super().from_pretrained(
            model_name_or_path, checkpoint_file, data_name_or_path, **kwargs
        )
        for model in hub.models:
            if not isinstance(model, cls):
                raise ValueError(
                    f"{checkpoint_file} in {model_name_or_path} holds a {type(model).__name__}, "
                    f"not a {cls.__name__}"
                )
        return hub


def register_presets(model: str, presets: Dict[str, Dict]) -> None:
    """Registers architectures: a name and the options in which it differs from the model's own."""
    for name, options in presets.items():
        register_model_architecture(model, name)(partial(_set_missing, options))


def _set_missing(options: Dict, args) -> None:
    for option, value in options.items():
        if not hasattr(args, option):
            setattr(args, option, value)
