"""Fixtures shared by all tests."""

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def parity():
    """The folder of numbers computed by the published implementation."""
    return Path(__file__).parent / "parity"
