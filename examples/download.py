"""Downloads that resume where they were interrupted, and archives of which only named files are
written.

A file has its name only when it is complete. Until then it is NAME.part, and NAME.part.version
holds the server's mark of its version, with which the next attempt resumes.
"""

import gzip
import hashlib
import os
import re
import shutil
import struct
import tarfile
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO, Callable
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tqdm import tqdm

from examples.steps import NO_SPACE, PreparationError, write_complete

BLOCK = 1 << 20  # bytes
TIMEOUT = 60.0  # seconds without a byte
ATTEMPTS = 4  # in a row that get no byte
PAUSE = 2.0  # seconds after a failure
DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError, zipfile.BadZipFile)
# The standard library also raises these: encrypted members, other compressions, false sizes.
DAMAGE += (RuntimeError, ValueError, OverflowError, struct.error)
GROWTH = 100  # an archive may hold so many times its size: text holds five times, a bomb a thousand
SMALL = 64 << 20  # bytes that any archive may hold


@dataclass(frozen=True)
class Remote:
    """A file on a server.

    The environment variables NAME_URL and NAME_SHA256 give another address, and the checksum that
    the file must have.
    """

    name: str
    published_url: str

    @property
    def url(self) -> str:
        return os.environ.get(f"{self.name}_URL", self.published_url)

    @property
    def file(self) -> str:
        return PurePosixPath(self.published_url).name


def listed(remotes: Iterable[Remote]) -> str:
    """The variables and the addresses, for --help."""
    return "\n".join(
        ["Variables NAME_URL (another address) and NAME_SHA256 (a checksum to insist on) of each:"]
        + [f"  {remote.name:<22} {remote.published_url}" for remote in remotes]
    )


def fetch(remote: Remote, folder: Path) -> Path:
    """Returns the file in `folder`, downloaded unless it is there; checks and prints its
    checksum."""
    path = folder / remote.file
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        print(f"{path}: from {remote.url}", flush=True)
        download(remote, path)
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    print(f"{path}: SHA-256 {actual}", flush=True)
    expected = os.environ.get(f"{remote.name}_SHA256", actual)
    if actual != expected.lower():
        raise PreparationError(
            f"{path} has the SHA-256 {actual}, but the variable {remote.name}_SHA256 says "
            f"{expected}: delete the file to download it again, or correct the variable"
        )
    return path


def download(remote: Remote, path: Path) -> None:
    """Tries until the file is complete, or until several attempts in a row have got no byte."""
    part, failures = path.with_name(f"{path.name}.part"), 0
    part.touch()
    while failures < ATTEMPTS:
        before = part.stat().st_size
        try:
            receive(remote.url, part)
        except (OSError, HTTPException) as error:
            if getattr(error, "errno", None) in NO_SPACE:
                raise
            if isinstance(error, HTTPError) and error.code < 500:
                part.unlink()
                raise PreparationError(
                    f"{remote.url}: the server says {error.code} {error.reason}. "
                    f"Set the variable {remote.name}_URL to where the file is"
                ) from error
            failures = 0 if part.stat().st_size > before else failures + 1
            print(f"{path.name}: {error}", flush=True)
            time.sleep(PAUSE)
        else:
            version_file(part).unlink(missing_ok=True)
            part.replace(path)
            return
    raise PreparationError(
        f"{remote.url} cannot be downloaded; {part.stat().st_size:,} bytes of it are in {part}. "
        f"The same command continues there; the variable {remote.name}_URL gives another address"
    )


def version_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def receive(url: str, part: Path) -> None:
    """Appends to `part` what it lacks; starts it again if the server has another version.

    Raises OSError when the connection ends before the file does.
    """
    mark, headers = version_file(part), {"User-Agent": "fairseq-mega"}
    if mark.exists() and (have := part.stat().st_size):
        headers |= {"Range": f"bytes={have}-", "If-Range": mark.read_text(encoding="utf-8")}
    with urlopen(Request(url, headers=headers), timeout=TIMEOUT) as response:
        if response.status != 206:
            part.write_bytes(b"")
            mark.unlink(missing_ok=True)
            tag = response.headers["ETag"] or "W/"
            if tag := response.headers["Last-Modified"] if tag.startswith("W/") else tag:
                write_complete(mark, tag)
        length = response.headers["Content-Length"]
        total = part.stat().st_size + int(length) if length else None
        bar = tqdm.wrapattr(response, "read", total and int(length), desc=part.stem, disable=None)
        with part.open("ab") as file, bar as source:
            shutil.copyfileobj(source, file, BLOCK)
    if total and part.stat().st_size != total:
        raise OSError(f"the connection ended after {part.stat().st_size:,} of {total:,} bytes")


# --- archives -----------------------------------------------------------------------------------


def extract(archive: Path, names: Iterable[str], folder: Path) -> list[Path]:
    """Writes the files of these names, from any folder of the archive, to `folder`."""
    names = list(names)
    unpack(archive, rf"(?:.*/)?({'|'.join(map(re.escape, names))})", folder, names)
    return [folder / name for name in names]


def unpack(archive: Path, pattern: str, folder: Path, needed: Iterable[str]) -> None:
    """Writes the files whose path in the archive matches, each to what the group of the pattern
    matches, which must not allow .. or a leading slash.

    Raises:
        PreparationError: where the archive is damaged, lacks a `needed` file, or is a bomb.
    """
    done: set[str] = set()
    limit = max(SMALL, GROWTH * archive.stat().st_size)
    left = limit
    try:
        for path, open_member in members(archive):
            found = re.fullmatch(pattern, path)
            if not found or found[1] in done:
                continue
            target = folder / found[1]
            target.parent.mkdir(parents=True, exist_ok=True)
            with open_member() as source, target.open("wb") as file:
                while block := source.read(BLOCK):
                    left -= len(block)
                    if left < 0:
                        raise PreparationError(
                            f"more than {limit:,} bytes come out of {archive}: it is not the file "
                            "that it should be; delete it, and check where it comes from"
                        )
                    file.write(block)
            done.add(found[1])
    except PreparationError:
        raise
    except DAMAGE as error:
        raise PreparationError(
            f"{archive} is damaged ({error}): delete it to download it again"
        ) from error
    missing = sorted(set(needed) - done)
    if missing:
        raise PreparationError(
            f"{archive} has no {', '.join(missing[:3])}: it is not the file that it should be; "
            "delete it, and check where it comes from"
        )


def members(archive: Path) -> Iterator[tuple[str, Callable[[], IO[bytes]]]]:
    """The paths of the files in a .zip or .tgz, each with a function that opens the file, which
    must be called before the next one is asked for. A .gz of one file holds that file."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as file:
            for info in file.infolist():
                if not info.is_dir():
                    yield info.filename, partial(file.open, info)
    elif archive.name.endswith((".tgz", ".tar.gz")):
        with gzip.open(archive) as stream, tarfile.open(fileobj=stream, mode="r|") as file:
            for info in filter(tarfile.TarInfo.isfile, file):
                yield info.name, partial(file.extractfile, info)
            while stream.read(BLOCK):  # up to the checksum
                pass
    else:
        yield archive.stem, partial(gzip.open, archive)
