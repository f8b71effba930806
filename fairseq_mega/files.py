"""Files that are never there in part, whatever interrupts the writing."""

import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """A file under another name beside ``path``, which takes its place when it is whole."""
    part = part_of(path)
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def part_of(path: Path) -> Path:
    """A name beside ``path`` that no other process uses."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
