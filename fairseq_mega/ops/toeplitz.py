"""Matrices whose entries depend on the distance of column and row alone."""

from torch import Tensor


def toeplitz(diagonals: Tensor, rows: int, columns: int) -> Tensor:
    """The matrix ``M[i, j] = diagonals[rows - 1 + j - i]``.

    Args:
        diagonals: ``(..., rows + columns - 1)``, from the lower left corner to the upper right.

    Returns:
        ``(..., rows, columns)``.
    """
    return diagonals.unfold(-1, columns, 1).flip(-2)
