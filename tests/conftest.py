"""Fixtures shared by all tests."""

import os
import resource
from contextlib import contextmanager
from pathlib import Path

import commands
import pytest
import torch

torch.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="where the tests that can run: cpu, cuda")


def pytest_configure(config):
    device = torch.device(config.getoption("--device"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise pytest.UsageError(
            f"--device {device}: this torch ({torch.__version__}) sees no GPU. "
            "Leave the option out to test on the CPU."
        )
    if device.type == "cuda":
        commands.WHERE.clear()
    else:
        # Triton's kernels by its interpreter, which must be asked for before they are loaded.
        os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def device(pytestconfig):
    """Where tests put their tensors: `--device`, or `make test DEVICE=cuda`."""
    return torch.device(pytestconfig.getoption("--device"))


@pytest.fixture(autouse=True)
def tensors_on_the_device(request, device):
    """Tests of operations, modules and models make all of their tensors there."""
    folder = request.path.parent.name
    if device.type == "cpu" or folder not in ("ops", "modules", "models"):
        yield
        return
    if request.node.get_closest_marker("cpu_only"):
        pytest.skip("of the CPU alone")
    with torch.device(device):
        yield


@pytest.fixture
def recomputing(monkeypatch):
    """Recomputes small tensors, too."""
    for name in ("LEAST_ON_CPU", "LEAST_ON_GPU"):
        monkeypatch.setattr(f"fairseq_mega.ops.recompute.{name}", 0)


@pytest.fixture(scope="session")
def parity():
    """The folder of values computed by the published implementation."""
    return Path(__file__).parent / "parity"


@pytest.fixture
def full_disk():
    """A context in which files of more than 1,000 bytes cannot be written.

    It ends before the test does: pytest's own output may go to a longer file.
    """

    @contextmanager
    def full():
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return full
