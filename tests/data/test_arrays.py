"""Arrays read through memory maps: own types, copies that are made once and never out of date."""

import os
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from commands import ROOT

from fairseq_mega.data import arrays
from fairseq_mega.data.audio import map_clips, read_clip_labels
from fairseq_mega.data.pixels import map_pixels

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 12))


def write(path, images):
    path.write_text("".join(" ".join(map(str, image)) + "\n" for image in images))
    return path


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "train.src", IMAGES)


def caches(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".src")


@pytest.mark.parametrize("stated", [False, True])
def test_pixels_are_mapped_as_bytes(source, tmp_path, stated):
    folder = tmp_path / "cache" / "deep" if stated else tmp_path
    pixels = map_pixels(source, str(folder) if stated else None)
    assert isinstance(pixels.array, np.memmap) and pixels.array.dtype == np.uint8
    assert (pixels.array == IMAGES).all() and (pixels[3] == IMAGES[3]).all()
    assert len(caches(folder)) == 1


def test_the_copy_is_made_once(source, tmp_path, monkeypatch):
    map_pixels(source, None)
    made = caches(tmp_path)
    monkeypatch.setattr(arrays, "_make", None)  # would be called
    assert (map_pixels(source, None).array == IMAGES).all()
    assert caches(tmp_path) == made


@pytest.mark.parametrize("stated", [False, True])
def test_the_copy_is_never_out_of_date(source, tmp_path, stated):
    """Not even for a file of the same size and the same time of change; the old copy goes."""
    folder = tmp_path / "cache" if stated else tmp_path
    cache = str(folder) if stated else None
    map_pixels(source, cache)
    before = source.stat()
    other = write(tmp_path / "other.src", IMAGES[::-1])
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(source)
    assert source.stat().st_size == before.st_size
    assert source.stat().st_mtime_ns == before.st_mtime_ns
    assert (map_pixels(source, cache).array == IMAGES[::-1]).all()
    assert len(caches(folder)) == 1


def test_changes_right_after_each_other(source):
    """Within a tick of the clock that marks them."""
    for i in range(5):
        write(source, np.roll(IMAGES, i, axis=0))
        assert (map_pixels(source, None).array == np.roll(IMAGES, i, axis=0)).all()


def test_one_folder_for_files_of_one_name(tmp_path):
    sources = []
    for i in range(2):
        (tmp_path / str(i)).mkdir()
        sources.append(write(tmp_path / str(i) / "train.src", IMAGES + i - 1 + (IMAGES == 0)))
    for _ in range(2):
        for i, source in enumerate(sources):
            pixels = map_pixels(source, str(tmp_path / "cache"))
            assert (pixels.array == IMAGES + i - 1 + (IMAGES == 0)).all()
    assert len(caches(tmp_path / "cache")) == 2


def test_nothing_is_left_of_a_copy_that_failed(source, tmp_path):
    write(source, [*IMAGES, [1] * 11])
    with pytest.raises(ValueError):
        map_pixels(source, None)
    assert caches(tmp_path) == []


@pytest.mark.parametrize("reason", ["denied", "file"])
def test_a_folder_that_cannot_be_written(source, tmp_path, reason, monkeypatch):
    """As of data on a medium that is read only. The superuser may write anywhere."""
    cache = None
    if reason == "denied":
        denied = PermissionError(13, "Permission denied")
        monkeypatch.setattr(arrays.tempfile, "mkstemp", lambda **_: (_ for _ in ()).throw(denied))
    else:
        cache = str(source)
    with pytest.raises(OSError, match="cannot be written.*--cache-dir"):
        map_pixels(source, cache)


def test_processes_share_one_copy(source, tmp_path):
    """Of several that need it at the same time, one makes it."""
    write(source, np.tile(IMAGES, (4000, 1)))
    code = (
        "import sys, logging; logging.basicConfig(level='INFO', stream=sys.stdout)\n"
        "from pathlib import Path; from fairseq_mega.data.pixels import map_pixels\n"
        f"print(map_pixels(Path({str(source)!r}), None).array.sum())"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [output.split()[-1] for output in outputs] == [str(4000 * IMAGES.sum())] * 3
    assert sum("preparing" in output for output in outputs) == 1
    assert len(caches(tmp_path)) == 1


def test_another_process_maps_the_file_too(source):
    """As DataLoader's workers may; the array itself does not travel."""
    pixels = map_pixels(source, None)
    data = pickle.dumps(pixels)
    assert len(data) < 1000
    copy = pickle.loads(data)
    assert isinstance(copy.array, np.memmap) and (copy.array == IMAGES).all()


@pytest.mark.parametrize(
    "line, says",
    [
        ("1 2 3", ["line 2 has 3 pixels", "those before have 12", "same size"]),
        ("256" + " 1" * 11, ["line 2 has a pixel of 256", "0 to 255"]),
        ("-1" + " 1" * 11, ["line 2 has a pixel of -1", "0 to 255"]),
        ("0.5" + " 1" * 11, ["line 2 has something else than whole numbers", "0 to 255"]),
        ("a" + " 1" * 11, ["line 2 has something else than whole numbers", "0 to 255"]),
        ("", ["line 2 has 0 pixels", "those before have 12"]),
    ],
)
def test_bad_images(tmp_path, line, says):
    path = tmp_path / "test.src"
    path.write_text(" ".join(["7"] * 12) + f"\n{line}\n")
    with pytest.raises(ValueError) as error:
        map_pixels(path, None)
    for words in ["test.src", *says]:
        assert words in str(error.value)


def test_no_images(tmp_path):
    (tmp_path / "test.src").touch()
    with pytest.raises(ValueError, match=r"test\.src is empty"):
        map_pixels(tmp_path / "test.src", None)


def test_large_images_start_at_once_and_take_little_memory(tmp_path):
    """2.6 GB, as many bytes as Path-X has, of which few are on the disk."""
    path = tmp_path / "train.src"
    path.write_text("1\n")
    target = arrays._cache_path(path, None)
    images = np.lib.format.open_memmap(target, "w+", np.uint8, (160_000, 16_384))
    images[159_999] = 7
    del images
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from fairseq_mega.data.classification import *; from fairseq_mega.data.pixels import *\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"x = Numbers(map_pixels(Path({str(path)!r}), None), 255.0)\n"
        "rows = np.arange(len(x))\n"
        "data = ClassificationDataset([x], np.zeros(len(x), int), rows, 'anew')\n"
        "batches = data.batch_by_size(data.ordered_indices(), max_sentences=16)\n"
        "for batch in batches[:50]: data.collater([data[i] for i in batch])\n"
        "assert data[159_999]['documents'][0].mean() * 255 == 7\n"
        "print(len(batches), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    start = time.time()
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert output.returncode == 0, output.stderr
    batches, kilobytes = map(int, output.stdout.split())
    assert batches == 10_000 and kilobytes < 300_000
    assert time.time() - start < 60


# --- audio --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int16])
@pytest.mark.parametrize("old_format", [False, True])
def test_clips_are_mapped_in_their_type(tmp_path, dtype, old_format):
    clips = (torch.randn(4, 1, 20) * 50).to(dtype)
    path = tmp_path / "train_X.pt"
    torch.save(clips, path, _use_new_zipfile_serialization=not old_format)
    array, unit = map_clips(path, None)
    assert array.array.dtype == clips.numpy().dtype
    assert (array.array == clips[:, 0].numpy()).all()
    assert unit == (2**15 if dtype == torch.int16 else 1)
    assert len(list(tmp_path.iterdir())) == 1 + old_format  # the new one needs no copy
    assert (pickle.loads(pickle.dumps(array)).array == array.array).all()


def test_clips_do_not_fill_the_memory(tmp_path):
    torch.save(torch.zeros(2000, 1, 16000), tmp_path / "X.pt")
    code = (
        "import resource; from pathlib import Path; from fairseq_mega.data.audio import map_clips\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"clips, _ = map_clips(Path({str(tmp_path / 'X.pt')!r}), None); clips[1999].sum()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert int(output.stdout) < 30_000, output.stderr  # kilobytes, of 128,000


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_clips_cut_off(tmp_path, part, old_format):
    path = tmp_path / "train_X.pt"
    torch.save(torch.randn(4, 1, 200), path, _use_new_zipfile_serialization=not old_format)
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(ValueError, match=r"train_X\.pt cannot be read.*cut off: copy it again"):
        map_clips(path, None)


@pytest.mark.parametrize(
    "value, says",
    [
        ({"a": torch.ones(2)}, "holds a dict, but must hold one tensor"),
        (torch.ones(4, 2, 20), r"holds a tensor \(4, 2, 20\) of float32"),
        (torch.ones(4), r"holds a tensor \(4,\) of float32"),
        (torch.ones(4, 1, 20, dtype=torch.bool), "of bool"),
        (torch.ones(4, 1, 20, dtype=torch.bfloat16), "holds bfloat16.*save it as float16"),
    ],
)
def test_other_tensors_than_clips(tmp_path, value, says):
    torch.save(value, tmp_path / "train_X.pt")
    with pytest.raises(ValueError, match=says):
        map_clips(tmp_path / "train_X.pt", None)


@pytest.mark.parametrize("value", [torch.ones(4, 1).long(), torch.ones(4), torch.tensor([1, -1])])
def test_other_tensors_than_classes(tmp_path, value):
    torch.save(value, tmp_path / "train_y.pt")
    with pytest.raises(ValueError, match=r"train_y\.pt holds a tensor.*the number of a class"):
        read_clip_labels(tmp_path / "train_y.pt")
