"""Arrays are mapped in their types; copies of files are made once and never outdated."""

import multiprocessing
import os
import pickle
import time

import numpy as np
import pytest
import torch

from fairseq_mega.data import arrays
from fairseq_mega.data.arrays import Numbers
from fairseq_mega.data.audio import read_clip_labels, read_clips, scale_clip
from fairseq_mega.data.pixels import map_pixels, write_pixels

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 12))


def write(path, images):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(" ".join(map(str, image)) + "\n" for image in images))
    return path


def pixels_of(source, cache=None):
    numbers = map_pixels(source, cache and str(cache), 0.0, 1.0)
    assert isinstance(numbers.array, np.memmap) and numbers.array.dtype == np.uint8
    return numbers.array


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "train.src", IMAGES)


def test_pixels_are_mapped_as_bytes_and_read_normalised(source, tmp_path):
    numbers = map_pixels(source, str(tmp_path / "cache" / "deep"), mean=0.48, std=0.24)
    assert (numbers.array == IMAGES).all() and len(numbers) == 5 and (numbers.sizes == 12).all()
    expected = (torch.from_numpy(IMAGES[3]).float() / 255 - 0.48) / 0.24
    assert numbers[3].dtype == torch.float32 and torch.allclose(numbers[3], expected)
    data = pickle.dumps(numbers)  # as a worker of the DataLoader may get it
    assert len(data) < 1000 and isinstance(pickle.loads(data).array, np.memmap)
    assert torch.equal(pickle.loads(data)[3], numbers[3])


@pytest.mark.parametrize("stated", [False, True])
def test_a_copy_is_made_once_and_is_never_out_of_date(source, tmp_path, stated):
    """A new file of the same size and modification time gets a new copy, which replaces the old
    one; a file of the same name in another folder has its own."""
    cache = tmp_path / "cache" if stated else None
    assert (pixels_of(source, cache) == IMAGES).all()
    (copy,) = (cache or tmp_path).glob("*.npy")
    before, made = source.stat(), copy.stat()
    twin = write(tmp_path / "folder" / "train.src", IMAGES)
    assert (pixels_of(twin, cache) == IMAGES).all() and (pixels_of(source, cache) == IMAGES).all()
    assert copy.stat().st_mtime_ns == made.st_mtime_ns
    other = write(tmp_path / "other.src", IMAGES[::-1])
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(source)
    assert source.stat().st_mtime_ns == before.st_mtime_ns
    assert (pixels_of(source, cache) == IMAGES[::-1]).all() and not copy.exists()


def test_a_cache_that_cannot_be_written(source, tmp_path, full_disk):
    with pytest.raises(OSError, match="cannot be written.*--cache-dir"):
        pixels_of(source, source)
    write(source, np.tile(IMAGES, (200, 1)))
    too_large = "cannot be written.*too large.*--cache-dir"
    with full_disk(), pytest.raises(OSError, match=too_large):
        pixels_of(source)
    assert not list(tmp_path.glob("*.npy")) and not list(tmp_path.glob("*.part"))


def test_of_several_processes_one_makes_the_copy(source, tmp_path):
    """All wait for the lock; then the first one makes the copy, and the others find it."""

    def write_and_count(source, file):
        with open(tmp_path / "count", "a") as count:
            count.write("made\n")
        write_pixels(source, file)

    fork = multiprocessing.get_context("fork")
    with arrays.FileLock(tmp_path / "train.src.lock"):
        processes = [
            fork.Process(target=arrays.cached, args=(source, None, write_and_count))
            for _ in range(3)
        ]
        for process in processes:
            process.start()
        time.sleep(0.2)
        assert all(process.is_alive() for process in processes)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert (tmp_path / "count").read_text() == "made\n"
    assert (pixels_of(source) == IMAGES).all()


@pytest.mark.parametrize(
    "lines, says",
    [
        ("7 7\n1 2 3\n", "line 2 has 3 pixels, but the lines before it have 2: .*same size"),
        ("7 7\n256 1\n", "line 2 must be integers from 0 to 255.* is '256 1'"),
        ("7 7\n-1 1\n", "line 2 must be .*'-1 1'"),
        ("7 7\n0.5 a\n", "line 2 must be .*'0.5 a'"),
        ("7 7\n\n", "line 2 "),
        ("", "is empty"),
    ],
)
def test_bad_images_leave_no_copy(tmp_path, lines, says):
    (tmp_path / "test.src").write_text(lines)
    with pytest.raises(ValueError, match=r"test\.src.*" + says):
        pixels_of(tmp_path / "test.src")
    assert not list(tmp_path.glob("*.npy"))


# --- audio --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int16])
def test_clips_are_mapped_in_their_type(tmp_path, dtype):
    clips = (torch.randn(4, 1, 20) * 50).to(dtype)
    torch.save(clips, tmp_path / "train_X.pt")
    numbers = Numbers(tmp_path / "train_X.pt", read_clips, scale_clip)
    assert numbers.array.dtype == clips.numpy().dtype
    unit = 2**15 if dtype == torch.int16 else 1
    assert torch.equal(numbers[2], clips[2, 0].float() / unit)


def test_reading_a_clip_does_not_load_all(tmp_path):
    torch.save(torch.zeros(500, 1, 16000), tmp_path / "X.pt")

    def resident():
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

    before = resident()
    clips = read_clips(tmp_path / "X.pt")
    assert clips[499].sum() == 0
    assert resident() - before < 10_000  # kilobytes, of 32,000


@pytest.mark.parametrize(
    "read, value, says",
    [
        (read_clips, {"a": torch.ones(2)}, "cannot be read as one tensor"),
        (read_clips, torch.ones(4, 1, 20, dtype=torch.bfloat16), "save a tensor in float32"),
        (read_clips, torch.ones(4, 2, 20), r"holds a tensor \(4, 2, 20\) of float32"),
        (read_clips, None, "truncated, copy it again"),
        (read_clip_labels, torch.ones(4), "one class number for each clip"),
        (read_clip_labels, torch.tensor([1, -1]), "one class number for each clip"),
    ],
)
def test_other_files_than_clips_and_classes(tmp_path, read, value, says):
    path = tmp_path / "train.pt"
    torch.save(torch.randn(4, 1, 200) if value is None else value, path)
    if value is None:
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=rf"train\.pt .*{says}"):
        read(path)
