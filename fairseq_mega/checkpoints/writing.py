"""The atomic writer: a file or folder has its name only when it is complete, even if writing is
interrupted."""

import os
import shutil
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Yields a temporary name next to ``path``; the file written there then replaces ``path``."""
    part = _part_of(path)
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Like ``replaced_file``, but ``path`` must not exist."""
    check_new(path)
    with replaced_file(path) as part:
        yield part


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Like ``new_file``, for a folder."""
    check_new(path)
    part = _part_of(path)
    part.mkdir()
    try:
        yield part
        part.rename(path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def check_new(path: Path) -> None:
    """
    Raises:
        FileExistsError: if ``path`` exists.
        FileNotFoundError: if the folder for it does not.
    """
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists: give another name, or delete it")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} does not exist: create it, or give another name")


def _part_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
