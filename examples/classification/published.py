"""The data that the Mega authors published: archives, unpacked into the folders that tasks read."""

import re
from pathlib import Path
from typing import Dict, Set

from examples.classification.speech import STEMS
from examples.download import Remote, fetch, unpack
from examples.steps import SPLITS

FILES = "https://dl.fbaipublicfiles.com/mega/data"
LRA = Remote("MEGA_LRA", f"{FILES}/lra.zip")
SPEECH = Remote("MEGA_SPEECH_COMMANDS", f"{FILES}/speech_commands.zip")


def binarised(*folders: str) -> Set[str]:
    """The files of fairseq-preprocess in these folders."""
    names = ["dict.txt", *(f"{split}.{end}" for split in SPLITS for end in ("bin", "idx"))]
    return {f"{folder}/{name}" for folder in folders for name in names}


IMAGES = {f"input/{split}.src" for split in SPLITS} | {f"label/{split}.label" for split in SPLITS}
TENSORS = {f"raw/{stem}_{x}.pt" for stem in STEMS.values() for x in "Xy"}
NEEDED: Dict[str, Set[str]] = {
    "listops": binarised("src-bin", "label-bin"),
    "imdb-4000": binarised("src-bin", "label-bin"),
    "aan": binarised("src-bin", "src1-bin", "label-bin"),
    "cifar10": IMAGES,
    "pathfinder": IMAGES,
    "path-x": IMAGES,
}


def arena(task: str, downloads: Path, out: Path) -> None:
    """Writes the files of one of the tasks in lra.zip."""
    unpack_needed(fetch(LRA, downloads), f"{task}/", NEEDED[task], out)


def speech_commands(downloads: Path, out: Path) -> None:
    """Writes the tensors in speech_commands.zip."""
    unpack_needed(fetch(SPEECH, downloads), "", TENSORS, out)


def unpack_needed(archive: Path, folder: str, needed: Set[str], out: Path) -> None:
    pattern = rf"(?:.*/)?{folder}({'|'.join(map(re.escape, needed))})"
    unpack(archive, pattern, out, needed)
