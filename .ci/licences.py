"""The tables of docs/dependencies.md: what is installed, why, and under which licence.

    python .ci/licences.py

writes them between the document's two marks, from the metadata of what is installed.
"""

import re
import runpy
from importlib.metadata import distribution
from pathlib import Path
from unittest import mock

import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs/dependencies.md"
APART = {"torchaudio", "triton"}  # not in every environment: the document's text names them
START, END = "<!-- by .ci/licences.py -->\n", "<!-- end -->\n"


def settings():
    """The arguments of setup.py's setup()."""
    with (
        mock.patch.object(setuptools, "setup") as setup,
        mock.patch.object(setuptools, "find_packages"),
    ):
        runpy.run_path(str(ROOT / "setup.py"))
    return setup.call_args.kwargs


def name_of(requirement):
    return canonicalize_name(Requirement(requirement).name)


def direct():
    """The packages that setup.py names, and the extras that do; none for what all installs have."""
    given = settings()
    found = {name_of(each): [] for each in given["install_requires"]}
    for extra, requirements in given["extras_require"].items():
        for name in map(name_of, requirements):
            if found.setdefault(name, [extra]) and extra not in found[name]:
                found[name].append(extra)
    return found


def pinned():
    """The packages of constraints.txt, by their versions."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = (line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pins}


def licence(package):
    """As the package itself says: as an expression, a few words, or a class of PyPI's."""
    metadata = distribution(package).metadata
    if metadata["License-Expression"]:
        return metadata["License-Expression"]
    words = metadata["License"] or ""
    if words and len(words) < 40 and not words.startswith("Copyright"):
        return words
    classes = [each for each in metadata.get_all("Classifier") if each.startswith("License ::")]
    return ", ".join(each.split(" :: ")[-1] for each in classes)


def tables():
    """The direct dependencies as a table, and all others as a list."""
    named = direct()
    rows = ["| package | for | licence |", "|---|---|---|"]
    for name, extras in sorted(named.items()):
        if name in APART:
            continue
        why = ", ".join(f"`{extra}`" for extra in extras) or "all installs"
        rows.append(f"| {name} | {why} | {licence(name)} |")
    others = [f"- {name}: {licence(name)}" for name in sorted(set(pinned()) - set(named) - APART)]
    return "\n".join([*rows, "", "What these need in turn:", "", *others]) + "\n"


def main():
    before, rest = DOCUMENT.read_text().split(START)
    after = re.split(re.escape(END), rest)[1]
    DOCUMENT.write_text(before + START + tables() + END + after)


if __name__ == "__main__":
    main()
