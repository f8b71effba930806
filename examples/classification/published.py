"""The data that the Mega authors published: archives, unpacked into the folders that tasks read."""

from pathlib import Path
from typing import Dict, Set

from examples.classification.layouts import SPLITS
from examples.classification.speech import STEMS
from examples.classification.unpacking import matching
from examples.download import Remote, check_complete, fetch, unpack

FILES = "https://dl.fbaipublicfiles.com/mega/data"
LRA = Remote("MEGA_LRA", f"{FILES}/lra.zip")
SPEECH = Remote("MEGA_SPEECH_COMMANDS", f"{FILES}/speech_commands.zip")

BINARISED = r"(?:src|src1|label)-bin/(?:(?:train|valid|test)\.(?:bin|idx)|dict\.txt)"
LINES = r"input/(?:train|valid|test)\.src|label/(?:train|valid|test)\.label"
TENSORS = r"raw(?:_all_classes)?/(?:train|val|test)_[Xy]\.pt"


def binarised(*folders: str) -> Set[str]:
    """The files of fairseq-preprocess in these folders."""
    names = ["dict.txt", *(f"{split}.{end}" for split in SPLITS for end in ("bin", "idx"))]
    return {f"{folder}/{name}" for folder in folders for name in names}


IMAGES = {f"{part}/{split}.{end}" for part, end in (("input", "src"), ("label", "label"))
          for split in SPLITS}  # fmt: skip
NEEDED: Dict[str, Set[str]] = {
    "listops": binarised("src-bin", "label-bin"),
    "imdb-4000": binarised("src-bin", "label-bin"),
    "aan": binarised("src-bin", "src1-bin", "label-bin"),
    "cifar10": IMAGES,
    "pathfinder": IMAGES,
    "path-x": IMAGES,
}


def arena(task: str, downloads: Path, out: Path) -> None:
    """One of the tasks in lra.zip."""
    archive = fetch(LRA, downloads)
    done = unpack(archive, matching(rf"(?:.*/)?{task}/({BINARISED}|{LINES})"), out)
    check_complete(archive, {f"{task}/{path}" for path in done}, needed_of(task))


def needed_of(task: str) -> Set[str]:
    return {f"{task}/{path}" for path in NEEDED[task]}


def speech_commands(downloads: Path, out: Path) -> None:
    """The tensors in speech_commands.zip."""
    archive = fetch(SPEECH, downloads)
    done = unpack(archive, matching(rf"(?:.*/)?({TENSORS})"), out)
    check_complete(archive, done, {f"raw/{stem}_{x}.pt" for stem in STEMS.values() for x in "Xy"})
