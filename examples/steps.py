"""Steps that are done once, and errors that say what to do, for all preparations.

A step makes a folder. Until the folder is complete it is called NAME.part, which the next run
deletes. So whatever interrupts a run, the same command continues with the step that it was in.
"""

import argparse
import errno
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Callable

from filelock import FileLock, Timeout

ROOT = Path(__file__).resolve().parents[1]
SPLITS = ("train", "valid", "test")
logging.getLogger("filelock").setLevel(logging.WARNING)  # fairseq sets the root to DEBUG
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class PreparationError(ValueError):
    """Says what is wrong and what to do, so that no traceback is needed."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder, so that no other run writes to it."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise PreparationError(
            f"another run writes to {folder}: wait for its end, or give another --workdir"
        ) from error


@contextmanager
def plain_ends() -> Iterator[None]:
    """Ends the program with a message where the user can do something about what stopped it."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. The same command continues with the step that it was in.")
    except PreparationError as error:
        sys.exit(f"\n{error}.")
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        sys.exit(
            f"\nNo space left: {error}. Free some and give the same command again: "
            f"it continues with the step that it was in."
        )


@contextmanager
def preparing(args: argparse.Namespace) -> Iterator[None]:
    """Works in --workdir alone, and only with the options with which that folder was begun."""
    with plain_ends(), alone(args.workdir):
        ignored = ("workdir", "workers", "tasks", "prepare")
        settings = {name: str(v) for name, v in vars(args).items() if name not in ignored}
        keep_settings(args.workdir, settings)
        yield


def keep_settings(work: Path, settings: dict[str, str]) -> None:
    """Notes the settings of a new folder; raises PreparationError if it was begun with others."""
    file = work / "settings.json"
    if not file.exists():
        write_complete(file, json.dumps(settings, indent=2))
    before = json.loads(file.read_text(encoding="utf-8"))
    for name in sorted({*before, *settings}):
        if before.get(name) != settings.get(name):
            raise PreparationError(
                f"{work} was begun with {name} {before.get(name)}, not {settings.get(name)}: "
                f"give another --workdir, or delete this one"
            )


def write_complete(path: Path, text: str) -> None:
    """Writes a small file such that it never exists in part."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def once(folder: Path, make: Callable[[Path], object]) -> Path:
    """Returns the folder, which `make` fills under another name unless it exists already."""
    if folder.exists():
        print(f"{folder}: done before", flush=True)
        return folder
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    make(part)
    part.rename(folder)
    print(f"{folder}: done", flush=True)
    return folder


def write_lines(folder: Path, split: str, endings: Sequence[str], rows: Iterable[tuple]) -> None:
    """Writes each column of the rows to SPLIT.ENDING, and prints the number of rows."""
    count = 0
    with ExitStack() as stack:
        paths = [folder / f"{split}.{ending}" for ending in endings]
        files = [stack.enter_context(x.open("w", encoding="utf-8", newline="\n")) for x in paths]
        for row in rows:
            count += 1
            for file, text in zip(files, row):
                file.write(f"{text}\n")
    if not count:
        raise PreparationError(f"there is nothing for {split}: look at where it comes from")
    print(f"{split}: {count:,} lines", flush=True)


def binarise(
    options: list[str], prefix: str, workers: int, folder: Path, tests: Sequence[str] = ("test",)
) -> None:
    """Runs fairseq-preprocess, which writes to `folder`; {} in `prefix` stands for a split, and for
    each of the `tests`."""
    from fairseq import options as fairseq_options  # takes seconds
    from fairseq_cli import preprocess

    words = [*options, "--destdir", str(folder), "--workers", str(workers)]
    for split in SPLITS:
        names = tests if split == "test" else [split]
        words += [f"--{split}pref", ",".join(map(prefix.format, names))]
    print(f"fairseq-preprocess {' '.join(words)}", flush=True)
    preprocess.main(fairseq_options.get_preprocessing_parser().parse_args(words))


def require(extra: str, *modules: str) -> None:
    """Raises PreparationError now, not hours later, where an optional dependency is missing."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise PreparationError(
            f"{', '.join(missing)} not installed: pip install '.[{extra}]' in {ROOT}"
        )


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def add_common_options(parser: argparse.ArgumentParser, name: str) -> None:
    work = Path("data", name)
    parser.add_argument("--workdir", type=Path, default=work, help=f"where all goes ({work})")
    help = "processes at once (all cores)"
    parser.add_argument("--workers", type=int, default=usable_cores(), help=help)
