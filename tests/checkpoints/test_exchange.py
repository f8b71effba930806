"""Models in files that hold no code are bitwise equal, and their descriptions are checked."""

import json
import os

import honest
import pytest
import torch
from commands import PLUGIN
from fairseq.checkpoint_utils import load_model_ensemble_and_task
from safetensors.torch import load_file, save_file

from fairseq_mega import MegaLanguageModel, MegaModel
from fairseq_mega.__main__ import main
from fairseq_mega.checkpoints.exchange import export_checkpoint, import_folder, load_exported

ADAPTIVE = "--criterion adaptive_loss --adaptive-softmax-cutoff 8,14 --adaptive-softmax-factor 2"
ADAPTIVE_INPUT = f"{ADAPTIVE} --adaptive-input --adaptive-input-cutoff 8,14"
ADAPTIVE_INPUT += " --adaptive-input-factor 2 --tie-adaptive-weights --tie-adaptive-proj"
CASES = [
    ("translation", ""),
    ("translation", "--share-all-embeddings --rel-pos-bias rotary --required-seq-len-multiple 5"),
    ("translation", ADAPTIVE),
    ("language_model", ADAPTIVE_INPUT),
    (
        "language_model",
        "--share-decoder-input-output-embed --decoder-chunk-size 4 --truncation-length 0 "
        "--normalization-type batchnorm --normalize-before --no-affine-final-norm --add-bos-token",
    ),
    ("mega_language_modeling", "--variant-block-multiple-max 3 --valid-block splits:2"),
]


def write_checkpoint(folder, kind, extra="", scale=0.1):
    data = honest.make_data(folder / "data")
    state = honest.make_state(kind, data, extra)
    for i, value in enumerate(state["model"].values()):  # no two weights alike, as after training
        if value.is_floating_point():
            value += scale * torch.sin(torch.arange(value.numel()) + i).view(value.shape)
    torch.save(state, folder / "model.pt")
    return state


def outputs(model):
    tokens = torch.arange(4, 20).view(2, 8)
    inputs = (tokens, None, tokens) if isinstance(model, MegaModel) else (tokens,)
    features, _ = model(*inputs)
    return [features, model.get_normalized_probs((features, None), log_probs=True)]


def kind_of(kind):
    return MegaModel if kind == "translation" else MegaLanguageModel


@torch.no_grad()
def check_round_trip(checkpoint, data, kind, tmp_path):
    """Checks every output and every shared weight after export and import."""
    export_checkpoint(checkpoint, tmp_path / "exported", data)
    import_folder(tmp_path / "exported", tmp_path / "again.pt", tmp_path / "dictionaries")
    options = dict(arg_overrides={"data": str(data)})
    (before,), _, _ = load_model_ensemble_and_task([str(checkpoint)], **options)
    options = dict(arg_overrides={"data": str(tmp_path / "dictionaries")})
    (after,), cfg, task = load_model_ensemble_and_task([str(tmp_path / "again.pt")], **options)
    hub = kind_of(kind).from_pretrained(str(tmp_path / "exported"))
    expected = outputs(before.eval())
    for model in (after.eval(), hub.models[0]):
        assert all(map(torch.equal, outputs(model), expected))
        assert model.state_dict().keys() == before.state_dict().keys()
    same = [len({p.data_ptr() for p in m.parameters()}) for m in (before, after, hub.models[0])]
    assert len(set(same)) == 1
    assert hub.task.target_dictionary == task.target_dictionary
    assert torch.load(tmp_path / "again.pt")["cfg"]["criterion"]["_name"] == cfg.criterion._name
    return before


@pytest.mark.parametrize("kind, options", CASES)
def test_outputs_are_the_same_to_the_last_bit(kind, options, tmp_path):
    write_checkpoint(tmp_path, kind, options)
    model = check_round_trip(tmp_path / "model.pt", tmp_path / "data", kind, tmp_path)
    tensors = load_file(tmp_path / "exported/model.safetensors")
    assert len(tensors) == len(model.state_dict()) - (
        len(list(model.named_parameters(remove_duplicate=False))) - len(list(model.parameters()))
    )


@pytest.mark.parametrize("kind", ["translation", "language_model"])
def test_published_checkpoints_are_the_same_to_the_last_bit(kind, parity, tmp_path):
    folder = parity / kind
    check_round_trip(folder / "checkpoint.pt", folder / "data-bin", kind, tmp_path)


def test_half_precision_stays_half(tmp_path):
    state = write_checkpoint(tmp_path, "language_model")
    state["model"] = {name: value.half() for name, value in state["model"].items()}
    torch.save(state, tmp_path / "model.pt")
    export_checkpoint(tmp_path / "model.pt", tmp_path / "out", tmp_path / "data")
    tensors = load_file(tmp_path / "out/model.safetensors")
    assert {value.dtype for value in tensors.values()} == {torch.half}
    modes = {path.name: path.stat().st_mode for path in (tmp_path / "out").iterdir()}
    assert modes["model.safetensors"] == modes["config.json"]  # readable for the same users
    assert all(torch.equal(value, state["model"][name]) for name, value in tensors.items())


# --- what is refused ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    write_checkpoint(folder, "translation")
    export_checkpoint(folder / "model.pt", folder / "out", folder / "data")
    config = json.loads((folder / "out/config.json").read_text())
    return config, load_file(folder / "out/model.safetensors")


def change(config, path, value):
    """A copy with another value at "a.b.c"; without it if the value is ``...``."""
    config = json.loads(json.dumps(config))
    *parents, name = path.split(".")
    inner = config
    for parent in parents:
        inner = inner[int(parent) if isinstance(inner, list) else parent]
    if value is ...:
        del inner[name]
    else:
        inner[int(name) if isinstance(inner, list) else name] = value
    return json.dumps(config)


OPTION = "model.options"
CHANGES = {  # the place in config.json, what stands there, what the error says
    "another format": ("format", "pickle", "format is 'pickle'"),
    "a later version": ("format_version", 2, "format_version is 2, not 1"),
    "no task": ("task", ..., "has no task"),
    "something more": ("code", "print()", "does not know code"),
    "another architecture": ("model.name", "fconv", "model.name is 'fconv', not one of"),
    "the other model": ("model.name", "mega_lm", "model.options does not know"),
    "another task": ("task.name", "audio_pretraining", "task.name is 'audio_pretraining'"),
    "the other task": ("task.name", "language_modeling", "task.options does not know"),
    "unknown option": (f"{OPTION}.user_dir", "/tmp", "model.options does not know user_dir"),
    "options as a list": (OPTION, [], "model.options must be an object"),
    "text for a number": (f"{OPTION}.encoder_layers", "many", "encoder_layers: Value 'many'"),
    "true for a number": (f"{OPTION}.encoder_layers", True, "encoder_layers: Value 'True'"),
    "no choice": (f"{OPTION}.rel_pos_bias", "alibi", "rel_pos_bias: Invalid value 'alibi'"),
    "object for a text": (f"{OPTION}.adaptive_softmax_cutoff", {}, "cutoff: "),
    "interpolation": (f"{OPTION}.dropout", "${oc.env:HOME}", "dropout is .*stands for something"),
    "cutoffs as code": (f"{OPTION}.adaptive_softmax_cutoff", "exit()", "exit"),
    "a number too large": (f"{OPTION}.encoder_embed_dim", 10**18, "does not make a model"),
    "larger model": (f"{OPTION}.encoder_embed_dim", 10**6, "describe a model of"),
    "more layers": (f"{OPTION}.encoder_layers", 3, "lacks the weights of decoder.layers.2"),
    "fewer layers": (f"{OPTION}.encoder_layers", 1, "Unexpected key(?s:.*)encoder.layers.1"),
    "language upwards": ("task.options.source_lang", "../../x", "not part of a file's name"),
    "no dictionary": ("dictionaries.source", ..., "dictionaries has no source"),
    "dictionary of a text": ("dictionaries.source", "dict.txt", "not a word with its count"),
    "word of a number": ("dictionaries.source.3", [4, 4], "holds .4, 4., not a word"),
    "special word": ("dictionaries.source.3", ["<pad>", 1], "Duplicate word"),
    "half a character": ("dictionaries.source.3", ["\ud800", 1], "surrogates not allowed"),
    "larger dictionary": ("dictionaries.source", [[f"x{i}", 1] for i in range(99)], "size mism"),
}


def check_refused(folder, says, tmp_path):
    """Checks that import raises the error and leaves nothing."""
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(SystemExit, match=f"{folder}(?s:.*)({says})"):
        main(["import", str(folder), str(tmp_path / "a.pt"), "--dictionaries", f"{tmp_path}/d"])
    assert sorted(os.listdir(tmp_path)) == before


@pytest.fixture
def folder(tmp_path, exported):
    folder = tmp_path / "out"
    folder.mkdir()
    save_file(exported[1], folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(exported[0]))
    return folder


@pytest.mark.parametrize("name", CHANGES)
def test_other_descriptions_are_refused(name, folder, exported, tmp_path):
    path, value, says = CHANGES[name]
    (folder / "config.json").write_text(change(exported[0], path, value))
    check_refused(folder, says, tmp_path)


@pytest.mark.parametrize("text", [b"", b"\x80\x02}q\x00.", b"[" * 100_000], ids=len)
def test_malformed_descriptions_are_refused(text, folder, tmp_path):
    (folder / "config.json").write_bytes(text)
    check_refused(folder, "cannot be read", tmp_path)


def test_malformed_safetensors_files_are_refused(folder, tmp_path):
    (folder / "model.safetensors").write_bytes(b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.")
    check_refused(folder, "model.safetensors cannot be read", tmp_path)


WEIGHT = "decoder.layers.0.cross_attn.k_proj.weight"
WEIGHTS = {
    "one lacks": (lambda w: w.pop(WEIGHT), f"lacks the weights of {WEIGHT}"),
    "one more": (lambda w: w.update(code=torch.ones(1)), "Unexpected key(?s:.*)code"),
    "another shape": (lambda w: w.update({WEIGHT: w[WEIGHT].T.contiguous()}), "size mismatch"),
    "empty": (lambda w: w.update({WEIGHT: torch.ones(0)}), "size mismatch"),
    "NaN": (lambda w: w.update({WEIGHT: w[WEIGHT] * float("nan")}), "holds a NaN"),
    "infinity": (lambda w: w.update({WEIGHT: w[WEIGHT] / 0}), "holds a NaN or an infinite"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_other_weights_are_refused(name, folder, exported, tmp_path):
    weights = dict(exported[1])
    alter, says = WEIGHTS[name]
    alter(weights)
    save_file(weights, folder / "model.safetensors")
    check_refused(folder, says, tmp_path)


def test_another_model_is_refused(folder):
    with pytest.raises(ValueError, match="config.json holds a MegaModel, not a MegaLanguageModel"):
        load_exported(folder, MegaLanguageModel, {})


# --- the commands -------------------------------------------------------------------------------


def test_without_words_the_path_for_user_dir_is_printed(capsys):
    main([])
    assert capsys.readouterr().out == f"{PLUGIN}\n"
    for words in ([], ["export"], ["import"]):
        with pytest.raises(SystemExit, match="^0$"):
            main([*words, "--help"])
        listed = capsys.readouterr().out
        assert all(word in listed for word in words or ("export", "import", "--user-dir"))


def test_nothing_is_overwritten_and_nothing_left_half_written(folder, tmp_path, capsys):
    write_checkpoint(tmp_path, "translation")
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    data = ["--data", str(tmp_path / "data")]
    for words, says in [
        (["export", f"{tmp_path}/model.pt", str(folder), *data], "out exists"),
        (["export", f"{tmp_path}/model.pt", f"{tmp_path}/new"], "no dictionary at .*--data"),
        (
            ["export", f"{tmp_path}/model.pt", f"{tmp_path}/a/b", *data],
            "/a does not exist",
        ),
        (["export", f"{tmp_path}/none.pt", f"{tmp_path}/new", *data], "not found: .*none.pt"),
        (["import", str(folder), f"{tmp_path}/model.pt"], "model.pt exists"),
        (["import", f"{tmp_path}/none", f"{tmp_path}/new.pt"], "none/config.json"),
        (["import", str(folder), f"{tmp_path}/n.pt", "--dictionaries", str(folder)], "exists"),
    ]:
        with pytest.raises(SystemExit, match=says):
            main(words)
    assert sorted(os.listdir(tmp_path)) == ["data", "model.pt", "out"]
    assert all(path.read_bytes() == content for path, content in before.items())
    main(["import", str(folder), f"{tmp_path}/new.pt"])
    assert capsys.readouterr().out == f"{tmp_path}/new.pt\n"


def test_options_that_a_folder_does_not_have_are_the_defaults(folder, exported):
    """An option may be newer than the folder."""
    (folder / "config.json").write_text(change(exported[0], f"{OPTION}.ema_init", ...))
    assert MegaModel.from_pretrained(str(folder)).models


def test_exported_folders_take_the_callers_options(folder, tmp_path):
    hub = MegaModel.from_pretrained(str(folder), bpe="characters")
    assert hub.bpe is not None and hub.translate("w1 w2", beam=2, max_len_b=4) is not None
