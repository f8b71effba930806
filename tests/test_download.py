"""Downloads and archives: whatever goes wrong, no part of a file is taken for the whole."""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from server import running_server

from examples import download
from examples.download import Remote, fetch
from examples.steps import PreparationError, keep_settings, once, plain_ends

ROOT = Path(__file__).resolve().parents[1]
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


def test_a_file_is_downloaded_once_and_its_checksum_noted(remote, server, tmp_path):
    for _ in range(2):
        assert fetch(remote, tmp_path).read_bytes() == DATA
    assert server.requests == [("a.bin", None)]
    assert contents(tmp_path) == {"a.bin", "a.bin.sha256"}
    assert (tmp_path / "a.bin.sha256").read_text() == f"{DIGEST}  a.bin\n"


def test_connections_that_break_off_are_resumed_while_they_bring_something(
    remote, server, tmp_path
):
    server.cuts = [40_000] * 7
    assert fetch(remote, tmp_path).read_bytes() == DATA
    ranges = [f"bytes={40_000 * i}-" for i in range(1, 8)]
    assert server.requests == [("a.bin", span) for span in [None, *ranges]]


def give_up(remote, server, folder, got):
    """A run that gets so many bytes, then nothing more."""
    server.cuts = [got, 0, 0, 0, 0]
    with pytest.raises(PreparationError, match="bytes of it are in .*a.bin.part.*goes on.*A_URL"):
        fetch(remote, folder)
    server.requests.clear()


def test_the_next_run_goes_on_where_one_gave_up(remote, server, tmp_path):
    give_up(remote, server, tmp_path, got=100_000)
    assert contents(tmp_path) == {"a.bin.part", "a.bin.part.is"}
    assert fetch(remote, tmp_path).read_bytes() == DATA
    assert server.requests == [("a.bin", "bytes=100000-")]
    assert contents(tmp_path) == {"a.bin", "a.bin.sha256"}


@pytest.mark.parametrize("versions", [('"1"', '"2"'), (None, None), ('W/"1"', 'W/"1"')])
def test_a_part_is_dropped_unless_it_is_surely_of_the_same_file(remote, server, tmp_path, versions):
    server.versions["a.bin"] = versions[0]
    give_up(remote, server, tmp_path, got=100_000)
    server.files["a.bin"], server.versions["a.bin"] = DATA[::-1], versions[1]
    assert fetch(remote, tmp_path).read_bytes() == DATA[::-1]


def test_a_run_killed_after_the_last_byte_asks_for_nothing_more(remote, server, tmp_path):
    give_up(remote, server, tmp_path, got=100_000)
    (tmp_path / "a.bin.part").write_bytes(DATA)
    assert fetch(remote, tmp_path).read_bytes() == DATA
    assert server.requests == []


def test_a_missing_file_names_the_variable(server, tmp_path):
    with pytest.raises(PreparationError, match="nothing.tgz: the server says 404.*B_URL"):
        fetch(Remote("B", server.address("nothing.tgz")), tmp_path)
    assert len(server.requests) == 1 and contents(tmp_path) == set()


def test_the_variables_give_another_address_and_a_checksum(server, tmp_path, monkeypatch):
    monkeypatch.setenv("A_URL", server.address("a.bin"))
    monkeypatch.setenv("A_SHA256", DIGEST.upper())
    path = fetch(Remote("A", "https://example.org/b.tgz"), tmp_path)
    assert path.name == "b.tgz" and path.read_bytes() == DATA


def test_an_address_may_be_a_file(tmp_path, monkeypatch):
    (tmp_path / "here").write_bytes(DATA)
    monkeypatch.setenv("A_URL", (tmp_path / "here").as_uri())
    path = fetch(Remote("A", "https://example.org/b.tgz"), tmp_path / "downloads")
    assert path.read_bytes() == DATA


def test_a_wrong_checksum_is_refused_every_time(remote, server, tmp_path, monkeypatch):
    monkeypatch.setenv("A_SHA256", "0" * 64)
    for _ in range(2):
        with pytest.raises(PreparationError, match=f"a.bin has the SHA-256 {DIGEST}.*A_SHA256"):
            fetch(remote, tmp_path)
    monkeypatch.delenv("A_SHA256")
    assert fetch(remote, tmp_path).read_bytes() == DATA


def test_a_file_that_changed_after_its_download_is_refused(remote, server, tmp_path):
    path = fetch(remote, tmp_path)
    path.write_bytes(DATA[:-1])
    with pytest.raises(PreparationError, match="a.bin.sha256 says"):
        fetch(remote, tmp_path)
    path.unlink()
    assert fetch(remote, tmp_path).read_bytes() == DATA


# --- full disks ---------------------------------------------------------------------------------


def test_nothing_is_begun_that_has_no_room(remote, server, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: usage)
    message = "No space left.*300,000 bytes more.*1,000 are free"
    with pytest.raises(SystemExit, match=message), plain_ends():
        fetch(remote, tmp_path)
    assert not (tmp_path / "a.bin").exists()
    monkeypatch.undo()
    assert fetch(remote, tmp_path).read_bytes() == DATA


LIMITED = """
import resource, sys
from pathlib import Path
from examples.download import Remote, fetch
from examples.steps import plain_ends
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
with plain_ends():
    fetch(Remote("A", sys.argv[1]), Path(sys.argv[2]))
"""


def test_a_write_that_fails_for_space_ends_with_a_message_and_is_gone_on_with(
    remote, server, tmp_path
):
    command = [sys.executable, "-c", LIMITED, remote.url, str(tmp_path), "200000"]
    full = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert full.returncode == 1 and "Traceback" not in full.stderr
    assert "No space left" in full.stderr and "goes on" in full.stderr
    assert contents(tmp_path) == {"a.bin.part", "a.bin.part.is"}
    got = (tmp_path / "a.bin.part").stat().st_size
    assert fetch(remote, tmp_path).read_bytes() == DATA
    assert server.requests[1:] == [("a.bin", f"bytes={got}-" if got else None)]


# --- steps --------------------------------------------------------------------------------------


def test_a_step_is_done_once_and_its_folder_is_there_only_when_whole(tmp_path):
    def fail(folder):
        (folder / "half").touch()
        raise KeyboardInterrupt

    def work(folder):
        (folder / "whole").touch()

    def never(folder):
        raise AssertionError

    with pytest.raises(SystemExit, match="Interrupted"), plain_ends():
        once(tmp_path / "step", fail)
    assert not (tmp_path / "step").exists()
    once(tmp_path / "step", work)
    once(tmp_path / "step", never)
    assert contents(tmp_path) == {"step"} and contents(tmp_path / "step") == {"whole"}


def test_a_folder_keeps_its_settings(tmp_path):
    keep_settings(tmp_path / "work", {"data": "files", "vocab_size": "8000"})
    keep_settings(tmp_path / "work", {"data": "files", "vocab_size": "8000"})
    with pytest.raises(PreparationError, match="begun with vocab_size 8000, not 9000.*--workdir"):
        keep_settings(tmp_path / "work", {"data": "files", "vocab_size": "9000"})


def test_other_failures_keep_their_traceback():
    with pytest.raises(PermissionError), plain_ends():
        raise PermissionError(errno.EACCES, "denied")
