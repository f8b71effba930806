"""Downloads, archives and steps: whatever goes wrong, an incomplete file is never used."""

import errno
import gzip
import hashlib
import os
import tarfile

import archives
import pytest
from filelock import FileLock
from server import running_server

from examples import download
from examples.download import Remote, extract, fetch
from examples.steps import PreparationError, alone, keep_settings, once, plain_ends

DATA = os.urandom(300_000)
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0)
    with running_server() as server:
        server.files["a.bin"] = DATA
        yield server


@pytest.fixture
def remote(server):
    return Remote("A", server.address("a.bin"))


def contents(folder):
    return {path.name for path in folder.iterdir()}


# --- downloads ----------------------------------------------------------------------------------


def test_interrupted_connections_are_resumed_while_they_bring_something(remote, server, tmp_path):
    server.cuts = [40_000] * 7
    for _ in range(2):  # the second time from the disk
        assert fetch(remote, tmp_path).read_bytes() == DATA
    ranges = [f"bytes={40_000 * i}-" for i in range(1, 8)]
    assert server.requests == [("a.bin", span) for span in [None, *ranges]]
    assert contents(tmp_path) == {"a.bin"}


@pytest.mark.parametrize(
    "before, after, resumed",
    [('"1"', '"1"', True), ('"1"', '"2"', False), ('W/"1"', 'W/"1"', False)],
)
def test_the_next_run_resumes_if_the_server_has_the_same_file(
    remote, server, tmp_path, before, after, resumed
):
    server.versions["a.bin"] = before
    server.cuts = [100_000, 0, 0, 0, 0]
    with pytest.raises(PreparationError, match="bytes of it are in .*a.bin.part.*continues.*A_URL"):
        fetch(remote, tmp_path)
    server.requests.clear()
    server.versions["a.bin"] = after
    server.files["a.bin"] = DATA if resumed else DATA[::-1]
    assert fetch(remote, tmp_path).read_bytes() == server.files["a.bin"]
    if resumed:
        assert server.requests == [("a.bin", "bytes=100000-")]
    assert contents(tmp_path) == {"a.bin"}


def test_a_missing_file_names_the_variable(server, tmp_path):
    with pytest.raises(PreparationError, match="nothing.tgz: the server says 404.*B_URL"):
        fetch(Remote("B", server.address("nothing.tgz")), tmp_path)
    assert len(server.requests) == 1 and contents(tmp_path) == set()


def test_the_variables_give_another_address_and_a_checksum(tmp_path, monkeypatch):
    (tmp_path / "here").write_bytes(DATA)
    monkeypatch.setenv("A_URL", (tmp_path / "here").as_uri())
    monkeypatch.setenv("A_SHA256", DIGEST.upper())
    remote = Remote("A", "https://example.org/b.tgz")
    assert fetch(remote, tmp_path / "downloads").read_bytes() == DATA
    monkeypatch.setenv("A_SHA256", "0" * 64)
    with pytest.raises(PreparationError, match=f"b.tgz has the SHA-256 {DIGEST}.*A_SHA256"):
        fetch(remote, tmp_path / "downloads")


# --- archives -----------------------------------------------------------------------------------

MAKERS = {"a.tgz": archives.tgz, "a.zip": archives.zipped}
MEMBERS = {"x/one.txt": b"1" + DATA, "two.txt": b"2" + DATA, "x/three.txt": b"3" + DATA}


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
    archive = make(MEMBERS)
    paths = extract(archive, ["two.txt", "one.txt"], out)
    assert [path.read_bytes()[:1] for path in paths] == [b"2", b"1"]
    assert contents(out) == {"one.txt", "two.txt"}
    with pytest.raises(PreparationError, match="a\\.(tgz|zip) has no four.txt, zero.txt: .*delete"):
        extract(archive, ["zero.txt", "one.txt", "four.txt"], out)


def test_no_path_in_an_archive_leads_out_of_the_folder(make, out, tmp_path):
    before = contents(tmp_path)
    archive = make({"../evil.txt": b"evil", "/tmp/../evil2.txt": b"evil"})
    extract(archive, ["evil.txt", "evil2.txt"], out)
    assert contents(out) == {"evil.txt", "evil2.txt"}
    assert contents(tmp_path) == before | {archive.name}


def test_links_and_devices_in_an_archive_are_not_files(out, tmp_path):
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo("one.txt")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    with pytest.raises(PreparationError, match="has no one.txt"):
        extract(tmp_path / "a.tgz", ["one.txt"], out)


@pytest.mark.parametrize("name", ["a.txt.gz", "a.zip", "a.tgz"])
def test_bombs_are_refused_before_they_fill_the_disk(name, out, tmp_path):
    zeros = bytes(70_000_000)  # 70 kB in an archive
    make = MAKERS.get(name, lambda members: gzip.compress(zeros))
    (tmp_path / name).write_bytes(make({"a.txt": zeros}))
    with pytest.raises(PreparationError, match=f"more than 67,108,864 bytes come out of .*{name}"):
        extract(tmp_path / name, ["a.txt"], out)
    assert sum(path.stat().st_size for path in out.iterdir()) <= download.SMALL


@pytest.mark.parametrize("harm", ["cut", "changed", "no archive"])
def test_a_damaged_archive_is_refused(make, out, harm):
    archive = make(MEMBERS)
    data = bytearray(archive.read_bytes())
    half = len(data) // 2
    changed = data[:half] + bytes([data[half] ^ 255]) + data[half + 1 :]
    harmed = {"cut": data[:half], "changed": changed, "no archive": b"<html>Moved</html>"}
    archive.write_bytes(harmed[harm])
    with pytest.raises(PreparationError, match="is damaged .*: delete it to download it again"):
        extract(archive, ["one.txt", "two.txt", "three.txt"], out)


# --- steps --------------------------------------------------------------------------------------


def test_a_step_is_done_once_and_its_folder_is_there_only_when_complete(tmp_path):
    def fail(folder):
        (folder / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(SystemExit, match="Interrupted"), plain_ends():
        once(tmp_path / "step", fail)
    assert not (tmp_path / "step").exists()
    once(tmp_path / "step", lambda folder: (folder / "complete").touch())
    once(tmp_path / "step", fail)
    assert contents(tmp_path) == {"step"} and contents(tmp_path / "step") == {"complete"}


def test_a_folder_keeps_its_settings_and_one_run_at_a_time(tmp_path):
    keep_settings(tmp_path, {"data": "files", "vocab_size": "8000"})
    keep_settings(tmp_path, {"data": "files", "vocab_size": "8000"})
    with pytest.raises(PreparationError, match="begun with vocab_size 8000, not 9000.*--workdir"):
        keep_settings(tmp_path, {"data": "files", "vocab_size": "9000"})
    with FileLock(tmp_path / ".lock"), pytest.raises(PreparationError, match="another run"):
        alone(tmp_path).__enter__()


@pytest.mark.parametrize("number, expected", [(errno.ENOSPC, SystemExit), (errno.EACCES, OSError)])
def test_a_full_disk_ends_with_a_message_and_other_failures_with_a_traceback(number, expected):
    with pytest.raises(expected, match="No space left.*|denied"), plain_ends():
        raise OSError(number, "denied")
