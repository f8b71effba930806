"""Hostile checkpoints: what a stranger may send instead of a model.

``write`` makes them in a folder, each of both kinds of model. Whatever code they hold would make a
file in the folder ``marks``.
"""

import argparse
import io
import os
import pickle
import random
import zipfile
from pathlib import Path

import honest
import torch
from pickles import Build, Call, Name, dumps, save

OLDER = "args with "  # files of options in an argparse.Namespace, in place of a dictionary
KINDS = ("translation", "language_model")
# Of these, fairseq's own commands build what the file says; see docs/security.md.
FAIRSEQ_BUILDS = {"another model", "another model by arch", "another task"}
# Nothing in these does harm, or the harm is in the numbers: they may load.
MAY_LOAD = {
    "honest",
    "NaN weights",
    "integer weights",
    "double weights",
    "path of data upwards",
    "folder of checkpoints upwards",
    "user_dir",
    "restore_file",
    "pipe of embeddings",
    "interpolation of the environment",
    "file for unknown words",
    "more in extra_state",
    "tokenizer that downloads",
    "another task",
}

# What torch.load itself refuses, beside calls of functions.
REFUSED_BY_TORCH = {
    "type from two",
    "array of objects",
    "class of args",
    "empty file",
    "text",
    "page",
    "pickle alone",
    "pickle of protocol 5",
    "pickle of protocol 0",
    "older format",
    "zip of nothing",
    "zip without a pickle",
    *(f"cut at {percent}%" for percent in (1, 10, 50, 90, 99)),
}


def calls(mark):
    """Functions that would do harm, with what they are called with."""
    code = f"open({mark!r}, 'w')"
    shell = f"touch {mark}"
    return {
        "os.system": (shell,),
        "posix.system": (shell,),
        "nt.system": (shell,),
        "os.execvp": ("touch", ["touch", mark]),
        "os.popen": (shell,),
        "os.mkdir": (mark,),
        "subprocess.Popen": (["touch", mark],),
        "subprocess.check_output": (["touch", mark],),
        "builtins.eval": (code,),
        "builtins.exec": (code,),
        "builtins.compile": (code, "x", "exec"),
        "builtins.open": (mark, "w"),
        "builtins.__import__": ("antigravity",),
        "builtins.getattr": (Name("argparse.Namespace"), "__init__"),
        "__builtin__.eval": (code,),
        "importlib.import_module": ("antigravity",),
        "runpy.run_path": (mark,),
        "pickle.loads": (b"cos\nmkdir\n(V" + mark.encode() + b"\ntR.",),
        "_pickle.loads": (b"cos\nmkdir\n(V" + mark.encode() + b"\ntR.",),
        "torch.load": (mark,),
        "torch.hub.load": (mark, "x"),
        "torch.utils.cpp_extension.load": ("x", [mark]),
        "torch.jit.load": (mark,),
        "torch.storage._load_from_bytes": (b"cos\nmkdir\n.",),
        "functools.partial": (Name("builtins.set"),),
        "operator.attrgetter": ("__class__",),
        "types.FunctionType": (),
        "pathlib.Path": (mark,),
        "shutil.rmtree": (mark,),
        "ctypes.CDLL": ("libc.so.6",),
        "numpy.load": (mark,),
        "fairseq.utils.eval_str_list": (code,),
        "fairseq.models.build_model": ({},),
        "fairseq_mega.checkpoints.exchange.import_folder": (mark, mark),
    }


def pickled(mark):
    """What is not the dictionary of a checkpoint, by names."""
    bad = Call(Name("os.mkdir"), (mark,))
    namespace = Call(Name("argparse.Namespace"))
    cases = {f"call of {name}": Call(Name(name), args) for name, args in calls(mark).items()}
    return {
        **cases,
        "call as a weight": {"args": None, "cfg": {}, "model": {"a": bad}},
        "call as a key": {"model": {}, "cfg": [Call(Name("builtins.set"), ([bad],))]},
        "call in args": {"model": {}, "args": Build(namespace, ({"arch": bad},))},
        "call in extra_state": {"model": {}, "cfg": {}, "extra_state": [[[[bad]]]]},
        "call of a result": Call(Call(Name("builtins.set"), ([1],)), (mark,)),
        "nested reductions": Call(Name("builtins.set"), ([Call(Name("builtins.eval"), ("1",))],)),
        "type from two": Call(
            Name("torch._tensor._rebuild_from_type_v2"), (Name("os.mkdir"), 1, (mark,), {})
        ),
        "array of objects": Call(Name("numpy.ndarray"), ((1,), "O", b"A" * 8)),
        "class of args": {"args": Build(namespace, ({"__class__": Name("torch.Size")},))},
        "not a dictionary": [1, 2, 3],
        "nothing in it": {},
        "model of numbers": {"args": None, "cfg": {"model": {"_name": "mega"}}, "model": {"a": 1}},
    }


class Runs:
    """Unpickled by Python, it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def raw(mark, good):
    """Files by the bytes in them; ``good`` are those of an honest checkpoint."""
    legacy = io.BytesIO()
    torch.save({"model": {}, "cfg": Runs(mark)}, legacy, _use_new_zipfile_serialization=False)
    traversal = io.BytesIO()
    with zipfile.ZipFile(traversal, "w") as archive:
        archive.writestr("../../../marks/evil", b"x")
        archive.writestr("x/data.pkl", dumps({"model": {}}))
        archive.writestr("x/version", b"3\n")
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + b"]" * 50_000_000 + b".")
    cases = {
        "empty file": b"",
        "text": b"import os; os.mkdir('x')\n",
        "page": b"<html>404 Not Found</html>",
        "pickle alone": pickle.dumps(Runs(mark)),
        "pickle of protocol 5": pickle.dumps(Runs(mark), 5),
        "pickle of protocol 0": pickle.dumps(Runs(mark), 0),
        "older format": legacy.getvalue(),
        "paths upwards in a zip": traversal.getvalue(),
        "bomb": bomb.getvalue(),
        "zip of nothing": zipped({}),
        "zip without a pickle": zipped({"x/version": b"3\n"}),
        "pickle of brackets": zipped({"x/data.pkl": b"\x80\x02" + b"]" * 300_000 + b"."}),
        "pickle of tuples": zipped({"x/data.pkl": b"\x80\x02)" + b"\x85" * 300_000 + b"."}),
    }
    for percent in (1, 10, 50, 90, 99):
        cases[f"cut at {percent}%"] = good[: len(good) * percent // 100]
    for seed in range(12):
        cases[f"flipped bits {seed}"] = flip(good, seed)
    return cases


def zipped(members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def flip(data, seed, count=20):
    """The bytes with some bits changed: half of them in the pickle and the zip's directory."""
    generator, data = random.Random(seed), bytearray(data)
    pickled = data.index(b"\x80\x02")
    for i in range(count):
        low, high = [(0, len(data)), (pickled, pickled + 3000), (len(data) - 3000, len(data))][
            i % 3
        ]
        data[generator.randrange(low, high)] ^= 1 << generator.randrange(8)
    return bytes(data)


def weights(model):
    """Changes of the weights of an honest model."""
    first = next(iter(model))
    value = model[first]
    return {
        "NaN weights": {first: value * float("nan")},
        "integer weights": {first: value.long()},
        "double weights": {first: value.double()},
        "another shape": {first: torch.ones(3, 5, 7)},
        "no dimensions": {first: torch.tensor(1.0)},
        "enormous view": {first: torch.ones(1).expand(1 << 40)},
        "complex weights": {first: torch.ones(3, dtype=torch.complex64)},
        "sparse weights": {first: torch.eye(3).to_sparse()},
        "weights of a shape alone": {first: torch.empty(1 << 20, 1 << 20, device="meta")},
        "text as weights": {first: "1.0"},
        "list as weights": {first: [1.0]},
        "None as weights": {first: None},
        "number as a name": {7: torch.ones(1)},
        "one weight more": {"decoder.code": torch.ones(1)},
    }


def options(folder, mark):
    """Changes of the options, by the part that they are in."""
    code = f"__import__('os').mkdir({mark!r})"
    fconv = dict.fromkeys(["encoder_layers", "decoder_layers", "decoder_attention"], code)
    evil = str(folder / "evil_plugin")
    return {
        "another model": {"model": {"_name": "fconv", **fconv}},
        "another model by arch": {"model": {"_name": None, "arch": "fconv", **fconv}},
        "no model": {"model": {"_name": "nothing"}},
        "another task": {"task": {"_name": "sentence_prediction", "num_classes": 2}},
        "user_dir": {"common": {"user_dir": evil}},
        "path of data upwards": {"task": {"data": "../../../etc"}},
        "language upwards": {"task": {"source_lang": "../../../etc/x", "target_lang": "x/../.."}},
        "folder of checkpoints upwards": {"checkpoint": {"save_dir": "../../../tmp/x"}},
        "restore_file": {"checkpoint": {"restore_file": "/etc/passwd"}},
        "tokenizer that downloads": {"bpe": {"_name": "gpt2"}},
        "file for unknown words": {"generation": {"replace_unk": "/dev/null"}},
        "pipe of embeddings": {"model": {"decoder_embed_path": str(folder / "pipe")}},
        "interpolation of the environment": {"checkpoint": {"save_dir": "${oc.env:HOME}"}},
        "interpolation as a name": {"model": {"_name": "${task._name}"}},
        "code as cutoffs": {"model": {"adaptive_softmax_cutoff": code}},
        "code as a number": {"model": {"decoder_n_dim": code}},
        "layers without end": {"model": {"decoder_layers": 10**9}},
        "dimensions without end": {"model": {"decoder_n_dim": 10**12}},
        "negative dimensions": {"model": {"decoder_z_dim": -1}},
        "list as a number": {"model": {"decoder_layers": [1, 2]}},
    }


def flat(changes):
    """The same changes as older checkpoints have them: in one Namespace."""
    names = {}
    for part, values in changes.items():
        own = {option: value for option, value in values.items() if option != "_name"}
        name = values.get("_name")
        names.update(own if name is None else {**own, "arch" if part == "model" else part: name})
    return names


def write(folder: Path, older: bool = False) -> None:
    """All files, in a folder for each kind; ``older`` ones too, half a second each to load."""
    for name in ("marks", "evil_plugin"):
        (folder / name).mkdir(parents=True)
    os.mkfifo(folder / "pipe")
    mark = str(folder / "marks/mark")
    (folder / "evil_plugin/__init__.py").write_text(f"import os; os.mkdir({mark!r})\n")
    data = honest.make_data(folder / "data")
    for kind in KINDS:
        out = folder / kind
        out.mkdir()
        state = honest.make_state(kind, data)
        torch.save(state, out / "honest")
        for name, content in pickled(mark).items():
            save(content, out / name)
        for name, content in raw(mark, (out / "honest").read_bytes()).items():
            (out / name).write_bytes(content)
        for name, changed in weights(state["model"]).items():
            torch.save({**state, "model": {**state["model"], **changed}}, out / name)
        torch.save({**state, "model": {}}, out / "no weights")
        extra = {**state["extra_state"], "more": argparse.Namespace(a=[1, {"b": None}])}
        torch.save({**state, "extra_state": extra}, out / "more in extra_state")
        for name, changes in options(folder, mark).items():
            cfg = dict(state["cfg"])
            for part, values in changes.items():
                cfg[part] = {**(cfg[part] or {}), **values}
            torch.save({**state, "cfg": cfg}, out / name)
            if older:
                with_args = honest.with_args(kind, state, data)
                vars(with_args["args"]).update(flat(changes))
                torch.save(with_args, out / f"{OLDER}{name}")
