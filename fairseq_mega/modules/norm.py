"""Normalisation layers behind one name (``--normalization-type``)."""

from typing import Callable, Dict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.torch_internals import BatchNormBase, in_backward_pass
from .checks import check_choice


class ScaleNorm(nn.Module):
    """``g x / sqrt(mean(x^2) + eps)`` with one scalar ``g`` (Nguyen and Salazar, 2019)."""

    def __init__(self, dim: int, eps: float = 1e-5, affine: bool = True):
        super().__init__()
        self.dim, self.eps = dim, eps
        # names fixed by published checkpoints
        self.scalar = nn.Parameter(torch.ones(1)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        x = F.rms_norm(x, (self.dim,), eps=self.eps)
        return x if self.scalar is None else x * self.scalar


class _OverPositions(BatchNormBase):
    """Batch normalisation over all dimensions but the last. Recomputation in a backward pass leaves
    the running statistics alone."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.size(-1))
        if not (self.training and in_backward_pass()):
            return super().forward(rows).view(x.shape)
        momentum, self.momentum = self.momentum, 0.0
        try:
            y = super().forward(rows)
        finally:
            self.momentum = momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.sub_(1)
        return y.view(x.shape)


class BatchNorm(_OverPositions, nn.BatchNorm1d):
    """Statistics over the batch of this worker."""


class SyncBatchNorm(_OverPositions, nn.SyncBatchNorm):
    """``BatchNorm`` with statistics over all workers of a distributed run."""


NORMS: Dict[str, Callable[[int, float, bool], nn.Module]] = {
    "layernorm": lambda dim, eps, affine: nn.LayerNorm(dim, eps, elementwise_affine=affine),
    "scalenorm": ScaleNorm,
    "rmsnorm": lambda dim, eps, affine: nn.RMSNorm(dim, eps, elementwise_affine=affine),
    "batchnorm": lambda dim, eps, affine: BatchNorm(dim, eps, affine=affine),
    "syncbatchnorm": lambda dim, eps, affine: SyncBatchNorm(dim, eps, affine=affine),
}


class SequenceNorm(nn.Module):
    """Normalises the channels of ``(..., D)``; holds the chosen layer as ``norm``."""

    def __init__(self, norm_type: str, dim: int, eps: float = 1e-5, affine: bool = True):
        super().__init__()
        check_choice("norm_type", norm_type, NORMS)
        # names fixed by published checkpoints
        self.norm = NORMS[norm_type](dim, eps, affine)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)
