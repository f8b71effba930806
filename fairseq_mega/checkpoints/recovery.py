"""Repairs a folder of checkpoints after a training in it was interrupted.

fairseq writes one checkpoint under another name and then renames it, so that it is never there in
part, but copies it to its further names, ``checkpoint_last.pt`` above all. If that is interrupted,
``checkpoint_last.pt`` is truncated, and ``fairseq-train`` fails to load it. The file it was copied
from is intact.
"""

import errno
import re
import shutil
import zipfile
from pathlib import Path
from typing import Optional

from .reading import read_checkpoint
from .writing import replaced_file

LAST = "checkpoint_last.pt"
# Those of epochs, of updates, and the best ones; not parts of a sharded checkpoint.
OTHERS = re.compile(r"checkpoint(\d+|_\d+_\d+|_best|\.best_\w+_-?[\d.]+)\.pt")


def recover(folder: Path) -> str:
    """Replaces a ``checkpoint_last.pt`` that is damaged or missing by the newest intact checkpoint,
    and returns what was done, in words.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ValueError: if it is damaged and no other checkpoint is intact.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder of checkpoints at {folder}")
    last = folder / LAST
    if is_intact(last):
        return f"{last} is intact"
    updates = {
        path: number
        for path in sorted(folder.iterdir())
        if OTHERS.fullmatch(path.name)
        and is_intact(path)
        and (number := number_of_updates(path)) is not None
    }
    if not updates:
        if not last.exists():
            return f"{folder} has no checkpoint: a training begins from the start"
        raise ValueError(
            f"{last} is damaged, and no other checkpoint in {folder} is intact: delete it to "
            "train from the start"
        )
    newest = max(updates, key=lambda path: updates[path])
    with replaced_file(last) as part:
        shutil.copyfile(newest, part)
    return f"{last} is {newest.name} now, of {updates[newest]} updates"


def is_intact(path: Path) -> bool:
    """Tells whether a checkpoint is complete and its checksums are right. Reads all of it."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except FileNotFoundError:
        return False
    except (OSError, MemoryError) as error:
        # It was not read, and may be intact; but EINVAL means a place before the file's beginning.
        if getattr(error, "errno", None) == errno.EINVAL:
            return False
        raise
    except Exception:  # whatever else damaged bytes make zipfile raise
        return False


def number_of_updates(path: Path) -> Optional[int]:
    """Returns after how many updates a checkpoint was written; 0 if it does not say, and None if
    the file is not a checkpoint."""
    try:
        history = read_checkpoint(path).get("optimizer_history") or [{}]
    except ValueError:
        return None
    return history[-1].get("num_updates", 0)
