"""Folders of checkpoints whose writing was interrupted, and files that are never there in part."""

import zipfile

import pytest
import torch

from fairseq_mega.__main__ import main
from fairseq_mega.checkpoints.recovery import is_intact, number_of_updates, recover
from fairseq_mega.checkpoints.writing import replaced_file

LAST = "checkpoint_last.pt"


def write(path, updates, cut=None):
    """A checkpoint; with ``cut``, only its bytes up to there."""
    history = [{"num_updates": 1}, {"num_updates": updates}]
    torch.save({"cfg": {}, "model": {"w": torch.ones(999)}, "optimizer_history": history}, path)
    if cut is not None:
        path.write_bytes(path.read_bytes()[:cut])
    return path


@pytest.mark.parametrize("cut", [0, 100, 3000, -1, None])
def test_the_newest_intact_checkpoint_replaces_a_truncated_one(cut, tmp_path, capsys):
    """The names are those that fairseq gives; None: nothing was written."""
    names = ["checkpoint2.pt", "checkpoint_3_70.pt", "checkpoint_best.pt"]
    names += ["checkpoint.best_loss_3.1230.pt"]
    for i, name in enumerate(names):
        write(tmp_path / name, 60 + 10 * i)
    write(tmp_path / "checkpoint4.pt", 99, cut=-100)  # newer, but truncated
    write(tmp_path / "checkpoint_last-shard0.pt", 99)  # a part of one
    write(tmp_path / "averaged.pt", 99)
    if cut is not None:
        write(tmp_path / LAST, 99, cut)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.name != LAST}
    main(["recover", str(tmp_path)])
    assert capsys.readouterr().out == (
        f"{tmp_path / LAST} is checkpoint.best_loss_3.1230.pt now, of 90 updates\n"
    )
    assert (tmp_path / LAST).read_bytes() == before[tmp_path / names[-1]]
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.name != LAST} == before


def test_an_intact_last_checkpoint_stays(tmp_path):
    write(tmp_path / "checkpoint9.pt", 90)
    last = write(tmp_path / LAST, 80)
    before = last.read_bytes()
    assert recover(tmp_path) == f"{last} is intact"
    assert last.read_bytes() == before and number_of_updates(last) == 80


def test_a_byte_that_was_written_wrong_is_noticed(tmp_path):
    """A disk that lost power may leave a file of the right size with zeros in it."""
    last = write(tmp_path / LAST, 80)
    data = bytearray(last.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
    last.write_bytes(data)
    assert not is_intact(last)


@pytest.mark.parametrize("offset, value", [(10, 99), (46, 0xFF), (46, 0x00)])
def test_wrong_bytes_in_the_list_of_entries_are_noticed(offset, value, tmp_path):
    """The compression method or a name, which is declared as UTF-8, may be corrupt."""
    last = write(tmp_path / LAST, 80)
    content = bytearray(last.read_bytes())
    entry = content.find(b"PK\x01\x02")
    content[entry + 9] |= 8
    content[entry + offset] = value
    for name in (LAST, "checkpoint3.pt"):
        (tmp_path / name).write_bytes(content)
    with zipfile.ZipFile(tmp_path / "checkpoint2.pt", "w") as other:
        other.writestr("notes", "no checkpoint")
    write(tmp_path / "checkpoint1.pt", 70)
    assert recover(tmp_path).endswith("is checkpoint1.pt now, of 70 updates")


def test_a_list_of_entries_that_begins_before_the_file(tmp_path):
    """The corrupt byte is the highest of the list's offset, in a file for more than 4 GB."""
    last = write(tmp_path / LAST, 80)
    content = bytearray(last.read_bytes())
    content[content.rindex(b"PK\x06\x06") + 55] ^= 0xFF
    last.write_bytes(content)
    assert not is_intact(last)


@pytest.mark.parametrize("error", [MemoryError(), PermissionError(), OSError(5, "Input/output")])
def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path, monkeypatch, error):
    """Another checkpoint would replace an intact one."""
    last = write(tmp_path / LAST, 80)
    write(tmp_path / "checkpoint1.pt", 70)
    before = last.read_bytes()

    def fails(_):
        raise error

    monkeypatch.setattr(zipfile.ZipFile, "testzip", fails)
    with pytest.raises(type(error)):
        recover(tmp_path)
    assert last.read_bytes() == before


def test_folders_without_an_intact_checkpoint(tmp_path):
    assert recover(tmp_path) == f"{tmp_path} has no checkpoint: a training begins from the start"
    last = write(tmp_path / LAST, 80, cut=100)
    with pytest.raises(SystemExit, match="is damaged, and no other.*delete it to train from"):
        main(["recover", str(tmp_path)])
    assert last.stat().st_size == 100
    with pytest.raises(SystemExit, match="no folder of checkpoints at .*nowhere"):
        main(["recover", str(tmp_path / "nowhere")])


def test_a_full_disk_leaves_the_file_of_before(full_disk, tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    with full_disk(), pytest.raises(OSError, match="too large"), replaced_file(path) as part:
        part.write_bytes(bytes(2000))
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_no_file(tmp_path):
    path = tmp_path / "file"
    for text in ("one", "two"):
        with replaced_file(path) as part:
            part.write_text(text)
            assert part.parent == tmp_path and path.exists() == (text == "two")
        assert path.read_text() == text
    with pytest.raises(KeyboardInterrupt), replaced_file(path) as part:
        part.write_text("three")
        raise KeyboardInterrupt
    assert path.read_text() == "two" and list(tmp_path.iterdir()) == [path]
