"""Parameters of an EMA, and the comparison of its forms with the naive one."""

import math

import torch
from helpers import assert_same_function, make_ema, randn

from fairseq_mega.ops.ema import ema_coefficients
from fairseq_mega.ops.ema.naive import ema_convolution, ema_kernel, ema_recurrence

DIM, NDIM = 4, 3
# q, or 1 - q where that is a number that floats hold.
NEAR_ZERO, NEAR_ONE = (1e-7, 1e-5, 1e-3, 0.1, 0.5), (1e-7, 1e-6, 1e-5, 1e-3, 0.1)


class Parameters:
    """Telling parameters of both directions, as leaves."""

    def __init__(self, bidirectional, device=None, dim=DIM, ndim=NDIM):
        device = device or torch.get_default_device()
        self.module = make_ema(dim, ndim, bidirectional=bidirectional).to(device)
        self.leaves = dict(self.module.named_parameters())
        self.omega = self.leaves["omega"]
        names = ("delta", "alpha", "beta", "gamma")
        self.directions = list(zip(*(self.leaves[name].split(dim) for name in names)))

    @property
    def all(self):
        return self.module.ema_parameters()

    def coefficients(self):
        return [ema_coefficients(*direction) for direction in self.directions]

    def naive(self, x, taps=None):
        """The recurrence, or the convolution where the kernel is truncated."""
        if taps is not None:
            return ema_convolution(x, *(ema_kernel(*each, taps) for each in self.directions))
        y, _ = ema_recurrence(x, *self.directions[0])
        for backward in self.directions[1:]:
            y = y + ema_recurrence(x.flip(1), *backward)[0].flip(1)
        return y


def check(form, length, bidirectional, taps=None, batch=2, mask=None):
    """Checks that `form(x, parameters)` is `EMA(x) + omega x`; the EMA takes masked values as
    zeros."""
    parameters = Parameters(bidirectional)
    x = randn(batch, length, DIM, requires_grad=True)
    heard = x if mask is None else x.masked_fill(mask.unsqueeze(-1), 0.0)
    slow = parameters.naive(heard, taps) + parameters.omega * x
    assert_same_function(form(x, parameters), slow, {"x": x, **parameters.leaves})


# --- q as near to 0 and 1 as it gets ---


def logit(p, rest):
    """sigmoid(logit) = p, where ``rest`` is 1 - p with all its digits."""
    return math.log(p) - math.log(rest)


def factors():
    """p and a with 1 - p a = q, as logits: which of the two is far from 1 differs."""
    for q in NEAR_ZERO:
        root = math.sqrt(1 - q)
        rest = q / (1 + root)  # 1 - root
        yield logit(root, rest), logit(root, rest)
        almost_one = logit(1 - q / 1000, q / 1000)
        p, rest = (1 - q) / (1 - q / 1000), (q - q / 1000) / (1 - q / 1000)
        yield logit(p, rest), almost_one
        yield almost_one, logit(p, rest)
    for small in NEAR_ONE:
        for p in (math.sqrt(small), 0.99, small / 0.99):
            yield logit(p, 1 - p), logit(small / p, 1 - small / p)


def extreme_parameters(dtype):
    """``delta, alpha, beta (D, 1, 1)``, ``gamma (D, 1)``: one channel for each pair of factors."""
    delta, alpha = torch.tensor(list(factors()), dtype=torch.float64).to(dtype).t()
    ones = torch.ones(len(delta), 1, dtype=dtype)
    return delta.view(-1, 1, 1), alpha.view(-1, 1, 1), ones.unsqueeze(-1), ones
