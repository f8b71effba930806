"""All layers in float32, bfloat16 and float16 against float64, and their gradients against finite
differences."""

import pytest
import torch
from helpers import (
    BIASES,
    FUNCTIONS,
    assert_close,
    autocast,
    first,
    make_cross,
    make_ema,
    make_feed_forward,
    make_gated,
    padding,
    randn,
    relative_error,
    run_segments,
)

from fairseq_mega.ops.operators import runs_kernels

LENGTH, BATCH, DIM = 33, 2, 6
# Of the largest output; gradients, which add up over positions, of the largest gradient.
BOUNDS = {torch.float32: (5e-6, 2e-5), torch.float16: (0.01, 0.02), torch.bfloat16: (0.06, 0.2)}
GATED = [
    dict(attention_activation=function, rel_pos_bias=bias, chunk_size=chunk, bidirectional=both)
    for function, bias in zip(FUNCTIONS, ("simple", "rotary", "rotary"))
    for chunk, both in ((-1, True), (8, False))
]


def ema(dtype, **options):
    module = make_ema(DIM, **options).to(dtype)
    return module, lambda x, mask: module(x, mask)


def gated(dtype, **options):
    module, _ = make_gated(dtype, **options)
    return module, lambda x, mask: first(module(x, mask))


def cross(dtype, **options):
    module, _ = make_cross(dtype, **options)
    return module, lambda x, mask: first(module(x, x, mask))


def feed_forward(dtype, **options):
    module, _ = make_feed_forward(dtype, **options)
    return module, lambda x, mask: module(x)


LAYERS = [
    *((ema, dict(bidirectional=both)) for both in (False, True)),
    *((gated, options) for options in GATED),
    *((cross, dict(attention_activation=f, rel_pos_bias=b)) for f, b in zip(FUNCTIONS, BIASES * 2)),
    *((feed_forward, dict(norm_type=norm)) for norm in ("layernorm", "scalenorm", "rmsnorm")),
]
layers = pytest.mark.parametrize(
    "make, options", LAYERS, ids=[f"{make.__name__} {i}" for i, (make, _) in enumerate(LAYERS)]
)


def results(make, options, dtype, half=None):
    """The output, and the gradients of the input and of all parameters, from padded inputs."""
    module, run = make(dtype, **options)
    mask = padding(LENGTH, [LENGTH, LENGTH - 9])
    keep = ~mask.unsqueeze(-1)
    x = randn(BATCH, LENGTH, DIM, dtype=torch.float32).to(dtype).requires_grad_()
    with autocast(half or torch.bfloat16, enabled=half is not None):
        y = run(x, mask)
    y = y * keep
    y.backward(randn(*y.shape, seed=7).to(y.dtype))
    gradients = {name: p.grad.double() for name, p in module.named_parameters()}
    return y.detach().double(), {"x": x.grad.double(), **gradients}


@layers
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_outputs_and_gradients_are_those_of_float64(make, options, dtype):
    """Layers run in float32, and in half precision by autocast, with parameters in float32."""
    half = None if dtype == torch.float32 else dtype
    y, gradients = results(make, options, torch.float32, half)
    expected, expected_gradients = results(make, options, torch.float64)
    of_output, of_gradient = BOUNDS[dtype]
    assert_close(y, expected, of_output)
    for name, gradient in gradients.items():
        assert_close(gradient, expected_gradients[name], of_gradient, f"gradient of {name}")


@layers
def test_weights_in_bfloat16(make, options):
    """A layer in bfloat16, without autocast, is within 5% of the largest output, in decoding
    too."""
    exact, run_exact = make(torch.float64, **options)
    rough, run = make(torch.bfloat16, **options)
    x, mask = randn(BATCH, LENGTH, DIM, dtype=torch.bfloat16), padding(LENGTH, [LENGTH, LENGTH - 9])
    y, expected = run(x, mask), run_exact(x.double(), mask)
    assert y.dtype == (torch.bfloat16 if make is not ema or runs_kernels(x) else torch.float32)
    assert_close(y[~mask].double(), expected[~mask], 0.05)
    if make is gated and not options["bidirectional"]:
        steps = run_segments(rough, x[:1], [20] + [1] * (LENGTH - 20))
        assert_close(steps.double(), expected[:1], 0.05)


@layers
def test_gradients_are_those_of_finite_differences(make, options):
    module, run = make(torch.float64, **options)
    mask = padding(9, [9, 5])
    keep = ~mask.unsqueeze(-1)
    names, values = zip(*module.named_parameters())

    def of_all(x, *weights):
        given = {f"module.{name}": weight for name, weight in zip(names, weights)}
        return torch.func.functional_call(_Caller(module, run), given, (x, mask)) * keep

    leaves = [randn(2, 9, DIM, requires_grad=True), *values]
    assert torch.autograd.gradcheck(of_all, leaves, atol=1e-6, fast_mode=True)


class _Caller(torch.nn.Module):
    """`run`, as a module that owns the parameters."""

    def __init__(self, module, run):
        super().__init__()
        self.module, self.run = module, run

    def forward(self, x, mask):
        return self.run(x, mask)


@pytest.mark.parametrize(
    "options",
    [GATED[1], *(pytest.param(each, marks=pytest.mark.long) for each in GATED[3::2])],
    ids=str,
)
def test_ten_thousand_steps_do_not_drift(options):
    """Each float32 step starts from a state that all earlier steps have rounded."""
    exact, _ = make_gated(torch.float64, **options)
    rough, _ = make_gated(torch.float32, **options)
    x = randn(1, 10000, DIM, dtype=torch.float32)
    with torch.no_grad():
        expected = first(exact(x.double()))
        steps = run_segments(rough, x, [1] * x.size(1)).double()
    drift = [relative_error(*parts) for parts in zip(steps.split(1000, 1), expected.split(1000, 1))]
    print([f"{each:.1e}" for each in drift])
    assert max(drift) < 1e-5 and drift[-1] < 3 * max(drift[:3])
