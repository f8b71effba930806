"""Folders of model.safetensors and config.json, from and to fairseq's checkpoints."""

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Tuple

import torch
from fairseq.data import Dictionary
from fairseq.data.data_utils import infer_language_pair
from fairseq.dataclass.utils import overwrite_args_by_name
from fairseq.tasks import TASK_REGISTRY, FairseqTask
from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .building import (
    check_finite,
    check_size,
    check_weights,
    make_config,
    make_model,
    make_task,
    tied_names,
    write_dictionaries,
)
from .description import (
    FORMAT,
    FORMAT_VERSION,
    check_description,
    dictionary_entries,
    option_fields,
    read_description,
    take_options,
)
from .task_forms import TASKS, declared_options, form_of
from .trust import PluginModel, check_model, chosen, read_checkpoint, section
from .writing import new_file, new_folder

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def is_exported(folder: Path) -> bool:
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


# --- from a checkpoint --------------------------------------------------------------------------


def export_checkpoint(checkpoint: Path, out: Path, data: Path, named: Optional[str] = None) -> None:
    """Writes the model of a checkpoint to the new folder ``out``.

    Args:
        data: the folder of its dictionaries.
        named: the checkpoint's task, where it is not one of ``TASKS``.

    Raises:
        ValueError: where the checkpoint is no sound one of a Mega model.
        FileNotFoundError: where a file is missing.
        FileExistsError: where ``out`` is there.
    """
    path = str(checkpoint)
    state = read_checkpoint(path)
    description = _describe(state, path, data, named)
    config = make_config(description)
    task = make_task(description, config, path)
    weights = state["model"]
    check_size(task, config, weights, path)
    model = make_model(task, config, path)
    _load(model, dict(weights), path)
    tied = tied_names(model)
    kept = {}
    for name, value in model.state_dict().items():
        if name not in tied:
            like = weights[name].dtype if name in weights else value.dtype
            kept[name] = value.to(like if like.is_floating_point else value.dtype).contiguous()
    check_finite(kept, path)
    with new_folder(out) as part:
        save_file(kept, part / WEIGHTS, metadata={"format": "pt"})
        text = json.dumps(description, ensure_ascii=False, indent=1, allow_nan=False)
        (part / CONFIG).write_text(text + "\n", encoding="utf-8")


def _describe(
    state: Mapping[str, Any], path: str, data: Path, named: Optional[str]
) -> Dict[str, Any]:
    task, model = chosen(state, "task", path), chosen(state, "model", path)
    check_model(model, PluginModel, path)
    if task not in TASKS and (task != named or task not in TASK_REGISTRY):
        raise ValueError(
            f"{path} is of the task {task!r:.80}, not one of {sorted(TASKS)}: if you know it, give "
            f"--task {task!r:.80}"
        )
    files: Dict[str, list] = {}
    if task in TASKS:
        task_options = take_options(section(state, "task"), option_fields("task", task))
        _infer_languages(task_options, path, data)
    else:
        given = section(state, "task")
        task_options = {name: given[name] for name in declared_options(task) if name in given}
        task_options = json.loads(json.dumps(task_options, allow_nan=False))  # tuples as lists
        if task == "multilingual_denoising" and task_options["langs"] is None:
            folders = sorted(each.name for each in data.iterdir() if each.is_dir())
            task_options["langs"] = ",".join(folders)  # as fairseq infers them
        found = [*data.glob("dict*.txt"), *data.glob("*/dict*.txt")]
        files = {str(file.relative_to(data)): [] for file in sorted(found)}
    fields = option_fields("model", model)
    given = dict(section(state, "model"))
    for name in set(fields) & set(task_options):  # the task's, unless the model has its own
        if given.get(name) is None:
            given[name] = task_options[name]
    _round_positions(given)
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "versions": {name: _version(name) for name in ("fairseq-mega", "ve-fairseq", "torch")},
        "task": {"name": task, "options": task_options},
        "model": {"name": model, "options": take_options(given, fields)},
        "dictionaries": files,
    }
    form = form_of(description)
    files.update({name: [] for name in form.required()})
    check_description(description, path, named)  # before a language becomes part of a path
    for name in form.dictionaries:
        file = data / form.file(name, task_options)
        if file.is_file():
            description["dictionaries"][name] = dictionary_entries(Dictionary.load(str(file)))
        elif name not in form.optional:
            raise FileNotFoundError(f"no dictionary at {file}: say where they are with --data")
    check_description(description, path, named)
    return description


def _round_positions(options: Dict[str, Any]) -> None:
    """Rounds maximal positions up as the model did; a description has no padding of batches."""
    multiple = options.get("required_seq_len_multiple") or 1
    for name in ("max_source_positions", "max_target_positions"):
        if isinstance(options.get(name), int) and isinstance(multiple, int) and multiple > 0:
            options[name] = -(-options[name] // multiple) * multiple


def _infer_languages(options: Dict[str, Any], path: str, data: Path) -> None:
    """Sets languages that a checkpoint does not name as fairseq did in training: by the names of
    the files in the folder of the data."""
    sides = "source_lang", "target_lang"
    if all(options.get(side, "") is not None for side in sides):
        return
    languages = infer_language_pair(str(data)) if data.is_dir() else (None, None)
    if None in languages:
        raise ValueError(
            f"{path} names no languages, as its training was not told them, and no file in {data} "
            "does, such as train.de-en.de.idx: give the folder of the training's data with --data"
        )
    options.update(zip(sides, languages))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


# --- from a folder ------------------------------------------------------------------------------


def read_folder(
    folder: Path, kind: type = PluginModel, named: Optional[str] = None
) -> Tuple[Dict, DictConfig, FairseqTask, nn.Module]:
    """The description, configuration, task and model, of class ``kind``, in a folder.

    Args:
        named: its task, where it is not one of ``TASKS``.

    Raises:
        ValueError: at anything that is not as it should be; says what and where.
    """
    description = read_description(folder / CONFIG, named)
    check_model(description["model"]["name"], kind, str(folder / CONFIG))
    config = make_config(description)
    task = make_task(description, config, str(folder / CONFIG))
    path = str(folder / WEIGHTS)
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary
            found = {
                name: (each.get_shape(), each.get_dtype() in ("F64", "F32", "F16", "BF16"))
                for name, each in slices.items()
            }
            tied = check_weights(task, config, found, path)
            weights = {name: file.get_tensor(name) for name in slices}
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    check_finite(weights, path)
    model = make_model(task, config, path)
    _load(model, {**weights, **{name: weights[first] for name, first in tied.items()}}, path)
    return description, config, task, model


def _load(model: nn.Module, weights: Dict[str, Tensor], path: str) -> None:
    try:
        model.load_state_dict(weights, strict=True)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    model.eval()


def load_exported(folder: Path, kind: type, given: Mapping[str, Any]) -> nn.Module:
    """The interface from Python, ``kind.hub_interface``, to the model in a folder.

    Args:
        kind: its class.
        given: options that replace those of the folder; ``task``, the name of its task.

    Raises:
        ValueError: where it is another model, or anything is not as it should be.
    """
    options = dict(given)
    _, config, task, model = read_folder(folder, kind, options.pop("task", None))
    overwrite_args_by_name(config, options)
    return kind.hub_interface(config, task, [model])


def import_folder(
    folder: Path, checkpoint: Path, dictionaries: Path | None = None, named: Optional[str] = None
) -> None:
    """Writes the model in a folder as a checkpoint for fairseq's commands.

    Args:
        dictionaries: a new folder for the files dict.*.txt.
        named: the folder's task, where it is not one of ``TASKS``.

    Raises:
        ValueError: where anything in the folder is not as it should be.
        FileExistsError: where the checkpoint or the folder for dictionaries is there.
    """
    description, config, _, model = read_folder(folder, named=named)
    with new_file(checkpoint) as part:
        torch.save(new_checkpoint(config, model.state_dict()), part)
        if dictionaries is not None:
            with new_folder(dictionaries) as folder_part:
                write_dictionaries(description, folder_part)


def new_checkpoint(config: DictConfig, weights: Mapping[str, Tensor]) -> Dict[str, Any]:
    """What fairseq's commands read, as of a training that has not begun."""
    return {
        "args": None,
        "cfg": OmegaConf.to_container(config),
        "model": weights,
        "criterion": None,
        "optimizer_history": [
            {
                "criterion_name": "",
                "optimizer_name": "",
                "lr_scheduler_state": {"best": None},
                "num_updates": 0,
            }
        ],
        "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
        "last_optimizer_state": None,
    }
