"""GatedCrossAttention against the paper; keys and values belong to one sentence."""

import pytest
import reference
import torch
from helpers import (
    BIASES,
    FUNCTIONS,
    NORMS,
    assert_close,
    assert_same_function,
    make_cross,
    padding,
    pairwise,
    randn,
    tensors_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_mega.modules.state import LayerState

functions = pytest.mark.parametrize("attention_activation", FUNCTIONS)
biases = pytest.mark.parametrize("rel_pos_bias", BIASES)


def inputs(length, source, batch, dim=6, **options):
    return randn(batch, length, dim, **options), randn(batch, source, dim, seed=2, **options)


def check_against_reference(length, source, mask, **options):
    module, config = make_cross(**options)
    batch = 2 if mask is None else mask.size(0)
    query, key = inputs(length, source, batch, config["embed_dim"], requires_grad=True)
    y, weights = module(query, key, mask, need_weights=True)
    expected, expected_weights = reference.cross_attention(
        tensors_of(module), config, query, key, mask
    )
    # A sentence of padding alone has no meaning; every other row of the output has.
    some = torch.ones(batch, dtype=torch.bool) if mask is None else ~mask.all(dim=1)
    leaves = {"query": query, "key": key, **dict(module.named_parameters())}
    assert_same_function(y, expected, leaves, some.unsqueeze(1).expand(batch, length))
    assert_close(weights[some], expected_weights[some], what="weights")
    without, none = module(query, key, mask)
    assert none is None
    assert_close(without[some], y[some])


@pairwise(
    attention_activation=FUNCTIONS,
    rel_pos_bias=BIASES,
    prenorm=[True, False],
    lengths=[(1, 1), (7, 3), (3, 8)],
    padded=["none", "right", "left"],
)
def test_equals_reference(lengths, padded, options):
    length, source = lengths
    mask = None if padded == "none" else padding(source, [source, 1], left=padded == "left")
    check_against_reference(length, source, mask, **options)


def test_equals_reference_whatever_the_memory_layout():
    """Inputs may be time first in memory, as fairseq's are."""
    module, config = make_cross()
    query, key = (x.transpose(0, 1).requires_grad_() for x in inputs(2, 2, 7))
    assert not query.is_contiguous() and not key.is_contiguous()
    expected, _ = reference.cross_attention(tensors_of(module), config, query, key)
    leaves = {"query": query, "key": key, **dict(module.named_parameters())}
    assert_same_function(module(query, key)[0], expected, leaves)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    st.integers(1, 13),
    st.integers(1, 17),
    st.fixed_dictionaries(
        {
            "embed_dim": st.integers(1, 6),
            "zdim": st.sampled_from([2, 4, 6]),
            "norm_type": st.sampled_from(NORMS),
            "prenorm": st.booleans(),
            "rel_pos_bias": st.sampled_from(BIASES),
            "activation": st.sampled_from(["silu", "relu", "tanh", "gelu"]),
            "attention_activation": st.sampled_from(FUNCTIONS),
        }
    ),
    st.data(),
)
def test_equals_reference_in_any_setting(length, source, options, data):
    bits = st.lists(st.booleans(), min_size=source, max_size=source)
    mask = torch.tensor(data.draw(st.lists(bits, min_size=1, max_size=3)))
    check_against_reference(length, source, mask, **options)


@functions
@biases
def test_padding_and_batching_never_change_the_result(attention_activation, rel_pos_bias):
    module, _ = make_cross(attention_activation=attention_activation, rel_pos_bias=rel_pos_bias)
    lengths = [9, 1, 6]
    query, key = inputs(5, 9, 3)
    mask = padding(9, lengths)
    y, _ = module(query, key, mask)
    arbitrary = torch.where(mask.unsqueeze(-1), 50 * randn(3, 9, 6, seed=8), key)
    assert_close(module(query, arbitrary, mask)[0], y)
    for b, n in enumerate(lengths):
        one = slice(b, b + 1)
        assert_close(module(query[one], key[one, :n])[0], y[one])


@functions
def test_a_source_of_padding_alone_is_finite(attention_activation):
    module, _ = make_cross(attention_activation=attention_activation)
    query, key = inputs(4, 5, 2, requires_grad=True)
    y, weights = module(query, key, padding(5, [5, 0]), need_weights=True)
    y.sum().backward()
    assert torch.isfinite(y).all() and torch.isfinite(weights).all()
    for tensor in (query, key, *module.parameters()):
        assert torch.isfinite(tensor.grad).all()


@settings(deadline=None, max_examples=50, derandomize=True)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=6),
    st.sampled_from(FUNCTIONS),
    st.sampled_from(BIASES),
    st.sampled_from(NORMS),
    st.booleans(),
)
def test_segments_equal_one_pass(sizes, attention_activation, rel_pos_bias, norm_type, prenorm):
    module, _ = make_cross(
        attention_activation=attention_activation,
        rel_pos_bias=rel_pos_bias,
        norm_type=norm_type,
        prenorm=prenorm,
    )
    query, key = inputs(sum(sizes), 7, 2)
    mask = padding(7, [7, 4])
    state = LayerState()
    outputs, weights = zip(
        *(module(part, key, mask, state=state, need_weights=True) for part in query.split(sizes, 1))
    )
    expected, expected_weights = module(query, key, mask, need_weights=True)
    assert_close(torch.cat(outputs, dim=1), expected)
    assert_close(torch.cat(weights, dim=1), expected_weights, what="weights")


def test_keys_and_values_are_computed_once():
    module, _ = make_cross()
    query, key = inputs(6, 7, 2)
    state = LayerState()
    calls = []
    for projection in (module.k_proj, module.v_proj):
        projection.register_forward_hook(lambda *_: calls.append(1))
    steps = [module(q, key, state=state)[0] for q in query.split(1, 1)]
    assert len(calls) == 2
    assert_close(torch.cat(steps, dim=1), module(query, key)[0])


@pytest.mark.parametrize("rel_pos_bias", BIASES)
@pytest.mark.parametrize("order", [[2, 0, 1], [1, 1, 1], [2], [0, 2]], ids=str)
def test_reordered_state_continues_the_reordered_input(order, rel_pos_bias):
    """Hypotheses of a beam share a source; finished sentences leave with their sources."""
    module, _ = make_cross(rel_pos_bias=rel_pos_bias)
    order = torch.tensor(order)
    start, key = inputs(3, 7, 3)
    end = randn(len(order), 4, 6, seed=5)
    mask = padding(7, [7, 4, 2])
    state = LayerState()
    for q in start.split(1, 1):
        module(q, key, mask, state=state)
    state.reorder(order)
    key, mask = key[order], mask[order]
    steps = [module(q, key, mask, state=state)[0] for q in end.split([1, 3], 1)]
    expected = module(torch.cat([start[order], end], dim=1), key, mask)[0][:, 3:]
    assert_close(torch.cat(steps, dim=1), expected)


# --- Dropout, lengths -----------------------------------------------------------------------------


@pytest.mark.parametrize("feature_dropout", [False, True])
def test_feature_dropout_drops_whole_channels(feature_dropout):
    """The output is dropout(1), as h_proj is a constant and u = 1."""
    module, _ = make_cross(
        embed_dim=40, activation="tanh", dropout=0.3, feature_dropout=feature_dropout
    )
    with torch.no_grad():
        module.q_proj.bias[:40] = 60.0
        module.h_proj.weight.zero_()
        module.h_proj.bias.fill_(1.0)
    torch.manual_seed(0)
    dropped = module.train()(*inputs(20, 5, 2, 40))[0].abs() < 1e-12  # (B, L, D)
    always, ever = dropped.all(dim=1), dropped.any(dim=1)
    if feature_dropout:
        assert (always == ever).all()
        assert 0.15 < dropped.double().mean() < 0.45
        assert not (always[0] == always[1]).all()
    else:
        assert not always.any()


@pytest.mark.parametrize("length, source", [(9, 2), (2, 9)])
def test_a_length_beyond_the_simple_bias_names_the_option_to_raise(length, source):
    module, _ = make_cross(max_positions=8)
    with pytest.raises(ValueError, match="raise --max-source-positions"):
        module(*inputs(length, source, 1))
    assert make_cross(max_positions=8, rel_pos_bias="rotary")[0](*inputs(length, source, 1))
    query, key = inputs(9, 3, 1)
    state = LayerState()
    module(query[:, :8], key, state=state)
    with pytest.raises(ValueError, match="raise --max-source-positions"):
        module(query[:, 8:], key, state=state)


@torch.no_grad()
def test_dropout_of_cached_source_values_is_redrawn_at_each_read():
    module, _ = make_cross(hidden_dropout=0.5)
    query, key = inputs(2, 9, 2)
    expected, _ = module.eval()(query, key)
    module.train()
    state, reads = LayerState(), []
    for _ in range(2):
        reads.append(module(query, key, state=state)[0])
        state.source.start = 0
        assert_close(state.source.values, module.activation(module.v_proj(key)))
    for one, other in ((reads[0], reads[1]), (reads[0], expected), (reads[1], expected)):
        assert (one - other).abs().max() > 1e-3
    assert_close(module.eval()(query, key, state=state)[0], expected)
