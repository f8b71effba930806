"""Recomputed activations give the gradients of kept ones, and are not kept."""

import gc

import pytest
import torch
import torch.nn.functional as F
from helpers import Operators, Storages, assert_same_function, autocast, randn
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.checkpoint import checkpoint

from fairseq_mega.modules.dropout import make_dropout
from fairseq_mega.ops.dropout import LEAST_FOR_BITS
from fairseq_mega.ops.gating import naive, plain
from fairseq_mega.ops.recompute import LEAST_ON_CPU, recomputed

SHAPE = (3, 5, 4)
LARGE = (1, LEAST_FOR_BITS // 4, 4)  # for which dropout draws random bits
recomputing = pytest.mark.usefixtures("recomputing")
shapes = pytest.mark.parametrize("shape", [SHAPE, LARGE], ids=["small", "large"])


def leaf(seed, *shape):
    return randn(*(shape or SHAPE), seed=seed, requires_grad=True)


def dropout():
    return make_dropout(0.5, object()).train()


FUNCTIONS = {
    "activated": lambda s: (naive.activated, [leaf(1, *s), torch.tanh, dropout()]),
    "feature dropout": lambda s: (
        naive.activated,
        [leaf(1, *s), F.silu, make_dropout(0.5, object(), feature_dropout=True).train()],
    ),
    "ema output": lambda s: (naive.ema_output, [leaf(1, *s), torch.float64, dropout()]),
    "reset gate": lambda s: (naive.reset_gated, [leaf(1, *s), leaf(2, *s)]),
    "update": lambda s: (
        naive.gated_update,
        [leaf(1, *s), leaf(2, *s), leaf(3, *s), leaf(4, *s), F.silu, dropout()],
    ),
    "constant residual": lambda s: (
        naive.gated_update,
        [leaf(1, *s).detach(), None, leaf(2, *s), leaf(3, *s), F.silu, nn.Identity()],
    ),
    "several results": lambda s: (
        naive.queries_and_keys,
        [leaf(1, *s), leaf(2, 2, 4), leaf(3, 2, 4)],
    ),
    "an argument as one of them": lambda s: (lambda x: (x, torch.exp(x)), [leaf(1, *s)]),
}


def run(function, args):
    """All results in one tensor, with the same random numbers each time."""
    torch.manual_seed(1)
    out = function(*args)
    return torch.cat(out, dim=-1) if isinstance(out, tuple) else out


def leaves_of(args):
    return {str(i): a for i, a in enumerate(args) if getattr(a, "requires_grad", False)}


@recomputing
@shapes
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_are_those_of_the_plain_function(name, shape):
    """A step may stand alone or before a projection; later draws do not change."""
    function, args = FUNCTIONS[name](shape)
    leaves = leaves_of(args)
    assert_same_function(run(recomputed(function), args), run(function, args), leaves)

    def projected(*args):
        out = function(*args)
        return linear(out[1] if isinstance(out, tuple) else out)

    linear = nn.Linear(4, 7).double()
    leaves.update(linear.named_parameters())
    slow, fast = run(projected, args), run(recomputed(projected), args)
    state = torch.get_rng_state()
    assert_same_function(fast, slow, leaves)
    assert torch.equal(torch.get_rng_state(), state)


@recomputing
@pytest.mark.parametrize("drop", [dropout(), nn.Identity()], ids=["dropout", "plain"])
def test_the_update_keeps_the_sum_of_its_parts_and_not_the_parts(drop):
    leaves = {str(i): leaf(i) for i in range(1, 5)}
    args = [*leaves.values(), F.silu, drop]
    assert_same_function(run(plain.gated_update, args), run(naive.gated_update, args), leaves)
    residual, hx, h, u = (1.0 * each for each in leaves.values())
    parts = [StorageWeakRef(t.untyped_storage()) for t in (hx, h)]
    with Storages() as made:
        y = run(plain.gated_update, [residual, hx, h, u, F.silu, drop])
    del hx, h
    assert y.requires_grad and all(part.expired() for part in parts)
    assert made.kept() <= 3 * y.nbytes


class Layer(nn.Module):
    """A step of several tensors and results, which uses parameters of the layer."""

    def __init__(self, projection=None):
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.projection = nn.Linear(4, 4) if projection is None else projection
        self.dropout = nn.Dropout(0.5)

    @recomputed
    def recomputed_step(self, x, scale, name):
        return self.step(x, scale, name)

    def step(self, x, scale, name):
        assert name == "name"
        x = self.norm(x) * scale
        return x, self.projection(self.dropout(torch.exp(x)))


class Adapted(nn.Module):
    """A projection with an adapter, which has dropout of its own."""

    def __init__(self):
        super().__init__()
        self.base, self.dropout = nn.Linear(4, 4), nn.Dropout(0.3)
        self.a, self.b = nn.Linear(4, 2), nn.Linear(2, 4)

    def forward(self, x):
        return self.base(x) + self.b(self.a(self.dropout(x)))


class InPlace(nn.Linear):
    """A projection that changes its input, as some adapters do."""

    def forward(self, x):
        return super().forward(torch.relu_(x))


class SavesOutput(nn.Linear):
    def forward(self, x):
        return torch.tanh(super().forward(torch.sigmoid(x)))


PROJECTIONS = {
    "linear": lambda: nn.Linear(4, 4),
    "with an adapter": Adapted,
    "in place": lambda: InPlace(4, 4),
    "that keeps its output": lambda: SavesOutput(4, 4),
    "of two layers": lambda: nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.2), nn.Linear(6, 4)),
}


@recomputing
@shapes
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_methods_of_layers(projection, shape):
    """The projection may do anything; both passes drop the same values."""
    layer = Layer(PROJECTIONS[projection]()).double()
    args = [leaf(1, *shape), leaf(2, *shape), "name"]
    leaves = {**leaves_of(args), **dict(layer.named_parameters())}
    assert_same_function(run(layer.recomputed_step, args), run(layer.step, args), leaves)


def products(operators):
    return sum(name in ("addmm", "mm", "bmm", "baddbmm", "linear") for name in operators.names)


@recomputing
def test_the_product_that_ends_a_step_is_not_recomputed():
    """Hooks do not fire again; the backward pass has the two products of the gradients."""
    linear, x, calls = nn.Linear(4, 4).double(), leaf(1), []
    linear.register_forward_hook(lambda *_: calls.append("forward"))
    linear.register_full_backward_hook(lambda *_: calls.append("backward"))
    step = recomputed(lambda x: linear(torch.exp(x)))
    with Operators() as forward:
        y = step(x)
    with Operators() as backward:
        y.sum().backward()
    assert calls == ["forward", "backward"]
    assert products(forward) == 1 and products(backward) == 2
    assert forward.names.count("exp") == backward.names.count("exp") == 1


@recomputing
def test_the_input_of_the_projection_is_not_kept():
    inputs = []
    linear = nn.Linear(4, 4).double()
    linear.register_forward_pre_hook(
        lambda _, args: inputs.append(StorageWeakRef(args[0].untyped_storage()))
    )
    y = recomputed(lambda o, r: linear(naive.reset_gated(o, r)))(leaf(1), leaf(2))
    assert y.requires_grad and inputs[0].expired()


@recomputing
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_backward_pass_computes_in_the_types_of_the_forward_pass(dtype):
    """The backward pass runs outside the autocast of the forward pass."""
    weight, x = leaf(1, 4, 4).float().detach(), leaf(2).float().detach().requires_grad_()
    linear, types = nn.Linear(4, 4), []

    @recomputed
    def step(x):
        types.append((x @ weight).dtype)
        return linear(torch.tanh(x))

    with autocast(dtype, enabled=dtype == torch.bfloat16):
        y = step(x)
    with autocast(torch.bfloat16, enabled=dtype == torch.float32):  # the other
        y.sum().backward()
    assert types == 2 * [dtype] and x.grad.dtype == torch.float32


@recomputing
def test_the_backward_pass_can_run_twice():
    layer, args = Layer().double(), [leaf(1), leaf(2), "name"]
    y = run(layer.recomputed_step, args).sum()
    once, twice = (torch.autograd.grad(y, args[0], retain_graph=True)[0] for _ in range(2))
    assert torch.equal(once, twice)


@recomputing
def test_second_derivatives_are_right():
    linear = nn.Linear(4, 4).double()
    step = recomputed(lambda x: linear(torch.sin(x)))
    assert torch.autograd.gradgradcheck(step, leaf(1))


@recomputing
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_around_it_keeps_the_input_alone(reentrant):
    linear, kept, results = nn.Linear(64, 64).double(), [], []
    drop, x = dropout(), leaf(1, 50, 4, 64)

    @recomputed
    def first(x):
        return linear(naive.reset_gated(torch.exp(x), torch.sin(x)))

    @recomputed
    def second(y):
        return linear(drop(torch.tanh(y)))

    def both(x):
        return second(first(x))

    for function in (both, lambda x: checkpoint(both, x, use_reentrant=reentrant)):
        torch.manual_seed(1)
        with Storages() as made:
            y = function(x)
        kept.append(made.kept() - sum(p.nbytes for p in linear.parameters()))
        x.grad = None
        y.sum().backward()
        results.append([y, x.grad])
    assert kept[1] <= y.nbytes < 0.6 * kept[0]  # the output, and also the first step's
    for ours, expected in zip(*results):
        assert torch.equal(ours, expected)


@recomputing
def test_a_graph_that_is_dropped_is_freed():
    layer, x, scale = Layer(SavesOutput(4, 4)).double(), leaf(1), leaf(2)
    with Storages() as made:
        y = layer.recomputed_step(x, scale, "name")
    del y
    gc.collect()
    assert made.kept() <= sum(t.nbytes for t in (x, scale, *layer.parameters()))


@pytest.mark.cpu_only
def test_only_large_tensors_are_recomputed_and_only_in_training():
    calls = []

    @recomputed
    def step(x):
        calls.append(1)
        return torch.exp(x).square()

    least = torch.zeros(1, LEAST_ON_CPU, requires_grad=True)
    for x, expected in ((least[:, 1:], 1), (least, 2)):
        step(x).sum().backward()
        assert len(calls) == expected
        calls.clear()
    with torch.no_grad():
        step(least)
    assert len(calls) == 1


@pytest.mark.cpu_only
def test_parts_of_large_tensors_are_copies_in_training():
    """Each is freed after its last use, which views would prevent."""
    large = torch.zeros(1, 2, LEAST_ON_CPU // 2, requires_grad=True)
    for x, grad, copied in (
        (large[..., 1:], True, False),
        (large, True, True),
        (large, False, False),
    ):
        with torch.set_grad_enabled(grad):
            parts = plain.split(x, [1, x.size(-1) - 1])
        shared = {part.untyped_storage().data_ptr() == large.data_ptr() for part in parts}
        assert shared == {not copied}
