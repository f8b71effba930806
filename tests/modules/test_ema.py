"""MultiHeadEMA against the paper's recurrence, and the properties of any such average."""

import pytest
import reference
import torch
from helpers import (
    assert_close,
    assert_same_function,
    make_ema,
    padding,
    pairwise,
    randn,
    run_segments,
    tensors_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_mega.modules import MultiHeadEMA
from fairseq_mega.modules.state import LayerState


def check_against_reference(length, batch, dim, ndim, bidirectional, truncation, mask):
    module = make_ema(dim, ndim, bidirectional=bidirectional, truncation=truncation)
    x = randn(batch, length, dim, requires_grad=True)
    fast = module(x, mask)
    slow = reference.ema(x, mask, tensors_of(module), bidirectional, truncation)
    keep = None if mask is None else ~mask
    assert_same_function(fast, slow, {"x": x, **dict(module.named_parameters())}, keep)


@pairwise(
    bidirectional=[False, True],
    truncation=[None, 1, 5, 300],
    length=[1, 2, 31, 64, 65, 257, 700],
)
def test_equals_reference(length, truncation, bidirectional):
    mask = padding(length, [length, max(1, length // 3)], left=bidirectional)
    check_against_reference(length, 2, 3, 2, bidirectional, truncation, mask)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    st.integers(1, 40),
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(1, 16),
    st.booleans(),
    st.one_of(st.none(), st.integers(1, 45)),
    st.data(),
)
def test_equals_reference_for_any_shape_and_mask(
    length, batch, dim, ndim, bidirectional, truncation, data
):
    bits = st.lists(st.booleans(), min_size=length, max_size=length)
    mask = torch.tensor([data.draw(bits) for _ in range(batch)])
    check_against_reference(length, batch, dim, ndim, bidirectional, truncation, mask)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("length", [9, 100, 1030])
def test_equals_reference_whatever_the_memory_layout(length, bidirectional):
    """Inputs may be time first in memory, as fairseq's are."""
    module = make_ema(bidirectional=bidirectional)
    x = randn(length, 2, 4).transpose(0, 1).requires_grad_()
    assert not x.is_contiguous()
    expected = reference.ema(x, None, tensors_of(module), bidirectional)
    assert_same_function(module(x), expected, {"x": x, **dict(module.named_parameters())})


def test_truncation_zero_means_none():
    x = randn(1, 50, 4)
    assert_close(make_ema(truncation=0)(x), make_ema(truncation=None)(x))


@pytest.mark.parametrize("length", [20, 500])
def test_truncated_kernel_forgets(length):
    module = make_ema(bidirectional=True, truncation=7)
    x = randn(1, length, 4)
    changed = x.clone()
    changed[:, 10] += 1
    moved = (module(changed) - module(x)).abs().amax(dim=(0, 2)) > 1e-9
    assert moved.nonzero().squeeze(1).tolist() == list(range(4, 17))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_segments_of_another_type_than_the_parameters(dtype):
    other = torch.float64 if dtype == torch.float32 else torch.float32
    module = make_ema().to(dtype)
    x = randn(2, 7, 4, dtype=other)
    assert_close(run_segments(module, x, [3, 1, 3]), module(x), 1e-5)


@pytest.mark.parametrize("sizes", [[300, 1, 1, 299], [1, 600], [400, 400], [1] * 300])
def test_long_segments_equal_one_pass(sizes):
    module = make_ema()
    x = randn(2, sum(sizes), 4)
    assert_close(run_segments(module, x, sizes), module(x))


@pytest.mark.parametrize("length", [1, 64, 70])
@torch.no_grad()
def test_a_state_keeps_nothing_but_itself(length):
    module, state = make_ema(), LayerState()
    run_segments(module, randn(1, length, 4), [length], state)
    assert state.ema.h.untyped_storage().nbytes() == state.ema.h.nbytes


def test_recurrent_form_has_no_truncation():
    """Steps remember the whole past, whatever the truncation of the parallel form."""
    x = randn(2, 40, 4)
    assert_close(run_segments(make_ema(truncation=8), x, [1] * 40), make_ema()(x))


def set_decay(module, logit):
    with torch.no_grad():
        module.delta.fill_(logit)
        module.alpha.fill_(logit)
    return module


@pytest.mark.parametrize("length", [64, 4096])
@pytest.mark.parametrize("logit", [-9.0, -7.0, -4.0, 0.0, 4.0, 9.0])
def test_float32_is_accurate_at_every_decay(logit, length):
    """q = 1 - sigmoid(logit)^2 runs from 1 - 1.5e-8, which float32 rounds to 1, to 2.5e-4."""
    exact = set_decay(make_ema(), logit)
    rough = set_decay(make_ema(dtype=torch.float32), logit)
    x = randn(1, length, 4, dtype=torch.float32)
    y, expected = rough(x), exact(x.double())
    # Slow averages are small next to omega x: without it, what is left is the average itself.
    with torch.no_grad():
        exact.omega.zero_()
        rough.omega.zero_()
    average, expected_average = rough(x), exact(x.double())
    assert_close(y.double(), expected, 1e-5)
    assert_close(average.double(), expected_average, 2e-5, floor=0.0)


@pytest.mark.parametrize("logit", [-100.0, -30.0, 20.0, 100.0])
@pytest.mark.parametrize("length", [8, 600])
def test_extreme_decays_are_finite(length, logit):
    """Logits that float32 rounds to q = 1 and q = 0 give finite results."""
    module = set_decay(make_ema(dtype=torch.float32), logit)
    x = randn(1, length, 4, dtype=torch.float32, requires_grad=True)
    y = module(x)
    y.square().sum().backward()
    expected = set_decay(make_ema(), logit)(x.double())
    assert_close(y.double(), expected, 1e-5)
    for tensor in (x, *module.parameters()):
        assert torch.isfinite(tensor.grad).all()
    steps = run_segments(module, x.detach(), [1] * 4 + [length - 4])
    assert_close(steps.double(), expected, 1e-5)


def test_initialisation():
    """delta, alpha ~ N(0, 0.2^2); beta ~ N(0, 0.02^2) + (1, -1, 1, ...); gamma, omega ~ N(0, 1)."""
    torch.manual_seed(0)
    module = MultiHeadEMA(2000, 4)
    sign = torch.tensor([1.0, -1.0, 1.0, -1.0]).view(4, 1)
    deviations = {
        module.delta: 0.2,
        module.alpha: 0.2,
        module.beta - sign: 0.02,
        module.gamma: 1.0,
        module.omega: 1.0,
    }
    for values, deviation in deviations.items():
        assert abs(values.mean().item()) < 0.1 * deviation
        assert values.std().item() == pytest.approx(deviation, rel=0.1)


def test_initialisation_draws_the_published_random_numbers():
    """A different draw would change every weight that is drawn later."""
    torch.manual_seed(0)
    module = MultiHeadEMA(5, 4, bidirectional=True)
    after = torch.rand(())
    torch.manual_seed(0)
    delta, alpha = (0.2 * torch.randn(10, 4, 1) for _ in range(2))
    beta = 0.02 * torch.randn(10, 4, 1)
    beta += torch.tensor([1.0, -1.0, 1.0, -1.0]).view(4, 1)
    expected = delta, alpha, beta, torch.randn(10, 4), torch.randn(5)
    for ours, theirs in zip(module.parameters(), expected, strict=True):
        assert_close(ours, theirs, 1e-6)
    assert torch.equal(after, torch.rand(()))


def memories(module):
    """``1 / (1 - q)`` in tokens, ``(K, N)``."""
    return 1 / (torch.sigmoid(module.delta) * torch.sigmoid(module.alpha)).squeeze(-1)


def spread(*sizes, longest, **options):
    torch.manual_seed(0)
    return MultiHeadEMA(*sizes, longest_memory=longest, **options).double()


@pytest.mark.parametrize("longest", [20, 4096, 1_000_000])
@pytest.mark.parametrize("ndim", [1, 2, 8])
def test_spread_memories(ndim, longest):
    """Each dimension has an equal interval of the logarithm, over which its channels spread."""
    module = spread(2000, ndim, longest=longest, bidirectional=True)
    edges = 2 * (longest / 2) ** (torch.arange(ndim + 1, dtype=torch.float64) / ndim)
    shortest = 1 / (0.9 * torch.sigmoid(module.alpha)).squeeze(-1)
    found = memories(module)
    assert (found >= torch.maximum(edges[:-1], shortest) * 0.9999).all()
    assert (found <= torch.maximum(edges[1:], shortest) * 1.0001).all()
    place = torch.log(found / edges[:-1]) / torch.log(edges[1:] / edges[:-1])
    free = place[found > 1.001 * shortest]
    assert free.max() > 0.99 and place.std().item() == pytest.approx(12**-0.5, rel=0.1)


@torch.no_grad()
@pytest.mark.parametrize("bidirectional", [False, True])
def test_spread_changes_delta_alone_and_not_the_gain_of_a_constant_input(bidirectional):
    module = spread(6, 4, longest=40, bidirectional=bidirectional)
    published = spread(6, 4, longest=None, bidirectional=bidirectional)
    for name, value in published.named_parameters():
        assert torch.equal(value, module.get_parameter(name)) == (name != "delta")
    x = randn(2, 1, 6).expand(2, 3001, 6)
    assert_close(module(x)[:, 1500], published(x)[:, 1500])
