"""MovingAverageGatedAttention against the paper, and its properties in every setting."""

import pytest
import reference
import torch
from helpers import (
    BIASES,
    FUNCTIONS,
    GATED,
    NORMS,
    assert_close,
    assert_same_function,
    autocast,
    make_gated,
    padding,
    pairwise,
    randn,
    retain_dropout,
    run_segments,
    tensors_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fairseq_mega.modules import MovingAverageGatedAttention
from fairseq_mega.modules.state import LayerState


def check_against_reference(length, mask, **options):
    module, config = make_gated(**options)
    batch = 2 if mask is None else mask.size(0)
    x = randn(batch, length, config["embed_dim"], requires_grad=True)
    y, weights = module(x, mask, need_weights=True)
    expected, expected_weights = reference.mega_layer(tensors_of(module), config, x, mask)
    keep = torch.ones(batch, length, dtype=torch.bool) if mask is None else ~mask
    leaves = {"x": x, **dict(module.named_parameters())}
    assert_same_function(y, expected, leaves, keep)
    assert_close(weights[keep], expected_weights[keep], what="weights")
    without, none = module(x, mask)
    assert none is None
    assert_close(without[keep], y[keep])


# --- The paper ------------------------------------------------------------------------------------


@pairwise(
    attention_activation=FUNCTIONS,
    rel_pos_bias=BIASES,
    bidirectional=[False, True],
    chunk_size=[-1, 1, 4],
    chunks_before=[0, 1, 2],
    padded=["none", "right", "left"],
    length=[1, 3, 4, 5, 8, 13],
)
def test_equals_reference(padded, length, options):
    lengths = [length, length // 2 + 1]
    mask = None if padded == "none" else padding(length, lengths, left=padded == "left")
    check_against_reference(length, mask, **options)


@pairwise(chunk_size=[-1, 3], chunks_before=[0, 1], bidirectional=[False, True])
def test_equals_reference_whatever_the_memory_layout(options):
    module, config = make_gated(**options)
    x = randn(8, 2, 6).transpose(0, 1)
    mask = padding(8, [8, 5]).t().contiguous().t()
    assert not x.is_contiguous() and not mask.is_contiguous()
    expected, _ = reference.mega_layer(tensors_of(module), config, x, mask)
    keep = ~mask
    assert_close(module(x, mask)[0][keep], expected[keep])


@pairwise(
    attention_activation=FUNCTIONS,
    chunk_size=[-1, 64],
    chunks_before=[0, 1],
    bidirectional=[False, True],
)
def test_equals_reference_on_long_sequences(options):
    bias = "rotary" if options["bidirectional"] else "simple"
    check_against_reference(
        331,
        padding(331, [331, 150]),
        max_positions=331,
        truncation=100,
        rel_pos_bias=bias,
        **options,
    )


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    st.integers(1, 23),
    st.fixed_dictionaries(
        {
            "embed_dim": st.integers(1, 6),
            "zdim": st.sampled_from([2, 4, 6]),
            "hdim": st.integers(1, 9),
            "ndim": st.integers(1, 16),
            "chunk_size": st.one_of(st.just(-1), st.integers(1, 25)),
            "chunks_before": st.integers(0, 3),
            "truncation": st.one_of(st.none(), st.integers(1, 25)),
            "norm_type": st.sampled_from(NORMS),
            "prenorm": st.booleans(),
            "rel_pos_bias": st.sampled_from(BIASES),
            "activation": st.sampled_from(["silu", "relu", "tanh", "gelu"]),
            "attention_activation": st.sampled_from(FUNCTIONS),
            "bidirectional": st.booleans(),
        }
    ),
    st.data(),
)
def test_equals_reference_in_any_setting(length, options, data):
    lengths = data.draw(st.lists(st.integers(0, length), min_size=1, max_size=3))
    left = data.draw(st.booleans())
    check_against_reference(length, padding(length, lengths, left), **options)


@pairwise(
    attention_activation=FUNCTIONS,
    rel_pos_bias=BIASES,
    bidirectional=[False, True],
    length=[1, 8, 9],
)
def test_a_chunk_that_holds_all_is_full_attention(length, options):
    full, chunked = (make_gated(chunk_size=c, max_positions=9, **options)[0] for c in (-1, 9))
    x, mask = randn(2, length, 6), padding(length, [length, length // 2 + 1])
    keep = ~mask
    assert_close(chunked(x, mask)[0][keep], full(x, mask)[0][keep])


def test_weights_are_zero_outside_the_chunk_and_information_still_crosses_it():
    module, _ = make_gated(chunk_size=4)
    x = randn(1, 8, 6).requires_grad_()
    y, weights = module(x, need_weights=True)
    assert (weights[:, :4, 4:] == 0).all() and (weights[:, 4:, :4] == 0).all()
    assert_close(weights.sum(dim=-1), torch.ones(1, 8, dtype=x.dtype))
    (grad,) = torch.autograd.grad(y[:, 7].sum(), x)
    assert (grad[:, :4].abs().amax(dim=-1) > 1e-6).all()


@pairwise(chunks_before=[0, 1, 2], bidirectional=[False, True])
def test_a_position_sees_the_chunks_around_its_own(chunks_before, bidirectional):
    module, _ = make_gated(chunk_size=4, chunks_before=chunks_before, bidirectional=bidirectional)
    _, weights = module(randn(1, 30, 6), need_weights=True)
    for i, row in enumerate(weights[0]):
        start = i - i % 4
        last = start + 4 * (1 + chunks_before) if bidirectional else i + 1
        first = max(start - 4 * chunks_before, 0)
        assert row.nonzero().flatten().tolist() == [*range(first, min(last, 30))]


def test_the_first_chunk_is_that_of_mega_chunk():
    plain, ours = (make_gated(chunk_size=4, chunks_before=n, rel_pos_bias="rotary") for n in (0, 2))
    x = randn(2, 13, 6)
    expected, found = plain[0](x)[0], ours[0](x)[0]
    assert_close(found[:, :4], expected[:, :4])
    assert ((found - expected)[:, 4:].abs().amax(dim=(0, 2)) > 1e-6).all()


# --- Time and padding -----------------------------------------------------------------------------


@pairwise(
    attention_activation=FUNCTIONS,
    rel_pos_bias=BIASES,
    chunk_size=[-1, 4],
    chunks_before=[0, 1],
)
def test_future_never_changes_the_past(options):
    module, _ = make_gated(**options)
    x = randn(2, 10, 6)
    y, _ = module(x)
    for t in range(1, 10):
        changed = x.clone()
        changed[:, t:] = randn(2, 10 - t, 6, seed=4)
        moved, _ = module(changed)
        assert_close(moved[:, :t], y[:, :t], 1e-12)
        assert (moved[:, t] - y[:, t]).abs().max() > 1e-3
    # The length of what follows is part of the future.
    for t in range(1, 10):
        assert_close(module(x[:, :t])[0], y[:, :t], 1e-12)


PADDED = pairwise(
    attention_activation=FUNCTIONS,
    rel_pos_bias=BIASES,
    bidirectional=[False, True],
    chunk_size=[-1, 4],
    chunks_before=[0, 1],
    left=[False, True],
)


@PADDED
def test_padding_and_batching_never_change_the_result(left, options):
    module, _ = make_gated(**options)
    length, lengths = 11, [11, 1, 7]
    mask = padding(length, lengths, left)
    keep = ~mask
    x = randn(3, length, 6)
    y, _ = module(x, mask)
    arbitrary = torch.where(keep.unsqueeze(-1), x, 50 * randn(3, length, 6, seed=8))
    assert_close(module(arbitrary, mask)[0][keep], y[keep])
    for b, n in enumerate(lengths):
        if left and options["chunk_size"] > 0:
            continue  # Chunks are counted from the start of the batch, padding included.
        part = slice(length - n, length) if left else slice(0, n)
        assert_close(module(x[b : b + 1, part])[0], y[b : b + 1, part])


@PADDED
def test_rows_and_chunks_of_padding_are_finite(left, options):
    module, _ = make_gated(**options)
    x = randn(3, 12, 6, requires_grad=True)
    y, weights = module(x, padding(12, [12, 3, 0], left), need_weights=True)
    y.sum().backward()
    assert torch.isfinite(y).all() and torch.isfinite(weights).all()
    for tensor in (x, *module.parameters()):
        assert torch.isfinite(tensor.grad).all()


# --- Incremental ----------------------------------------------------------------------------------


@pairwise(
    attention_activation=FUNCTIONS,
    rel_pos_bias=BIASES,
    chunk_size=[-1, 1, 4],
    chunks_before=[0, 1, 2],
    sizes=[[1] * 13, [13], [7, 1, 1, 4], [4, 4, 5], [3, 9, 1], [8, 5]],
)
def test_segments_and_their_weights_equal_one_pass(sizes, chunk_size, chunks_before, options):
    """The weights' first column is the start of the chunk that the segment continues, or of the
    first chunk before it that attention sees."""
    module, _ = make_gated(chunk_size=chunk_size, chunks_before=chunks_before, **options)
    x = randn(2, 13, 6)
    expected, all_weights = module(x, need_weights=True)
    assert_close(run_segments(module, x, sizes), expected)
    state, start = LayerState(), 0
    for part in x.split(sizes, 1):
        _, weights = module(part, state=state, need_weights=True)
        stop = start + part.size(1)
        first_key = 0
        if chunk_size > 0:
            first_key = max(start - start % chunk_size - chunks_before * chunk_size, 0)
        assert_close(weights, all_weights[:, start:stop, first_key:stop], what="weights")
        start = stop


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=8),
    st.fixed_dictionaries(
        {
            "chunk_size": st.one_of(st.just(-1), st.integers(1, 20)),
            "chunks_before": st.integers(0, 3),
            "norm_type": st.sampled_from(NORMS),
            "prenorm": st.booleans(),
            "rel_pos_bias": st.sampled_from(BIASES),
            "attention_activation": st.sampled_from(FUNCTIONS),
            "ndim": st.integers(1, 16),
        }
    ),
    st.integers(1, 3),
)
def test_any_segments_equal_one_pass(sizes, options, batch):
    module, _ = make_gated(max_positions=96, **options)
    x = randn(batch, sum(sizes), 6)
    assert_close(run_segments(module, x, sizes), module(x)[0])


@pairwise(rel_pos_bias=BIASES, chunks_before=[0, 1])
def test_long_segments_equal_one_pass(options):
    """Segments of a stream far longer than the chunk may end at chunk boundaries or not."""
    module, _ = make_gated(chunk_size=32, **options)
    x = randn(1, 700, 6)
    expected = module(x)[0]
    for sizes in ([320, 320, 60], [1, 400, 1, 298], [33, 31, 636]):
        assert_close(run_segments(module, x, sizes), expected)


@pytest.mark.parametrize("chunk_size", [-1, 4])
def test_steps_within_the_truncation_equal_one_pass(chunk_size):
    module, _ = make_gated(chunk_size=chunk_size, truncation=10)
    x = randn(2, 10, 6)
    assert_close(run_segments(module, x, [1] * 10), module(x)[0])


@pairwise(
    attention_activation=FUNCTIONS,
    chunk_size=[-1, 4],
    chunks_before=[0, 1],
    sizes=[[3, 1, 1, 1, 6], [1] * 12, [12], [4, 8]],
)
def test_padded_segments_equal_one_padded_pass(sizes, options):
    """The mask of a segment covers that segment; padding before it stays hidden."""
    module, _ = make_gated(**options)
    x, mask = randn(3, 12, 6), padding(12, [12, 9, 5], left=True)
    state = LayerState()
    parts = [
        module(part, part_mask, state=state)[0]
        for part, part_mask in zip(x.split(sizes, dim=1), mask.split(sizes, dim=1))
    ]
    keep = ~mask
    assert_close(torch.cat(parts, dim=1)[keep], module(x, mask)[0][keep])


@pairwise(
    chunk_size=[-1, 4, 8],
    chunks_before=[0, 1],
    prefix=[1, 3, 4, 6],
    order=[[2, 0, 1], [1, 1, 1], [2], [0, 2]],
    padded=[False, True],
)
def test_reordered_state_continues_the_reordered_input(prefix, order, padded, options):
    module, _ = make_gated(**options)
    order = torch.tensor(order)
    start, end = randn(3, prefix, 6), randn(len(order), 5, 6, seed=2)
    mask = padding(prefix, [prefix, prefix - padded, prefix // 2 + 1], left=True)
    state, x = LayerState(), torch.cat([start[order], end], dim=1)
    if padded:
        module(start, mask, state)
        expected = module(x, nn.functional.pad(mask[order], (0, 5)))[0]
    else:
        run_segments(module, start, [1] * prefix, state)
        expected = module(x)[0]
    state.reorder(order)
    assert_close(run_segments(module, end, [1, 1, 3], state), expected[:, prefix:])


TURNS = {
    # Two sentences of three hypotheses: swapped, dropped, gone with their sentence, or moved to
    # where they cannot share any more; several positions at once, and padding.
    "beam 3": [
        ([0, 1, 2, 3, 4, 5], 1, None),
        ([1, 1, 0, 5, 3, 5], 1, None),
        ([2, 0, 2, 3, 4, 4], 1, None),
        ([3, 5, 5, 0, 0, 1], 1, None),
        ([0, 2, 1], 1, None),
        ([2, 2, 0], 2, None),
        ([1, 0, 0], 1, [1, 0, 1]),
        ([0, 2], 1, None),
    ],
    # Hypotheses that leave their sentence.
    "beam 2": [(order, 1, None) for order in ([0, 1, 2, 3], [0, 2, 1, 3], [3, 0, 0, 1])],
    "end of a chunk": [*4 * [([0, 1, 2, 3], 1, None)], ([1], 1, None), ([0], 1, None)],
    # Hypotheses that change places through several chunks.
    "chunks": [*5 * [([0, 1, 2, 3], 1, None), ([1, 1, 3, 2], 1, None)], ([1, 0], 6, None)],
}


@pairwise(
    attention_activation=FUNCTIONS,
    rel_pos_bias=BIASES,
    chunk_size=[-1, 4],
    chunks_before=[0, 1, 2],
    turns=list(TURNS),
)
@torch.no_grad()
def test_hypotheses_that_share_a_cache_equal_ones_that_do_not(turns, options):
    module, _ = make_gated(**options)
    states = LayerState(), LayerState(beam=3 if turns == "beam 3" else 2)
    for turn, (order, length, lengths) in enumerate(TURNS[turns]):
        order = torch.tensor(order)
        x = randn(len(order), length, 6, seed=turn)
        mask = None if lengths is None else padding(length, lengths)
        results = []
        for state in states:
            if turn:
                state.reorder(order)
            results.append(module(x, mask, state, need_weights=True))
        for alone, shared in zip(*results):
            assert_close(shared, alone)


@pytest.mark.parametrize("chunks_before", [0, 1])
@torch.no_grad()
def test_single_steps_without_padding_keep_the_sharing(chunks_before):
    module, _ = make_gated(chunk_size=4, chunks_before=chunks_before)
    state = LayerState(beam=2)
    run_segments(module, randn(4, 10, 6), [1] * 10, state)
    assert state.cache.beam == 2
    module(randn(4, 1, 6), padding(1, [1, 1, 0, 1]), state)
    assert state.cache.beam == 1


@pairwise(attention_activation=FUNCTIONS, chunk_size=[-1, 8])
@torch.no_grad()
def test_hypotheses_that_begin_with_padding_do_not_see_it(options):
    module, _ = make_gated(**options)
    x, mask = randn(4, 6, 6), padding(6, [6, 4, 6, 6], left=True)
    state = LayerState(beam=2)
    module(x[:, :3], mask[:, :3], state)
    steps = [module(x[:, t : t + 1], None, state)[0] for t in range(3, 6)]
    assert_close(torch.cat(steps, dim=1), module(x, mask)[0][:, 3:])


@pairwise(sizes=[[1, 1, 1, 1], [3, 5, 2], [8, 1, 4]], chunk_size=[-1, 4], chunks_before=[0, 1])
def test_gradients_of_several_reads_may_come_together(sizes, options):
    """Later reads write where the keys of a read were; gradients are those of each read alone."""
    layer, _ = make_gated(rel_pos_bias="rotary", **options)
    x, gradients = randn(2, sum(sizes), 6), []
    for together in (False, True):
        layer.zero_grad()
        state, losses = LayerState(), []
        for part in x.split(sizes, 1):
            losses.append(layer(part, state=state)[0].square().sum())
            if not together:
                losses.pop().backward()
        if together:
            sum(losses).backward()
        gradients.append([p.grad.clone() for p in layer.parameters()])
    for ours, expected in zip(*reversed(gradients)):
        assert_close(ours, expected)


def test_a_state_made_under_autocast_continues_without_it():
    module, _ = make_gated(torch.float32)
    x, state = randn(2, 9, 6, dtype=torch.float32), LayerState()
    with torch.no_grad():
        with autocast():
            run_segments(module, x[:, :6], [5, 1], state)
        assert_close(run_segments(module, x[:, 6:], [1, 2], state), module(x)[0][:, 6:], 0.05)


# --- Dropout --------------------------------------------------------------------------------------


def dropped_of_value(**options):
    """The output of a layer that passes a value of 1 everywhere through its dropouts.

    With no weights but those of h_proj, V = tanh(bias), u = 1, r = silu(bias), and softmax averages
    V over all positions. Returns (B, L, D), zero where a channel was dropped.
    """
    module, _ = make_gated(
        embed_dim=40, hdim=40, activation="tanh", bidirectional=True, max_positions=20, **options
    )
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.startswith(("v_proj", "mx_proj", "h_proj", "rel_pos_bias")):
                parameter.fill_(30.0 if name == "mx_proj.bias" else 0.0)
        module.mx_proj.bias[-40:] = 0.0
        module.v_proj.bias.fill_(1.0)
        module.h_proj.weight.copy_(torch.eye(40))
    return module.train()(randn(2, 20, 40))[0]


def dropped_of_average(**options):
    """The output of a layer that passes the EMA through: only hx = X' remains, so y = tanh(X')."""
    module, _ = make_gated(embed_dim=40, activation="tanh", **options)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.startswith(("mx_proj", "h_proj")):
                parameter.zero_()
        module.mx_proj.bias[:40] = 60.0
        module.mx_proj.weight[-40:] = torch.eye(40)
    return module.train()(randn(2, 20, 40))[0]


@pytest.mark.parametrize("run", [dropped_of_value, dropped_of_average])
@pytest.mark.parametrize("feature_dropout", [False, True])
def test_feature_dropout_drops_whole_channels(run, feature_dropout):
    torch.manual_seed(0)
    kind = "hidden_dropout" if run is dropped_of_value else "dropout"
    dropped = run(feature_dropout=feature_dropout, **{kind: 0.3}).abs() < 1e-12  # (B, L, D)
    always, ever = dropped.all(dim=1), dropped.any(dim=1)
    if feature_dropout:
        assert (always == ever).all()  # one mask for all positions
        assert 0.15 < dropped.double().mean() < 0.65
        assert not (always[0] == always[1]).all()  # and another for every sentence
    else:
        assert not always.any()


def test_dropout_falls_on_the_average_and_on_the_update():
    torch.manual_seed(0)
    dropped = dropped_of_average(dropout=0.3).abs() < 1e-12
    assert dropped.double().mean().item() == pytest.approx(1 - 0.7**2, abs=0.05)


@torch.no_grad()
def test_attention_dropout_can_be_retained_in_beam_search():
    """Dropout is retained even where hypotheses share a cache."""
    module, _ = make_gated(attention_dropout=0.5)
    retain_dropout(module)
    x = randn(4, 6, 6)

    def read():
        return run_segments(module, x, [1] * 6, LayerState(beam=2))

    assert (read() - read())[:, 1:].abs().max() > 1e-3


# --- Construction ---------------------------------------------------------------------------------


def test_a_length_beyond_the_simple_bias_names_the_option_to_raise():
    module, _ = make_gated(max_positions=8)
    module(randn(1, 8, 6))
    with pytest.raises(ValueError, match="raise --max-source-positions"):
        module(randn(1, 9, 6))
    state = LayerState()
    module(randn(1, 8, 6), state=state)
    with pytest.raises(ValueError, match="raise --max-source-positions"):
        module(randn(1, 1, 6), state=state)


def test_bidirectional_layers_cannot_run_incrementally():
    module, _ = make_gated(bidirectional=True)
    with pytest.raises(ValueError, match="bidirectional"):
        module(randn(1, 3, 6), state=LayerState())


def test_chunks_and_rotary_take_any_length():
    x = randn(1, 30, 6)
    assert make_gated(max_positions=8, chunk_size=4)[0](x)[0].shape == x.shape
    assert make_gated(max_positions=8, rel_pos_bias="rotary")[0](x)[0].shape == x.shape


def test_simple_bias_of_a_chunk_has_the_size_of_the_chunk():
    state = MovingAverageGatedAttention(**{**GATED, "chunk_size": 10}).state_dict()
    assert state["rel_pos_bias.rel_pos_bias"].shape == (19,)
    options = {**GATED, "chunk_size": 10, "chunks_before": 2}
    state = MovingAverageGatedAttention(**options).state_dict()
    assert state["rel_pos_bias.rel_pos_bias"].shape == (2 * 30 - 1,)
    state = MovingAverageGatedAttention(**GATED).state_dict()
    assert state["rel_pos_bias.rel_pos_bias"].shape == (2 * 64 - 1,)


def test_initialisation():
    """All weights ~ N(0, 0.02^2), all biases 0."""
    torch.manual_seed(0)
    module = MovingAverageGatedAttention(**{**GATED, "embed_dim": 64, "zdim": 512, "hdim": 64})
    values = module.state_dict()
    for name in ("v_proj.weight", "mx_proj.weight", "h_proj.weight", "gamma"):
        assert values[name].std().item() == pytest.approx(0.02, rel=0.15), name
    assert values["rel_pos_bias.rel_pos_bias"].std().item() == pytest.approx(0.02, rel=0.3)
    for name in ("v_proj.bias", "mx_proj.bias", "h_proj.bias", "beta"):
        assert (values[name] == 0).all(), name
