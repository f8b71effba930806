"""What the preparations share: steps that are done once, and ends that say what to do.

A step makes a folder. The folder has its name only when it is whole; until then it is NAME.part,
which the next run makes anew. So whatever interrupts a run, the same command goes on with the step
that it was in.
"""

import argparse
import errno
import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Callable

ROOT = Path(__file__).resolve().parents[1]
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class PreparationError(ValueError):
    """Says what is wrong and what to do; there is nothing that a traceback could add."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Waits until no other run writes to the folder: when a run is killed, the processes that it
    has started may go on for a while. They inherit the lock, which is that of the folder itself."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    os.set_inheritable(descriptor, True)
    try:
        with suppress(OSError):  # some network drives have no locks
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"{folder}: waiting for another run, or what is left of one", flush=True)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def once(folder: Path, make: Callable[[Path], None]) -> Path:
    """The folder, which `make` fills under another name unless it is there already."""
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


def write_whole(path: Path, text: str) -> None:
    """Write a small file such that it is never there in part."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def keep_settings(work: Path, settings: dict) -> None:
    """Note the settings that a folder is begun with, and refuse to go on in it with others."""
    work.mkdir(parents=True, exist_ok=True)
    file = work / "settings.json"
    if not file.exists():
        write_whole(file, json.dumps(settings, indent=2))
    before = json.loads(file.read_text(encoding="utf-8"))
    for name in sorted({*before, *settings}):
        if before.get(name) != settings.get(name):
            raise PreparationError(
                f"{work} was begun with {name} {before.get(name)}, not {settings.get(name)}: "
                f"give another --workdir, or delete this one"
            )


def binarise(options: list[str], workers: int, folder: Path) -> None:
    """Run fairseq-preprocess, which writes to `folder`."""
    from fairseq import options as fairseq_options  # takes seconds
    from fairseq_cli import preprocess

    words = [*options, "--destdir", str(folder), "--workers", str(workers)]
    print(f"fairseq-preprocess {' '.join(words)}", flush=True)
    preprocess.main(fairseq_options.get_preprocessing_parser().parse_args(words))


def learn_pieces(model: Path, vocab_size: int, files: list[Path]) -> None:
    """Learn a SentencePiece model, and say so where the text is too short for it."""
    from examples import subword

    try:
        subword.learn(model, vocab_size, files)
    except RuntimeError as error:
        if "vocab" not in str(error).lower():
            raise
        raise PreparationError(
            f"--vocab-size {vocab_size}: SentencePiece cannot learn so many pieces ({error})"
        ) from error


def require(extra: str, *modules: str) -> None:
    """Say now, not hours later, that an optional dependency is missing."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise PreparationError(
            f"{', '.join(missing)} not installed: pip install '.[{extra}]' in {ROOT}"
        )


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def add_common_options(parser: argparse.ArgumentParser, name: str) -> None:
    work = Path("data", name)
    parser.add_argument("--workdir", type=Path, default=work, help=f"where all goes: {work}")
    parser.add_argument(
        "--workers", type=int, default=usable_cores(), help="processes at once (all cores)"
    )


@contextmanager
def plain_ends() -> Iterator[None]:
    """Ends the program with a message where the user can do something about what stopped it."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. The same command goes on with the step that it was in.")
    except PreparationError as error:
        sys.exit(f"\n{error}.")
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        sys.exit(
            f"\nNo space left: {error}. Free some and give the same command again: "
            f"it goes on with the step that it was in."
        )
