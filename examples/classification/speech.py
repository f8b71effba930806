"""Clips from folders of .wav files, a folder for each class, to tensors."""

import argparse
import struct
import warnings
from pathlib import Path
from typing import List, Tuple

import numpy as np
from scipy.io import wavfile

from examples.classification.layouts import class_folders, files_in, stratified
from examples.steps import PreparationError

# The order of the classes in the published data.
WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
STEMS = {"train": "train", "valid": "val", "test": "test"}
SMALL = 1e-5  # is added to standard deviations


def read_wav(path: Path) -> Tuple[np.ndarray, int]:
    """Samples ``(L,)`` from -1 to 1 in float32, the mean of all channels, and samples a second.

    Raises:
        PreparationError: where the file is truncated, or in a format that scipy does not read.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Reached EOF prematurely")
            rate, samples = wavfile.read(path)
    except (OSError, ValueError, EOFError, struct.error, wavfile.WavFileWarning) as error:
        raise PreparationError(
            f"{path} is not a wav file that can be read ({error}): get it again, convert it to PCM "
            "of 16 bits, or leave it out"
        ) from error
    kind = samples.dtype
    samples = samples.reshape(len(samples), -1).mean(axis=1, dtype=np.float64)
    if kind.kind in "iu":
        half = 2.0 ** (8 * kind.itemsize - 1)
        samples = samples / half - (kind.kind == "u")
    return samples.astype(np.float32), rate


def clips_of(
    folders: List[Path], args: argparse.Namespace
) -> Tuple[List[Path], List[int], List[np.ndarray]]:
    """The files, classes and samples of all clips of --samples; of others too with --fit.

    Raises:
        PreparationError: where a class has no clip of this length, or the rates differ.
    """
    files, numbers, clips, rates = [], [], [], {}
    for number, folder in enumerate(folders):
        there = files_in(folder, ".wav")
        for path in there:
            samples, rate = read_wav(path)
            if args.fit or len(samples) == args.samples:
                rates.setdefault(rate, path)
                files.append(path)
                numbers.append(number)
                samples = samples[: args.samples]
                clips.append(np.pad(samples, (0, args.samples - len(samples))))
        if number not in numbers:
            raise PreparationError(
                f"{folder} has no clip of {args.samples:,} samples among {len(there)}: give "
                "another --samples, or --fit to pad and cut them"
            )
        print(f"{folder}: {numbers.count(number)} of {len(there)} clips", flush=True)
    if len(rates) > 1:
        (one, path), (other, another) = list(rates.items())[:2]
        raise PreparationError(
            f"{path} has {one} samples a second, {another} has {other}: convert all to one rate"
        )
    return files, numbers, clips


def write_clips(args: argparse.Namespace, out: Path) -> None:
    """Writes raw/{train,val,test}_{X,y}.pt and classes.txt.

    Clips are standardised by mean and deviation of each sample's place over the training clips
    (--standardise step, as published), or of all their samples.
    """
    import torch  # takes a second

    folders = class_folders(args.source, args.classes)
    if not args.classes and {each.name for each in folders} == set(WORDS):
        folders = [args.source / word for word in WORDS]
    files, numbers, clips = clips_of(folders, args)
    keys = [f"{path.parent.name}/{path.name}" for path in files]
    sets = stratified(keys, numbers, args.held_out, seed=0)
    axis = 0 if args.standardise == "step" else None
    (out / "raw").mkdir()
    for split, rows in sets.items():  # train comes first
        x = np.stack([clips[row] for row in rows])  # (clips, samples)
        if split == "train":
            mean, deviation = (f(axis=axis, dtype=np.float64) for f in (x.mean, x.std))
        x -= mean
        x /= deviation + SMALL
        torch.save(torch.from_numpy(x).unsqueeze(1), out / f"raw/{STEMS[split]}_X.pt")
        torch.save(torch.tensor([numbers[row] for row in rows]), out / f"raw/{STEMS[split]}_y.pt")
        print(f"{split}: {len(rows):,} clips", flush=True)
    names = "".join(f"{each.name}\n" for each in folders)
    (out / "classes.txt").write_text(names, encoding="utf-8")
