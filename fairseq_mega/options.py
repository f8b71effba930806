"""Lists architectures and the options of one, from the dataclasses that fairseq has registered."""

from dataclasses import Field, fields
from difflib import get_close_matches
from enum import EnumMeta
from shutil import get_terminal_size
from textwrap import TextWrapper
from typing import Dict, List, Optional, Sequence, get_args

from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_DATACLASS_REGISTRY

from .models.options import as_flag

PACKAGE = __name__.partition(".")[0]


def describe(architecture: Optional[str] = None) -> str:
    """Returns a table of the options of an architecture, or of all architectures."""
    models = {n: m for n, m in ARCH_MODEL_REGISTRY.items() if m.__module__.startswith(PACKAGE)}
    if architecture is None:
        rows = [(name, _summary(name, model)) for name, model in models.items()]
        return _table([("architecture", "model, or the options that a preset sets"), *rows])
    if architecture not in models:
        near = get_close_matches(architecture, models)
        hint = f"did you mean {' or '.join(near)}?" if near else f"it must be in {[*models]}"
        raise ValueError(f"unknown architecture {architecture!r:.80}: {hint}")
    options = _options(MODEL_DATACLASS_REGISTRY[architecture]).values()
    return _table([("option", "type", "default", "help"), *map(_row, options)])


def _summary(name: str, model: type) -> str:
    """Returns the first line of a model's docstring, or a preset's model and options."""
    base = model.__mro__[1]
    if base.__module__ != model.__module__:  # presets are made in their model's module
        return (model.__doc__ or "").partition("\n")[0].replace("``", "")
    config = MODEL_DATACLASS_REGISTRY[name]
    usual, own = _options(config.__mro__[1]), _options(config)
    changed = [_setting(each) for n, each in own.items() if each.default != usual[n].default]
    names = [n for n, each in ARCH_MODEL_REGISTRY.items() if each is base]
    return " ".join([*(names or [base.__name__]), *changed])


def _setting(option: Field) -> str:
    """Returns the words that set an option's default on a command line."""
    flag = as_flag(option.name)
    return flag if option.default is True else f"{flag} {option.default}"


def _options(config: type) -> Dict[str, Field]:
    """Returns the options that a command line can set, which have a help text."""
    return {each.name: each for each in fields(config) if "help" in each.metadata}


def _row(option: Field) -> tuple[str, str, str, str]:
    given = [kind for kind in get_args(option.type) if kind is not type(None)]  # of Optional
    kind, help = (given or [option.type])[0], option.metadata["help"]
    default = "" if option.default is None else str(option.default)
    if kind is bool:
        return as_flag(option.name), "flag", "set" if option.default else "", help
    if isinstance(kind, EnumMeta):
        choices = " | ".join(map(str, kind))
        return as_flag(option.name), "choice", default, f"{choices}: {help}"
    return as_flag(option.name), kind.__name__, default, help


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Aligns the columns, and wraps the last one at the width of the terminal."""
    widths = [max(map(len, column)) for column in zip(*rows)][:-1]
    indent = " " * (sum(widths) + 2 * len(widths))
    columns = max(get_terminal_size((160, 0)).columns, len(indent) + 20)
    wrapper = TextWrapper(columns, subsequent_indent=indent, break_on_hyphens=False)
    lines: List[str] = []
    for *cells, last in rows:
        start = "".join(f"{cell:<{width}}  " for cell, width in zip(cells, widths))
        lines += wrapper.wrap(start + last)
    return "\n".join(lines)
