"""Archives of folders, of which only known places are filled."""

import re
import shutil
from pathlib import Path
from typing import Callable, Optional, Set

from examples.download import BLOCK, DAMAGE, Bounded, Room, members
from examples.steps import PreparationError

Place = Callable[[str], Optional[str]]  # where a path of the archive goes, or None: nowhere


def matching(pattern: str) -> Place:
    """What the group of the pattern matches in the path. It must not match .. or a leading /."""
    compiled = re.compile(pattern)

    def place(path: str) -> Optional[str]:
        found = compiled.fullmatch(path)
        return found[1] if found else None

    return place


def unpack(archive: Path, place: Place, folder: Path) -> Set[str]:
    """Writes the files of an archive that `place` gives a place in `folder`, and returns these.

    Raises:
        PreparationError: where the archive is damaged, or far more comes out of it than can be.
    """
    done, room = set(), Room(archive)
    try:
        for path, open_member in members(archive):
            where = place(path)
            if where is None or where in done:
                continue
            target = folder / where
            target.parent.mkdir(parents=True, exist_ok=True)
            with open_member() as source, target.open("wb") as file:
                shutil.copyfileobj(Bounded(source, room), file, BLOCK)
            done.add(where)
    except PreparationError:
        raise
    except DAMAGE as error:
        raise PreparationError(
            f"{archive} is damaged ({error}): delete it to download it again"
        ) from error
    return done


def check_complete(archive: Path, done: Set[str], needed: Set[str]) -> None:
    """
    Raises:
        PreparationError: where a file is missing; names up to three.
    """
    missing = sorted(needed - done)
    if missing:
        raise PreparationError(
            f"{archive} has no {', '.join(missing[:3])}: it is not the file that it should be; "
            "delete it, and check where it comes from"
        )
