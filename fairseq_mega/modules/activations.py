"""Activation functions by the names of fairseq's ``--activation-fn``, and ``silu``."""

from functools import partial

import torch
import torch.nn.functional as F


def _linear(x):
    return x


ACTIVATIONS = {
    "silu": F.silu,
    "relu": torch.relu,
    "gelu": F.gelu,
    "gelu_fast": partial(F.gelu, approximate="tanh"),
    "gelu_accurate": partial(F.gelu, approximate="tanh"),
    "tanh": torch.tanh,
    "linear": _linear,
}
