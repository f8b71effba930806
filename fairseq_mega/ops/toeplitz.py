"""Toeplitz matrices: entries depend only on the distance of column and row."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def toeplitz(diagonals: Tensor, rows: int, columns: int) -> Tensor:
    """The matrices ``M[i, j] = diagonals[rows - 1 + j - i]``, ``(..., rows, columns)``.

    ``diagonals (..., rows + columns - 1)`` run from the lower left corner to the upper right. The
    last ones may be missing: they are minus infinity.
    """
    missing = rows + columns - 1 - diagonals.size(-1)
    if missing:
        diagonals = F.pad(diagonals, (0, missing), value=-math.inf)
    if torch.compiler.is_compiling():  # `unfold` would need a graph for each length
        i, j = (torch.arange(n, device=diagonals.device) for n in (rows, columns))
        return diagonals[..., rows - 1 + j - i.unsqueeze(1)]
    if diagonals.is_cpu:
        return toeplitz_matrix(diagonals, columns)
    return _Toeplitz.apply(diagonals, columns)  # on a GPU, one thread would sum a whole diagonal


def toeplitz_matrix(diagonals: Tensor, columns: int) -> Tensor:
    """``toeplitz`` of all diagonals, with torch's backward pass."""
    return diagonals.unfold(-1, columns, 1).flip(-2)


def diagonal_sums(matrix: Tensor) -> Tensor:
    """The gradient of ``toeplitz``: sums along the diagonals of ``(..., rows, columns)``."""
    rows, columns = matrix.shape[-2:]
    # Rows are written with zeros between them. Read at a distance that is one longer, each row
    # starts one diagonal later: diagonals become columns.
    diagonals = distance = rows + columns - 1
    matrices = matrix.reshape(-1, rows, columns)
    size = rows - 1 + rows * distance
    space = matrix.new_zeros(len(matrices), size)
    space.as_strided(matrices.shape, (size, distance, 1), rows - 1).copy_(matrices)
    read = space.as_strided((len(matrices), rows, diagonals), (size, distance + 1, 1))
    return read.sum(1).view(*matrix.shape[:-2], diagonals)


class _Toeplitz(torch.autograd.Function):
    @staticmethod
    def forward(ctx, diagonals: Tensor, columns: int) -> Tensor:
        return toeplitz_matrix(diagonals, columns)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        return diagonal_sums(grad), None
