"""Links, functions and tests that documents name exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *(path for folder in ("docs", "examples", "tests") for path in (ROOT / folder).rglob("*.md")),
]
documents = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def anchors(text):
    """Anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@documents
def test_links_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    for link in links:
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


@documents
def test_functions_that_are_named_are_defined(path):
    """Documents write `file.py:function`, below `fairseq_mega/`."""
    for file, name in re.findall(r"`([\w/]+\.py):(\w+)`", path.read_text()):
        tree = ast.parse((ROOT / "fairseq_mega" / file).read_text())
        defined = {getattr(node, "name", None) for node in ast.walk(tree)}
        assert name in defined, f"{file}:{name}"


def test_the_table_of_promises_names_tests():
    text = (ROOT / "tests/README.md").read_text()
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", text)
    assert len(named) > 50
    for file, name in named:
        tree = ast.parse((ROOT / "tests" / file).read_text())
        assert name in {getattr(node, "name", None) for node in tree.body}, f"{file}::{name}"
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"`make ([\w-]+)`", text)) <= set(targets)
