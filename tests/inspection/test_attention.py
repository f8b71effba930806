"""What ``attend`` draws is what the layers of the model compute."""

import math

import numpy as np
import pytest
import torch
from helpers import TINY, build

from fairseq_mega.inspection import attention as attention_of
from fairseq_mega.inspection import attention_pictures as pictures
from fairseq_mega.inspection.attention import AttentionMap, attend, load
from fairseq_mega.inspection.attention import sample_of_data as of_data
from fairseq_mega.inspection.attention import sample_of_text as of_text


@pytest.fixture(scope="module")
def translation(parity):
    folder = parity / "translation"
    return load(folder / "checkpoint.pt", str(folder / "data-bin"), {})


@pytest.fixture(scope="module")
def language_model(parity):
    folder = parity / "language_model"
    return load(folder / "checkpoint.pt", str(folder / "data-bin"), {})


def some_words(hub, count):
    symbols = hub.task.source_dictionary.symbols[4:]
    return " ".join(symbols[i % len(symbols)] for i in range(count))


@torch.no_grad()
def test_maps_are_the_weights_that_the_layers_return(translation):
    """Of cross attention as fairseq asks for it, of an encoder layer as called by itself."""
    model, sample = translation.models[0], of_data(translation, "test", 3)
    attended = attend(translation, sample)
    maps = {each.layer: each for each in attended.maps}
    assert set(maps) == {f"{kind} {i}" for kind in ("encoder", "decoder", "cross") for i in (0, 1)}
    out = model.encoder(sample.source.unsqueeze(0), return_all_hiddens=True)
    _, extra = model.decoder(sample.previous.unsqueeze(0), encoder_out=out)
    assert torch.equal(maps["cross 1"].weights, extra["attn"][0][0])
    for i, x in enumerate(out["encoder_states"][:2]):
        _, weights = model.encoder.layers[i].mega_layer(x.transpose(0, 1), need_weights=True)
        assert torch.equal(maps[f"encoder {i}"].weights, weights[0])
    for each in maps.values():
        ones = torch.ones(each.weights.size(0))
        assert torch.allclose(each.weights.sum(1), ones, atol=1e-6)  # softmax
        assert each.weights.shape == (len(each.queries), len(each.keys))
        assert (each.weights.numpy()[pictures.hidden(each)] == 0).all()
    assert maps["cross 0"].queries[-1] == "</s>" == maps["decoder 0"].queries[0]
    assert attended.surprisal is None


def test_no_layer_is_left_with_a_hook(translation):
    model = translation.models[0]
    attend(translation, of_data(translation, "test", 0), [1])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_layers_are_chosen(translation):
    sample = of_data(translation, "test", 0)
    maps = attend(translation, sample, [-1]).maps
    assert [each.layer for each in maps] == ["encoder 1", "decoder 1", "cross 1"]
    with pytest.raises(ValueError, match="--layers has 2, but there are the layers 0 to 1"):
        attend(translation, sample, [2])


def test_a_text_is_translated_by_the_model_or_as_told(translation):
    text = some_words(translation, 4)
    own = of_text(translation, text)
    assert own.target[-1] == translation.task.target_dictionary.eos()
    told = of_text(translation, text, some_words(translation, 2))
    assert len(told.target) == 3 and told.previous.tolist()[1:] == told.target.tolist()[:-1]


@torch.no_grad()
def test_surprisal_with_the_state_carried_and_cut(language_model):
    """Carried: that of one pass. Cut: that of each chunk as a text of its own."""
    model = language_model.models[0]
    sample = of_text(language_model, some_words(language_model, 39))
    surprisal = attend(language_model, sample).surprisal
    size = model.chunk_size
    assert size == 16 and len(surprisal.tokens) == 40

    def bits_of(previous, target):
        net = {"target": target.unsqueeze(0)}
        output = model(previous.unsqueeze(0))
        lprobs = model.get_normalized_probs(output, log_probs=True, sample=net)[0]
        return -lprobs.gather(1, target.unsqueeze(1)).squeeze(1).double() / math.log(2)

    assert torch.allclose(surprisal.carried, bits_of(sample.previous, sample.target), atol=1e-5)
    parts = zip(sample.previous.split(size), sample.target.split(size))
    expected = torch.cat([bits_of(previous, target) for previous, target in parts])
    assert torch.allclose(surprisal.cut, expected, atol=1e-5)
    assert torch.allclose(surprisal.cut[:size], surprisal.carried[:size], atol=1e-5)
    assert (surprisal.cut[size:] - surprisal.carried[size:]).abs().max() > 0.01


def test_a_text_within_a_chunk_has_no_state_to_cut(language_model):
    sample = of_text(language_model, some_words(language_model, 5))
    surprisal = attend(language_model, sample).surprisal
    assert surprisal.cut is None
    (section, _) = pictures.attend_sections(attend(language_model, sample), "")
    assert "within one chunk of 16" in " ".join(section.text)


# --- pictures -----------------------------------------------------------------------------------


def test_the_map_shows_the_weights_and_the_borders_of_chunks(language_model):
    sample = of_text(language_model, some_words(language_model, 39))
    each = attend(language_model, sample, [0]).maps[0]
    axes, bar = pictures.map_figure(each).axes
    seen = axes.images[0].get_array()
    weights = each.weights.numpy()
    assert np.array_equal(seen.filled(0), weights) and seen.mask[0, 1] and not seen.mask[1, 0]
    assert seen.mask[16, 15]  # another chunk
    assert sorted({line.get_xdata()[0] for line in axes.lines if line.get_xdata()[0]}) == [
        15.5,
        31.5,
    ]
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == each.keys
    assert "weight" in bar.get_ylabel() and axes.get_ylabel() == "token that attends"
    head, *rows = pictures.map_rows(each)
    assert list(head[1:]) == each.keys and rows[5][0] == each.queries[5]
    assert np.array_equal(np.array([row[1:] for row in rows], dtype=np.float32), weights)


def test_the_pictures_of_surprisal_show_the_numbers_of_their_csv(language_model):
    sample = of_text(language_model, some_words(language_model, 69))
    surprisal = attend(language_model, sample).surprisal
    rows = pictures.surprisal_rows(surprisal)
    _, words, carried, cut, difference = zip(*rows[1:])
    figure = pictures.surprisal_figure(surprisal)
    assert len(figure.axes) == 2  # rows of 50 tokens
    bars = [bar.get_height() for axes in figure.axes for bar in axes.patches]
    marks = [y for axes in figure.axes for y in axes.lines[0].get_ydata()]
    labels = [text.get_text() for axes in figure.axes for text in axes.get_xticklabels()]
    assert tuple(bars) == carried and tuple(marks) == cut and tuple(labels) == words
    (axes,) = pictures.difference_figure(surprisal).axes
    assert tuple(axes.lines[0].get_ydata()) == pytest.approx(difference)
    assert axes.get_ylabel() == "difference (bits)"
    assert difference == pytest.approx(np.subtract(cut, carried))


def test_tokens_of_any_kind_are_drawn():
    words = ["$x^$", "\x07", "a" * 30, "词"]
    each = AttentionMap("cross 0", words, words, torch.rand(4, 4), -1, "laplace")
    axes, _ = pictures.map_figure(each).axes
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels[0] == "$x^$" and labels[1] == "\ufffd" and len(labels[2]) == 16
    assert not any(label.get_parse_math() for label in axes.get_xticklabels())


# --- bad input ----------------------------------------------------------------------------------


def test_unknown_tokens_are_named(translation):
    known = some_words(translation, 1)
    with pytest.raises(ValueError, match="not in the dictionary: 'Hund', 'cat'.*--bpe"):
        of_text(translation, f"Hund {known} cat Hund")
    with pytest.raises(ValueError, match="not in the dictionary: 'Hund'"):
        of_text(translation, known, "Hund")
    assert of_text(translation, f"{known} <unk>").source[1] == 3
    with pytest.raises(ValueError, match="empty"):
        of_text(translation, "  ")


def test_too_long_texts(language_model):
    longest = attention_of.LONGEST_TEXT
    with pytest.raises(ValueError, match=f"{longest + 2} tokens.* up to {longest}: give a shorter"):
        of_text(language_model, some_words(language_model, longest + 1))
    model = build(TINY["mega_lm"])  # simple, full attention, 32 positions
    tokens = torch.full((33,), 5)
    with pytest.raises(ValueError, match="33 tokens, but.* simple positional bias has 32 pos"):
        attention_of.check_sample(model, attention_of.Sample(None, tokens, tokens))


def test_samples_that_are_not_there(translation):
    with pytest.raises(ValueError, match="--index is 100000, but test has the samples 0 to"):
        of_data(translation, "test", 100000)
    with pytest.raises(FileNotFoundError, match="nosuch"):
        of_data(translation, "nosuch", 0)


def test_models_that_classify_are_refused(parity):
    folder = parity / "classification/text"
    with pytest.raises(ValueError, match="attend is for translation and language models"):
        load(folder / "checkpoint.pt", str(folder / "data"), {})
