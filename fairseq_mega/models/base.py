"""The base class of all models: reads checkpoints."""

import ast
import os
from pathlib import Path
from typing import Dict, List

from fairseq import hub_utils
from fairseq.models import BaseFairseqModel
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn import functional as F

from ..checkpoints.exchange import is_exported, load_exported
from ..checkpoints.trust import PluginModel, check_choices
from ..modules.int8 import multiply_in_int8_
from ..modules.packed import pack_linear_layers_
from .layers import compile_layers_
from .memory_metrics import log_memory_spans
from .registration import add_model_options

INT8_OPTION = "cpu_int8"  # of --model-overrides, and of from_pretrained
COMPILE_OPTION = "compile_layers"  # of training, and of from_pretrained


class MegaCheckpointMixin(PluginModel, BaseFairseqModel):
    """Reads checkpoints of this package and of the published code; refuses others."""

    # Positions of the ``simple`` bias's tables that may be for symbols fairseq adds to samples.
    added_positions = 0
    # The options that decide the size of these tables.
    table_options = "the chunk size (without chunks, the maximal positions)"

    @classmethod
    def add_args(cls, parser) -> None:
        """Adds the options with the defaults of this architecture, where fairseq keeps them."""
        add_model_options(parser, getattr(cls, "__dataclass")())  # noqa: B009

    def upgrade_state_dict_named(self, state_dict: Dict[str, Tensor], name: str) -> None:
        if not any(".mega_layer." in key for key in state_dict):
            raise ValueError(
                f"not a checkpoint of a Mega model: it holds no Mega layers, but "
                f"{', '.join(sorted(state_dict)[:3])}, ..."
            )
        self._check_bias_tables(state_dict)
        super().upgrade_state_dict_named(state_dict, name)

    def state_dict(self, *args, **kwargs):
        """The state, with the number of batches that a batch norm has seen as a float: fairseq's
        --store-ema takes the moving average of all that is in it."""
        state = super().state_dict(*args, **kwargs)
        for name in state:
            if name.endswith(".num_batches_tracked"):
                state[name] = state[name].double()
        return state

    def set_num_updates(self, num_updates: int) -> None:
        """Called by fairseq before every update; adds memory spans to its log."""
        super().set_num_updates(num_updates)
        log_memory_spans(self)

    def prepare_for_inference_(self, cfg: DictConfig) -> None:
        """Called by fairseq before it generates or scores: linear layers get int8 weights, if
        ``cpu_int8`` is among its ``--model-overrides``, or packed ones on a CPU; compiled layers
        run eagerly."""
        super().prepare_for_inference_(cfg)
        compile_layers_(self, False)
        if _asks_for_int8(cfg.common_eval.model_overrides):
            _use_int8_(self)
        else:
            pack_linear_layers_(self)

    def _check_bias_tables(self, state_dict: Dict[str, Tensor]) -> None:
        """Names the option behind a ``simple`` bias of another size than the model's; extends one
        that was learned without the model's ``added_positions`` with zeros."""
        ours = self.state_dict()
        for key, table in state_dict.items():
            if not key.endswith(".rel_pos_bias.rel_pos_bias") or key not in ours:
                continue
            size, trained = ((t.numel() + 1) // 2 for t in (ours[key], table))
            if 0 < size - trained <= self.added_positions:
                state_dict[key] = F.pad(table, (size - trained, size - trained))
            elif size != trained:
                raise ValueError(
                    f"{key} of the checkpoint was learned for {trained} positions, but the model "
                    f"has {size}: with --rel-pos-bias simple, leave {self.table_options} as it "
                    "was in training; rotary fits any"
                )

    @classmethod
    def from_pretrained(
        cls, model_name_or_path, checkpoint_file="model.pt", data_name_or_path=".", **kwargs
    ) -> nn.Module:
        """Loads checkpoints, and returns ``hub_interface`` to them.

        Args:
            model_name_or_path: the folder of the checkpoints, or an exported folder.
            checkpoint_file: a checkpoint, or several with colons between them for an ensemble.
            data_name_or_path: the folder of the dictionaries; ``.`` for that of the checkpoints.
            **kwargs: options that replace those in the checkpoint, ``bpe``, ``tokenizer``, ...;
                ``task``, the name of a task that a file may not choose by itself;
                ``cpu_int8=True`` for linear layers with int8 weights, on a CPU;
                ``compile_layers=True`` to compile the layers for scoring many texts.

        Raises:
            ValueError: if a checkpoint cannot be read, or chooses a model, task or tokenizer that
                it may not; nothing of it has been built then.
            FileNotFoundError: if there is none.
        """
        if not os.path.isdir(model_name_or_path):
            raise FileNotFoundError(
                f"no folder of checkpoints at {model_name_or_path}; unpack archives before"
            )
        int8, compiled = (
            _checked_bool(option, kwargs.pop(option, False))
            for option in (INT8_OPTION, COMPILE_OPTION)
        )
        loaded = cls._load(model_name_or_path, checkpoint_file, data_name_or_path, kwargs)
        if int8:
            _use_int8_(loaded)
        if compiled:
            compile_layers_(loaded, True)
        return loaded

    @classmethod
    def _load(cls, model_name_or_path, checkpoint_file, data_name_or_path, kwargs) -> nn.Module:
        folder = Path(model_name_or_path)
        if is_exported(folder) and not (folder / checkpoint_file).is_file():
            return load_exported(folder, cls, kwargs)
        for name in checkpoint_file.split(os.pathsep):
            check_choices(os.path.join(model_name_or_path, name), cls, kwargs)
        kwargs.pop("task", None)  # fairseq would take it for an option of the task's
        for side in ("encoder", "decoder"):  # a checkpoint needs no file of embeddings
            kwargs.setdefault(f"{side}_embed_path", None)
        try:
            loaded = hub_utils.from_pretrained(
                model_name_or_path, checkpoint_file, data_name_or_path, **kwargs
            )
            return cls.hub_interface(loaded["args"], loaded["task"], loaded["models"])
        except OSError:
            raise
        except Exception as error:  # whatever weights and options that do not fit raise
            path = folder / checkpoint_file
            raise ValueError(f"{path} does not make a {cls.__name__}: {error}") from error

    @classmethod
    def hub_interface(cls, cfg: DictConfig, task, models: List[nn.Module]) -> nn.Module:
        """Returns fairseq's interface to generate and score text."""
        return hub_utils.GeneratorHubInterface(cfg, task, models)


def _use_int8_(model: nn.Module) -> None:
    try:
        multiply_in_int8_(model)
    except ValueError as error:
        raise ValueError(
            f"{INT8_OPTION}: {error}. It is for generation in float32 on a CPU: leave it out, or "
            "--fp16; on a machine with a GPU, add --cpu"
        ) from error


def _asks_for_int8(overrides: str) -> bool:
    """Tells whether ``--model-overrides`` asks for int8 weights; fairseq ignores names that are not
    the checkpoint's options."""
    if INT8_OPTION not in (overrides or ""):
        return False
    try:
        value = ast.literal_eval(overrides)[INT8_OPTION]
    except (KeyError, SyntaxError, TypeError, ValueError):  # fairseq-eval-lm takes any expression
        raise ValueError(f"write it as \"{{'{INT8_OPTION}': True}}\", not {overrides}") from None
    return _checked_bool(INT8_OPTION, value)


def _checked_bool(option: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{option} must be True or False, not {value!r}")
    return value
