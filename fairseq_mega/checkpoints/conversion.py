"""Writes weights as a checkpoint of a model and a task of fairseq's."""

import copy
from pathlib import Path
from typing import Any, Dict, Mapping

import torch
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY
from fairseq.dataclass.configs import FairseqConfig
from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq.tasks import TASK_DATACLASS_REGISTRY, setup_task
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from .building import check_finite, check_size, defaults
from .exchange import new_checkpoint

Part = Mapping[str, Any]  # the options that are not the default, and "_name"


def make_config(task: Part, model: Part, criterion: Part) -> DictConfig:
    """The configuration that fairseq-train would have saved, but for the training itself."""
    config: Dict[str, Any] = defaults(FairseqConfig)
    for name, part, registry in (
        ("task", task, TASK_DATACLASS_REGISTRY),
        ("model", model, MODEL_DATACLASS_REGISTRY),
        ("criterion", criterion, CRITERION_DATACLASS_REGISTRY),
    ):
        config[name] = {**defaults(registry[part["_name"]]), **part}
    return OmegaConf.create(OmegaConf.to_container(OmegaConf.create(config), resolve=True))


def write_checkpoint(
    config: DictConfig, weights: Dict[str, Tensor], data: Path, source: Path, out: Path
) -> None:
    """Writes ``out`` once the model of ``config`` has loaded the weights, all of them.

    Args:
        data: the folder from which the task reads its dictionaries.
        source: where the weights are from, for errors.

    Raises:
        ValueError: where the weights do not fit the model, or are not finite; names them.
    """
    check_finite(weights, str(source))
    task_config = OmegaConf.merge(config.task, {"data": str(data)})
    task = setup_task(task_config)
    check_size(task, copy.deepcopy(config), weights, str(source))
    model = task.build_model(copy.deepcopy(config.model), from_checkpoint=True)
    missing = sorted(set(model.state_dict()) - set(weights))
    if missing:  # before the model fills in heads that a checkpoint lacks
        raise ValueError(f"{source} lacks the weights of {', '.join(missing[:3])}")
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise ValueError(f"{source}: its weights do not fit its options: {error}") from error
    torch.save(new_checkpoint(config, model.state_dict()), out)
