"""The formulas between projections (Mega, section "Moving Average Equipped Gated Attention").

The paper's kappa and mu are gamma and beta here, its gates gamma and phi are r and u.
"""

from types import SimpleNamespace
from typing import Sequence

import torch
from torch import Tensor

from .. import operators
from ..recompute import is_large, recomputed
from . import fused, naive

recomputed_update = recomputed(naive.gated_update)


def split(x: Tensor, sizes: Sequence[int]) -> Sequence[Tensor]:
    """``naive.split``, as copies if ``x`` is large: each is freed after its last use."""
    parts = naive.split(x, sizes)
    if torch.compiler.is_compiling() or not (torch.is_grad_enabled() and is_large(x)):
        return parts
    return [part.contiguous() for part in parts]


def gated_update(residual, hx, h, u, activation, dropout) -> Tensor:
    """``naive.gated_update``, which keeps ``hx + h`` for the backward pass instead of both."""
    h = h if hx is None else hx + h
    return recomputed_update(residual, None, h, u, activation, dropout)


plain = SimpleNamespace(**{**vars(naive), "split": split, "gated_update": gated_update})


def formulas(x: Tensor, plain_silu: bool):
    """The formulas that a layer uses in one pass: ``plain``, or on a GPU ``fused``.

    Steps of generation are plain, because launching a Triton kernel takes the host longer than
    launching torch's few kernels. Compilers fuse the plain formulas themselves.
    The kernels know ``plain_silu`` layers: with ``silu``, and dropout of single values.
    """
    if not plain_silu or not operators.runs_kernels(x) or torch.compiler.is_compiling():
        return plain
    return fused if x.size(1) > 1 or torch.is_grad_enabled() else plain
