"""Manuals in plain text, of the Debian packages that carry the sources of their pages.

python3.11-doc has the documentation of Python, eleven million characters, free under the license of
Python; linux-doc-6.1 that of the Linux kernel, under the GNU General Public License. Their pages
are written in reStructuredText, which is text with few marks, and kept beside the HTML.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from examples.debian import unpack
from examples.steps import SPLITS, PreparationError

SOURCES = "*.rst.txt"
HELD_OUT = 0.03  # share of the characters in valid, and in test


def write_text(name: str, downloads: Path, out: Path) -> None:
    """Fills `out` with train, valid and test: whole pages in random order, then an empty line."""
    with TemporaryDirectory(dir=out) as folder:
        unpack(name, downloads, Path(folder))
        pages = list(pages_of(Path(folder)))
    splits = split_by_page(pages)
    if not all(splits.values()):
        raise PreparationError(
            f"the package {name} has {len(pages)} pages named {SOURCES}, too few or too long to "
            f"hold {HELD_OUT:.0%} of the text out: give another --package, such as python3.11-doc "
            "or linux-doc-6.1"
        )
    for split, text in splits.items():
        (out / split).write_text("".join(text), encoding="utf-8", newline="\n")
        print(f"{split}: {len(text):,} pages, {sum(map(len, text)):,} characters", flush=True)


def pages_of(root: Path) -> Iterator[str]:
    """The different pages below a folder, without empty lines but one at the end of each."""
    seen = {""}
    for path in sorted(root.rglob(SOURCES)):
        text = path.read_text(encoding="utf-8", errors="replace")
        page = "".join(f"{line.rstrip()}\n" for line in text.split("\n") if line.strip())
        if page not in seen:
            seen.add(page)
            yield f"{page}\n"


def split_by_page(pages: list[str]) -> dict[str, list[str]]:
    """Random pages fill test, the next ones valid, until they have their share of the characters;
    pages that alone have more than it are for training."""
    room = HELD_OUT * sum(map(len, pages))
    random.Random(1).shuffle(pages)
    splits: dict[str, list[str]] = {split: [] for split in SPLITS}
    for page in pages:
        unfilled = [name for name in ("test", "valid") if sum(map(len, splits[name])) < room]
        splits[unfilled[0] if unfilled and len(page) <= room else "train"].append(page)
    return splits
