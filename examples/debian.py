"""Packages of Debian, Ubuntu and their like as sources of text."""

import shutil
import subprocess
from pathlib import Path

from examples.steps import PreparationError


def package(name: str, downloads: Path) -> Path:
    """The file of a package: one in `downloads`, or else what apt-get downloads to there."""
    found = sorted(downloads.glob(f"{name}_*.deb"))
    if not found:
        need_programs("apt-get", "dpkg-deb")
        downloads.mkdir(parents=True, exist_ok=True)
        if subprocess.run(["apt-get", "download", name], cwd=downloads).returncode:
            raise PreparationError(
                f"apt-get download {name} failed: see above, try apt-get update, or put the "
                f"package of another Debian or Ubuntu into {downloads}"
            )
        found = sorted(downloads.glob(f"{name}_*.deb"))
    print(f"{found[-1].name}", flush=True)
    return found[-1]


def unpack(file: Path, folder: Path) -> None:
    """Write a package's files to a folder."""
    need_programs("dpkg-deb")
    subprocess.run(["dpkg-deb", "--extract", file, folder], check=True)


def need_programs(*programs: str) -> None:
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        raise PreparationError(
            f"{', '.join(missing)} not found: this data set is made of Debian's packages, on "
            "Debian, Ubuntu and their like"
        )
