"""Pickles that no pickler would write: what torch's unpickler is told, step by step."""

import pickle
import pickletools
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Name:
    """A function or class by its full name."""

    path: str


@dataclass(frozen=True)
class Call:
    """``function(*args)``, by REDUCE."""

    function: Any
    args: Any = ()


@dataclass(frozen=True)
class New:
    """``cls.__new__(cls, *args)``, by NEWOBJ."""

    cls: Any
    args: Any = ()


@dataclass(frozen=True)
class Build:
    """The object, which has been given these states one after another, by BUILD."""

    target: Any
    states: tuple


@dataclass(frozen=True)
class Kept:
    """The object under a number, by which ``Again`` has the same one."""

    number: int
    target: Any


@dataclass(frozen=True)
class Again:
    number: int


def steps(x: Any) -> bytes:
    """The instructions that leave ``x`` on the unpickler's stack."""
    kind = type(x)
    if kind is Name:
        module, _, name = x.path.rpartition(".")
        return f"c{module}\n{name}\n".encode()
    if kind in (Call, New):
        callee, op = (x.function, b"R") if kind is Call else (x.cls, b"\x81")
        return steps(callee) + steps(x.args) + op
    if kind is Build:
        return steps(x.target) + b"".join(steps(state) + b"b" for state in x.states)
    if kind is Kept:
        return steps(x.target) + b"q" + bytes([x.number])
    if kind is Again:
        return b"h" + bytes([x.number])
    if kind is bytes:
        return steps(Call(Name("_codecs.encode"), (x.decode("latin1"), "latin1")))
    if kind is tuple:
        return b"(" + b"".join(map(steps, x)) + b"t"
    if kind is list:
        return b"](" + b"".join(map(steps, x)) + b"e"
    if kind is dict:
        return b"}(" + b"".join(steps(key) + steps(value) for key, value in x.items()) + b"u"
    return pickletools.optimize(pickle.dumps(x, 2))[2:-1]


def dumps(x: Any) -> bytes:
    return b"\x80\x02" + steps(x) + b"."


def save(x: Any, path) -> None:
    """Writes ``x``, which holds no tensor, as torch.save would."""
    data = dumps(x)
    writer = torch._C.PyTorchFileWriter(str(path))
    writer.write_record("data.pkl", data, len(data))
    writer.write_end_of_file()
