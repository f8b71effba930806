"""Clips from folders of .wav files, a folder for each class, to tensors."""

import wave
from collections.abc import Sequence
from pathlib import Path
from typing import List, Tuple

import numpy as np

from examples.classification.layouts import class_folders, files_in, stratified
from examples.steps import PreparationError

# The order of the classes in the published data, of which there are these.
WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
STEMS = {"train": "train", "valid": "val", "test": "test"}
TYPES = {1: np.dtype("u1"), 2: np.dtype("<i2"), 4: np.dtype("<i4")}  # by bytes of a sample
SMALL = 1e-5  # is added to standard deviations


def read_wav(path: Path) -> Tuple[np.ndarray, int]:
    """Samples ``(L,)`` from -1 to 1 in float32, the mean of all channels, and samples a second.

    Raises:
        PreparationError: where the file is cut off, or no PCM of 8, 16 or 32 bits.
    """
    try:
        with wave.open(str(path), "rb") as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            announced = file.getnframes()
            content = file.readframes(announced)
    except (wave.Error, EOFError, OSError, ValueError, RuntimeError) as error:
        raise PreparationError(
            f"{path} is no wav file of plain samples that can be read "
            f"({error or 'it ends too early'}): convert it to PCM of 16 bits, or leave it out"
        ) from error
    if width not in TYPES:
        raise PreparationError(
            f"{path} has samples of {8 * width} bits: convert it to PCM of 16 bits"
        )
    if len(content) != announced * width * channels:
        raise PreparationError(
            f"{path} is cut off: it announces {announced:,} samples, but has "
            f"{len(content) // (width * channels):,}: get it again, or leave it out"
        )
    samples = np.frombuffer(content, TYPES[width]).reshape(-1, channels).astype(np.float32)
    samples = samples - 128 if width == 1 else samples
    return samples.mean(axis=1) / float(1 << (8 * width - 1)), rate


def clips_of(
    folder: Path, classes: Sequence[str], length: int, fit: bool
) -> Tuple[List[str], List[Path], List[int]]:
    """The names of the classes, and the files and classes of the clips.

    Clips of other lengths than `length` samples are left out, unless they are to `fit`.

    Raises:
        PreparationError: where a class has no clip of this length, or the rates differ.
    """
    found = class_folders(folder, classes)
    if not classes and {each.name for each in found} == set(WORDS):
        found = [folder / word for word in WORDS]
    files, numbers, rates = [], [], {}
    for number, each in enumerate(found):
        there = files_in(each, [".wav"])
        for path in there:
            samples, rate = read_wav(path)
            if fit or len(samples) == length:
                rates.setdefault(rate, path)
                files.append(path)
                numbers.append(number)
        left_out = len(there) - numbers.count(number)
        if left_out == len(there):
            raise PreparationError(
                f"{each} has no clip of {length:,} samples among {len(there)}: give another "
                "--samples, or --fit to pad and cut them"
            )
        if left_out:
            print(f"{each}: {left_out} of {len(there)} clips have another length, left out")
    if len(rates) > 1:
        (one, path), (other, another) = list(rates.items())[:2]
        raise PreparationError(
            f"{path} has {one} samples a second, {another} has {other}: convert all to one rate"
        )
    return [each.name for each in found], files, numbers


def write_clips(
    folder: Path,
    classes: Sequence[str],
    length: int,
    fit: bool,
    standardise: str,
    held_out: float,
    out: Path,
) -> None:
    """Writes raw/{train,val,test}_{X,y}.pt and classes.txt.

    Args:
        standardise: `step`, by mean and deviation of each sample's place over the training clips,
            as published, or `all`, by those of all their samples.
    """
    import torch  # takes a second

    names, files, numbers = clips_of(folder, classes, length, fit)
    keys = [f"{path.parent.name}/{path.name}" for path in files]
    raw, statistics = out / "raw", None
    raw.mkdir()
    for split, rows in stratified(keys, numbers, held_out, seed=0).items():  # train comes first
        scratch = raw / f"{split}.npy"
        shape = (len(rows), 1, length)
        clips = np.lib.format.open_memmap(scratch, "w+", dtype=np.float32, shape=shape)
        for place, row in enumerate(rows):
            clips[place, 0] = fitted(read_wav(files[row])[0], length)
        statistics = statistics or statistics_of(clips, standardise)
        for clip in clips:
            clip[:] = (clip - statistics[0]) / (statistics[1] + SMALL)
        torch.save(torch.from_numpy(clips), raw / f"{STEMS[split]}_X.pt")
        torch.save(torch.tensor([numbers[row] for row in rows]), raw / f"{STEMS[split]}_y.pt")
        del clips
        scratch.unlink()
        print(f"{split}: {len(rows):,} clips", flush=True)
    (out / "classes.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def fitted(samples: np.ndarray, length: int) -> np.ndarray:
    """The samples, cut at the end or padded there with silence."""
    return np.pad(samples[:length], (0, max(0, length - len(samples))))


def statistics_of(clips: np.ndarray, standardise: str) -> Tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of clips ``(n, 1, L)``: ``(L,)`` each, or ``()`` of all samples."""
    if standardise == "step":
        return clips.mean(axis=(0, 1), dtype=np.float64), clips.std(axis=(0, 1), dtype=np.float64)
    return clips.mean(dtype=np.float64), clips.std(dtype=np.float64)
