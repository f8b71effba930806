"""Autocast for functions that compute their own gradients."""

import torch
from torch import Tensor


def in_autocast_type(x: Tensor) -> Tensor:
    """``x`` as autocast gives it to a product of matrices; unchanged outside of autocast.

    A function with a backward pass of its own casts its inputs first and then computes without
    autocast, so that both passes use the same types: autocast has ended when gradients are taken.
    """
    device = x.device.type
    if not torch.is_autocast_enabled(device) or not x.is_floating_point():
        return x
    return x if x.dtype == torch.float64 else x.to(torch.get_autocast_dtype(device))
