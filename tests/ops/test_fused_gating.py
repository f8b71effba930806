"""The Triton kernels between projections against the formulas: on a GPU with ``--device cuda``,
else by Triton's interpreter."""

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_close, assert_same_function, first, padding, randn, relative_error

from fairseq_mega.modules import (
    GatedCrossAttention,
    MovingAverageGatedAttention,
    NormalizedFeedForwardNetwork,
)
from fairseq_mega.modules.dropout import Dropout
from fairseq_mega.ops import gating, operators
from fairseq_mega.ops.dropout import apply_mask, draw_mask
from fairseq_mega.ops.gating import naive

pytest.importorskip("triton", reason="the kernels need Triton: pip install triton")

BATCH, LENGTH, DIM = 3, 11, 5  # several programs with a small tile


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    """Chooses the kernels, on a CPU as well, with tiles of 8 rows and 4 columns."""
    monkeypatch.setattr(operators, "runs_kernels", lambda x: True)
    monkeypatch.setattr(gating.fused, "TILE", 32)
    monkeypatch.setattr(gating.fused, "COLUMNS", 4)


def leaf(seed, *shape):
    return randn(*(shape or (BATCH, LENGTH, DIM)), seed=seed).requires_grad_()


class SameDropout(Dropout):
    """Drops the same values in every call."""

    def __init__(self):
        super().__init__(0.3)
        torch.manual_seed(0)
        self.drawn_mask = draw_mask(torch.empty(BATCH, LENGTH, DIM), self.p)

    def mask(self, x):
        return self.drawn_mask

    def forward(self, x):
        return apply_mask(x, self.drawn_mask)


def none():
    return Dropout(0.0)


CASES = {
    "activated": lambda: (leaf(1), F.silu, SameDropout()),
    "activated, nothing dropped": lambda: (leaf(1), F.silu, none()),
    "ema_output": lambda: (leaf(1), torch.float64, SameDropout()),
    "ema_output, nothing dropped": lambda: (leaf(1), torch.float64, none()),
    "reset_gated": lambda: (leaf(1), leaf(2)),
    "gated_update": lambda: (leaf(1), leaf(2), leaf(3), leaf(4), F.silu, SameDropout()),
    "gated_update, of cross attention": lambda: (leaf(1), None, leaf(3), leaf(4), F.silu, none()),
    "queries_and_keys": lambda: (leaf(1), leaf(2, 2, DIM), leaf(3, 2, DIM)),
}


def forms(case):
    """The kernel, the formula, arguments, and leaves among them."""
    name, args = case.split(",")[0], CASES[case]()
    leaves = {str(i): arg for i, arg in enumerate(args) if isinstance(arg, torch.Tensor)}
    return getattr(gating.fused, name), getattr(naive, name), args, leaves


def joined(out):
    return torch.cat(out, dim=-1) if isinstance(out, tuple) else out


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients(case):
    """Kernels read columns of a projection, and gradients whose positions are apart."""
    fast, slow, args, _ = forms(case)
    wide = randn(BATCH, LENGTH, 4 * DIM, seed=9).requires_grad_()
    parts = iter(wide.split([DIM] * 4, dim=-1))
    args = [next(parts) if isinstance(a, torch.Tensor) and a.dim() == 3 else a for a in args]
    outputs = (torch.cat([joined(f(*args)), wide], dim=-1) for f in (fast, slow))
    assert_same_function(*outputs, {"wide": wide})


@pytest.mark.parametrize(
    "case, axes",
    [
        *((case, (1, 0, 2)) for case in CASES),
        ("gated_update", (2, 0, 1)),
        ("gated_update", (0, 2, 1)),
        ("queries_and_keys", (0, 2, 1)),
    ],
)
def test_gradients_and_arguments_of_any_strides(case, axes):
    """Tensors may be time first, from a product's backward pass, or from a sum, which repeats a
    value."""
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


@pytest.mark.parametrize("length, gradients", [(1, False), (1, True), (2, False), (2, True)])
def test_a_step_of_generation_takes_the_formulas(length, gradients):
    x = randn(BATCH, length, DIM)
    with torch.set_grad_enabled(gradients):
        chosen = gating.formulas(x, plain_silu=True)
    step = length == 1 and not gradients
    assert chosen is (gating.plain if step else gating.fused)


@pytest.mark.usefixtures("recomputing")
@pytest.mark.parametrize("case", CASES)
def test_kernels_keep_their_arguments_alone(case):
    """However large they are: nothing is left to recompute."""
    fast, _, args, _ = forms(case)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t), lambda t: t):
        joined(fast(*args))
    given = [a.drawn_mask.keep if isinstance(a, SameDropout) else a for a in args]
    given = {a.data_ptr() for a in given if isinstance(a, torch.Tensor)}
    assert kept and {t.data_ptr() for t in kept} <= given


@pytest.mark.parametrize(
    "case, dtype",
    [
        *((case, torch.bfloat16) for case in CASES),
        ("gated_update", torch.float16),
        ("queries_and_keys", torch.float16),
    ],
)
def test_half_precision_is_rounded_once(case, dtype):
    """Each value is rounded by half of its last digit (Triton's interpreter truncates bfloat16, by
    up to a digit); gradients of parameters, which are sums, by 2^-7 of the largest."""
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
    """The residual is float32, and the outputs of products are bfloat16."""
    residual, h, u = randn(3, 4, 5).float(), randn(3, 4, 5, seed=2), randn(3, 4, 5, seed=3)
    args = [residual, None, h.bfloat16(), u.bfloat16(), F.silu, none()]
    assert gating.fused.gated_update(*args).dtype == torch.float32
    z, gamma = h.bfloat16(), randn(2, 5).float()
    q, k = gating.fused.queries_and_keys(z, gamma, gamma)
    assert q.dtype == k.dtype == naive.queries_and_keys(z, gamma, gamma)[0].dtype == torch.float32


LAYERS = {
    "Mega": lambda **options: MovingAverageGatedAttention(
        DIM - 1, 4, 6, 3, bidirectional=True, **options
    ),
    "Mega, chunks": lambda **options: MovingAverageGatedAttention(
        DIM - 1, 4, 6, 3, chunk_size=4, rel_pos_bias="rotary", **options
    ),
    "cross attention": lambda **options: GatedCrossAttention(DIM - 1, 4, **options),
    "feed-forward": lambda **options: NormalizedFeedForwardNetwork(DIM - 1, 6, **options),
}


def output(name, layer, x, mask):
    if name == "feed-forward":
        return layer(x)
    return first(layer(x, x.flip(1), mask) if name == "cross attention" else layer(x, mask))


@pytest.mark.parametrize(
    "name, options",
    [
        ("Mega", {"activation": "tanh"}),
        ("Mega, chunks", {"feature_dropout": True}),
        ("cross attention", {"activation": "tanh"}),
        ("feed-forward", {"feature_dropout": True}),
    ],
)
def test_other_activations_and_dropouts_take_the_formulas(name, options, monkeypatch):
    layer = LAYERS[name](dropout=0.3, hidden_dropout=0.3, **options).double()
    x, mask = leaf(1, BATCH, LENGTH, DIM - 1), padding(LENGTH, [LENGTH, 5, 9])
    assert gating.formulas(x, layer.plain_silu) is gating.plain
    results = []
    for runs in (True, False):  # of the EMA's
        monkeypatch.setattr(operators, "runs_kernels", lambda x, runs=runs: runs)
        torch.manual_seed(1)
        results.append(output(name, layer, x, mask)[~mask])
    assert_close(*results)


@pytest.mark.parametrize("name, how", zip(LAYERS, 2 * ("recomputed", "kept")))
def test_the_backward_pass_of_layers_drops_the_same(name, how, request):
    if how == "recomputed":
        request.getfixturevalue("recomputing")
    layer = LAYERS[name](dropout=0.3, hidden_dropout=0.3).double()
    x = leaf(1, 1, 6, DIM - 1)

    def dropped(x):
        torch.manual_seed(1)
        return output(name, layer, x, None)

    assert torch.autograd.gradcheck(dropped, x, fast_mode=True)


@pytest.mark.parametrize(
    "name, how",
    [
        ("Mega", "kept"),
        ("Mega", "compiled"),
        ("Mega, chunks", "recomputed"),
        ("cross attention", "recomputed"),
        ("cross attention", "compiled"),
        ("feed-forward", "kept"),
    ],
)
def test_layers(name, how, monkeypatch):
    """Layers are right with padding; with results kept for the backward pass, or recomputed; and
    compiled, where only the EMA has kernels."""
    layer = LAYERS[name]().double()
    leaves = {"x": leaf(1, BATCH, LENGTH, DIM - 1), **dict(layer.named_parameters())}
    mask = padding(LENGTH, [LENGTH, 5, 9])
    with monkeypatch.context() as formulas:
        formulas.setattr(operators, "runs_kernels", lambda x: False)
        expected = output(name, layer, leaves["x"], mask)
    for least in ("LEAST_ON_CPU", "LEAST_ON_GPU"):
        values = 0 if how == "recomputed" else 2**23
        monkeypatch.setattr(f"fairseq_mega.ops.recompute.{least}", values)
    if how == "compiled":
        layer.compile(backend="aot_eager", fullgraph=True)
    found = output(name, layer, leaves["x"], mask)
    assert_same_function(found, expected, leaves, ~mask)
