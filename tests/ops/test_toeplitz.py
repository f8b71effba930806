"""The gradient that a GPU computes for Toeplitz matrices is that of torch's own backward pass."""

import pytest
import torch
from helpers import assert_close, randn

from fairseq_mega.ops.toeplitz import diagonal_sums, toeplitz_matrix

SHAPES = [(1, 1), (1, 4), (4, 1), (3, 5), (2, 5, 3), (2, 3, 4, 4)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_diagonal_sums_are_the_gradient(shape):
    *batch, rows, columns = shape
    grad = randn(*shape)
    diagonals = randn(*batch, rows + columns - 1).requires_grad_()
    (expected,) = torch.autograd.grad(toeplitz_matrix(diagonals, columns), diagonals, grad)
    assert_close(diagonal_sums(grad), expected)
