"""What a checkpoint chooses, looked at before anything of it is built.

fairseq takes the names of the model, the task and the tokenizer from a checkpoint and builds what
they stand for from its options; some of fairseq's own models evaluate options as Python, and some
of its tokenizers download what an option says. A file must not choose those.
"""

import os
import zipfile
from argparse import Namespace
from typing import Any, Dict, Mapping, Optional

import torch
from fairseq.checkpoint_utils import get_maybe_sharded_checkpoint_filename
from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_REGISTRY
from fairseq.tasks import TASK_REGISTRY

TASKS = {"translation", "language_modeling"}
# These read no more than the files that their options name.
TEXT = {
    "tokenizer": {"moses", "nltk", "space"},
    "bpe": {"bytes", "characters", "fastbpe", "sentencepiece", "subword_nmt"},
}


class PluginModel:
    """Marks the models of this plugin, the only ones that a checkpoint may choose."""


def read_checkpoint(path: str) -> Dict[str, Any]:
    """What is in a checkpoint; weights are read only when they are used, if the file allows that.

    Raises:
        FileNotFoundError: where there is none.
        ValueError: where the file is none, is damaged, or holds what a checkpoint may not.
    """
    path = get_maybe_sharded_checkpoint_filename(str(path), "", 0, 1)  # as fairseq does
    if not os.path.isfile(path):
        raise FileNotFoundError(f"Model file not found: {path}")
    try:
        mapped = zipfile.is_zipfile(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # whatever a damaged file makes torch raise
        raise ValueError(f"{path} cannot be read as a checkpoint: {_reason(error)}") from error
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise ValueError(f"{path} is no checkpoint of fairseq: it has no 'model'")
    if not all(isinstance(name, str) for name in state["model"]):
        raise ValueError(f"{path} is no checkpoint of fairseq: its weights have no names")
    if not all(isinstance(value, torch.Tensor) for value in state["model"].values()):
        raise ValueError(f"{path} is no checkpoint of fairseq: its 'model' holds no weights alone")
    if not isinstance(state.get("args"), (Namespace, type(None))):
        raise ValueError(f"{path} is no checkpoint of fairseq: its 'args' are no Namespace")
    return state


def _reason(error: Exception) -> str:
    """Without torch's advice to load the file in the way that runs its code."""
    text = str(error).partition("WeightsUnpickler error: ")[2] or str(error)
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def check_choices(path: str, kind: type, given: Mapping[str, Any]) -> None:
    """Checks that a checkpoint chooses a model of class ``kind``, and a task and tokenizers that do
    nothing but read text. What is in ``given``, the caller has chosen.

    Raises:
        FileNotFoundError: where there is no checkpoint.
        ValueError: names the choice.
    """
    state = read_checkpoint(path)
    model, task = chosen(state, "model", path), chosen(state, "task", path)
    check_model(model, kind, path)
    _check_task(task, kind, given, path)
    for part, harmless in TEXT.items():
        # A name alone does not replace what newer checkpoints hold: fairseq merges a dictionary.
        if part not in given or not (state.get("args") or isinstance(given[part], dict)):
            _check_text(state, part, harmless, path)
    _check_languages(state, given, path)
    unknown = section(state, "generation").get("replace_unk")
    if unknown is not None and "replace_unk" not in given:
        raise ValueError(f"{path} sets replace_unk to {unknown!r:.80}: a file to read; give it")


def _check_task(task: Any, kind: type, given: Mapping[str, Any], path: str) -> None:
    expected = given.get("task", task)
    if task != expected:
        raise ValueError(f"{path} chooses the task {task!r:.80}, not the given {expected!r:.80}")
    ours, tasks = TASK_REGISTRY.get(task), getattr(kind, "text_tasks", TASKS)
    named = task in tasks or "task" in given
    if ours is None or not (named or not ours.__module__.startswith("fairseq.")):
        raise ValueError(
            f"{path} chooses the task {task!r:.80}, but must choose one of {sorted(tasks)}, or one "
            f"that you have imported from outside fairseq: if you know it, give task={task!r:.80}"
        )


def check_model(name: Any, kind: type, path: str) -> None:
    """Checks that ``name`` stands for a model of class ``kind``.

    Raises:
        ValueError: names the model.
    """
    model = None
    if isinstance(name, str):
        model = ARCH_MODEL_REGISTRY.get(name) or MODEL_REGISTRY.get(name)
    if model is None or not issubclass(model, kind):
        what = f"the model {name!r:.80}" if model is None else f"a {model.__name__}"
        raise ValueError(f"{path} holds {what}, not a {kind.__name__}: nothing of it was built")


def chosen(state: Mapping[str, Any], part: str, path: str) -> Any:
    """The name of the ``model``, ``task``, ``tokenizer`` or ``bpe`` in a checkpoint.

    Raises:
        ValueError: where it has no options.
    """
    if state.get("args") is not None:
        default = "translation" if part == "task" else None
        return getattr(state["args"], "arch" if part == "model" else part, default)
    if not isinstance(state.get("cfg"), dict):
        raise ValueError(f"{path} has neither 'args' nor 'cfg', the options of its training")
    named = state["cfg"].get(part)
    return named if named is None or isinstance(named, str) else _options(named).get("_name")


def section(state: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    """The options of a part; of older checkpoints, those of all parts together."""
    if state.get("args") is not None:
        return _options(state["args"])
    return _options(state["cfg"].get(part))


def _options(part: Any) -> Mapping[str, Any]:
    if isinstance(part, Namespace):
        return vars(part)
    return part if isinstance(part, dict) else {}


def _check_languages(state: Mapping[str, Any], given: Mapping[str, Any], path: str) -> None:
    """Checks that languages, which are parts of the dictionaries' names, are no paths."""
    for side in ("source_lang", "target_lang"):
        language = section(state, "task").get(side)
        if language is None or side in given:
            continue
        if not isinstance(language, str) or language != os.path.basename(language):
            raise ValueError(
                f"{path} sets {side} to {language!r:.80}, no part of a file's name: a dictionary "
                f"would be read outside the folder of the data; give {side}"
            )


def _check_text(state: Mapping[str, Any], part: str, harmless: set, path: str) -> None:
    name: Optional[str] = chosen(state, part, path)
    if name is not None and name not in harmless:
        raise ValueError(
            f"{path} chooses {part}={name!r:.80}, which may load more than a file can be trusted "
            f"with: if you know it, give {part}=dict(_name={name!r:.80}) yourself"
        )
    for option, value in section(state, part).items() if name is not None else ():
        if isinstance(value, str) and "://" in value:
            raise ValueError(f"{path} sets {option} to the address {value!r:.80}: give a file")
