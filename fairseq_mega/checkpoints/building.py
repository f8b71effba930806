"""A task, a model and a configuration of fairseq's, made from a description that was checked."""

import copy
from argparse import Namespace
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Dict, Iterator, List, Mapping, Tuple

import torch
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY
from fairseq.dataclass.configs import FairseqConfig
from fairseq.dataclass.utils import omegaconf_no_object_check
from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq.tasks import TASK_DATACLASS_REGISTRY, FairseqTask, setup_task
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from .description import make_dictionary
from .task_forms import form_of

# A buffer of published checkpoints that says how their positions count, see MegaEncoder.
MAY_BE = {"encoder.version"}


def make_config(description: Mapping[str, Any], data: str = "") -> DictConfig:
    """The configuration that fairseq-train would have saved, but for the training itself."""
    options = description["task"]["options"]
    criterion = options.get("criterion") or form_of(description).criterion
    if description["model"]["options"].get("adaptive_softmax_cutoff") is not None:
        criterion = "adaptive_loss"
    parts = {
        "task": (description["task"]["name"], {**options, "data": data}, TASK_DATACLASS_REGISTRY),
        "model": (*description["model"].values(), MODEL_DATACLASS_REGISTRY),
        "criterion": (criterion, {}, CRITERION_DATACLASS_REGISTRY),
    }
    config, older = defaults(FairseqConfig), {}
    for part, (name, given, registry) in parts.items():
        if name in registry:
            config[part] = {**defaults(registry[name]), **given, "_name": name}
        else:
            older[part] = Namespace(**{**options, part: name, "_name": name, "data": data})
    made = OmegaConf.create(OmegaConf.to_container(OmegaConf.create(config), resolve=True))
    with omegaconf_no_object_check():
        for part, namespace in older.items():  # as fairseq keeps those without a dataclass
            made[part] = namespace
    return made


def defaults(kind: type) -> Dict[str, Any]:
    """The options of a dataclass with their defaults."""
    values = OmegaConf.to_container(OmegaConf.structured(kind()), enum_to_str=True)
    return {name: None if value == "???" else value for name, value in values.items()}


def write_dictionaries(description: Mapping[str, Any], folder: Path) -> None:
    """The files of dictionaries that the description's task reads."""
    task = description["task"]
    for name, entries in description["dictionaries"].items():
        path = folder / form_of(description).file(name, task["options"])
        path.parent.mkdir(exist_ok=True)
        make_dictionary(entries, name).save(str(path))


def make_task(description: Mapping[str, Any], config: DictConfig, path: str) -> FairseqTask:
    with TemporaryDirectory() as folder, _blaming(path):
        write_dictionaries(description, Path(folder))
        task_config = copy.deepcopy(config.task)
        task_config.data = folder
        return setup_task(task_config, from_checkpoint=True)


def make_model(task: FairseqTask, config: DictConfig, path: str) -> nn.Module:
    with _blaming(path):
        return task.build_model(config.model, from_checkpoint=True)


@contextmanager
def _blaming(path: str) -> Iterator[None]:
    """Whatever options that do not go together make fairseq raise is an error in ``path``."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{path}: its options do not make a model: {error}") from error


def check_weights(
    task: FairseqTask, config: DictConfig, found: Mapping[str, Tuple[List[int], bool]], path: str
) -> Dict[str, str]:
    """Checks that the model of these options has just the weights that were ``found``: shapes, and
    whether they are floating-point numbers. No memory is taken for it.

    Returns:
        the names of weights that share those of another name, which alone is in ``found``.

    Raises:
        ValueError: says which weights are wrong.
    """
    with torch.device("meta"):
        model = make_model(task, config, path)
    shared = tied_names(model)
    expected = {name: value for name, value in model.state_dict().items() if name not in shared}
    for kind, names in (
        ("lacks", set(expected) - set(found)),
        ("has no use for", set(found) - set(expected) - MAY_BE),
    ):
        if names:
            listed = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
            raise ValueError(f"{path}: the model of these options {kind} {listed[:200]}")
    for name, (shape, is_float) in found.items():
        like = expected.get(name, torch.empty(1))
        if list(shape) != list(like.shape) or is_float != like.is_floating_point():
            kinds = {True: "floating-point numbers", False: "integers"}
            raise ValueError(
                f"{path}: {name} has the shape {list(shape)}, of {kinds[is_float]}, but the "
                f"model's has {list(like.shape)}, of {kinds[like.is_floating_point()]}"
            )
    return shared


def check_size(task: FairseqTask, config: DictConfig, weights: Mapping[str, Tensor], path: str):
    """Checks that options do not ask for far more memory than the weights of a checkpoint take.

    Raises:
        ValueError: says how much more.
    """
    with torch.device("meta"):
        model = make_model(task, config, path)
    asked = sum(value.numel() for value in model.parameters())
    held = sum(value.numel() for value in weights.values())
    if asked > 2 * held + 1000:
        raise ValueError(
            f"{path}: its options describe a model of {asked:,} parameters, but it holds {held:,}"
        )


def tied_names(model: nn.Module) -> Dict[str, str]:
    """The names of weights that are those of an earlier name, with that."""
    first: Dict[int, str] = {}
    tied = {}
    for name, value in model.named_parameters(remove_duplicate=False):
        if first.setdefault(id(value), name) != name:
            tied[name] = first[id(value)]
    return tied


def check_finite(weights: Mapping[str, Tensor], path: str) -> None:
    """
    Raises:
        ValueError: at a weight that is NaN or infinite.
    """
    for name, value in weights.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"{path}: {name} holds a NaN or an infinite number")
