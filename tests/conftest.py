"""Fixtures shared by all tests. Putting this file here also makes `reference` and `helpers`
importable from every test folder."""

from pathlib import Path

import pytest
import torch

PARITY = Path(__file__).resolve().parents[2] / "shared" / "parity"

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def parity():
    """The folder of numbers computed by the published implementation, beside the repository."""
    if not PARITY.is_dir():
        pytest.skip(f"the parity data is not at {PARITY}")
    return PARITY
