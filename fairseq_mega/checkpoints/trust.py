"""Checks what an untrusted checkpoint chooses, before anything of it is built.

fairseq takes the names of the model, the task and the tokenizer from a checkpoint and builds what
they stand for from its options; some of fairseq's own models evaluate options as Python, and some
of its tokenizers download what an option says. A file must not choose those.
"""

import os
from typing import Any, Mapping, Optional

from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_REGISTRY
from fairseq.tasks import TASK_REGISTRY

from .reading import chosen, read_checkpoint, section

TASKS = {"translation", "language_modeling"}
# These read no more than the files that their options name.
TEXT = {
    "tokenizer": {"moses", "nltk", "space"},
    "bpe": {"bytes", "characters", "fastbpe", "sentencepiece", "subword_nmt"},
}


class PluginModel:
    """Marks the models of this plugin, the only ones that a checkpoint may choose."""


def check_model(name: Optional[str], kind: type, path: str) -> str:
    """Returns ``name`` once it is known to stand for a model of class ``kind``."""
    model = ARCH_MODEL_REGISTRY.get(name) or MODEL_REGISTRY.get(name)
    if model is None or not issubclass(model, kind):
        what = f"the model {name!r:.80}" if model is None else f"a {model.__name__}"
        raise ValueError(f"{path} holds {what}, not a {kind.__name__}: nothing of it was built")
    return str(name)


def check_languages(options: Mapping[str, Any], path: str) -> None:
    """Checks that languages, which are parts of the dictionaries' names, are not paths."""
    for side in ("source_lang", "target_lang"):
        language = options.get(side)
        if language is not None and str(language) != os.path.basename(str(language)):
            raise ValueError(
                f"{path} sets {side} to {language!r:.80}, which is not part of a file's name: a "
                f"dictionary would be read outside the folder of the data; give {side}"
            )


def check_choices(path: str, kind: type, given: Mapping[str, Any]) -> None:
    """Checks that a checkpoint chooses a model of class ``kind``, and a task and tokenizers that
    only read text. The caller has chosen what is in ``given``.

    Raises:
        FileNotFoundError: if there is no checkpoint.
        ValueError: names the choice.
    """
    state = read_checkpoint(path)
    check_model(chosen(state, "model"), kind, path)
    _check_task(chosen(state, "task"), kind, given, path)
    for part, harmless in TEXT.items():
        # A name alone does not replace what newer checkpoints hold: fairseq merges a dictionary.
        if part not in given or not (state.get("args") or isinstance(given[part], dict)):
            _check_text(state, part, harmless, path)
    options = section(state, "task").items()
    check_languages({name: value for name, value in options if name not in given}, path)
    unknown = section(state, "generation").get("replace_unk")
    if unknown is not None and "replace_unk" not in given:
        raise ValueError(f"{path} sets replace_unk to {unknown!r:.80}: a file to read; give it")


def _check_task(task: Optional[str], kind: type, given: Mapping[str, Any], path: str) -> None:
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


def _check_text(state: Mapping[str, Any], part: str, harmless: set, path: str) -> None:
    name = chosen(state, part)
    if name is None:
        return
    if name not in harmless:
        raise ValueError(
            f"{path} chooses {part}={name!r:.80}, which may load more than a file can be trusted "
            f"with: if you know it, give {part}=dict(_name={name!r:.80}) yourself"
        )
    for option, value in section(state, part).items():
        if isinstance(value, str) and "://" in value:
            raise ValueError(f"{path} sets {option} to the address {value!r:.80}: give a file")
