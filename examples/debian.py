"""Packages of Debian, Ubuntu and their like as sources of text."""

import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from examples.steps import PreparationError


def unpack(name: str, downloads: Path, folder: Path) -> None:
    """Writes the files of a package to a folder.

    The package is the one in `downloads`, or else what apt-get downloads to there.
    """
    missing = [program for program in ("apt-get", "dpkg-deb") if not shutil.which(program)]
    if missing:
        raise PreparationError(
            f"{', '.join(missing)} not found: this data set is made of Debian's packages, on "
            "Debian, Ubuntu and their like"
        )
    if not list(downloads.glob(f"{name}_*.deb")):
        download(name, downloads)
    found = sorted(downloads.glob(f"{name}_*.deb"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "no file of that name"
        raise PreparationError(f"{downloads} has {names}: one file {name}_VERSION.deb is needed")
    print(f"{found[0].name}", flush=True)
    if subprocess.run(["dpkg-deb", "--extract", found[0], folder]).returncode:
        raise PreparationError(
            f"{found[0]} is damaged: delete it, and give the same command again for a new download"
        )


def download(name: str, downloads: Path) -> None:
    downloads.mkdir(parents=True, exist_ok=True)
    # In a folder of its own, because apt-get leaves an incomplete file where it is interrupted.
    with TemporaryDirectory(dir=downloads, prefix="part.") as folder:
        if subprocess.run(["apt-get", "download", name], cwd=folder).returncode:
            raise PreparationError(
                f"apt-get download {name} failed: see above, try apt-get update, or put the "
                f"package of another Debian or Ubuntu into {downloads}; apt-cache search tells "
                "what packages are called"
            )
        for file in Path(folder).glob("*.deb"):
            file.rename(downloads / file.name)
