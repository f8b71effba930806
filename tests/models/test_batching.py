"""A sentence's result depends on the sentence alone: not on its batch, nor on padding."""

import copy

import helpers
import pytest
import torch
from fairseq.modules.checkpoint_activations import checkpoint_wrapper
from helpers import (
    NORMS,
    TINY,
    assert_close,
    batch_of,
    make_gated,
    make_model,
    randn,
    relative_error,
    sentences,
)

from fairseq_mega.ops.attention.tiled import TILE_QUERIES, TILE_WEIGHTS, make_tiles

LENGTHS = (3, 12, 7, 1)

mechanisms = pytest.mark.parametrize(
    "chunk, bias, function",
    [
        (-1, "simple", "softmax"),
        (-1, "rotary", "laplace"),
        (5, "simple", "relu2"),
        (5, "rotary", "softmax"),
        (5, "simple", "laplace"),
    ],
)
left_pads = pytest.mark.parametrize("left_pad", [False, True], ids=["right", "left"])


@mechanisms
@left_pads
def test_batching_a_translation(chunk, bias, function, left_pad):
    """Scores and attention of each pair alone and in a batch, whichever side fairseq pads."""
    model = make_model(
        TINY["mega"],
        encoder_chunk_size=chunk,
        rel_pos_bias=bias,
        attention_activation_fn=function,
    )
    check_batching(model, left_pad)


@pytest.mark.parametrize(
    "options",
    [
        {"normalize_embedding": True, "truncation_length": 2},
        {"no_scale_embedding": True, "decoder_ffn_embed_dim": 0, "decoder_input_dim": 6},
        {"encoder_chunk_size": 2, "encoder_chunks_before": 1, "attention_activation_fn": "relu2"},
        *({"normalization_type": norm, "normalize_before": True} for norm in NORMS[1:]),
    ],
    ids=str,
)
def test_batching_with_other_options(options):
    options = {"encoder_chunk_size": 5, **options}
    check_batching(make_model(TINY["mega"], **options), left_pad=True)


def check_batching(model, left_pad):
    source, target = sentences(*LENGTHS), sentences(*LENGTHS[::-1], seed=4)
    src_tokens = batch_of(source, left_pad)
    with torch.no_grad():
        scores, extra = model(src_tokens, None, batch_of(target))
        features, _ = model(src_tokens, None, batch_of(target), features_only=True)
        encoded = model.encoder(src_tokens)
        for i, (s, t) in enumerate(zip(source, target)):
            alone, alone_extra = model(s.unsqueeze(0), None, t.unsqueeze(0))
            assert_close(scores[i, : len(t)], alone[0])
            assert (features[i, len(t) :] == 0).all()
            attention = extra["attn"][0][i, : len(t)]
            is_word = src_tokens[i].ne(1)
            assert_close(attention[:, is_word], alone_extra["attn"][0][0], what="attention")
            assert (attention[:, ~is_word] == 0).all()

            alone = model.encoder(s.unsqueeze(0))["encoder_out"][0][:, 0]
            padding = encoded["encoder_padding_mask"][0][i]
            assert (~padding).sum() == len(s)
            assert_close(encoded["encoder_out"][0][~padding, i], alone, what="encoder output")
            assert (encoded["encoder_out"][0][padding, i] == 0).all()


@mechanisms
def test_batching_a_language_model(chunk, bias, function):
    model = make_model(
        TINY["mega_lm"],
        decoder_chunk_size=chunk,
        rel_pos_bias=bias,
        attention_activation_fn=function,
    )
    rows = sentences(*LENGTHS)
    with torch.no_grad():
        scores, _ = model(batch_of(rows))
        features, _ = model(batch_of(rows), features_only=True)
        for i, row in enumerate(rows):
            assert_close(scores[i, : len(row)], model(row.unsqueeze(0))[0][0])
            assert (features[i, len(row) :] == 0).all()


@pytest.mark.parametrize("arch", TINY)
@pytest.mark.parametrize("chunk, before, prenorm", [(-1, 0, True), (5, 0, False), (4, 1, True)])
def test_future_tokens_never_change_earlier_outputs(arch, chunk, before, prenorm):
    model = make_model(
        TINY[arch],
        decoder_chunk_size=chunk,
        decoder_chunks_before=before,
        normalize_before=prenorm,
    )
    source, (target,) = batch_of(sentences(7)), sentences(13, seed=5)

    def scores(tokens):
        with torch.no_grad():
            inputs = (source, None) if arch == "mega" else ()
            return model(*inputs, tokens.unsqueeze(0))[0][0]

    before = scores(target)
    for position in range(len(target)):
        changed = target.clone()
        changed[position] = 4 if target[position] != 4 else 5
        after = scores(changed)
        assert_close(after[:position], before[:position])
        assert relative_error(after[position:], before[position:]) > 1e-3


@pytest.mark.parametrize("arch", TINY)
@pytest.mark.parametrize(
    "options, large",
    [({}, True), ({"normalize_before": True, "feature_dropout": True}, False)],
)
def test_checkpoint_activations_change_nothing(arch, options, large, request):
    """Losses and gradients stay the same with dropout, and where layers recompute by themselves."""
    if large:
        request.getfixturevalue("recomputing")
    options = {**options, "dropout": 0.2, "attention_dropout": 0.1, "hidden_dropout": 0.1}
    source, target = batch_of(sentences(9, 4), left_pad=True), batch_of(sentences(5, 11))
    results = []
    for flag in (False, True):
        model = make_model(TINY[arch], checkpoint_activations=flag, **options).train()
        torch.manual_seed(7)
        inputs = (source, None) if arch == "mega" else ()
        loss = model(*inputs, target)[0].logsumexp(-1).square().sum()
        loss.backward()
        results.append({"loss": loss} | {name: p.grad for name, p in model.named_parameters()})
    assert results[0].keys() == results[1].keys()
    for name, expected in results[0].items():
        assert_close(results[1][name], expected, 1e-12, name)


@pytest.mark.parametrize(
    "chunk_size, bidirectional, autocast, feature_dropout",
    [
        (-1, False, False, False),
        (-1, True, True, True),
        (128, False, True, False),
        (128, True, False, True),
    ],
)
def test_checkpointing_draws_the_same_masks_in_many_tiles(
    chunk_size, bidirectional, autocast, feature_dropout
):
    """A batch of more than one tile, whose first pass has no gradients: fairseq's checkpointing."""
    options = dict(dropout=0.1, attention_dropout=0.2, hidden_dropout=0.1)
    options.update(chunk_size=chunk_size, bidirectional=bidirectional, max_positions=512)
    layer, _ = make_gated(torch.float32, feature_dropout=feature_dropout, **options)
    layer.train()
    batch, length = 16, 512
    assert len(make_tiles(batch, length, length, False, TILE_QUERIES, TILE_WEIGHTS)) > 1
    x = randn(length, batch, 6, dtype=torch.float32, requires_grad=True)
    results = []
    for function in (layer, checkpoint_wrapper(copy.deepcopy(layer))):
        x.grad = None
        torch.manual_seed(7)
        with helpers.autocast(enabled=autocast):
            y, _ = function(x)
        y.float().square().sum().backward()
        results.append([y, x.grad, *(p.grad for p in function.parameters())])
    # On CPUs fairseq recomputes without autocast, so that bfloat16's rounding differs; other masks
    # would give other numbers altogether.
    for ours, expected in zip(*reversed(results)):
        assert_close(ours, expected, 0.05 if autocast else 1e-5, floor=0.0)
