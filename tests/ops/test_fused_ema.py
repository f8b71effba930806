"""The Triton kernels of the EMA against the paper's recurrence: on a GPU with ``--device cuda``,
otherwise in Triton's interpreter, where shapes are small because it takes seconds."""

import pytest
import torch
from ema_parameters import DIM, NDIM, Parameters, check, extreme_parameters
from helpers import assert_close, assert_same_function, padding, randn, relative_error

from fairseq_mega.ops import ema as forms
from fairseq_mega.ops import operators
from fairseq_mega.ops.ema import EMAParameters, fused
from fairseq_mega.ops.ema.naive import ema_recurrence

pytest.importorskip("triton", reason="the kernels need Triton: pip install triton")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Short sequences have several blocks."""
    monkeypatch.setattr(fused, "SHORTEST_BLOCK", 2 * fused.ROWS)


@pytest.fixture
def kernels(monkeypatch):
    """The kernels are chosen, on a CPU as well."""
    monkeypatch.setattr(operators, "runs_kernels", lambda x: True)


@pytest.mark.parametrize(
    "length, taps, bidirectional, padded",
    [
        (1, None, False, False),
        (1, None, True, True),
        (16, None, True, True),
        (33, None, True, False),
        (40, None, False, True),
        (20, 7, True, True),
        (40, 25, False, False),
        (20, 1, False, True),
    ],
)
def test_outputs_and_gradients(length, taps, bidirectional, padded, kernels):
    """Kernels are right in float64, over one block and several, truncated or not."""
    mask = padding(length, [length, length // 3]) if padded else None

    def by_kernels(x, p):
        return forms.ema(x, p.all, p.omega, taps, mask)

    check(by_kernels, length, bidirectional, taps, mask=mask)


@pytest.mark.parametrize("length", [1, 40])
def test_from_a_state_to_a_state(length, kernels):
    parameters = Parameters(False)
    x, h = randn(2, length, DIM), randn(2, DIM, NDIM, seed=2)
    with torch.no_grad():
        y, last = forms.ema_segment(x, *parameters.coefficients(), h)
        expected, expected_last = ema_recurrence(x, *parameters.directions[0], h)
    assert_close(y, expected)
    assert_close(last, expected_last)


def test_with_gradients_a_state_takes_blocks(kernels):
    parameters = Parameters(False)
    x, h = randn(1, 40, DIM), randn(1, DIM, NDIM).requires_grad_()
    y, _ = forms.ema_segment(x, *parameters.coefficients(), h)
    expected, _ = ema_recurrence(x, *parameters.directions[0], h)
    assert_same_function(y, expected, {"h": h})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_read_and_written(dtype, kernels):
    """Rounded when it is written, once for each direction: by 2^-8 of the number."""
    parameters = Parameters(True)
    exact = randn(2, 20, DIM).to(dtype)
    rough = exact.clone().requires_grad_()
    y = forms.ema(rough, EMAParameters(*(t.float() for t in parameters.all)))
    y.backward(torch.ones_like(y))
    exact = exact.double().requires_grad_()
    expected = parameters.naive(exact)
    expected.backward(torch.ones_like(expected))
    assert y.dtype == rough.grad.dtype == dtype
    assert_close(y.double(), expected, 2**-7)
    assert relative_error(rough.grad.double(), exact.grad) < 2**-7


def test_rows_of_any_distance(kernels):
    """Inputs may be time first in memory, as fairseq's are, or a part of a wider tensor."""
    parameters = Parameters(False)
    whole = randn(20, 2, 2 * DIM)
    for x in (whole[..., :DIM].transpose(0, 1), whole[..., ::2].transpose(0, 1)):
        y = forms.ema(x, parameters.all)
        assert_close(y, parameters.naive(x))


def test_more_channels_and_dimensions_than_a_program_has(kernels):
    """33 channels run in tiles of 32; 5 dimensions are not a power of two."""
    parameters = Parameters(False, dim=33, ndim=5)
    x = randn(1, 18, 33).requires_grad_()
    y = forms.ema(x, parameters.all, parameters.omega)
    slow = parameters.naive(x) + parameters.omega * x
    assert_same_function(y, slow, {"x": x, **parameters.leaves})


@pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-13), (torch.float32, 2e-6)])
def test_coefficients_at_both_ends(dtype, bound):
    """`q` from 1e-7 to 1 - 1e-7: each number to so many of its own digits."""
    given = extreme_parameters(dtype)
    contiguous = [t.contiguous() for t in given]
    found = fused._coefficients(*contiguous, len(given[0]))
    delta, alpha, beta, gamma = (t.double().view(-1, 1) for t in given)
    p, a = torch.sigmoid(delta), torch.sigmoid(alpha)
    rest = torch.sigmoid(-delta) + p * torch.sigmoid(-alpha)  # 1 - p a, where that is near 0
    log_decay = torch.where(p * a < 0.5, torch.log1p(-p * a), torch.log(rest))
    for ours, exact in zip(found, (log_decay, torch.expm1(log_decay), p * beta * gamma)):
        assert ((ours[0].t().double() - exact) / exact).abs().max() < bound


def test_parameters_that_are_frozen_or_not_contiguous(kernels):
    """Adapters freeze parameters, and optimizers with flat memory make them views."""
    parameters = Parameters(True)
    whole = randn(2 * DIM, seed=3).requires_grad_()
    x = randn(2, 6, DIM, requires_grad=True)
    found = forms.ema(x, parameters.all, whole[::2])
    expected = parameters.naive(x) + whole[::2] * x
    assert_same_function(found, expected, {"x": x, "omega": whole})
    for frozen in (x, *parameters.leaves.values()):
        frozen.requires_grad_(False)
    found = forms.ema(x, parameters.all, whole[::2])
    assert_same_function(found, parameters.naive(x) + whole[::2] * x, {"omega": whole})
    y = forms.ema(x.requires_grad_(), parameters.all, parameters.omega)
    assert_same_function(y, parameters.naive(x) + parameters.omega * x, {"x": x})


def test_gradients_at_both_ends(kernels):
    leaves = [t.requires_grad_() for t in extreme_parameters(torch.float64)]
    x = randn(1, 20, len(leaves[0]))
    found = forms.ema(x, EMAParameters(*leaves))
    expected = forms.convolve_by_fft(x, forms.kernel_taps(EMAParameters(*leaves), 20))
    names = dict(zip(("delta", "alpha", "beta", "gamma"), leaves))
    assert_same_function(found, expected, names)


def test_slow_averages_stay_accurate_in_float32(kernels):
    """A truncated kernel takes away what it has added many positions before."""
    parameters = Parameters(False)
    with torch.no_grad():
        for name in ("delta", "alpha"):
            parameters.leaves[name].fill_(-9.0)
        x = randn(1, 130, DIM).float() + 1
        y = fused.fused_ema(x, EMAParameters(*(t.float() for t in parameters.all)), None, 64)
        expected = forms.convolve_by_fft(x.double(), forms.kernel_taps(parameters.all, 64))
        assert_close(y.double(), expected, 2e-5, floor=0.0)


def test_the_operator_of_compiled_graphs(kernels):
    def operator(x, p):
        return torch.ops.fairseq_mega.ema(x, *p.all, p.omega, None, 3)

    check(operator, 5, False, 3)


def test_the_compiler_knows_the_operator(kernels):
    """Its shapes, types and strides, for any length; its gradients under autograd."""
    parameters = Parameters(False).module.bfloat16()
    x = randn(5, 2, DIM, dtype=torch.bfloat16).transpose(0, 1).requires_grad_()
    args = x, *parameters.ema_parameters(), parameters.omega, padding(5, [5, 2]), None
    torch.library.opcheck(torch.ops.fairseq_mega.ema.default, args)
    grad = randn(2, 5, DIM, dtype=torch.bfloat16)
    args = [arg.detach() if isinstance(arg, torch.Tensor) else arg for arg in (grad, *args)]
    torch.library.opcheck(torch.ops.fairseq_mega.ema_backward.default, args)
