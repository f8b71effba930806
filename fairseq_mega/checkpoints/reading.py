"""Reads checkpoints without running code that they hold, and finds their parts."""

import json
import os
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import Any, Dict, Mapping, Optional

import torch
from fairseq.checkpoint_utils import get_maybe_sharded_checkpoint_filename
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor


def load(path: str | Path) -> Any:
    """Loads a file of ``torch.save``; tensors are read when they are used, if the file allows it.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged, or holds types that are not allowed.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"Model file not found: {path}")
    try:
        mapped = zipfile.is_zipfile(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # whatever a damaged file makes torch raise
        # Without torch's advice to load the file in the way that runs its code.
        text = str(error).partition("WeightsUnpickler error: ")[2] or str(error)
        lines = [line for line in text.splitlines() if line.strip() and "weights_only" not in line]
        reason = lines[0] if lines else type(error).__name__
        raise ValueError(f"{path} cannot be read as a checkpoint: {reason}") from error


def read_object(path: Path) -> Dict[str, Any]:
    """Reads a JSON object.

    Raises:
        ValueError: if the file holds none.
    """
    try:
        value = json.loads(path.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object")
    return value


def load_safetensors(path: Path) -> Dict[str, Tensor]:
    """
    Raises:
        ValueError: if the file breaks a rule of the format.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def named_weights(weights: Any, path: str | Path) -> Dict[str, Tensor]:
    """Returns ``weights`` once it is known to map names to tensors whose values are in the file.

    Raises:
        ValueError: names what is not.
    """
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        raise ValueError(f"{path} is not a checkpoint: it has no weights with names")
    for name, value in weights.items():
        plain = isinstance(value, Tensor) and value.layout == torch.strided
        plain = plain and not value.is_quantized and value.device.type == "cpu"
        if not plain or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"{path}: the weight {name:.80} is not a tensor with all its values")
    return weights


def read_checkpoint(path: str | Path) -> Dict[str, Any]:
    """Reads a checkpoint of fairseq's.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if the file is damaged, or is not such a checkpoint.
    """
    path = get_maybe_sharded_checkpoint_filename(str(path), "", 0, 1)  # as fairseq does
    state = load(path)
    if not isinstance(state, dict) or "model" not in state:
        raise ValueError(f"{path} is not a checkpoint of fairseq: it has no 'model'")
    named_weights(state["model"], path)
    if not isinstance(state.get("args"), (Namespace, type(None))):
        raise ValueError(f"{path} is not a checkpoint of fairseq: its 'args' are not a Namespace")
    if state.get("args") is None and not isinstance(state.get("cfg"), dict):
        raise ValueError(f"{path} has neither 'args' nor 'cfg', the options of its training")
    return state


def chosen(state: Mapping[str, Any], part: str) -> Optional[str]:
    """Returns the name of the ``model``, ``task``, ``tokenizer`` or ``bpe`` in a checkpoint; of
    what should be a name and is not a string, its representation."""
    if state.get("args") is not None:
        default = "translation" if part == "task" else None
        name = getattr(state["args"], "arch" if part == "model" else part, default)
    else:
        name = state["cfg"].get(part)
        name = section(state, part).get("_name") if isinstance(name, (dict, Namespace)) else name
    return name if name is None or isinstance(name, str) else f"{name!r:.80}"


def section(state: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    """Returns the options of a part; in older checkpoints, those of all parts together."""
    options = state["args"] if state.get("args") is not None else state["cfg"].get(part)
    if isinstance(options, Namespace):
        return vars(options)
    return options if isinstance(options, dict) else {}


def check_finite(weights: Mapping[str, Tensor], path: str | Path) -> None:
    """
    Raises:
        ValueError: at a weight that is NaN or infinite.
    """
    for name, value in weights.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"{path}: {name} holds a NaN or an infinite number")
