"""What setup.py promises is what continuous integration installs and tests."""

import re
import runpy
from types import SimpleNamespace

from commands import ROOT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

LICENCES = SimpleNamespace(**runpy.run_path(str(ROOT / ".ci/licences.py")))


def test_every_requirement_is_pinned_for_the_tests():
    pinned, promised = LICENCES.pinned(), LICENCES.settings()
    for words in [*promised["install_requires"], *sum(promised["extras_require"].values(), [])]:
        requirement = Requirement(words)
        assert requirement.marker is None, f"{words}: tested on no other Python"
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), words


def test_every_pin_but_those_that_the_document_names_has_a_hash():
    text = (ROOT / ".ci/requirements.txt").read_text()
    hashed = re.findall(r"^(\S+)==(\S+) \\\n    --hash=sha256:[0-9a-f]{64}", text, re.MULTILINE)
    pinned = LICENCES.pinned()
    for name in ("torch", "triton"):
        del pinned[name]
    assert {canonicalize_name(name): version for name, version in hashed} == pinned


def test_the_documents_list_every_dependency_with_its_licence():
    """Another list is that of other pins, or of other requirements: `make dependencies`."""
    document = LICENCES.DOCUMENT.read_text().partition(LICENCES.START)[2]
    assert document.partition(LICENCES.END)[0] == LICENCES.tables()
    assert not any(line.endswith((": ", "|  |")) for line in document.splitlines())


def test_pythons_that_fairseq_does_not_install_on_are_not_promised():
    pythons = SpecifierSet(LICENCES.settings()["python_requires"])
    assert [v for v in range(6, 15) if pythons.contains(f"3.{v}")] == [11, 12]
    assert 'target-version = "py311"' in (ROOT / "pyproject.toml").read_text()
