"""Encoder and decoder give fairseq's criteria and tasks what fairseq's Transformer gives them."""

import inspect

import pytest
import torch
from fairseq.models.transformer import TransformerConfig, TransformerEncoderBase, TransformerModel
from helpers import (
    TINY,
    assert_close,
    batch_of,
    build,
    make_dictionary,
    make_model,
    sentences,
)
from masked_lm import make_model as make_masked

LENGTHS = (3, 12, 7, 1)


@pytest.mark.parametrize(
    "arch, bias, chunk",
    [
        ("mega", "simple", 4),
        ("mega", "rotary", -1),
        ("mega_lm", "rotary", 4),
        ("mega_lm", "simple", -1),
    ],
)
@torch.no_grad()
def test_left_padded_targets_do_not_depend_on_their_batch(arch, bias, chunk):
    """Logits, inner states and attention, in training mode and in evaluation."""
    model = make_model(TINY[arch], decoder_chunk_size=chunk, rel_pos_bias=bias, dropout=0.0).train(
        bias == "simple"
    )
    source, target = sentences(*LENGTHS, seed=5), sentences(*LENGTHS)
    tokens = batch_of(target, left_pad=True)
    options = dict(return_all_hiddens=True, alignment_layer=0)

    def run(rows, prev_output_tokens):
        inputs = (batch_of(rows, left_pad=True), None) if arch == "mega" else ()
        return model(*inputs, prev_output_tokens, **options)

    scores, extra = run(source, tokens)
    for i, (s, t) in enumerate(zip(source, target)):
        alone, alone_extra = run([s], t.unsqueeze(0))
        start = tokens.size(1) - len(t)
        assert_close(scores[i, start:], alone[0])
        for states, expected in zip(extra["inner_states"], alone_extra["inner_states"]):
            assert_close(states[start:, i], expected[:, 0], what="inner state")
        if arch == "mega":
            words = batch_of(source, left_pad=True)[i].ne(1)
            attention = extra["attn"][0][i, start:][:, words]
            assert_close(attention, alone_extra["attn"][0][0], what="attention")


def test_padding_before_the_tokens_is_an_error_where_a_state_counts_positions():
    tokens = batch_of(sentences(5, 3), left_pad=True)
    for options in (dict(decoder_chunk_size=4), dict(decoder_chunk_size=-1)):
        model = make_model(TINY["mega_lm"], **options)
        if options["decoder_chunk_size"] > 0:
            with pytest.raises(ValueError, match="pad on the right"):
                model.decoder(tokens, incremental_state={})
        else:
            model.decoder(tokens, incremental_state={})


@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_the_encoders_output_has_the_form_of_fairseqs(padded):
    """The same entries with the same shapes and types."""
    lengths = (7, 4) if padded else (7, 7)
    tokens = batch_of(sentences(*lengths), left_pad=True)
    ours = make_model(TINY["mega"], dropout=0.0).encoder(tokens, None, return_all_hiddens=True)
    cfg, words = TransformerConfig(), make_dictionary(20)
    cfg.encoder.layers, cfg.encoder.embed_dim, cfg.encoder.attention_heads = 2, 12, 2
    table = torch.nn.Embedding(len(words), 12, words.pad())
    stock = TransformerEncoderBase(cfg, words, table)
    expected = stock(tokens, torch.tensor(lengths), return_all_hiddens=True)
    assert not set(expected) - set(ours) - {"fc_results"}
    for name in ("encoder_out", "encoder_padding_mask", "encoder_embedding", "src_lengths"):
        assert ours[name][0].shape == expected[name][0].shape, name
    assert ours["src_lengths"][0].tolist() == expected["src_lengths"][0].tolist()
    assert ours["encoder_padding_mask"][0].dtype == torch.bool
    shapes = [[state.shape for state in each["encoder_states"]] for each in (ours, expected)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("masked", [False, True])
def test_token_embeddings_replace_the_tokens(masked):
    model = make_masked() if masked else make_model(TINY["mega"])
    tokens = batch_of(sentences(7, 4), left_pad=True)
    inputs = (tokens,) if masked else (tokens, None, batch_of(sentences(5, 6)))
    embeddings = model.encoder.embed_tokens(tokens)
    expected, _ = model(*inputs)
    assert_close(model(*inputs, token_embeddings=embeddings)[0], expected)
    noised = model(*inputs, token_embeddings=embeddings + 1)[0]
    assert (noised - expected).abs().max() > 1e-3


@pytest.mark.parametrize("arch", TINY)
def test_unknown_keywords_are_refused(arch):
    model, target = make_model(TINY[arch]), batch_of(sentences(5, 6))
    inputs = (batch_of(sentences(7, 4)), None) if arch == "mega" else ()
    with pytest.raises(TypeError, match="prev_output_token"):
        model(*inputs, target, prev_output_token=target)
    with pytest.raises(TypeError, match="full_context_alignment"):
        model(*inputs, target, full_context_alignment=True)


def test_fairseqs_transformer_takes_no_fewer_keywords():
    """All keywords of fairseq's Transformer can be passed to Mega."""

    def names(function):
        return set(inspect.signature(function).parameters)

    ours, stock = build(TINY["mega"]), TransformerModel
    assert names(stock.forward) - names(type(ours).forward) <= names(ours.decoder.forward)
