"""What is recomputed gives the gradients of what is kept, and is not kept."""

import gc

import pytest
import torch
import torch.nn.functional as F
from helpers import Storages, assert_same_function, autocast, randn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.checkpoint import checkpoint

from fairseq_mega.modules.projection import project
from fairseq_mega.ops.dropout import draw_mask
from fairseq_mega.ops.gating import (
    activated,
    ema_output,
    gated_update,
    queries_and_keys,
    reset_gated,
)
from fairseq_mega.ops.recompute import recompute, recomputed

SHAPE = (3, 5, 4)
pytestmark = pytest.mark.usefixtures("recomputing")


def leaf(seed, *shape):
    return randn(*(shape or SHAPE), seed=seed, requires_grad=True)


FUNCTIONS = {
    "activated": (activated, [leaf(1), torch.tanh, draw_mask(leaf(1), 0.5)]),
    "activated, nothing dropped": (activated, [leaf(1), F.silu, None]),
    "ema output": (ema_output, [leaf(1), torch.float64, draw_mask(leaf(1), 0.5)]),
    "reset gate": (reset_gated, [leaf(1), leaf(2)]),
    "update": (
        gated_update,
        [leaf(1), leaf(2), leaf(3), leaf(4), F.silu, draw_mask(leaf(1), 0.5)],
    ),
    "constant residual": (
        gated_update,
        [leaf(1).detach(), None, leaf(2), leaf(3), F.silu, None],
    ),
}


@pytest.mark.cpu_only  # where these leaves are
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_are_those_of_the_plain_function(name):
    function, args = FUNCTIONS[name]
    leaves = {str(i): a for i, a in enumerate(args) if getattr(a, "requires_grad", False)}
    assert_same_function(recompute(function, *args), function(*args), leaves)
    linear = torch.nn.Linear(4, 7).double()
    leaves.update(linear.named_parameters())
    assert_same_function(project(linear, function, *args), linear(function(*args)), leaves)


def test_functions_of_several_results():
    z, gamma, beta = leaf(1), leaf(2, 2, 4), leaf(3, 2, 4)
    fast, slow = (
        torch.cat(results, dim=-1)
        for results in (
            recompute(queries_and_keys, z, gamma, beta),
            queries_and_keys(z, gamma, beta),
        )
    )
    assert_same_function(fast, slow, {"z": z, "gamma": gamma, "beta": beta})


def views(x):
    """Ways in which a projection may keep its input: as it is, cut, or turned."""
    turned = x.transpose(0, 1)
    return (x * leaf(4)).sum() + (x[:, 1:] * leaf(5)[:, 1:]).sum() + (turned @ leaf(6, 4, 4)).sum()


def test_any_view_of_what_is_recomputed():
    weights = {"a": leaf(1), "b": leaf(2)}
    x = recompute(reset_gated, *weights.values())
    with recomputed(x, reset_gated, *weights.values()):
        fast = views(x)
    slow = views(reset_gated(*weights.values()))
    assert_same_function(fast.view(1, 1, 1), slow.view(1, 1, 1), weights)


def test_what_was_not_computed_by_the_function_is_kept():
    """Other tensors, and arguments that the function only passes on."""
    a, other = leaf(1), leaf(2)
    passed = recompute(lambda x: x, a)
    calls = []
    with recomputed(passed, lambda x: calls.append(1) or x, a):
        y = (passed * other).sum() + other.square().sum()
    y.backward()
    assert torch.equal(other.grad, a + 2 * other) and not calls
    a.grad = other.grad = None


def test_the_projection_is_called_once_and_its_input_is_not_kept():
    calls, recomputations = [], []

    def function(x):
        recomputations.append(1)
        return torch.exp(x)

    linear = torch.nn.Linear(4, 4).double()
    linear.register_forward_hook(lambda *_: calls.append(1))
    y = project(linear, function, leaf(1))
    assert len(calls) == 1 and len(recomputations) == 1
    y.sum().backward()
    assert len(calls) == 1 and len(recomputations) == 3  # for the weight, and for exp itself


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_backward_pass_computes_in_the_types_of_the_forward_pass(dtype):
    """Autocast has ended by then."""
    weight, x = leaf(1, 4, 4).float().detach(), leaf(2).float().detach().requires_grad_()
    types = []

    def function(x):
        types.append((x @ weight).dtype)
        return torch.tanh(x)

    with autocast(dtype, enabled=dtype == torch.bfloat16):
        y = project(torch.nn.Linear(4, 4), function, x)
    y.sum().backward()
    # Autocast makes a copy of what the projection gets, which is kept: no need to recompute it.
    assert types == (3 if dtype == torch.float32 else 2) * [dtype]


def test_second_derivatives_are_an_error():
    x = leaf(1)
    (grad,) = torch.autograd.grad(recompute(torch.exp, x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        grad.sum().backward()


class InPlace(torch.nn.Linear):
    """Changes its input, as some adapters do."""

    def forward(self, x):
        return super().forward(torch.relu_(x))


class SavesOutput(torch.nn.Linear):
    def forward(self, x):
        return torch.tanh(super().forward(torch.sigmoid(x)))


@pytest.mark.parametrize("kind", [InPlace, SavesOutput])
def test_projections_that_do_more_than_multiply(kind):
    projection = kind(4, 3).double()
    leaves = {"o": leaf(1), "r": leaf(2), **dict(projection.named_parameters())}
    args = reset_gated, leaves["o"], leaves["r"]
    fast, slow = project(projection, *args), projection(reset_gated(*args[1:]))
    assert_same_function(fast, slow, leaves)


def test_the_input_of_the_projection_is_not_kept():
    inputs = []
    linear = torch.nn.Linear(4, 4).double()
    linear.register_forward_pre_hook(
        lambda _, args: inputs.append(StorageWeakRef(args[0].untyped_storage()))
    )
    y = project(linear, reset_gated, leaf(1), leaf(2))
    assert y.requires_grad and inputs[0].expired()


def test_checkpointing_around_it_keeps_the_input_alone():
    """torch's, whose hooks are around ours."""
    linear, kept = torch.nn.Linear(64, 64).double(), []

    def run(x):
        y = project(linear, reset_gated, torch.exp(x), torch.sin(x))
        return project(linear, activated, y, torch.tanh, draw_mask(y, 0.5))

    x = leaf(1, 50, 64)
    for function in (run, lambda x: checkpoint(run, x, use_reentrant=False)):
        torch.manual_seed(1)
        with Storages() as made:
            y = function(x)
        kept.append(made.kept())
        y.sum().backward()
    assert kept[1] < 0.5 * kept[0]


def test_a_graph_that_is_dropped_is_freed():
    linear, o, r = SavesOutput(4, 3).double(), leaf(1), leaf(2)
    with Storages() as made:
        y = project(linear, reset_gated, o, r)
    del y
    gc.collect()
    assert made.kept() <= sum(t.nbytes for t in (o, r, *linear.parameters()))
