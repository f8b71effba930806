"""Sentences of LibreOffice's help pages with their translations, from Debian's packages.

The packages libreoffice-help-en-us, -de, -fr, ... hold the same HTML pages, and a paragraph has the
same id in every language. A paragraph is cut into sentences where both languages have equally many.
The pages are free software under the Mozilla Public License 2.0.
"""

import random
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Optional

from examples.debian import unpack
from examples.steps import SPLITS, PreparationError, write_lines
from examples.translation.corpora import Pair

ENGLISH = "en-us"
PAGES = Path("usr/share/libreoffice/help")  # in a package; below it en-US/text, de/text, ...

TEXTS, IDS = ("p", "h1", "h2", "h3", "h4", "h5", "h6"), re.compile("(par|hd)_id")
HAS_NO_END = ("br", "img", "input", "meta")  # the elements of these pages that are never closed
BETWEEN_SENTENCES = re.compile(r'(?<=[.!?:]) +(?=["„“«(]?[A-ZÀ-Þ])')
WORDS = range(4, 26)
ENDS = (".", "!", "?")
MOST_LONGER = 2.0  # a side has at most so many times the characters of the other,
MOST_COPIED = 0.5  # at most so much of the translation's words stands in the source,
LEAST_LETTERS = 0.75  # and at least so much of a side is letters and spaces


def write_text(language: str, held_out: int, downloads: Path, out: Path) -> None:
    """Fills `out` with the splits; valid and test have `held_out` pairs each, of whole pages."""
    with TemporaryDirectory(dir=out) as folder:
        for name in (ENGLISH, language):
            unpack(f"libreoffice-help-{name}", downloads, Path(folder))
        pages = aligned_pages(*(pages_of(Path(folder), name) for name in (ENGLISH, language)))
        splits = split_by_page(pages, held_out)
    for split, pairs in splits.items():
        write_lines(out, split, ("en", language), pairs)


def pages_of(root: Path, language: str) -> Path:
    """The folder of a language's pages in unpacked packages."""
    for folder in (root / PAGES).iterdir():
        if folder.name.lower() == language:
            return folder / "text"
    raise PreparationError(f"the package libreoffice-help-{language} has no pages in {PAGES}")


class Paragraphs(HTMLParser):
    """The text of a page's paragraphs and headings by their ids, but for lines of programs.

    Of texts that depend on the system, which are hidden until a script shows one, the default is
    read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        self._id: Optional[str] = None
        self._element = ""
        self._text: list[str] = []
        self._open: list[tuple[str, bool]] = []  # elements in the paragraph, whether hidden

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Optional[str]]]) -> None:
        attributes = dict(attrs)
        name = attributes.get("id") or ""
        if self._id is not None:
            if tag in HAS_NO_END:
                self._text.append(" ")
            else:
                hidden = "hidden" in attributes and not name.startswith("default")
                self._open.append((tag, hidden))
        elif tag in TEXTS and IDS.match(name) and "code" not in (attributes.get("class") or ""):
            self._id, self._element, self._text, self._open = name, tag, [], []

    def handle_endtag(self, tag: str) -> None:
        if self._id is not None and tag == self._element:
            self.texts.setdefault(self._id, " ".join("".join(self._text).split()))
            self._id = None
        elif tag in (name for name, _ in self._open):
            while self._open.pop()[0] != tag:
                pass

    def handle_data(self, data: str) -> None:
        if self._id is not None and not any(hidden for _, hidden in self._open):
            self._text.append(data)


def paragraphs(page: Path) -> dict[str, str]:
    parser = Paragraphs()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser.texts


def aligned_pages(english: Path, translated: Path) -> Iterator[list[Pair]]:
    """The pairs of sentences of each page that both languages have."""
    for page in sorted(english.rglob("*.html")):
        other = translated / page.relative_to(english)
        if other.is_file():
            source, target = paragraphs(page), paragraphs(other)
            both = [sentences(source[key], target[key]) for key in source if key in target]
            yield sum(both, [])


def sentences(source: str, target: str) -> list[Pair]:
    """The pairs of sentences of a paragraph, or the whole if the numbers of sentences differ."""
    cut = BETWEEN_SENTENCES.split(source), BETWEEN_SENTENCES.split(target)
    return list(zip(*cut)) if len(cut[0]) == len(cut[1]) else [(source, target)]


def is_clean(pair: Pair) -> bool:
    """Whether both sides are sentences of usual length, and one the translation of the other."""
    source, target = (sentence.split() for sentence in pair)
    shorter, longer = sorted(map(len, pair))
    return (
        len(source) in WORDS
        and len(target) in WORDS
        and all(sentence.endswith(ENDS) for sentence in pair)
        and longer <= MOST_LONGER * shorter
        and sum(word in source for word in target) <= MOST_COPIED * len(target)
        and all(
            sum(c.isalpha() or c == " " for c in text) >= LEAST_LETTERS * len(text) for text in pair
        )
    )


def split_by_page(pages: Iterator[list[Pair]], held_out: int) -> dict[str, list[Pair]]:
    """The clean pairs, each once: random pages fill test, the next ones valid, the rest is train.

    Sentences that train has on either side are left out of valid and test.
    """
    clean, seen = [], set[Pair]()
    for pairs in pages:
        clean.append([x for x in dict.fromkeys(pairs) if x not in seen and is_clean(x)])
        seen.update(clean[-1])
    clean = list(filter(None, clean))
    count = sum(map(len, clean))
    if not 0 < 4 * held_out <= count:
        raise PreparationError(
            f"--held-out {held_out}: must be at least 1, and at most a quarter of the {count:,} "
            f"pairs of sentences"
        )
    random.Random(1).shuffle(clean)
    splits: dict[str, list[Pair]] = {split: [] for split in SPLITS}
    for pairs in clean:
        room = [split for split in ("test", "valid") if len(splits[split]) < held_out]
        splits[room[0] if room else "train"] += pairs
    known = {sentence for pair in splits["train"] for sentence in pair}
    for split in ("valid", "test"):
        new = [pair for pair in splits[split] if known.isdisjoint(pair)]
        splits[split] = new[:held_out]
    return splits
