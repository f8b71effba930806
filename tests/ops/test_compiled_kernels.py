"""All Triton kernels compile for a GPU, on a machine without one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT

pytest.importorskip("triton", reason="the kernels need Triton: pip install triton")

EMA = "coefficients coefficient_gradients block_states join_blocks scan gradients"
GATING = "activated reset_gated gated_update queries_and_keys"


@pytest.mark.cpu_only  # a GPU compiles them in all other tests
def test_the_kernels_compile_for_a_gpu():
    """Kernels compile as they are launched: the interpreter accepts arguments that a kernel does
    not have."""
    program = Path(__file__).with_name("compile_kernels.py")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("TRITON_INTERPRET", None)
    output = subprocess.run(
        [sys.executable, program], env=environment, capture_output=True, text=True, check=True
    ).stdout
    compiled = re.findall(r"^(\w+) (\d+)$", output, re.MULTILINE)
    backward = {f"{name}_backward" for name in GATING.split()}
    assert {name for name, _ in compiled} == {*EMA.split(), *GATING.split(), *backward}
    # In the EMA's, a thread has all states of its channel.
    assert {waits for name, waits in compiled if name in EMA.split()} == {"0"}


def test_the_triton_of_torch_2_6_does_not_know_their_language():
    """The check runs in a new process, because its result is cached."""
    program = """import torch, types
torch.__version__ = torch.torch_version.TorchVersion("2.6.0")
from fairseq_mega.ops import operators
print(operators.runs_kernels(types.SimpleNamespace(is_cuda=True)))"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    output = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert output.split()[-1] == "False"
