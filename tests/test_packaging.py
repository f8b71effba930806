"""What setup.py promises is what continuous integration installs and tests."""

import runpy

import setuptools
from commands import ROOT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name


def settings(monkeypatch):
    """The arguments of setup.py's setup()."""
    given = {}
    monkeypatch.setattr(setuptools, "setup", lambda **settings: given.update(settings))
    monkeypatch.setattr(setuptools, "find_packages", lambda **_: [])
    runpy.run_path(str(ROOT / "setup.py"))
    return given


def test_every_requirement_is_pinned_for_the_tests(monkeypatch):
    pinned = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines()[1:]
    )
    pinned = {canonicalize_name(name): version for name, version in pinned.items()}
    promised = settings(monkeypatch)
    for words in [*promised["install_requires"], *sum(promised["extras_require"].values(), [])]:
        requirement = Requirement(words)
        assert requirement.marker is None, f"{words}: tested on no other Python"
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), words


def test_pythons_that_fairseq_does_not_install_on_are_not_promised(monkeypatch):
    pythons = SpecifierSet(settings(monkeypatch)["python_requires"])
    assert [v for v in range(6, 15) if pythons.contains(f"3.{v}")] == [11, 12]
    assert 'target-version = "py311"' in (ROOT / "pyproject.toml").read_text()
