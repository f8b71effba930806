"""Exports and imports models as files that hold no code: safetensors, and JSON for the rest."""

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Dict, Mapping, Optional, Tuple

import torch
from fairseq.dataclass.utils import overwrite_args_by_name
from fairseq.tasks import FairseqTask
from omegaconf import DictConfig
from safetensors.torch import save_file
from torch import Tensor, nn

from .building import blaming, load_model, make_config, make_task, new_checkpoint, tied_names
from .description import describe, form_of, read_description, write_dictionaries
from .reading import load_safetensors, read_checkpoint
from .trust import PluginModel, check_model
from .writing import new_file, new_folder

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def is_exported(folder: Path) -> bool:
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def export_checkpoint(checkpoint: Path, out: Path, data: Path, named: Optional[str] = None) -> None:
    """Writes the model of a checkpoint to the new folder ``out``, with the dictionaries in the
    folder ``data``; ``named`` is its task, if it is not one of ``TASKS``.

    Raises:
        ValueError: if the checkpoint is not a sound one of a Mega model.
        FileNotFoundError: if a file is missing.
        FileExistsError: if ``out`` exists.
    """
    path = str(checkpoint)
    state = read_checkpoint(path)
    weights, description = state["model"], describe(state, path, data, named)
    _, _, model = _build(description, weights, path)
    tied = tied_names(model)
    kept = {}
    for name, value in model.state_dict().items():
        if name not in tied:
            like = weights.get(name, value).dtype  # half precision stays half
            kept[name] = value.to(like if like.is_floating_point else value.dtype).contiguous()
    with new_folder(out) as part:
        save_file(kept, part / WEIGHTS, metadata={"format": "pt"})
        text = json.dumps(description, ensure_ascii=False, indent=1, allow_nan=False)
        (part / CONFIG).write_text(text + "\n", encoding="utf-8")
        shutil.copymode(part / CONFIG, part / WEIGHTS)  # safetensors writes for the owner alone


def import_folder(
    folder: Path, checkpoint: Path, dictionaries: Path | None = None, named: Optional[str] = None
) -> None:
    """Writes the model in a folder as a checkpoint for fairseq's commands, and its dict.*.txt to
    the new folder ``dictionaries``; ``named`` is its task, if it is not one of ``TASKS``.

    Raises:
        ValueError: if anything in the folder is not as it should be.
        FileExistsError: if the checkpoint or the folder for dictionaries exists.
    """
    description, config, _, model = _read_folder(folder, PluginModel, named)
    with new_file(checkpoint) as part:
        torch.save(new_checkpoint(config, model.state_dict()), part)
        if dictionaries is not None:
            with new_folder(dictionaries) as folder_part:
                write_dictionaries(description, folder_part)


def load_exported(folder: Path, kind: Any, given: Mapping[str, Any]) -> nn.Module:
    """Returns the interface from Python, ``kind.hub_interface``, to the model in a folder. The
    options ``given`` replace the folder's; its ``task`` may be among them.

    Raises:
        ValueError: if it is another model, or anything is not as it should be.
    """
    options = dict(given)
    _, config, task, model = _read_folder(folder, kind, options.pop("task", None))
    overwrite_args_by_name(config, options)
    return kind.hub_interface(config, task, [model])


def _read_folder(
    folder: Path, kind: type, named: Optional[str]
) -> Tuple[Dict, DictConfig, FairseqTask, nn.Module]:
    description = read_description(folder / CONFIG, named)
    check_model(description["model"]["name"], kind, str(folder / CONFIG))
    weights = load_safetensors(folder / WEIGHTS)
    return description, *_build(description, weights, str(folder))


def _build(
    description: Mapping[str, Any], weights: Mapping[str, Tensor], path: str
) -> Tuple[DictConfig, FairseqTask, nn.Module]:
    options, architecture = (
        {**description[part]["options"], "_name": description[part]["name"]}
        for part in ("task", "model")
    )
    criterion = options.get("criterion") or form_of(description).criterion
    if architecture.get("adaptive_softmax_cutoff") is not None:
        criterion = "adaptive_loss"
    config = make_config({**options, "data": ""}, architecture, {"_name": criterion})
    with blaming(path), TemporaryDirectory() as folder:
        write_dictionaries(description, Path(folder))
        task = make_task(config, Path(folder))
    return config, task, load_model(lambda: task.build_model(config.model, True), weights, path)
