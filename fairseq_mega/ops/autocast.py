"""Autocast for functions that compute their own gradients, or always in float32."""

from contextlib import nullcontext
from typing import ContextManager

import torch
from torch import Tensor


def is_autocast_on(x: Tensor) -> bool:
    """Whether autocast is on for the device of ``x``; the meta device has none."""
    device = x.device.type
    return device != "meta" and torch.is_autocast_enabled(device)


def without_autocast(x: Tensor) -> ContextManager:
    """A context without autocast on the device of ``x``."""
    return torch.autocast(x.device.type, enabled=False) if is_autocast_on(x) else nullcontext()


def in_autocast_type(x: Tensor) -> Tensor:
    """``x`` in the type that autocast, which must be on, gives to matrix products.

    Functions with their own backward pass cast their inputs and then compute without autocast,
    which has ended when gradients are taken: both passes must use the same types.
    """
    return x if x.dtype == torch.float64 else x.to(torch.get_autocast_dtype(x.device.type))
