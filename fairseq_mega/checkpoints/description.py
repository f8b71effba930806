"""What config.json may hold, checked to the last entry: an architecture and a task of this list,
their options by name and type, and dictionaries. Everything else is an error that says where."""

import dataclasses
import json
import math
import re
from enum import Enum
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

from fairseq.data import Dictionary
from fairseq.dataclass.utils import interpret_dc_type
from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_DATACLASS_REGISTRY
from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY

from .task_forms import TASKS, form_of
from .trust import PluginModel

FORMAT, FORMAT_VERSION = "fairseq-mega", 1
LONGEST_FILE = 256 << 20  # bytes
LONGEST_TEXT = 1000  # characters of an option or a word
LARGEST_NUMBER = 1 << 31
PLAIN = (type(None), bool, int, float, str, list, dict)

# Files, what is of the training alone, and what is the task's.
NO_OPTIONS = {
    "encoder_embed_path",
    "decoder_embed_path",
    "criterion_name",
    "required_seq_len_multiple",
    "add_bos_token",
}


def architectures() -> Dict[str, type]:
    """The models of this package by the names of their architectures."""
    models = ARCH_MODEL_REGISTRY.items()
    return {name: model for name, model in models if issubclass(model, PluginModel)}


def option_fields(part: str, name: str) -> Dict[str, dataclasses.Field]:
    """The options of a ``task`` or an architecture (``model``) that a description has."""
    if part == "task":
        fields = TASK_DATACLASS_REGISTRY[name].__dataclass_fields__
        return {option: fields[option] for option in TASKS[name].options}
    fields = MODEL_DATACLASS_REGISTRY[name].__dataclass_fields__
    return {
        option: each
        for option, each in fields.items()
        if not option.startswith("_") and option not in NO_OPTIONS
    }


# --- reading ------------------------------------------------------------------------------------


def read_description(path: Path, named: Optional[str] = None) -> Dict[str, Any]:
    """
    Args:
        named: a task that the caller allows besides those of ``TASKS``.

    Raises:
        ValueError: at anything that a description does not have; says what and where.
    """
    try:
        if path.stat().st_size > LONGEST_FILE:
            raise ValueError(f"it has {path.stat().st_size:,} bytes, more than {LONGEST_FILE:,}")
        description = json.loads(
            path.read_bytes().decode("utf-8"),
            object_pairs_hook=_without_repetition,
            parse_constant=_refuse_constant,
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    check_description(description, str(path), named)
    return description


def _without_repetition(pairs) -> Dict[str, Any]:
    names = dict(pairs)
    if len(names) < len(pairs):
        raise ValueError(f"one of {sorted(names)!r:.80} is there twice")
    return names


def _refuse_constant(name: str):
    raise ValueError(f"{name} is no number of JSON")


def check_description(description: Any, path: str, named: Optional[str] = None) -> None:
    """
    Args:
        named: a task that the caller allows besides those of ``TASKS``.

    Raises:
        ValueError: says what is wrong, and where in ``path``.
    """
    names = {"format", "format_version", "versions", "task", "model", "dictionaries"}
    _check_names(description, names, path)
    for name, expected in (("format", FORMAT), ("format_version", FORMAT_VERSION)):
        if description[name] != expected or isinstance(description[name], bool):
            raise ValueError(f"{path}: {name} is {description[name]!r:.80}, not {expected!r}")
    versions = description["versions"]
    if not isinstance(versions, dict) or not all(isinstance(v, str) for v in versions.values()):
        raise ValueError(f"{path}: versions must be texts by the names of packages")
    tasks = {*TASKS, *({str(named)} & {*TASK_REGISTRY})}
    for part, known in (("task", tasks), ("model", architectures())):
        _check_names(description[part], {"name", "options"}, f"{path}: {part}")
        name, options = description[part]["name"], description[part]["options"]
        if not isinstance(name, str) or name not in known:
            raise ValueError(f"{path}: {part}.name is {name!r:.80}, not one of {sorted(known)}")
        where = f"{path}: {part}.options"
        if part == "task" and name not in TASKS:
            _check_plain(options, dict, where)
            _check_files(description["dictionaries"], f"{path}: dictionaries")
        else:
            check_options(options, option_fields(part, name), where)
    form, found = form_of(description), description["dictionaries"]
    optional = set(form.optional) & set(found) if isinstance(found, dict) else set()
    _check_names(found, {*form.required(), *optional}, f"{path}: dictionaries")
    for name, entries in description["dictionaries"].items():
        make_dictionary(entries, f"{path}: dictionaries.{name}")


def _check_files(dictionaries: Any, where: str) -> None:
    """Checks the files of dictionaries of a task that the caller has named."""
    if not isinstance(dictionaries, dict):
        raise ValueError(f"{where} must be an object")
    for file in dictionaries:
        if not re.fullmatch(r"([\w-]+/)?dict[\w.-]*\.txt", file):
            raise ValueError(f"{where} has {file!r:.80}, no file of a dictionary")


def _check_names(value: Any, names: set, where: str) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be an object with the names {sorted(names)}")
    for kind, wrong in (("has no", names - set(value)), ("does not know", set(value) - names)):
        if wrong:
            raise ValueError(f"{where} {kind} {', '.join(sorted(wrong))[:80]}")


# --- options ------------------------------------------------------------------------------------


def check_options(options: Any, fields: Mapping[str, dataclasses.Field], where: str) -> None:
    """Checks names, types and choices.

    Raises:
        ValueError: says which option, what its value is, and what it must be.
    """
    _check_names(options, set(fields), where)
    for name, value in options.items():
        _check_option(value, fields[name].type, f"{where}.{name} is {value!r:.80}")
        if name.endswith("_lang") and not re.fullmatch(r"[\w-]+(\.[\w-]+)*", value or ""):
            raise ValueError(f"{where}.{name} is {value!r:.80}, no part of a file's name")


def _check_option(value: Any, declared: Any, says: str) -> None:
    kind = interpret_dc_type(declared)
    if value is None and kind is not declared:  # Optional
        return
    if isinstance(kind, type) and issubclass(kind, Enum):
        choices = [str(choice.value) for choice in kind]
        right, must = isinstance(value, str) and value in choices, f"one of {choices}"
    elif kind == List[float]:
        right = isinstance(value, list) and len(value) < 10 and all(map(_is_number, value))
        must = "a list of numbers"
    elif kind is float:
        right, must = _is_number(value), "a number"
    else:
        names = {str: "a text", int: "a whole number", bool: "true or false"}
        right, must = type(value) is kind, names[kind]
    if not right:
        raise ValueError(f"{says}, but must be {must}")
    if isinstance(value, (int, float)) and abs(value) > LARGEST_NUMBER:
        raise ValueError(f"{says}, out of range")
    if isinstance(value, str) and ("${" in value or "???" in value or len(value) > LONGEST_TEXT):
        raise ValueError(f"{says}, which stands for something else, or is too long")


def _check_plain(value: Any, kind: Any, where: str) -> None:
    """Checks that an option of a task that the caller has named is of ``kind``, and plain."""
    if not isinstance(value, kind):
        raise ValueError(f"{where} is {value!r:.80}, but must be a plain value")
    if isinstance(value, (list, dict)):
        for name, each in value.items() if isinstance(value, dict) else enumerate(value):
            _check_plain(each, PLAIN, f"{where}.{name}")
    elif value is not None:
        _check_option(value, type(value), f"{where} is {value!r:.80}")


def _is_number(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value)


def take_options(given: Mapping[str, Any], fields: Mapping[str, dataclasses.Field]) -> Dict:
    """The values that a checkpoint has of these options, or their defaults, as JSON has them."""
    options = {}
    for name, each in fields.items():
        default = each.default
        if each.default_factory is not dataclasses.MISSING:
            default = each.default_factory()
        value = given.get(name, default)
        value = value.value if isinstance(value, Enum) else value
        if interpret_dc_type(each.type) is float and type(value) is int:
            value = float(value)
        options[name] = value
    return options


# --- dictionaries -------------------------------------------------------------------------------


def make_dictionary(entries: Any, where: str) -> Dictionary:
    """The dictionary of a list of words with their counts.

    Raises:
        ValueError: says which entry is wrong.
    """
    if not isinstance(entries, list):
        raise ValueError(f"{where} must be a list of words with their counts")
    dictionary = Dictionary()
    for i, entry in enumerate(entries):
        if not isinstance(entry, list) or [type(x) for x in entry] != [str, int]:
            raise ValueError(f"{where}[{i}] is {entry!r:.80}, but must be a word with its count")
        word, count = entry
        if word in dictionary:
            raise ValueError(f"{where}[{i}] is {word!r:.80}, which is in it before")
        if len(word) > LONGEST_TEXT or re.search(r"[\n\r\ud800-\udfff]", word):
            raise ValueError(f"{where}[{i}] is {word!r:.80}, which is no word of a text file")
        if not 0 <= count < 1 << 63:
            raise ValueError(f"{where}[{i}] has the count {count!r:.80}")
        dictionary.add_symbol(word, n=count)
    return dictionary


def dictionary_entries(dictionary: Dictionary) -> list:
    """What ``make_dictionary`` makes the same one of."""
    words = zip(dictionary.symbols, dictionary.count)
    return [[word, int(count)] for word, count in words][dictionary.nspecial :]
