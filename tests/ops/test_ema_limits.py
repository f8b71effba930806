"""The EMA where its decay q is as near to 0 or 1 as it gets, against the paper's in float64."""

import pytest
import torch
from ema_parameters import NEAR_ONE, NEAR_ZERO, extreme_parameters, factors
from helpers import assert_close, randn

from fairseq_mega.ops.ema import (
    EMAParameters,
    StepCoefficients,
    ema_coefficients,
    ema_segment,
    ema_step_,
)
from fairseq_mega.ops.ema.blocks import block_matrices, ema_by_blocks
from fairseq_mega.ops.ema.convolution import convolve_by_fft, convolve_by_matrix, kernel_taps
from fairseq_mega.ops.ema.naive import ema_recurrence

# Largest error of a channel over its largest output: float64; float32.
BOUNDS = {torch.float64: 1e-12, torch.float32: 1e-5}
dtypes = pytest.mark.parametrize("dtype", BOUNDS, ids=str)


def by_kernel(form):
    return lambda x, parameters: form(x, kernel_taps(parameters, x.size(1)))


def by_blocks(size):
    return lambda x, parameters: ema_by_blocks(
        x, block_matrices([ema_coefficients(*parameters)], size)
    )


def by_segments(x, parameters):
    coefficients = ema_coefficients(*parameters)
    h, parts = x.new_zeros(x.size(0), x.size(2), 1), []
    for part in x.split(max(x.size(1) // 3, 1), dim=1):
        y, h = ema_segment(part, coefficients, h)
        parts.append(y)
    return torch.cat(parts, dim=1)


def by_steps(x, parameters):
    step = StepCoefficients.of(ema_coefficients(*parameters))
    h, scratch = x.new_zeros(2, x.size(0), 1, x.size(2))
    return torch.stack([ema_step_(x_t, step, h, scratch) for x_t in x.unbind(1)], dim=1)


FORMS = {
    "FFTs": by_kernel(convolve_by_fft),
    "blocks of 32": by_blocks(32),
    "blocks of 64": by_blocks(64),
    "segments": by_segments,
    "steps": by_steps,
}


def error(actual, expected):
    """The largest error of a channel (the last dimension) over its largest output."""
    scale = expected.abs().amax((0, 1))
    return ((actual - expected).abs().amax((0, 1)) / scale).max().item()


def errors(forms, length, dtype):
    """The error of each form, of inputs with a mean, which slow averages add up."""
    x = randn(1, length, len(list(factors())), dtype=torch.float32) + 0.5
    given = EMAParameters(*extreme_parameters(dtype))  # rounded alike for both
    expected, _ = ema_recurrence(x.double(), *(t.double() for t in given))
    return {name: error(form(x.to(dtype), given), expected) for name, form in forms.items()}


@torch.no_grad()
def test_the_factors_give_the_decays():
    delta, alpha, _, _ = extreme_parameters(torch.float64)
    q = 1 - (torch.sigmoid(delta) * torch.sigmoid(alpha)).flatten()
    expected = [q for q in NEAR_ZERO for _ in range(3)]
    expected += [1 - small for small in NEAR_ONE for _ in range(3)]
    assert_close(q, torch.tensor(expected, dtype=torch.float64), 1e-14)


@dtypes
@pytest.mark.parametrize("length", [1, 2, 32, 33, 64, 65, 1025])
@torch.no_grad()
def test_all_forms(length, dtype):
    forms = {**FORMS, "matrix": by_kernel(convolve_by_matrix)} if length <= 64 else FORMS
    for name, found in errors(forms, length, dtype).items():
        assert found <= BOUNDS[dtype], f"{name}: {found:.1e}"


@pytest.mark.long
@dtypes
@torch.no_grad()
def test_all_forms_over_131072_positions(dtype):
    """Averages that forget nothing add up the rounding errors of all positions in float32."""
    bound = {torch.float64: 1e-8, torch.float32: 2e-3}[dtype]
    found = errors(FORMS, 131072, dtype)
    print({name: f"{each:.1e}" for name, each in found.items()})
    for name, each in found.items():
        assert each <= bound, f"{name}: {each:.1e}"


@pytest.mark.parametrize("name", ["FFTs", "blocks of 32", "segments"])
def test_gradients(name):
    """Gradients of the inputs and all parameters are right in float64 over several blocks. The
    sigmoid of the naive form keeps seven digits of its gradient where it is nearest to 1."""
    leaves = [t.requires_grad_() for t in extreme_parameters(torch.float64)]
    x = (randn(1, 70, len(leaves[0])) + 0.5).requires_grad_()
    fast = FORMS[name](x, EMAParameters(*leaves))
    slow, _ = ema_recurrence(x, *leaves)
    grad_y = randn(*slow.shape, seed=7)
    ours = torch.autograd.grad(fast, [x, *leaves], grad_y)
    theirs = torch.autograd.grad(slow, [x, *leaves], grad_y)
    for a, b in zip(ours, theirs):
        channels = b.dim() - 1 if a is ours[0] else 0
        a, b = (t.movedim(channels, -1).reshape(1, -1, t.size(channels)) for t in (a, b))
        assert error(a, b) < 1e-6
