"""Files that the demo prepares as people prepare their own: pictures and clips, by class.

    python examples/classification/demo_data.py digits FOLDER
    python examples/classification/demo_data.py spoken FOLDER --count 60

Digits are scikit-learn's, 1,797 handwritten ones of 8 x 8 pixels, as .png. Spoken digits are .wav
of one second: said by espeak-ng in several voices where it is installed; otherwise synthesised
tones, whose pitch tells the digit. SOURCE.txt in the folder says which.
"""

import argparse
import shutil
import subprocess
import wave
from pathlib import Path
from typing import Callable

import numpy as np

RATE = 8000  # samples a second
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
VOICES = ("m1", "m2", "m3", "m4", "m5", "m7", "f1", "f2", "f3", "f4")  # of espeak-ng
LOWEST, INTERVAL = 150, 1.35  # Hz of the tone for zero, and from each digit to the next


def digits(folder: Path) -> None:
    """A .png of each of scikit-learn's digits, whose 17 levels become 0 to 240."""
    from PIL import Image
    from sklearn.datasets import load_digits

    data = load_digits()
    for number, (pixels, digit) in enumerate(zip(data.images, data.target)):
        path = folder / str(digit) / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((15 * pixels).astype(np.uint8)).save(path)


def spoken(folder: Path, count: int) -> None:
    """`count` clips of each digit, and SOURCE.txt."""
    program, draw = shutil.which("espeak-ng"), np.random.default_rng(1)
    say: Callable = espeak if program else synthesise
    for digit, word in enumerate(DIGITS):
        (folder / word).mkdir(parents=True)
        for number in range(count):
            path = folder / word / f"{number:04}.wav"
            write_wav(path, placed(say(digit, draw, path), draw))
    source = "espeak-ng" if program else "synthesised tones (espeak-ng is not installed)"
    (folder / "SOURCE.txt").write_text(f"{source}\n")


def espeak(digit: int, draw: np.random.Generator, path: Path) -> np.ndarray:
    """The word in a random voice, pitch and speed."""
    from scipy.io import wavfile
    from scipy.signal import resample_poly

    voice, pitch, speed = draw.choice(VOICES), draw.integers(20, 80), draw.integers(130, 220)
    options = ["-v", f"en+{voice}", "-p", str(pitch), "-s", str(speed), "-w", str(path)]
    subprocess.run(["espeak-ng", *options, DIGITS[digit]], check=True)
    rate, samples = wavfile.read(path)
    return resample_poly(samples / 32768.0, RATE, rate)


def synthesise(digit: int, draw: np.random.Generator, _: Path) -> np.ndarray:
    """A tone of a pitch near the digit's, with two overtones of random loudness."""
    seconds = draw.uniform(0.3, 0.8)
    pitch = LOWEST * INTERVAL**digit * draw.uniform(0.95, 1.05)
    time = np.arange(int(RATE * seconds)) / RATE
    sound = np.zeros(len(time))
    for overtone, loudness in enumerate((1, draw.uniform(0, 0.3), draw.uniform(0, 0.15)), 1):
        if overtone * pitch < RATE / 2:
            phase = draw.uniform(0, 2 * np.pi)
            sound += loudness * np.sin(2 * np.pi * overtone * pitch * time + phase)
    return sound * np.hanning(len(time)) / np.abs(sound).max()


def placed(sound: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """The sound at a random place and loudness in a second of noise."""
    sound = sound[:RATE]
    start = draw.integers(0, RATE - len(sound) + 1)
    clip = draw.normal(0, 0.01, RATE)
    clip[start : start + len(sound)] += draw.uniform(0.3, 0.8) * sound
    return np.clip(clip, -1, 1)


def write_wav(path: Path, samples: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((samples * 32767).astype("<i2").tobytes())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=["digits", "spoken"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=60, help="clips of each word (60)")
    args = parser.parse_args()
    digits(args.folder) if args.kind == "digits" else spoken(args.folder, args.count)


if __name__ == "__main__":
    main()
