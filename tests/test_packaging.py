"""What setup.py promises is what continuous integration installs and tests."""

import re
import runpy
from unittest import mock

from commands import ROOT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

with mock.patch("setuptools.setup") as setup:
    runpy.run_path(str(ROOT / "setup.py"))
PROMISED = setup.call_args.kwargs
PINS = re.findall(r"^([^#\s]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
PINNED = {canonicalize_name(name): version for name, version in PINS}


def test_every_requirement_is_pinned_for_the_tests():
    for words in [*PROMISED["install_requires"], *sum(PROMISED["extras_require"].values(), [])]:
        requirement = Requirement(words)
        assert requirement.marker is None, f"{words}: tested on no other Python"
        assert requirement.specifier.contains(PINNED[canonicalize_name(requirement.name)]), words


def test_every_pin_but_those_that_the_document_names_has_a_hash():
    text = (ROOT / ".ci/requirements.txt").read_text()
    hashed = re.findall(r"^(\S+)==(\S+) \\\n    --hash=sha256:[0-9a-f]{64}", text, re.MULTILINE)
    without = {name: PINNED[name] for name in ("torch", "triton")}
    assert {canonicalize_name(name): version for name, version in hashed} | without == PINNED


def test_pythons_that_fairseq_does_not_install_on_are_not_promised():
    pythons = SpecifierSet(PROMISED["python_requires"])
    assert [v for v in range(6, 15) if pythons.contains(f"3.{v}")] == [11, 12]
    assert 'target-version = "py311"' in (ROOT / "pyproject.toml").read_text()
