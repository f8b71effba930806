"""Builds tasks, models, configurations and checkpoints of fairseq's from plain values."""

import copy
from argparse import Namespace
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Mapping

import torch
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY
from fairseq.dataclass.configs import FairseqConfig
from fairseq.dataclass.utils import omegaconf_no_object_check
from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq.tasks import TASK_DATACLASS_REGISTRY, FairseqTask, setup_task
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from .reading import check_finite

Part = Mapping[str, Any]  # the options that are not the default, and "_name"


def make_config(task: Part, model: Part, criterion: Part) -> DictConfig:
    """Makes the configuration that fairseq-train would have saved, except for the training's."""
    config, older = defaults(FairseqConfig), {}
    for name, part, registry in (
        ("task", task, TASK_DATACLASS_REGISTRY),
        ("model", model, MODEL_DATACLASS_REGISTRY),
        ("criterion", criterion, CRITERION_DATACLASS_REGISTRY),
    ):
        if part["_name"] in registry:
            config[name] = {**defaults(registry[part["_name"]]), **part}
        else:  # fairseq keeps the options of those without a dataclass, and the task's, so
            older[name] = Namespace(**{**task, **part, name: part["_name"]})
    made = OmegaConf.create(OmegaConf.to_container(OmegaConf.create(config), resolve=True))
    with omegaconf_no_object_check():
        for name, namespace in older.items():
            made[name] = namespace
    return made


def defaults(kind: type) -> Dict[str, Any]:
    """Returns the options of a dataclass with their defaults."""
    values: Any = OmegaConf.to_container(OmegaConf.structured(kind()), enum_to_str=True)
    return {name: None if value == "???" else value for name, value in values.items()}


def make_task(config: DictConfig, data: Path) -> FairseqTask:
    """Sets up the task of a configuration with the dictionaries in the folder ``data``."""
    options = copy.deepcopy(config.task)
    options.data = str(data)
    return setup_task(options, from_checkpoint=True)


def load_model(
    build: Callable[[], nn.Module], weights: Mapping[str, Tensor], path: str
) -> nn.Module:
    """Returns the model that ``build`` makes, with these weights, in evaluation. Weights that share
    another's memory may be missing.

    Raises:
        ValueError: names ``path``; if the options make no model, or one of far more parameters; if
            weights are missing, superfluous, of another shape or not finite.
    """
    with blaming(path):
        with torch.device("meta"):
            asked = sum(value.numel() for value in build().parameters())
        held = sum(value.numel() for value in weights.values())
        if asked > 2 * held + 1000:
            raise ValueError(
                f"its options describe a model of {asked:,} parameters, but it holds {held:,}"
            )
        model = build()
        weights = dict(weights)
        for name, first in tied_names(model).items():
            if name not in weights and first in weights:
                weights[name] = weights[first]
        missing = sorted(set(model.state_dict()) - set(weights))
        if missing:  # before a masked language model fills in heads that a checkpoint lacks
            raise ValueError(f"it lacks the weights of {', '.join(missing[:3])}")
        model.load_state_dict(weights, strict=True)
    check_finite(model.state_dict(), path)
    return model.eval()


@contextmanager
def blaming(path: str) -> Iterator[None]:
    """Turns whatever fairseq raises at options or weights that do not fit into an error that names
    ``path``."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{path} does not make a model: {error}") from error


def tied_names(model: nn.Module) -> Dict[str, str]:
    """Returns the names of weights that are also those of an earlier name, with that name."""
    first: Dict[int, str] = {}
    tied = {}
    for name, value in model.named_parameters(remove_duplicate=False):
        if first.setdefault(id(value), name) != name:
            tied[name] = first[id(value)]
    return tied


def new_checkpoint(config: DictConfig, weights: Mapping[str, Tensor]) -> Dict[str, Any]:
    """Returns what fairseq's commands read, as if the training had not begun."""
    history = {
        "criterion_name": "",
        "optimizer_name": "",
        "lr_scheduler_state": {"best": None},
        "num_updates": 0,
    }
    return {
        "args": None,
        "cfg": OmegaConf.to_container(config),
        "model": weights,
        "criterion": None,
        "optimizer_history": [history],
        "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
        "last_optimizer_state": None,
    }
