"""A checkpoint does not choose what is built: another model, task or tokenizer is refused first."""

import honest
import pytest
import torch
from fairseq.checkpoint_utils import load_model_ensemble
from fairseq.tasks import setup_task
from helpers import parse

from fairseq_mega import MegaLanguageModel, MegaModel

MODELS = {"translation": MegaModel, "language_model": MegaLanguageModel}
FORMATS = ["cfg", "args"]


@pytest.fixture(params=MODELS)
def kind(request):
    return request.param


@pytest.fixture(params=FORMATS)
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


@pytest.mark.parametrize("name", ["fconv", "fconv_lm", "fconv_self_att", "fconv_lm_dauphin_gbw"])
def test_another_model_is_not_built(kind, state, name, tmp_path):
    mark = tmp_path / "mark"
    set_options(state, "model", name, **fconv(mark))
    with pytest.raises(ValueError, match=r"model.pt holds a FConv.*, not a Mega.*nothing of it"):
        load(kind, state, tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["nothing", "", None, 3, ["mega"]])
def test_a_model_without_a_proper_name_is_refused(kind, state, name, tmp_path):
    set_options(state, "model", name)
    with pytest.raises(ValueError, match="model.pt holds the model .*, not a Mega"):
        load(kind, state, tmp_path)


@pytest.mark.parametrize("name", ["audio_pretraining", "multilingual_masked_lm", "nothing", None])
def test_another_task_is_not_set_up(kind, state, name, tmp_path):
    set_options(state, "task", name)
    with pytest.raises(ValueError, match=f"model.pt chooses the task '?{name}'?, but must choose"):
        load(kind, state, tmp_path)


@pytest.mark.parametrize("part, name", [("bpe", "gpt2"), ("bpe", "bert"), ("tokenizer", "x")])
def test_tokenizers_that_download_are_the_callers_choice(kind, state, part, name, tmp_path):
    set_options(state, part, name, gpt2_encoder_json="http://localhost/x")
    with pytest.raises(ValueError, match=f"model.pt chooses {part}='{name}'"):
        load(kind, state, tmp_path)
    ours = None if state["cfg"] is None else {"_name": None}
    assert load(kind, state, tmp_path, **{part: ours}).models


def test_tokenizers_do_not_download(kind, state, tmp_path):
    set_options(state, "bpe", "sentencepiece", sentencepiece_model="http://localhost/x")
    with pytest.raises(ValueError, match="model.pt sets sentencepiece_model to the address 'http"):
        load(kind, state, tmp_path)


def test_files_are_not_read_for_unknown_words(kind, state, tmp_path):
    set_options(state, "generation", None, replace_unk="/dev/zero")
    with pytest.raises(ValueError, match="model.pt sets replace_unk to '/dev/zero'"):
        load(kind, state, tmp_path)


@pytest.mark.parametrize("side", ["source_lang", "target_lang"])
def test_dictionaries_are_those_in_the_folder_of_the_data(kind, state, side, tmp_path):
    name = "translation" if kind == "translation" else "language_modeling"
    set_options(state, "task", name, **{side: "../../../etc/x"})
    with pytest.raises(ValueError, match=f"model.pt sets {side} to '../../../etc/x'.*give {side}"):
        load(kind, state, tmp_path)


@pytest.mark.parametrize("part", ["args", "cfg", "model"])
@pytest.mark.parametrize("value", [None, 3, "text", [1], {}])
def test_a_file_that_is_no_checkpoint_is_named(kind, state, part, value, tmp_path):
    changed = {"args": None, "cfg": None, part: value}
    if part == "model" and value == {}:
        pytest.skip("a checkpoint of no weights, which is refused when they are loaded")
    with pytest.raises(ValueError, match=r"model\.pt (is no|has neither|holds the model)"):
        load(kind, {**state, **changed}, tmp_path)


def test_archives_are_not_unpacked(kind, tmp_path):
    """fairseq would, without looking at the paths in them, and then delete the archive."""
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(b"")
    for name in (str(archive), "http://localhost/model.tar.gz"):
        with pytest.raises(FileNotFoundError, match="no folder of checkpoints at .*model.tar.gz"):
            MODELS[kind].from_pretrained(name)
    assert archive.exists()


def test_a_file_in_place_of_the_first_part_is_looked_at(kind, state, tmp_path):
    """fairseq loads model-shard0.pt rather than model.pt."""
    mark = tmp_path / "mark"
    torch.save(state, tmp_path / "model.pt")
    set_options(state, "model", "fconv", **fconv(mark))
    torch.save(state, tmp_path / "model-shard0.pt")
    with pytest.raises(ValueError, match="holds a FConvModel"):
        MODELS[kind].from_pretrained(str(tmp_path), data_name_or_path=str(tmp_path / "data"))
    assert not mark.exists()


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
