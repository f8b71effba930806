"""Parameters of an EMA, and how its forms are held to the naive one."""

import torch
from helpers import assert_same_function, make_ema, randn

from fairseq_mega.ops.ema import ema_coefficients
from fairseq_mega.ops.ema.naive import ema_convolution, ema_kernel, ema_recurrence

DIM, NDIM = 4, 3


class Parameters:
    """Telling parameters of both directions, as leaves."""

    def __init__(self, bidirectional, device=None, dim=DIM, ndim=NDIM):
        device = device or torch.get_default_device()
        self.module = make_ema(dim, ndim, bidirectional=bidirectional).to(device)
        self.leaves = dict(self.module.named_parameters())
        self.omega = self.leaves["omega"]
        names = ("delta", "alpha", "beta", "gamma")
        self.directions = list(zip(*(self.leaves[name].split(dim) for name in names)))

    def coefficients(self):
        return [ema_coefficients(*direction) for direction in self.directions]

    def naive(self, x, taps=None):
        """By the recurrence; by the convolution where the kernel is truncated."""
        if taps is not None:
            return ema_convolution(x, *(ema_kernel(*each, taps) for each in self.directions))
        y, _ = ema_recurrence(x, *self.directions[0])
        for backward in self.directions[1:]:
            y = y + ema_recurrence(x.flip(1), *backward)[0].flip(1)
        return y


def check(form, length, bidirectional, taps=None, batch=2):
    """`form(x, parameters)` is `EMA(x) + omega x`."""
    parameters = Parameters(bidirectional)
    x = randn(batch, length, DIM, requires_grad=True)
    slow = parameters.naive(x, taps) + parameters.omega * x
    assert_same_function(form(x, parameters), slow, {"x": x, **parameters.leaves})
