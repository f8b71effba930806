"""Archives of data sets: only what is asked for comes out of them, and nothing that harms."""

import gzip
import os
import tarfile
import zipfile

import archives
import pytest

from examples import download
from examples.download import extract
from examples.steps import PreparationError

DATA = os.urandom(300_000)
MAKERS = {"a.tgz": archives.tgz, "a.zip": archives.zipped}
MEMBERS = {"x/one.txt": b"1" + DATA, "two.txt": b"2" + DATA, "x/three.txt": b"3" + DATA}


def contents(folder):
    return {path.name for path in folder.iterdir()}


@pytest.fixture(params=MAKERS)
def make(request, tmp_path):
    """Writes an archive of these members and returns its path."""

    def make(members):
        path = tmp_path / request.param
        path.write_bytes(MAKERS[request.param](members))
        return path

    return make


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_only_what_is_asked_for_is_extracted_in_the_order_asked(make, out):
    paths = extract(make(MEMBERS), ["two.txt", "one.txt"], out)
    assert [path.read_bytes()[:1] for path in paths] == [b"2", b"1"]
    assert contents(out) == {"one.txt", "two.txt"}


def test_no_path_in_an_archive_leads_out_of_the_folder(make, out, tmp_path):
    before = contents(tmp_path)
    archive = make({"../evil.txt": b"evil", "/tmp/../evil2.txt": b"evil"})
    extract(archive, ["evil.txt", "evil2.txt"], out)
    assert contents(out) == {"evil.txt", "evil2.txt"}
    assert contents(tmp_path) == before | {archive.name}


def test_links_in_an_archive_are_not_files(out, tmp_path):
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as archive:
        info = tarfile.TarInfo("one.txt")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(PreparationError, match="has no one.txt"):
        extract(tmp_path / "a.tgz", ["one.txt"], out)


SPECIAL = [tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]


@pytest.mark.parametrize("kind", SPECIAL)
def test_other_special_members_are_not_files(out, tmp_path, kind):
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as archive:
        info = tarfile.TarInfo("one.txt")
        info.type, info.linkname, info.devmajor, info.devminor = kind, "../a.tgz", 1, 5
        archive.addfile(info)
    with pytest.raises(PreparationError, match="has no one.txt"):
        extract(tmp_path / "a.tgz", ["one.txt"], out)
    assert contents(out) == set()


def test_folders_and_links_of_a_zip_are_not_made(out, tmp_path):
    link = zipfile.ZipInfo("x/two.txt")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("one.txt/", b"")
        archive.writestr("one.txt/evil", b"")
        archive.writestr(link, b"/etc/passwd")
    with pytest.raises(PreparationError, match="has no one.txt:"):
        extract(tmp_path / "a.zip", ["one.txt", "two.txt"], out)
    assert contents(out) == {"two.txt"} and not (out / "two.txt").is_symlink()
    assert (out / "two.txt").read_bytes() == b"/etc/passwd"


def bomb(path):
    """An archive of 70 MB of zeros, in 70 kB: in what is asked for, or (tar) before it."""
    zeros = bytes(70_000_000)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(zeros))
    elif path.suffix == ".zip":
        path.write_bytes(archives.zipped({"a.txt": zeros}))
    elif path.name == "before.tgz":
        path.write_bytes(archives.tgz({"b.txt": zeros, "a.txt": b""}))
    else:
        path.write_bytes(archives.tgz({"a.txt": zeros}))
    return path


@pytest.mark.parametrize("name", ["a.txt.gz", "a.zip", "a.tgz", "before.tgz"])
def test_bombs_are_refused_before_they_fill_the_disk(name, out, tmp_path):
    archive = bomb(tmp_path / name)
    with pytest.raises(PreparationError, match=f"{name} has .* bytes, but more than 67,108,864"):
        extract(archive, ["a.txt"], out)
    assert sum(path.stat().st_size for path in out.iterdir()) <= download.SMALL


def test_a_sparse_member_is_as_large_as_it_says(out, tmp_path):
    """GNU's format: 5 bytes at the end of 200 MB that are not in the archive."""
    info = tarfile.TarInfo("a.txt")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 512
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (200_000_000, 5)
    header[483:495] = b"%011o\0" % 200_000_005
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "a.tgz").write_bytes(gzip.compress(bytes(header) + bytes(512 * 4)))
    with pytest.raises(PreparationError, match="a.tgz has .* bytes, but more than"):
        extract(tmp_path / "a.tgz", ["a.txt"], out)


@pytest.mark.parametrize("offset, value", [(6, b"\1\0"), (8, b"\x63\0")], ids=["locked", "other"])
def test_members_that_cannot_be_read_are_damage(out, tmp_path, offset, value):
    """Of a zip: one that needs a password, one of an unknown compression."""
    data = bytearray(archives.zipped({"a.txt": b"text"}))
    directory = data.index(b"PK\1\2")
    for start in (offset, directory + offset + 2):
        data[start : start + 2] = value
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(PreparationError, match="a.zip is damaged"):
        extract(tmp_path / "a.zip", ["a.txt"], out)


def test_what_an_archive_lacks_is_named(make, out):
    with pytest.raises(PreparationError, match="a\\.(tgz|zip) has no four.txt, zero.txt: .*delete"):
        extract(make(MEMBERS), ["zero.txt", "one.txt", "four.txt"], out)


@pytest.mark.parametrize("harm", ["cut", "changed", "no archive"])
def test_a_damaged_archive_is_refused(make, out, harm):
    archive = make(MEMBERS)
    data = bytearray(archive.read_bytes())
    if harm == "cut":
        data = data[: len(data) // 2]
    elif harm == "changed":
        data[len(data) // 2] ^= 255
    else:
        data = b"<html>Moved</html>"
    archive.write_bytes(data)
    with pytest.raises(PreparationError, match="is damaged .*: delete it to download it again"):
        extract(archive, ["one.txt", "two.txt", "three.txt"], out)


@pytest.mark.parametrize("cut", [False, True])
def test_single_compressed_files(out, tmp_path, cut):
    data = gzip.compress(DATA)
    (tmp_path / "a.txt.gz").write_bytes(data[: len(data) // 2] if cut else data)
    if cut:
        with pytest.raises(PreparationError, match="a.txt.gz is damaged"):
            extract(tmp_path / "a.txt.gz", ["a.txt"], out)
    else:
        assert extract(tmp_path / "a.txt.gz", ["a.txt"], out)[0].read_bytes() == DATA
