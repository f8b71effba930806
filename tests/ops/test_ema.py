"""Each fast form of the EMA against the paper's, outputs and gradients, over odd shapes."""

import pytest
import torch
from ema_parameters import DIM, NDIM, Parameters, check
from helpers import assert_close, assert_same_function, make_ema, pairwise, randn
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_mega.ops.ema import StepCoefficients, ema, ema_segment, ema_step_
from fairseq_mega.ops.ema.blocks import block_matrices, ema_by_blocks
from fairseq_mega.ops.ema.convolution import (
    convolve_by_fft,
    convolve_by_matrix,
    fast_length,
    kernel_taps,
)
from fairseq_mega.ops.ema.naive import ema_recurrence

both_directions = pytest.mark.parametrize("bidirectional", [False, True])


@both_directions
@pytest.mark.parametrize("length", [1, 9, 120])
def test_the_naive_recurrence_is_the_naive_convolution(length, bidirectional):
    check(lambda x, p: p.naive(x, length) + p.omega * x, length, bidirectional)


def test_naive_coefficients_are_the_papers():
    """One channel and one dimension, computed manually: p = 1/2, a = 1/2, q = 3/4."""
    zero, one = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
    x = torch.tensor([1.0, 0.0, 2.0]).view(1, 3, 1)
    y, h = ema_recurrence(x, zero, zero, one, 2 * one.squeeze(-1))
    assert y.flatten().tolist() == [1.0, 0.75, 0.5625 + 2.0]
    assert h.item() == y[0, -1].item() / 2


@pairwise(size=[1, 3, 8, 32], bidirectional=[False, True], length=[1, 2, 31, 33, 65])
def test_blocks(length, bidirectional, size):
    def by_blocks(x, p):
        return ema_by_blocks(x, block_matrices(p.coefficients(), size, p.omega), bidirectional)

    check(by_blocks, length, bidirectional)


@pairwise(
    lengths=[(1, 1), (7, 7), (40, 40), (40, 1), (40, 13), (100, 64), (150, 129)],
    form=[convolve_by_matrix, convolve_by_fft],
    with_omega=[False, True],
    bidirectional=[False, True],
)
def test_convolutions_with_the_kernel(form, lengths, with_omega, bidirectional):
    length, taps = lengths

    def by_kernel(x, p):
        if with_omega:
            return form(x, kernel_taps(p.all, taps), p.omega)
        return form(x, kernel_taps(p.all, taps)) + p.omega * x

    check(by_kernel, length, bidirectional, taps)


@both_directions
@pytest.mark.parametrize("length", [1, 64, 65])
def test_the_form_for_a_compiler(length, bidirectional):
    """Short sequences are in the graph, long ones are an operator."""
    compiled = torch.compile(ema, fullgraph=True, dynamic=True, backend="aot_eager")
    check(lambda x, p: compiled(x, p.all, p.omega), length, bidirectional)


@pairwise(
    shape=[(1, 1), (2, 64), (16, 64), (1, 65), (1, 1030)],
    truncation=[None, 1, 50, 2000],
    bidirectional=[False, True],
)
def test_the_form_that_is_chosen(shape, truncation, bidirectional):
    batch, length = shape
    taps = None if truncation is None or truncation >= length else truncation

    def chosen(x, p):
        return ema(x, p.all, p.omega, truncation)

    check(chosen, length, bidirectional, taps, batch)


@both_directions
@pytest.mark.parametrize("length", [9, 70])
def test_the_compiler_knows_the_convolution(length, bidirectional):
    x, kernel = randn(2, length, DIM), randn(DIM * (1 + bidirectional), 7, seed=2)
    args = x.requires_grad_(), kernel.requires_grad_()
    torch.library.opcheck(torch.ops.fairseq_mega.convolution.default, args)


@pytest.mark.parametrize("length", [1, 5, 64, 75])
def test_a_segment_continues_a_state(length):
    """A segment continues a state: outputs, the new state, and gradients through both states."""
    parameters = Parameters(False)
    x, h = randn(2, length, DIM, requires_grad=True), randn(2, DIM, NDIM, seed=2).requires_grad_()
    fast, slow = (
        torch.cat([t.flatten() for t in results])
        for results in (
            ema_segment(x, *parameters.coefficients(), h),
            ema_recurrence(x, *parameters.directions[0], h),
        )
    )
    leaves = {"x": x, "h": h, **parameters.leaves}
    leaves.pop("omega")
    assert_same_function(fast.view(-1, 1, 1), slow.view(-1, 1, 1), leaves)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.lists(st.integers(1, 70), min_size=1, max_size=5))
@torch.no_grad()
def test_segments_of_any_length(lengths):
    parameters = Parameters(False)
    x, h = randn(1, sum(lengths), DIM), torch.zeros(1, DIM, NDIM, dtype=torch.float64)
    parts = []
    for part in x.split(lengths, dim=1):
        y, h = ema_segment(part, *parameters.coefficients(), h)
        parts.append(y)
    expected, last = ema_recurrence(x, *parameters.directions[0])
    assert_close(torch.cat(parts, dim=1), expected)
    assert_close(h, last)


@torch.no_grad()
def test_steps_in_place():
    parameters = Parameters(False)
    x = randn(3, 20, DIM)
    step = StepCoefficients.of(*parameters.coefficients())
    h, scratch = torch.zeros(2, 3, NDIM, DIM, dtype=torch.float64)
    scratch.fill_(torch.nan)
    steps = [ema_step_(x_t, step, h, scratch) for x_t in x.unbind(1)]
    expected, last = ema_recurrence(x, *parameters.directions[0])
    assert_close(torch.stack(steps, dim=1), expected)
    assert_close(h.transpose(1, 2), last)


def test_fast_lengths():
    for n in (1, 2, 3, 7, 31, 33, 97, 1023, 4095, 40958):
        fast = fast_length(n)
        rest = fast
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        assert fast >= n and fast % 2 == 0 and rest == 1 and fast < 1.25 * max(n, 4)


@pytest.mark.parametrize("logit", [-9.0, -4.0, 0.0, 4.0])
@torch.no_grad()
def test_a_long_truncated_kernel_is_accurate_in_float32(logit):
    """Truncation stays accurate however slowly the EMA forgets."""
    module = make_ema(DIM, NDIM)
    module.delta.fill_(logit)
    module.alpha.fill_(logit)
    x = randn(1, 16384, DIM, dtype=torch.float32) + 1
    rough = ema(x, module.float().ema_parameters(), None, 1024)
    exact = module.double().ema_parameters()  # held to the naive form above
    expected = convolve_by_fft(x.double(), kernel_taps(exact, 1024))
    assert_close(rough.double(), expected, 2e-5, floor=0.0)
