"""``attend`` plots what the layers of the model compute."""

import math

import numpy as np
import pytest
import torch

from fairseq_mega.inspection import attention_figures as figures
from fairseq_mega.inspection.attention import (
    LONGEST_TEXT,
    AttentionMap,
    attention_maps,
    load,
    sample_of_data,
    sample_of_text,
    surprisal_of,
)


@pytest.fixture(scope="module")
def translation(parity):
    return load(parity / "translation/checkpoint.pt", parity / "translation/data-bin", {})


@pytest.fixture(scope="module")
def language_model(parity):
    folder = parity / "language_model"
    return load(folder / "checkpoint.pt", folder / "data-bin", {})


def some_words(hub, count):
    symbols = hub.task.source_dictionary.symbols[4:]
    return " ".join(symbols[i % len(symbols)] for i in range(count))


@torch.no_grad()
def test_maps_are_the_weights_that_the_layers_return(translation):
    model, sample = translation.models[0], sample_of_data(translation, "test", 3)
    maps = {each.layer: each for each in attention_maps(translation, sample)}
    assert set(maps) == {f"{kind} {i}" for kind in ("encoder", "decoder", "cross") for i in (0, 1)}
    out = model.encoder(sample.source.unsqueeze(0), return_all_hiddens=True)
    _, extra = model.decoder(sample.previous.unsqueeze(0), encoder_out=out)
    assert torch.equal(maps["cross 1"].weights, extra["attn"][0][0])
    for i, x in enumerate(out["encoder_states"][:2]):
        _, weights = model.encoder.layers[i].mega_layer(x.transpose(0, 1), need_weights=True)
        assert torch.equal(maps[f"encoder {i}"].weights, weights[0])
    for each in maps.values():
        assert each.weights.shape == (len(each.queries), len(each.keys))
        assert (each.weights.numpy()[figures.hidden(each)] == 0).all()
    assert maps["cross 0"].queries[-1] == "</s>" == maps["decoder 0"].queries[0]
    own = sample_of_text(translation, some_words(translation, 4))  # translated by the model
    assert own.target[-1] == translation.task.target_dictionary.eos()
    told = sample_of_text(translation, "</s>", some_words(translation, 2))
    assert len(told.target) == 3 and told.previous.tolist()[1:] == told.target.tolist()[:-1]
    assert not any(module._forward_hooks for module in model.modules())


@torch.no_grad()
def test_surprisal_with_the_state_carried_and_cut(language_model):
    """The scores are those of one pass, or, with the state cut, of each chunk as a text."""
    model = language_model.models[0]
    sample = sample_of_text(language_model, some_words(language_model, 39))
    surprisal = surprisal_of(language_model, sample)
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
    assert (surprisal.cut[size:] - surprisal.carried[size:]).abs().max() > 0.01


# --- figures ------------------------------------------------------------------------------------


def test_the_map_shows_the_weights_and_the_borders_of_chunks(language_model):
    sample = sample_of_text(language_model, some_words(language_model, 39))
    each = attention_maps(language_model, sample, [0])[0]
    axes, _ = figures.map_figure(each).axes
    seen, weights = axes.images[0].get_array(), each.weights.numpy()
    assert np.array_equal(seen.filled(0), weights) and seen.mask[0, 1] and not seen.mask[1, 0]
    assert seen.mask[16, 15]  # another chunk
    assert {x for x, *_ in (line.get_xdata() for line in axes.lines) if x} == {15.5, 31.5}
    assert [label.get_text() for label in axes.get_xticklabels()] == each.keys
    mask = figures.hidden(each._replace(chunks_before=1))
    assert not mask[16, 0] and mask[32, 15] and not mask[32, 16] and mask[16, 17]
    head, *rows = figures.map_rows(each)
    assert list(head[1:]) == each.keys and rows[5][0] == each.queries[5]
    assert np.array_equal(np.array([row[1:] for row in rows], dtype=np.float32), weights)


def test_the_figures_of_surprisal_show_their_data(language_model):
    sample = sample_of_text(language_model, some_words(language_model, 69))
    surprisal = surprisal_of(language_model, sample)
    _, words, carried, cut, difference = zip(*figures.surprisal_rows(surprisal)[1:])
    figure = figures.surprisal_figure(surprisal)
    bars = [bar.get_height() for axes in figure.axes for bar in axes.patches]
    marks = [y for axes in figure.axes for y in axes.lines[0].get_ydata()]
    labels = [text.get_text() for axes in figure.axes for text in axes.get_xticklabels()]
    assert tuple(bars) == carried and tuple(marks) == cut and tuple(labels) == words
    (axes,) = figures.difference_figure(surprisal).axes
    assert tuple(bar.get_height() for bar in axes.patches) == difference
    assert difference == pytest.approx(np.subtract(cut, carried))
    assert "after the first chunk" in figures.mean_bits(surprisal)
    short = surprisal_of(language_model, sample_of_text(language_model, words[0]))
    assert "no border of chunks" in figures.mean_bits(short)


def test_tokens_of_any_kind_are_drawn():
    words = ["$x^$", "\x07", "a" * 30, "词"]
    axes, _ = figures.map_figure(
        AttentionMap("cross 0", words, words, torch.rand(4, 4), -1, 0)
    ).axes
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels[0] == "$x^$" and labels[1] == "\ufffd" and len(labels[2]) == 16
    assert not any(label.get_parse_math() for label in axes.get_xticklabels())


# --- bad input ----------------------------------------------------------------------------------


def test_samples_that_cannot_be_used_are_named(translation, language_model):
    known = some_words(translation, 1)
    with pytest.raises(ValueError, match="not in the dictionary: 'Hund', 'cat'.*--bpe"):
        sample_of_text(translation, f"Hund {known} cat Hund")
    with pytest.raises(ValueError, match="not in the dictionary: 'Hund'"):
        sample_of_text(translation, known, "Hund")
    with pytest.raises(ValueError, match="--index is 100000, but must be from 0 to .* in test"):
        sample_of_data(translation, "test", 100000)
    with pytest.raises(ValueError, match="--layers has 2, but must be from -2 to 1"):
        attention_maps(translation, sample_of_data(translation, "test", 0), [2])
    sample = sample_of_text(language_model, some_words(language_model, LONGEST_TEXT))
    with pytest.raises(ValueError, match=f"{LONGEST_TEXT + 1} tokens.*: give a shorter"):
        attention_maps(language_model, sample)


def test_models_that_classify_are_refused(parity):
    folder = parity / "classification/text"
    with pytest.raises(ValueError, match="attend is for translation and language models"):
        load(folder / "checkpoint.pt", folder / "data", {})
