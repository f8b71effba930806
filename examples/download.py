"""Downloads that survive interruptions, and archives of which only what is asked for is read.

A file has its name only when it is whole. Until then it is NAME.part, and NAME.part.is says which
version of the file that is a part of, so that the next attempt goes on with it.
"""

import errno
import gzip
import hashlib
import os
import shutil
import struct
import tarfile
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from itertools import filterfalse
from pathlib import Path, PurePosixPath
from typing import IO, Callable, Optional
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tqdm import tqdm

from examples.steps import NO_SPACE, PreparationError, write_whole

BLOCK = 1 << 20  # bytes
TIMEOUT = 60.0  # seconds without a byte
ATTEMPTS = 4  # in a row that get no byte
PAUSE = 2.0  # seconds after a failure
DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError, zipfile.BadZipFile)
# What the standard library also raises at encrypted members, other compressions and false sizes.
DAMAGE += (RuntimeError, ValueError, OverflowError, struct.error)
GROWTH = 100  # how many times larger than its archive text may be: five is usual
SMALL = 64 << 20  # bytes that an archive may hold, however small it is


@dataclass(frozen=True)
class Remote:
    """A file on a server.

    The environment variables NAME_URL and NAME_SHA256 say where else to get it and what its
    checksum must be.
    """

    name: str
    published_url: str

    @property
    def url(self) -> str:
        return os.environ.get(f"{self.name}_URL", self.published_url)

    @property
    def sha256(self) -> Optional[str]:
        return os.environ.get(f"{self.name}_SHA256")

    @property
    def file(self) -> str:
        return PurePosixPath(self.published_url).name


def listed(remotes: Iterable[Remote]) -> str:
    """For --help: the variables and the addresses."""
    return "\n".join(
        ["Variables NAME_URL (another address) and NAME_SHA256 (a checksum to insist on) of each:"]
        + [f"  {remote.name:<22} {remote.published_url}" for remote in remotes]
    )


def fetch(remote: Remote, folder: Path) -> Path:
    """The file in `folder`, downloaded unless it is there; its checksum is looked at every time.

    The first download notes the checksum beside the file, as sha256sum does.
    """
    path, note = folder / remote.file, folder / f"{remote.file}.sha256"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        note.unlink(missing_ok=True)
        print(f"{path}: from {remote.url}", flush=True)
        download(remote, path)
    actual = sha256(path)
    if not note.exists():
        write_whole(note, f"{actual}  {path.name}\n")
        print(f"{path}: SHA-256 {actual}", flush=True)
    for expected, where in [
        (remote.sha256, f"the variable {remote.name}_SHA256"),
        (note.read_text(encoding="utf-8").split()[0], str(note)),
    ]:
        if expected and actual != expected.lower():
            raise PreparationError(
                f"{path} has the SHA-256 {actual}, but {where} says {expected}: "
                f"delete the file to download it again, or correct what is expected"
            )
    return path


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(BLOCK), b""):
            digest.update(block)
    return digest.hexdigest()


def download(remote: Remote, path: Path) -> None:
    """Try until the file is whole, or until several attempts in a row have got nothing of it."""
    part, failures = path.with_name(f"{path.name}.part"), 0
    while failures < ATTEMPTS:
        before = size(part)
        try:
            receive(remote.url, part)
        except (OSError, HTTPException) as error:
            if getattr(error, "errno", None) in NO_SPACE:
                raise
            if isinstance(error, HTTPError) and error.code < 500:
                raise PreparationError(
                    f"{remote.url}: the server says {error.code} {error.reason}. "
                    f"Set the variable {remote.name}_URL to where the file is"
                ) from error
            failures = 0 if size(part) > before else failures + 1
            print(f"{path.name}: {error}", flush=True)
            time.sleep(PAUSE)
        else:
            part.replace(path)
            identity(part).unlink(missing_ok=True)
            return
    raise PreparationError(
        f"{remote.url} cannot be downloaded; {size(part):,} bytes of it are in {part}. The same "
        f"command goes on from there; the variable {remote.name}_URL gives another address"
    )


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def identity(part: Path) -> Path:
    """The file that says what `part` is a part of: the server's mark of the version, the size."""
    return part.with_name(f"{part.name}.is")


def receive(url: str, part: Path) -> None:
    """Get what `part` lacks, or all of it if the file on the server is no longer the same one.

    Raises OSError when the connection ends before the file does.
    """
    request, have = Request(url, headers={"User-Agent": "fairseq-mega"}), 0
    if identity(part).exists():
        mark, _, total = identity(part).read_text(encoding="utf-8").rpartition("\n")
        have = size(part)
        if have == int(total):
            return
        if 0 < have < int(total):
            request.add_header("Range", f"bytes={have}-")
            request.add_header("If-Range", mark)
    with urlopen(request, timeout=TIMEOUT) as response:
        resumed = response.status == 206
        if resumed:
            span, _, total = response.headers["Content-Range"].rpartition("/")
            if not span.startswith(f"bytes {have}-"):
                raise OSError(f"the server sends {span} when asked for what follows byte {have}")
        else:
            total, have = response.headers["Content-Length"], 0
        need_space(part, int(total or 0) - have)
        with part.open("ab" if resumed else "wb") as file:
            if not resumed:
                identify(part, response.headers)
            copy_with_progress(response, file, part.stem, have, total and int(total))
    if total and size(part) != int(total):
        raise OSError(f"the connection ended after {size(part):,} of {int(total):,} bytes")


def need_space(part: Path, count: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if count > free:
        message = f"{count:,} bytes more are needed, {free:,} are free"
        raise OSError(errno.ENOSPC, message, str(part))


def identify(part: Path, headers) -> None:
    """Note what `part`, which is empty now, becomes a part of, if the server lets one know."""
    mark = headers["ETag"] or headers["Last-Modified"]
    if headers["ETag"] and headers["ETag"].startswith("W/"):  # not the same byte for byte
        mark = headers["Last-Modified"]
    identity(part).unlink(missing_ok=True)
    if mark and headers["Content-Length"]:
        write_whole(identity(part), f"{mark}\n{headers['Content-Length']}")


def copy_with_progress(source, target, name: str, have: int, total: Optional[int]) -> None:
    bar = tqdm(desc=name, initial=have, total=total, unit="B", unit_scale=True, disable=None)
    with bar:
        for block in iter(lambda: source.read(BLOCK), b""):
            target.write(block)
            bar.update(len(block))


# --- archives -----------------------------------------------------------------------------------


Place = Callable[[str], Optional[str]]  # where a path of the archive goes, or None: nowhere


def extract(archive: Path, names: Sequence[str], folder: Path) -> list[Path]:
    """Write the files of these names, whatever folders of the archive they are in, to `folder`.

    No path comes from the archive, so that none can lead out of the folder.
    """
    known = set(names)

    def place(path: str) -> Optional[str]:
        name = PurePosixPath(path).name
        return name if name in known else None

    check_complete(archive, unpack(archive, place, folder), known)
    return [folder / name for name in names]


def unpack(archive: Path, place: Place, folder: Path) -> set[str]:
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


def check_complete(archive: Path, done: set[str], needed: set[str]) -> None:
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


class Room:
    """The bytes that may still come out of an archive before it is taken for a bomb."""

    def __init__(self, archive: Path):
        self.archive, self.limit = archive, max(SMALL, GROWTH * size(archive))
        self.left = self.limit

    def take(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise PreparationError(
                f"{self.archive} has {size(self.archive):,} bytes, but more than {self.limit:,} "
                f"come out of it: it is not the file that it should be; delete it, and check where "
                f"it comes from"
            )


class Bounded:
    """Reads a stream as long as there is room for what it has."""

    def __init__(self, stream: IO[bytes], room: Room):
        self.stream, self.room = stream, room

    def read(self, count: int = -1) -> bytes:
        block = self.stream.read(count)
        self.room.take(len(block))
        return block


def members(archive: Path) -> Iterator[tuple[str, Callable[[], IO[bytes]]]]:
    """The paths in a .zip or .tgz, each with a function that opens the file, to be called at once.

    A .gz that is no archive has itself for a member.
    """
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as file:
            for info in filterfalse(zipfile.ZipInfo.is_dir, file.infolist()):
                yield info.filename, partial(file.open, info)
    elif archive.suffix == ".gz" and not archive.name.endswith(".tar.gz"):
        yield archive.stem, partial(gzip.open, archive)
    else:
        with gzip.open(archive) as opened:
            stream = Bounded(opened, Room(archive))
            with tarfile.open(fileobj=stream, mode="r|") as file:
                for info in filter(tarfile.TarInfo.isfile, file):
                    yield info.name, partial(file.extractfile, info)
            while stream.read(BLOCK):  # up to the checksum
                pass
