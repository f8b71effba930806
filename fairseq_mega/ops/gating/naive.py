"""The formulas between projections, as printed."""

from typing import Callable, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dropout import DropoutMask, apply_mask

Activation = Callable[[Tensor], Tensor]


def activated(x: Tensor, activation: Activation, mask: Optional[DropoutMask]) -> Tensor:
    """``dropout(activation(x))``."""
    return apply_mask(activation(x), mask)


def ema_output(y: Tensor, dtype: torch.dtype, mask: Optional[DropoutMask]) -> Tensor:
    """``X' = dropout(silu(y))`` of ``y = EMA(X) + omega X``, in the layer's type."""
    return apply_mask(F.silu(y).to(dtype), mask)


def queries_and_keys(z: Tensor, gamma: Tensor, beta: Tensor) -> Tuple[Tensor, Tensor]:
    """``Q = gamma_0 z + beta_0`` and ``K = gamma_1 z + beta_1`` of ``z = silu(z)``.

    Args:
        z: ``(B, L, Z)``, before its activation.
        gamma, beta: ``(2, Z)``.

    Returns:
        q and k, ``(B, L, Z)`` each.
    """
    z = F.silu(z)
    q, k = (torch.addcmul(b, z, g) for g, b in zip(gamma, beta))
    return q, k


def reset_gated(o: Tensor, r: Tensor) -> Tensor:
    """``O silu(r)``: the attention's output behind the reset gate, ``(B, L, H)``."""
    return F.silu(r) * o


def gated_update(
    residual: Tensor,
    hx: Optional[Tensor],
    h: Tensor,
    u: Tensor,
    activation: Activation,
    mask: Optional[DropoutMask],
) -> Tensor:
    """``(1 - u) residual + u dropout(activation(hx + h))`` with ``u = sigmoid(u)``: ``(B, L, D)``.

    ``hx`` is what the EMA adds before the activation, None in cross attention. All in the
    residual's type, whatever autocast made of the others.
    """
    new = activated(h if hx is None else hx + h, activation, mask).to(residual.dtype)
    return torch.lerp(residual, new, torch.sigmoid(u).to(residual.dtype))
