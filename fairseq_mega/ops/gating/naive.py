"""The formulas between projections, as the paper prints them."""

from typing import Callable, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

Elementwise = Callable[[Tensor], Tensor]


def activated(x: Tensor, activation: Elementwise, dropout: Elementwise) -> Tensor:
    """``dropout(activation(x))``."""
    return dropout(activation(x))


def ema_output(y: Tensor, dtype: torch.dtype, dropout: Elementwise) -> Tensor:
    """``X' = dropout(silu(y))`` of ``y = EMA(X) + omega X``, in the type of the layer."""
    return dropout(F.silu(y).to(dtype))


def split(x: Tensor, sizes: Sequence[int]) -> Sequence[Tensor]:
    """``u, z, r, hx`` of ``x (B, L, D + Z + H + D)``."""
    return x.split(sizes, dim=-1)


def queries_and_keys(z: Tensor, gamma: Tensor, beta: Tensor) -> Tuple[Tensor, Tensor]:
    """``Q = gamma_0 z + beta_0`` and ``K = gamma_1 z + beta_1`` of ``z = silu(z)``.

    Args:
        z: ``(B, L, Z)``, before its activation.
        gamma, beta: ``(2, Z)``.

    Returns:
        q and k, ``(B, L, Z)`` each.
    """
    q, k = torch.addcmul(beta, F.silu(z).unsqueeze(2), gamma).unbind(2)  # of (B, L, 2, Z)
    return q, k


def reset_gated(o: Tensor, r: Tensor) -> Tensor:
    """``O silu(r)``: the attention's output after the reset gate, ``(B, L, H)``."""
    return F.silu(r) * o


def gated_update(
    residual: Tensor,
    hx: Optional[Tensor],
    h: Tensor,
    u: Tensor,
    activation: Elementwise,
    dropout: Elementwise,
) -> Tensor:
    """``(1 - u) residual + u dropout(activation(hx + h))`` with ``u = sigmoid(u)``: ``(B, L, D)``.

    ``hx`` is the EMA's share, None in cross attention. The result has the residual's type.
    """
    new = dropout(activation(h if hx is None else hx + h)).to(residual.dtype)
    return torch.lerp(residual, new, torch.sigmoid(u).to(residual.dtype))
