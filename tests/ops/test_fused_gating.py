"""The Triton kernels between projections against the formulas: on a GPU with ``--device cuda``,
else by Triton's interpreter."""

import pytest
import torch
import torch.nn.functional as F
from helpers import (
    assert_close,
    assert_same_function,
    padding,
    randn,
    relative_error,
    time_first,
)
from torch.utils._python_dispatch import TorchDispatchMode

from fairseq_mega.modules import (
    GatedCrossAttention,
    MovingAverageGatedAttention,
    NormalizedFeedForwardNetwork,
)
from fairseq_mega.ops import gating, operators
from fairseq_mega.ops.dropout import DropoutMask, draw_mask
from fairseq_mega.ops.gating import naive
from fairseq_mega.ops.recompute import recompute

pytest.importorskip("triton", reason="the kernels need Triton: pip install triton")

BATCH, LENGTH, DIM = 3, 11, 5  # several programs with a small tile


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    """Are chosen, on a CPU as well, with tiles of 8 rows and 4 columns."""
    monkeypatch.setattr(operators, "runs_kernels", lambda x: True)
    monkeypatch.setattr(gating.fused, "TILE", 32)
    monkeypatch.setattr(gating.fused, "COLUMNS", 4)


def leaf(seed, *shape):
    return randn(*(shape or (BATCH, LENGTH, DIM)), seed=seed).requires_grad_()


def mask(seed=0):
    torch.manual_seed(seed)
    return draw_mask(torch.empty(BATCH, LENGTH, DIM), 0.3)


CASES = {
    "activated": lambda: (leaf(1), F.silu, mask()),
    "activated, nothing dropped": lambda: (leaf(1), F.silu, None),
    "ema_output": lambda: (leaf(1), torch.float64, mask()),
    "reset_gated": lambda: (leaf(1), leaf(2)),
    "gated_update": lambda: (leaf(1), leaf(2), leaf(3), leaf(4), F.silu, mask()),
    "gated_update, of cross attention": lambda: (leaf(1), None, leaf(3), leaf(4), F.silu, None),
    "queries_and_keys": lambda: (leaf(1), leaf(2, 2, DIM), leaf(3, 2, DIM)),
}


def forms(case):
    """The function that is chosen, the formula, arguments, and leaves among them."""
    name, args = case.split(",")[0], CASES[case]()
    leaves = {str(i): arg for i, arg in enumerate(args) if isinstance(arg, torch.Tensor)}
    return getattr(gating, name), getattr(naive, name), args, leaves


def joined(out):
    return torch.cat(out, dim=-1) if isinstance(out, tuple) else out


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients(case):
    fast, slow, args, leaves = forms(case)
    assert fast.keeps_arguments(*args)
    assert_same_function(joined(fast(*args)), joined(slow(*args)), leaves)


@pytest.mark.parametrize("case", CASES)
def test_parts_of_wider_tensors(case):
    """Columns of a projection, and gradients whose positions are apart."""
    fast, slow, args, _ = forms(case)
    wide = randn(BATCH, LENGTH, 4 * DIM, seed=9).requires_grad_()
    parts = iter(gating.split(wide, [DIM] * 4, F.silu))
    args = [next(parts) if isinstance(a, torch.Tensor) and a.dim() == 3 else a for a in args]
    outputs = (torch.cat([joined(f(*args)), wide], dim=-1) for f in (fast, slow))
    assert_same_function(*outputs, {"wide": wide})


@pytest.mark.parametrize("axes", [(1, 0, 2), (2, 0, 1), (0, 2, 1)])
@pytest.mark.parametrize("case", CASES)
def test_gradients_and_arguments_of_any_strides(case, axes):
    """Time first, and of a product's backward pass; and of a sum, which repeat one number."""
    fast, slow, args, leaves = forms(case)
    back = [axes.index(i) for i in range(3)]
    args = [
        a.permute(axes).contiguous().permute(back)
        if isinstance(a, torch.Tensor) and a.dim() == 3
        else a
        for a in args
    ]
    assert_same_function(
        *(joined(f(*args)).permute(axes).contiguous() for f in (fast, slow)), leaves
    )
    found, expected = (
        torch.autograd.grad(joined(f(*args)).sum(), leaves.values()) for f in (fast, slow)
    )
    for ours, theirs in zip(found, expected):
        assert_close(ours, theirs)


def test_one_of_queries_and_keys_and_frozen_parameters():
    fast, slow, (z, gamma, beta), _ = forms("queries_and_keys")
    assert_same_function(fast(z, gamma, beta)[0], slow(z, gamma, beta)[0], {"z": z, "gamma": gamma})
    args = z, gamma.detach(), beta.detach()
    assert_same_function(joined(fast(*args)), joined(slow(*args)), {"z": z})


def test_counters_see_the_operators():
    seen = []

    class Counter(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    fast, _, args, _ = forms("reset_gated")
    with Counter():
        fast(*args).sum().backward()
    assert {"gating_reset_gated", "gating_reset_gated_backward"} <= set(seen)


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 2])
def test_a_step_of_generation_takes_the_formulas(length):
    o, r = (randn(BATCH, length, DIM, seed=seed) for seed in (1, 2))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        y = gating.reset_gated(o, r)
    assert ("aten::silu" in {event.name for event in profiler.events()}) == (length == 1)
    assert_close(y, naive.reset_gated(o, r))


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_left_for_recompute(case, monkeypatch):
    """However large the arguments are, it leaves them to the kernels, which keep no more."""
    monkeypatch.setattr("fairseq_mega.ops.recompute.LEAST_ON_CPU", 0)
    monkeypatch.setattr("fairseq_mega.ops.recompute.LEAST_ON_GPU", 0)
    fast, _, args, _ = forms(case)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t), lambda t: t):
        y = joined(recompute(fast, *args))
    names = {type(node).__name__ for node in (y.grad_fn, *(f for f, _ in y.grad_fn.next_functions))}
    assert "_RecomputeBackward" not in names
    given = [a.keep if isinstance(a, DropoutMask) else a for a in args]
    given = {a.data_ptr() for a in given if isinstance(a, torch.Tensor)}
    assert kept and {t.data_ptr() for t in kept} <= given


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", CASES)
def test_half_precision_is_rounded_once(case, dtype):
    """Each number by half of its last digit (Triton's interpreter cuts bfloat16 off, by up to a
    digit); gradients of parameters, which are sums, by 2^-7 of the largest."""
    fast, slow, args, _ = forms(case)

    def cast(to):
        for arg in args:
            if isinstance(arg, torch.Tensor):
                yield arg.detach().to(dtype).to(to).requires_grad_()
            else:
                yield to if isinstance(arg, torch.dtype) else arg

    def is_rounded(found, exact):
        cut_off = dtype == torch.bfloat16 and found.device.type == "cpu"
        digit = torch.finfo(dtype).eps * (1.0 if cut_off else 0.5) * exact.abs()
        return ((found.double() - exact).abs() <= 1.01 * digit + 1e-6).all()

    rough, exact = list(cast(dtype)), list(cast(torch.float64))
    y, expected = joined(fast(*rough)), joined(slow(*exact))
    assert y.dtype == dtype and is_rounded(y, expected)
    y.backward(torch.ones_like(y))
    expected.backward(torch.ones_like(expected))
    for a, b in zip(rough, exact):
        if isinstance(a, torch.Tensor):
            assert a.grad.dtype == dtype
            if a.dim() == 3:
                assert is_rounded(a.grad, b.grad)
            else:
                assert relative_error(a.grad.double(), b.grad) < 2**-7


def test_types_of_autocast():
    """A residual in float32, and what products have made in bfloat16."""
    residual, h, u = randn(3, 4, 5).float(), randn(3, 4, 5, seed=2), randn(3, 4, 5, seed=3)
    args = [residual, None, h.bfloat16(), u.bfloat16(), F.silu, None]
    assert gating.gated_update(*args).dtype == torch.float32
    z, gamma = h.bfloat16(), randn(2, 5).float()
    q, k = gating.queries_and_keys(z, gamma, gamma)
    assert q.dtype == k.dtype == naive.queries_and_keys(z, gamma, gamma)[0].dtype == torch.float32


def test_other_activations_and_masks_take_the_formula():
    channels = DropoutMask(torch.ones(BATCH, 1, DIM, dtype=torch.bool), 1.0)
    for args in ((leaf(1), torch.tanh, None), (leaf(1), F.silu, channels)):
        assert not gating.activated.keeps_arguments(*args)
        assert_close(gating.activated(*args), naive.activated(*args), 0.0)


LAYERS = {
    "Mega": lambda: MovingAverageGatedAttention(DIM - 1, 4, 6, 3, bidirectional=True),
    "Mega, chunks": lambda: MovingAverageGatedAttention(
        DIM - 1, 4, 6, 3, chunk_size=4, rel_pos_bias="rotary"
    ),
    "cross attention": lambda: GatedCrossAttention(DIM - 1, 4),
    "feed-forward": lambda: NormalizedFeedForwardNetwork(DIM - 1, 6),
}


def output(name, layer, x, mask):
    if name == "feed-forward":
        return layer(x)
    return layer(x, x.flip(0), mask)[0] if name == "cross attention" else layer(x, mask)[0]


@pytest.mark.parametrize("how", ["computed again", "kept", "compiled"])
@pytest.mark.parametrize("name", LAYERS)
def test_layers(name, how, monkeypatch):
    """With padding; results kept for the backward pass, or computed again; compiled, where the EMA
    alone has its kernels."""
    layer = LAYERS[name]().double()
    leaves = {"x": leaf(1, LENGTH, BATCH, DIM - 1), **dict(layer.named_parameters())}
    mask = padding(LENGTH, [LENGTH, 5, 9])
    with monkeypatch.context() as formulas:
        formulas.setattr(operators, "runs_kernels", lambda x: False)
        expected = output(name, layer, leaves["x"], mask)
    for least in ("LEAST_ON_CPU", "LEAST_ON_GPU"):
        numbers = 0 if how == "computed again" else 2**23
        monkeypatch.setattr(f"fairseq_mega.ops.recompute.{least}", numbers)
    if how == "compiled":
        layer.compile(backend="aot_eager", fullgraph=True)
    found = output(name, layer, leaves["x"], mask)
    assert_same_function(found, expected, leaves, time_first(mask))
