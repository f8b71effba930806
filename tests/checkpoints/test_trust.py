"""Hostile checkpoints: no code in them runs, they choose nothing that is built, and errors name
the file."""

import io
import os
import pickle
import random
import re
import zipfile

import honest
import pytest
import torch
from fairseq.checkpoint_utils import load_model_ensemble
from fairseq.tasks import setup_task
from helpers import parse
from pickles import Build, Call, Name, save

from examples.translation import average_checkpoints
from fairseq_mega import MegaLanguageModel, MegaModel
from fairseq_mega.__main__ import main
from fairseq_mega.checkpoints.reading import read_checkpoint
from fairseq_mega.inspection.weights import read_weights

MODELS = {"translation": MegaModel, "language_model": MegaLanguageModel}

# --- files that are not read: one reader reads all ----------------------------------------------


class Runs:
    """Unpickled by Python, it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def pickled(mark):
    """Pickles that call functions, in all places of a checkpoint, or that hold something else."""
    code, bad = f"open({mark!r}, 'w')", Call(Name("os.mkdir"), (mark,))
    calls = {
        "posix.system": (f"touch {mark}",),
        "subprocess.Popen": (["touch", mark],),
        "builtins.eval": (code,),
        "builtins.exec": (code,),
        "builtins.getattr": (Name("argparse.Namespace"), "__init__"),
        "__builtin__.eval": (code,),
        "importlib.import_module": ("antigravity",),
        "_pickle.loads": (b"cos\nmkdir\n(V" + mark.encode() + b"\ntR.",),
        "torch.load": (mark,),
        "torch.hub.load": (mark, "x"),
        "torch.storage._load_from_bytes": (b"cos\nmkdir\n.",),
        "functools.partial": (Name("builtins.set"),),
        "shutil.rmtree": (mark,),
        "ctypes.CDLL": ("libc.so.6",),
        "fairseq.utils.eval_str_list": (code,),
        "fairseq_mega.checkpoints.exchange.import_folder": (mark, mark),
    }
    return {
        **{name: Call(Name(name), args) for name, args in calls.items()},
        "call as a weight": {"args": None, "cfg": {}, "model": {"a": bad}},
        "call as a key": {"model": {}, "cfg": [Call(Name("builtins.set"), ([bad],))]},
        "call in args": {
            "model": {},
            "args": Build(Call(Name("argparse.Namespace")), ({"arch": bad},)),
        },
        "call in extra_state": {"model": {}, "cfg": {}, "extra_state": [[[[bad]]]]},
        "call of a result": Call(Call(Name("builtins.set"), ([1],)), (mark,)),
        "type from two": Call(
            Name("torch._tensor._rebuild_from_type_v2"), (Name("os.mkdir"), 1, (mark,), {})
        ),
        "not a dictionary": [1, 2, 3],
        "nothing in it": {},
        "model of numbers": {"cfg": {}, "model": {"a": 1}},
        "args of text": {"args": "a", "cfg": {}, "model": {}},
        "no options": {"args": None, "model": {}},
    }


def zipped(members, compression=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def raw(mark, good):
    """Malformed files; ``good`` are the bytes of an honest checkpoint."""
    legacy = io.BytesIO()
    torch.save({"model": {}, "cfg": Runs(mark)}, legacy, _use_new_zipfile_serialization=False)
    bomb = {"x/data.pkl": b"\x80\x02" + b"]" * 50_000_000 + b"."}
    return {
        "empty file": b"",
        "page": b"<html>404 Not Found</html>",
        "pickle alone": pickle.dumps(Runs(mark)),
        "pickle of protocol 0": pickle.dumps(Runs(mark), 0),
        "older format": legacy.getvalue(),
        "paths upwards in a zip": zipped({"../../../marks/evil": b"x", "x/version": b"3\n"}),
        "bomb": zipped(bomb, zipfile.ZIP_DEFLATED),
        "zip of nothing": zipped({}),
        "pickle of brackets": zipped({"x/data.pkl": b"\x80\x02" + b"]" * 300_000 + b"."}),
        "pickle of tuples": zipped({"x/data.pkl": b"\x80\x02)" + b"\x85" * 300_000 + b"."}),
        **{f"cut at {percent}%": good[: len(good) * percent // 100] for percent in (1, 50, 99)},
    }


WEIGHTS = {
    "enormous view": torch.ones(1).expand(1 << 40),
    "sparse weights": torch.eye(3).to_sparse(),
    "weights of a shape alone": torch.empty(1 << 20, 1 << 20, device="meta"),
    "text as weights": "1.0",
    "list as weights": [1.0],
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder of files that are not read, with the mark that they would make and a sound one."""
    folder = tmp_path_factory.mktemp("files")
    mark = str(folder / "mark")
    state = honest.make_state("translation", honest.make_data(folder / "data"))
    torch.save(state, folder / "data" / "honest.pt")
    for name, content in pickled(mark).items():
        save(content, folder / name)
    for name, content in raw(mark, (folder / "data" / "honest.pt").read_bytes()).items():
        (folder / name).write_bytes(content)
    for name, value in WEIGHTS.items():
        torch.save({**state, "model": {**state["model"], "a": value}}, folder / name)
    torch.save({**state, "model": {7: torch.ones(1)}}, folder / "number as a name")
    return folder


def test_no_code_in_a_file_runs_and_errors_name_the_file(files):
    before = {path: path.stat() for path in files.rglob("*")}
    paths = sorted(path for path in files.iterdir() if path.is_file())
    for path in paths:
        with pytest.raises(ValueError) as refused:
            read_checkpoint(path)
        assert str(path) in str(refused.value) and "weights_only" not in str(refused.value)
    assert len(paths) == 46
    after = {path: path.stat() for path in files.rglob("*")}
    assert {path: each.st_mtime_ns for path, each in after.items()} == {
        path: each.st_mtime_ns for path, each in before.items()
    }


def test_changed_bits_load_or_are_refused(files):
    """Half of the changed bits are in the pickle and in the zip's directory."""
    good, changed = (files / "data/honest.pt").read_bytes(), files / "data/changed"
    pickle_at = good.index(b"\x80\x02")
    places = (0, len(good)), (pickle_at, pickle_at + 3000), (len(good) - 3000, len(good))
    for seed in range(12):
        generator, data = random.Random(seed), bytearray(good)
        for i in range(20):
            data[generator.randrange(*places[i % 3])] ^= 1 << generator.randrange(8)
        changed.write_bytes(data)
        try:
            read_checkpoint(changed)
        except ValueError as error:
            assert str(changed) in str(error)
    changed.unlink()
    assert not (files / "mark").exists()


@pytest.mark.parametrize("name", ["call as a weight", "cut at 50%", "enormous view"])
def test_every_reader_of_checkpoints_refuses_them(name, files, tmp_path):
    (tmp_path / "checkpoint1.pt").symlink_to(files / name)
    path, data = tmp_path / "checkpoint1.pt", str(files / "data")
    for read in (
        lambda: MegaModel.from_pretrained(str(tmp_path), path.name, data),
        lambda: main(["export", str(path), str(tmp_path / "out"), "--data", data]),
        lambda: average_checkpoints.main([str(tmp_path), "--last", "1"]),
        lambda: read_weights(str(path)),
    ):
        with pytest.raises((ValueError, SystemExit), match="checkpoint1.pt"):
            read()
    assert list(tmp_path.iterdir()) == [path] and not (files / "mark").exists()


# --- what a file chooses ------------------------------------------------------------------------


@pytest.fixture(params=MODELS)
def kind(request):
    return request.param


@pytest.fixture(params=["cfg", "args"])
def state(kind, request, tmp_path):
    honest.make_data(tmp_path / "data")
    state = honest.make_state(kind, tmp_path / "data")
    return state if request.param == "cfg" else honest.with_args(kind, state, tmp_path / "data")


def set_options(state, part, name, **options):
    """Sets the name of a part and options in it, wherever the checkpoint has them."""
    if state["args"] is not None:
        vars(state["args"]).update({"arch" if part == "model" else part: name, **options})
    elif part == "generation":
        state["cfg"][part].update(options)
    else:
        state["cfg"][part] = {**(state["cfg"][part] or {}), "_name": name, **options}


def load(kind, state, folder, **given):
    torch.save(state, folder / "model.pt")
    data = str(folder / "data")
    return MODELS[kind].from_pretrained(str(folder), data_name_or_path=data, **given)


def test_honest_checkpoints_load(kind, state, tmp_path):
    if state["args"] is None:  # fairseq's conversion of args fails at it
        set_options(state, "bpe", "characters")
    hub = load(kind, state, tmp_path)
    assert type(hub.models[0]) is MODELS[kind] and (hub.bpe is None) == (state["cfg"] is None)
    weights = hub.models[0].state_dict()
    assert all(torch.equal(weights[name], value) for name, value in state["model"].items())


def fconv(mark):
    """Options that fairseq's convolutional models give to ``eval``."""
    code = f"open({str(mark)!r}, 'w')"
    layers = dict(encoder_layers=code, decoder_layers=code, decoder_attention=code)
    sizes = dict(encoder_embed_dim=8, decoder_embed_dim=8, decoder_out_embed_dim=8, dropout=0.0)
    paths = dict(encoder_embed_path=None, decoder_embed_path=None, share_input_output_embed=False)
    return {**layers, **sizes, **paths, "max_source_positions": 9, "max_target_positions": 9}


URL = "http://localhost/x"
CHOICES = [  # part, name, options, what the error says after the file's name
    *(
        ("model", name, {}, "holds a FConv.*, not a Mega.*nothing of it was built")
        for name in ("fconv", "fconv_lm", "fconv_self_att", "fconv_lm_dauphin_gbw")
    ),
    *(("model", name, {}, "holds the model .*, not a Mega") for name in ("", None, 3, ["mega"])),
    *(
        ("task", name, {}, f"chooses the task '?{name}'?, but must choose")
        for name in ("audio_pretraining", "multilingual_masked_lm", "nothing")
    ),
    ("task", ["translation"], {}, "chooses the task .*, but must choose"),
    ("bpe", "gpt2", {}, "chooses bpe='gpt2'"),
    ("tokenizer", "x", {}, "chooses tokenizer='x'"),
    ("bpe", "sentencepiece", dict(sentencepiece_model=URL), "sets sentencepiece_model to the addr"),
    ("generation", None, dict(replace_unk="/dev/zero"), "sets replace_unk to '/dev/zero'"),
    *(
        ("task", "translation", {side: "../../../etc/x"}, f"sets {side} to '../../../etc/x'.*give")
        for side in ("source_lang", "target_lang")
    ),
]


@pytest.mark.parametrize("part, name, options, says", CHOICES)
@pytest.mark.parametrize("older", [False, True])
def test_a_checkpoint_does_not_choose_the_model_or_task(part, name, options, says, older, tmp_path):
    data, mark = honest.make_data(tmp_path / "data"), tmp_path / "mark"
    kind = "language_model" if "lm" in str(name) else "translation"
    state = honest.make_state(kind, data)
    state = honest.with_args(kind, state, data) if older else state
    set_options(state, part, name, **(fconv(mark) if part == "model" else options))
    with pytest.raises(ValueError, match=f"model.pt {says}"):
        load(kind, state, tmp_path)
    assert not mark.exists()


def test_the_caller_may_choose(kind, state, tmp_path):
    set_options(state, "bpe", "gpt2", gpt2_encoder_json=URL)
    assert load(kind, state, tmp_path, bpe=None if state["cfg"] is None else {"_name": None}).models


def test_a_missing_weight_is_named_with_the_file(tmp_path):
    state = honest.make_state("translation", honest.make_data(tmp_path / "data"))
    missing, _ = state["model"].popitem()
    says = f"model.pt does not make a MegaModel: (?s:.)*{re.escape(missing)}"
    with pytest.raises(ValueError, match=says):
        load("translation", state, tmp_path)


def test_archives_are_not_unpacked(tmp_path):
    """fairseq would, without looking at the paths in them, and then delete the archive."""
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(b"")
    for name in (str(archive), "http://localhost/model.tar.gz"):
        with pytest.raises(FileNotFoundError, match="no folder of checkpoints at .*model.tar.gz"):
            MegaModel.from_pretrained(name)
    assert archive.exists()


def test_a_file_instead_of_the_first_part_is_checked(tmp_path):
    """fairseq loads model-shard0.pt rather than model.pt, so it is checked."""
    state = honest.make_state("translation", honest.make_data(tmp_path / "data"))
    torch.save(state, tmp_path / "model.pt")
    set_options(state, "model", "fconv", **fconv(tmp_path / "mark"))
    torch.save(state, tmp_path / "model-shard0.pt")
    with pytest.raises(ValueError, match="holds a FConvModel"):
        MegaModel.from_pretrained(str(tmp_path), data_name_or_path=str(tmp_path / "data"))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", ["fconv_lm", "transformer_lm"])
def test_the_task_for_long_text_builds_no_other_model_from_a_checkpoint(name, tmp_path):
    """fairseq-generate, -interactive, -eval-lm and -validate load models in this way."""
    data = honest.make_data(tmp_path / "data")
    mark = tmp_path / "mark"
    state = honest.make_state("language_model", data)
    task = setup_task(honest.with_data(parse(honest.OPTIONS["mega_language_modeling"]), data).task)
    torch.save(state, tmp_path / "honest.pt")
    load_model_ensemble([str(tmp_path / "honest.pt")], task=task)
    set_options(state, "model", name, **fconv(mark))
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="checkpoint holds a .*, not a MegaLanguageModel"):
        load_model_ensemble([str(tmp_path / "model.pt")], task=task)
    assert not mark.exists()
