"""Activation functions by the names of fairseq's ``--activation-fn``, and ``silu``."""

from functools import partial
from typing import Callable, Dict

import torch
import torch.nn.functional as F
from torch import Tensor


def _linear(x):
    return x


ACTIVATIONS: Dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "relu": torch.relu,
    "gelu": F.gelu,
    "gelu_fast": partial(F.gelu, approximate="tanh"),
    "gelu_accurate": partial(F.gelu, approximate="tanh"),
    "tanh": torch.tanh,
    "linear": _linear,
}
