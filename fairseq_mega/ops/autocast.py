"""Autocast for functions that compute their own gradients, or always in float32."""

from contextlib import nullcontext
from typing import ContextManager

import torch
from torch import Tensor


def without_autocast(x: Tensor) -> ContextManager:
    """A context without autocast on the device of ``x``."""
    device = x.device.type
    if not _is_enabled(device):
        return nullcontext()  # faster, and generation enters it often
    return torch.autocast(device, enabled=False)


def in_autocast_type(x: Tensor) -> Tensor:
    """``x`` as autocast gives it to a product of matrices; unchanged outside of autocast.

    A function with a backward pass of its own casts its inputs first and then computes without
    autocast, so that both passes use the same types: autocast has ended when gradients are taken.
    """
    device = x.device.type
    if not _is_enabled(device) or x.dtype == torch.float64:
        return x
    return x.to(torch.get_autocast_dtype(device))


def present_autocast(x: Tensor) -> ContextManager:
    """Autocast as it is now on the device of ``x``, to be entered later."""
    device = x.device.type
    if not _is_known(device):
        return nullcontext()
    return torch.autocast(device, torch.get_autocast_dtype(device), _is_enabled(device))


def _is_enabled(device: str) -> bool:
    return _is_known(device) and torch.is_autocast_enabled(device)


def _is_known(device: str) -> bool:
    """The meta device has no autocast. (torch.amp.is_autocast_available breaks graphs.)"""
    return device != "meta"
