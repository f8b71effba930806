"""Packages of Debian, Ubuntu and their like as sources of text."""

import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from examples.steps import PreparationError


def package(name: str, downloads: Path) -> Path:
    """The file of a package: one in `downloads`, or else what apt-get downloads to there."""
    if not list(downloads.glob(f"{name}_*.deb")):
        download(name, downloads)
    found = sorted(downloads.glob(f"{name}_*.deb"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "nothing of that name"
        raise PreparationError(f"{downloads} has {names}: one file {name}_VERSION.deb is needed")
    print(f"{found[0].name}", flush=True)
    return found[0]


def download(name: str, downloads: Path) -> None:
    need_programs("apt-get", "dpkg-deb")
    downloads.mkdir(parents=True, exist_ok=True)
    # From a folder of its own: apt-get leaves a file in part where it is interrupted.
    with TemporaryDirectory(dir=downloads, prefix="part.") as folder:
        if subprocess.run(["apt-get", "download", name], cwd=folder).returncode:
            raise PreparationError(
                f"apt-get download {name} failed: see above, try apt-get update, or put the "
                f"package of another Debian or Ubuntu into {downloads}; apt-cache search tells "
                "what packages are called"
            )
        for file in Path(folder).glob("*.deb"):
            file.rename(downloads / file.name)


def unpack(file: Path, folder: Path) -> None:
    """Write a package's files to a folder."""
    need_programs("dpkg-deb")
    if subprocess.run(["dpkg-deb", "--extract", file, folder]).returncode:
        raise PreparationError(
            f"{file} is damaged: delete it, and give the same command again for a new download"
        )


def need_programs(*programs: str) -> None:
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        raise PreparationError(
            f"{', '.join(missing)} not found: this data set is made of Debian's packages, on "
            "Debian, Ubuntu and their like"
        )
