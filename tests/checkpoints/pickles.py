"""Pickles that no pickler would write, as instructions to torch's unpickler."""

import pickle
import pickletools
from typing import Any, NamedTuple

import torch


class Name(NamedTuple):
    """A function or class by its full name."""

    path: str


class Call(NamedTuple):
    """``function(*args)``, by REDUCE."""

    function: Any
    args: Any = ()


class New(NamedTuple):
    """``cls.__new__(cls, *args)``, by NEWOBJ."""

    cls: Any
    args: Any = ()


class Build(NamedTuple):
    """The object, which has been given these states one after another, by BUILD."""

    target: Any
    states: tuple


class Kept(NamedTuple):
    """The object under a number, by which ``Again`` has the same one."""

    number: int
    target: Any


class Again(NamedTuple):
    number: int


def steps(x: Any) -> bytes:
    """The instructions that leave ``x`` on the unpickler's stack."""
    match x:
        case Name(path):
            module, _, name = path.rpartition(".")
            return f"c{module}\n{name}\n".encode()
        case Call(callee, args):
            return steps(callee) + steps(args) + b"R"
        case New(callee, args):
            return steps(callee) + steps(args) + b"\x81"
        case Build(target, states):
            return steps(target) + b"".join(steps(state) + b"b" for state in states)
        case Kept(number, target):
            return steps(target) + b"q" + bytes([number])
        case Again(number):
            return b"h" + bytes([number])
        case bytes():
            return steps(Call(Name("_codecs.encode"), (x.decode("latin1"), "latin1")))
        case tuple():
            return b"(" + b"".join(map(steps, x)) + b"t"
        case list():
            return b"](" + b"".join(map(steps, x)) + b"e"
        case dict():
            return b"}(" + b"".join(steps(key) + steps(x[key]) for key in x) + b"u"
    return pickletools.optimize(pickle.dumps(x, 2))[2:-1]


def save(x: Any, path) -> None:
    """Writes ``x``, which holds no tensor, as torch.save would."""
    data = b"\x80\x02" + steps(x) + b"."
    writer = torch._C.PyTorchFileWriter(str(path))
    writer.write_record("data.pkl", data, len(data))
    writer.write_end_of_file()
