"""Matrices whose entries depend on the distance of column and row alone."""

import torch
from torch import Tensor


def toeplitz(diagonals: Tensor, rows: int, columns: int) -> Tensor:
    """The matrix ``M[i, j] = diagonals[rows - 1 + j - i]``.

    Args:
        diagonals: ``(..., rows + columns - 1)``, from the lower left corner to the upper right.

    Returns:
        ``(..., rows, columns)``.
    """
    if torch.compiler.is_compiling():
        return diagonals.unfold(-1, columns, 1).flip(-2)
    return _Toeplitz.apply(diagonals, rows, columns)


class _Toeplitz(torch.autograd.Function):
    """Its backward pass sums along diagonals: several times as fast as that of ``unfold``."""

    @staticmethod
    def forward(ctx, diagonals: Tensor, rows: int, columns: int) -> Tensor:
        return diagonals.unfold(-1, columns, 1).flip(-2)

    @staticmethod
    def backward(ctx, grad: Tensor):
        rows, columns = grad.shape[-2:]
        # Rows are laid out at a distance that leaves zeros between them. Read at a distance that is
        # one longer, each starts one diagonal further on, and diagonals have become columns.
        diagonals = distance = rows + columns - 1
        matrices = grad.reshape(-1, rows, columns)
        space = grad.new_zeros(len(matrices), rows - 1 + rows * distance)
        placed = space[:, rows - 1 :].unflatten(1, (rows, distance))
        placed[..., :columns] = matrices
        read = (space.size(1), distance + 1, 1)
        summed = space.as_strided((len(matrices), rows, diagonals), read).sum(1)
        return summed.view(*grad.shape[:-2], diagonals), None, None
