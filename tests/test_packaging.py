"""What setup.py promises is what continuous integration installs and tests."""

import re
import runpy
from itertools import product
from unittest import mock

import pytest
from commands import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

with mock.patch("setuptools.setup") as setup:
    runpy.run_path(str(ROOT / "setup.py"))
PROMISED = setup.call_args.kwargs
PINS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if not line.startswith("#")
]


def pinned(python):
    """The version of each package with this Python, as CI's machine has it."""
    environment = {"python_version": python, "platform_system": "Linux"}
    return {
        canonicalize_name(pin.name): str(pin.specifier).removeprefix("==")
        for pin in PINS
        if pin.marker is None or pin.marker.evaluate(environment)
    }


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_every_requirement_is_pinned_for_the_tests(python):
    versions = pinned(python)
    environment = {"python_version": python, "platform_machine": "x86_64"}
    for words in [*PROMISED["install_requires"], *sum(PROMISED["extras_require"].values(), [])]:
        requirement = Requirement(words)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)])


def test_every_pin_but_those_that_the_document_names_has_a_hash():
    text = (ROOT / ".ci/requirements.txt").read_text()
    hashed = re.findall(r"^(\S+)==(\S+) .*\\\n    --hash=sha256:[0-9a-f]{64}", text, re.MULTILINE)
    versions = pinned("3.11")
    without = {name: versions[name] for name in ("torch", "triton")}
    assert {canonicalize_name(name): version for name, version in hashed} | without == versions


@pytest.mark.parametrize("python, machine", product(("3.11", "3.12", "3.13"), ("x86_64", "arm64")))
def test_one_build_of_fairseq_is_required_everywhere(python, machine):
    environment = {"python_version": python, "platform_machine": machine}
    builds = [
        requirement.name
        for requirement in map(Requirement, PROMISED["install_requires"])
        if "fairseq" in requirement.name and requirement.marker.evaluate(environment)
    ]
    wheels = machine == "x86_64" and python != "3.13"
    assert builds == ["ve-fairseq" if wheels else "fairseq-fixed"]
