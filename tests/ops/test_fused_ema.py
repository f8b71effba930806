"""The Triton kernels of the EMA against the paper's recurrence: on a GPU with ``--device cuda``,
else by Triton's interpreter, which needs none and takes seconds for what is small here."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import ROOT
from ema_parameters import DIM, NDIM, Parameters, check
from helpers import assert_close, assert_same_function, padding, randn, relative_error, time_first

from fairseq_mega.ops import ema as forms
from fairseq_mega.ops.ema import fused
from fairseq_mega.ops.ema.naive import ema_recurrence

pytest.importorskip("triton", reason="the kernels need Triton: pip install triton")


@pytest.fixture(autouse=True)
def small_segments(monkeypatch):
    """Short sequences have several."""
    monkeypatch.setattr(fused, "LEAST_SEGMENT", 2 * fused.ROWS)


@pytest.fixture
def kernels(monkeypatch):
    """The kernels are chosen, on a CPU as well."""
    monkeypatch.setattr(forms, "is_available", lambda x: True)


CASES = [  # length, taps, bidirectional
    (1, None, False),
    (16, None, True),
    (33, None, True),
    (40, None, False),
    (40, 7, True),
    (40, 25, False),
    (20, 1, False),
]


@pytest.mark.parametrize("length, taps, bidirectional", CASES)
def test_outputs_and_gradients(length, taps, bidirectional, kernels):
    """In float64, over one segment and several, with whole and truncated kernels."""

    def by_kernels(x, p):
        return forms.ema(x, p.coefficients(), p.omega, taps)

    check(by_kernels, length, bidirectional, taps)


@pytest.mark.parametrize("length", [1, 31, 75])
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
    """Rounded once, when it is written: by 2^-8 of the largest number at most."""
    parameters = Parameters(True)
    exact = randn(2, 30, DIM).to(dtype)
    rough = exact.clone().requires_grad_()
    coefficients = [type(c)(*(t.float() for t in c)) for c in parameters.coefficients()]
    y = forms.ema(rough, coefficients)
    y.backward(torch.ones_like(y))
    exact = exact.double().requires_grad_()
    expected = parameters.naive(exact)
    expected.backward(torch.ones_like(expected))
    assert y.dtype == rough.grad.dtype == dtype
    assert_close(y.double(), expected, 2**-7)
    assert relative_error(rough.grad.double(), exact.grad) < 2**-7


@pytest.mark.cpu_only  # a GPU compiles them in all the other tests
def test_the_kernels_compile_for_a_gpu():
    """As they are launched: the interpreter takes arguments that a kernel does not have."""
    program = Path(__file__).with_name("compile_kernels.py")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("TRITON_INTERPRET", None)
    output = subprocess.run(
        [sys.executable, program], env=environment, capture_output=True, text=True, check=True
    ).stdout
    compiled = re.findall(r"^(\w+) (\d+)$", output, re.MULTILINE)
    assert {"segment_states", "join_segments", "scan", "gradients"} == {
        name for name, _ in compiled
    }
    assert {waits for _, waits in compiled} == {"0"}  # a thread has all states of its channel


def test_rows_of_any_distance(kernels):
    """Time first in memory, as fairseq has it, and a part of a wider tensor."""
    parameters = Parameters(False)
    whole = randn(20, 2, 2 * DIM)
    for x in (whole[..., :DIM].transpose(0, 1), whole[..., ::2].transpose(0, 1)):
        y = forms.ema(x, parameters.coefficients())
        assert_close(y, parameters.naive(x))


def test_more_channels_and_dimensions_than_a_program_has(kernels):
    """33 channels in tiles of 32; 5 dimensions, which are no power of two."""
    parameters = Parameters(False, dim=33, ndim=5)
    x = randn(1, 18, 33).requires_grad_()
    y = forms.ema(x, parameters.coefficients(), parameters.omega)
    slow = parameters.naive(x) + parameters.omega * x
    assert_same_function(y, slow, {"x": x, **parameters.leaves})


def test_padding_is_as_without_kernels(monkeypatch):
    """In the layer, which hides padding before the average."""
    parameters = Parameters(True)
    mask, x = padding(21, [21, 9]), randn(21, 2, DIM)
    with torch.no_grad():
        expected = parameters.module(x, mask)
        monkeypatch.setattr(forms, "is_available", lambda x: True)
        assert_close(parameters.module(x, mask)[time_first(mask)], expected[time_first(mask)])


def test_slow_averages_stay_accurate_in_float32(kernels):
    """A truncated kernel takes away what it has added many positions before."""
    parameters = Parameters(False)
    with torch.no_grad():
        for name in ("delta", "alpha"):
            parameters.leaves[name].fill_(-9.0)
        (exact,) = parameters.coefficients()
        x = randn(1, 400, DIM).float() + 1
        y = fused.fused_ema(x, type(exact)(*(t.float() for t in exact)), None, 64)
        kernel = forms.kernel_taps(exact, 64)
        assert_close(y.double(), forms.fft_convolution(x.double(), kernel), 2e-5, floor=0.0)


def test_the_meta_device_has_their_shapes():
    x = torch.empty(2, 40, DIM, device="meta", dtype=torch.bfloat16, requires_grad=True)
    parameters = Parameters(False, "meta")
    y = forms.ema(x, parameters.coefficients(), parameters.omega, 7)
    y.sum().backward()
    assert x.grad.shape == y.shape == x.shape and y.dtype == torch.bfloat16
