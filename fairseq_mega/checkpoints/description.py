"""The content of ``config.json`` of an exported model: a task, an architecture, their options and
the dictionaries. Names and types are checked against fairseq's dataclasses."""

import re
from argparse import ArgumentParser
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

from fairseq.data import Dictionary
from fairseq.data.data_utils import infer_language_pair
from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_DATACLASS_REGISTRY
from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .reading import chosen, read_object, section
from .trust import PluginModel, check_languages, check_model

FORMAT = {"format": "fairseq-mega", "format_version": 1}
PARTS = {*FORMAT, "versions", "task", "model", "dictionaries"}


@dataclass(frozen=True)
class TaskForm:
    """The part of a task that a description has.

    Args:
        options: those that the use of a model depends on; others say where data is, or how to
            train.
        dictionaries: names, and files in the folder of the data; ``{option}`` stands for a value.
        criterion: the loss in a new checkpoint, which fairseq's commands build.
    """

    options: Tuple[str, ...] = ()
    dictionaries: Mapping[str, str] = field(default_factory=dict)
    criterion: str = "cross_entropy"


OPTIONAL = {"source1"}  # a dictionary that only data of pairs has
_LANGUAGE_MODELING = (
    "max_target_positions",
    "sample_break_mode",
    "tokens_per_sample",
    "add_bos_token",
    "output_dictionary_size",
)
_LONG_TEXT = ("variant_block_multiple_min", "variant_block_multiple_max", "valid_block")
_WORDS = {"words": "dict.txt"}
TASKS: Dict[str, TaskForm] = {
    "translation": TaskForm(
        (
            "left_pad_source",
            "left_pad_target",
            "max_source_positions",
            "max_target_positions",
            "source_lang",
            "target_lang",
            "truncate_source",
        ),
        {"source": "dict.{source_lang}.txt", "target": "dict.{target_lang}.txt"},
    ),
    "language_modeling": TaskForm(_LANGUAGE_MODELING, _WORDS),
    "mega_language_modeling": TaskForm((*_LANGUAGE_MODELING, *_LONG_TEXT), _WORDS),
    "masked_lm": TaskForm(("sample_break_mode", "tokens_per_sample"), _WORDS, "masked_lm"),
    "lra-text": TaskForm(
        (),
        {
            "source": "src-bin/dict.txt",
            "source1": "src1-bin/dict.txt",
            "label": "label-bin/dict.txt",
        },
        "lra_cross_entropy",
    ),
    "lra-image": TaskForm(("pixel_normalization",), criterion="lra_cross_entropy"),
    "speech_commands": TaskForm(("sc_all_classes",), criterion="lra_cross_entropy"),
}
# Options that older tasks read without declaring them.
UNDECLARED = ("criterion", "dataset_impl", "max_positions", "seed")
# Options that name files, concern the training alone, or repeat the task's.
NO_OPTIONS = {
    "task": {"data"},
    "model": {"encoder_embed_path", "decoder_embed_path", "criterion_name", "add_bos_token"},
}


def form_of(description: Mapping[str, Any]) -> TaskForm:
    """Returns the form of a description's task; for a named task, one with any dictionaries."""
    form = TASKS.get(description["task"]["name"])
    return form or TaskForm(dictionaries={file: file for file in description["dictionaries"]})


# --- of a checkpoint ----------------------------------------------------------------------------


def describe(
    state: Mapping[str, Any], path: str, data: Path, named: Optional[str]
) -> Dict[str, Any]:
    """Describes the model in a checkpoint, with the dictionaries in the folder ``data``; ``named``
    is its task, if it is not one of ``TASKS``.

    Raises:
        ValueError: if its task or model is another one, or its options are of other types.
        FileNotFoundError: if a dictionary is missing.
    """
    model, task = check_model(chosen(state, "model"), PluginModel, path), chosen(state, "task")
    if task is None or (task not in TASKS and (task != named or task not in TASK_REGISTRY)):
        raise ValueError(
            f"{path} is of the task {task!r:.80}, not one of {sorted(TASKS)}: if you know it, give "
            f"--task {task!r:.80}"
        )
    given = section(state, "task")
    given = {name: given[name] for name in _option_names("task", task) if name in given}
    files: Dict[str, list] = {}
    if task in TASKS:
        _infer_languages(given, task, path, data)
        check_languages(given, path)
        given = typed_options("task", task, given, path)
    else:
        if task == "multilingual_denoising" and given.get("langs") is None:
            # As fairseq infers them.
            given["langs"] = ",".join(sorted(each.name for each in data.iterdir() if each.is_dir()))
        found = sorted([*data.glob("dict*.txt"), *data.glob("*/dict*.txt")])
        files = {file.relative_to(data).as_posix(): [] for file in found}
    own, names = section(state, "model"), _option_names("model", model)
    options = {name: given[name] for name in names if name in given}
    # The task's, unless the model has its own.
    for name in set(names) & set(own):
        if own[name] is not None or name not in options:
            options[name] = own[name]
    description = {
        **FORMAT,
        "versions": {name: _version(name) for name in ("fairseq-mega", "ve-fairseq", "torch")},
        "task": {"name": task, "options": given},
        "model": {"name": model, "options": typed_options("model", model, options, path)},
        "dictionaries": files,
    }
    for name, pattern in form_of(description).dictionaries.items():
        file = data / pattern.format_map(given)
        if file.is_file():
            words = Dictionary.load(str(file))
            entries = [[word, int(n)] for word, n in zip(words.symbols, words.count)]
            files[name] = entries[words.nspecial :]
        elif name not in OPTIONAL:
            raise FileNotFoundError(f"no dictionary at {file}: say where they are with --data")
    return description


def _option_names(part: str, name: str) -> Sequence[str]:
    """Returns the names of the options of a ``task`` or ``model`` that a description has."""
    registry = TASK_DATACLASS_REGISTRY if part == "task" else MODEL_DATACLASS_REGISTRY
    if part == "task" and name in TASKS:
        return TASKS[name].options
    if name in registry:
        names = list(registry[name].__dataclass_fields__)
    else:
        parser = ArgumentParser(add_help=False)
        TASK_REGISTRY[name].add_args(parser)
        names = [*vars(parser.parse_known_args(["data"])[0]), *UNDECLARED]
    return [each for each in names if each not in NO_OPTIONS[part] and not each.startswith("_")]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # used from its folder, by --user-dir
        return "unknown"


def _infer_languages(options: Dict[str, Any], task: str, path: str, data: Path) -> None:
    """Sets languages that a checkpoint does not name from the names of its data's files, as fairseq
    did in training."""
    sides = "source_lang", "target_lang"
    if task != "translation" or all(options.get(side) is not None for side in sides):
        return
    languages = infer_language_pair(str(data)) if data.is_dir() else (None, None)
    if None in languages:
        raise ValueError(
            f"{path} names no languages, and {data} has no file such as train.de-en.de.idx: give "
            "the folder of the training's data with --data"
        )
    options.update(zip(sides, languages))


def typed_options(part: str, name: str, given: Mapping[str, Any], where: str) -> Dict[str, Any]:
    """Returns the given options of a ``task`` or ``model`` as plain values, and the defaults of
    others, unless fairseq takes them from elsewhere in its configuration.

    Raises:
        ValueError: at an unknown option, one of another type, or one that refers to another value.
    """
    registry = TASK_DATACLASS_REGISTRY if part == "task" else MODEL_DATACLASS_REGISTRY
    names = _option_names(part, name)
    _check_names(given, set(names), set(), where)
    for option, value in given.items():
        _check_plain(value, f"{where}: {option}")
    try:
        config = OmegaConf.merge(OmegaConf.structured(registry[name]()), dict(given))
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{where}: {error.full_key}: {reason}") from error
    values: Any = OmegaConf.to_container(config, enum_to_str=True)
    return {each: values[each] for each in names if not OmegaConf.is_interpolation(config, each)}


# --- of a folder --------------------------------------------------------------------------------


def read_description(path: Path, named: Optional[str] = None) -> Dict[str, Any]:
    """Reads and checks a description; ``named`` is a task that the caller allows besides ``TASKS``.

    Raises:
        ValueError: at anything that a description does not have; says what and where.
    """
    description = read_object(path)
    _check_names(description, PARTS, PARTS, f"{path}")
    for name, expected in FORMAT.items():
        if description[name] != expected:
            raise ValueError(f"{path}: {name} is {description[name]!r:.80}, not {expected!r}")
    models = [name for name, each in ARCH_MODEL_REGISTRY.items() if issubclass(each, PluginModel)]
    tasks = [*TASKS, *({str(named)} & {*TASK_REGISTRY})]
    for part, known in (("task", tasks), ("model", models)):
        content, where = description[part], f"{path}: {part}.options"
        _check_names(content, {"name", "options"}, {"name", "options"}, f"{path}: {part}")
        name, options = content["name"], content["options"]
        if name not in known:
            raise ValueError(f"{path}: {part}.name is {name!r:.80}, not one of {sorted(known)}")
        _check_names(options, options, set(), where)
        if part == "model" or name in TASKS:
            content["options"] = typed_options(part, name, options, where)
        else:
            _check_plain(options, where)
    check_languages(description["task"]["options"], f"{path}")
    _check_dictionaries(description, f"{path}: dictionaries")
    return description


def _check_names(value: Any, known: Any, needed: set, where: str) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be an object")
    unknown, missing = set(value) - set(known), needed - set(value)
    for kind, wrong in (("has no", missing), ("does not know", unknown)):
        if wrong:
            raise ValueError(f"{where} {kind} {', '.join(sorted(wrong))[:80]}")


def _check_plain(value: Any, where: str) -> None:
    """Checks that no text in a value stands for something else when fairseq reads it."""
    if re.search(r"\$\{|\?\?\?", str(value)):
        raise ValueError(f"{where} is {value!r:.80}, which stands for something else")


def _check_dictionaries(description: Mapping[str, Any], where: str) -> None:
    """Checks names and files of dictionaries; fairseq checks the words when it loads them."""
    found, named = description["dictionaries"], description["task"]["name"] not in TASKS
    _check_names(found, found, set(), where)
    known = set(form_of(description).dictionaries)
    _check_names(found, known, known - OPTIONAL, where)
    for name, entries in found.items():
        if named and not re.fullmatch(r"([\w-]+/)?dict[\w.-]*\.txt", name):
            raise ValueError(f"{where} has {name!r:.80}, no file of a dictionary")
        for entry in entries if isinstance(entries, list) else [entries]:
            if not isinstance(entry, list) or [type(each) for each in entry] != [str, int]:
                raise ValueError(f"{where}.{name} holds {entry!r:.80}, not a word with its count")


def write_dictionaries(description: Mapping[str, Any], folder: Path) -> None:
    """Writes the files of dictionaries that the description's task reads."""
    for name, entries in description["dictionaries"].items():
        pattern = form_of(description).dictionaries[name]
        path = folder / pattern.format_map(description["task"]["options"])
        path.parent.mkdir(exist_ok=True)
        lines = "".join(f"{word} {count}\n" for word, count in entries)
        path.write_text(lines, encoding="utf-8", newline="\n")
