"""Writes clips of ten pitches, a folder for each, which the demo prepares as users do their own.

python examples/classification/demo_data.py FOLDER --count 60
"""

import argparse
from pathlib import Path

import numpy as np
from scipy.io import wavfile

RATE = 8000  # samples a second, and in a clip
LOWEST, INTERVAL = 150, 1.35  # Hz of the lowest pitch, and from each pitch to the next


def tone(pitch: float, draw: np.random.Generator) -> np.ndarray:
    """A tone near a pitch, with two overtones of random loudness."""
    seconds = draw.uniform(0.3, 0.8)
    pitch *= draw.uniform(0.95, 1.05)
    time = np.arange(int(RATE * seconds)) / RATE
    sound = np.zeros(len(time))
    for overtone, loudness in enumerate((1, draw.uniform(0, 0.3), draw.uniform(0, 0.15)), 1):
        if overtone * pitch < RATE / 2:
            phase = draw.uniform(0, 2 * np.pi)
            sound += loudness * np.sin(2 * np.pi * overtone * pitch * time + phase)
    return sound * np.hanning(len(time)) / np.abs(sound).max()


def clip(pitch: float, draw: np.random.Generator) -> np.ndarray:
    """A tone at a random place and loudness in a second of noise."""
    sound = tone(pitch, draw)
    start = draw.integers(0, RATE - len(sound) + 1)
    samples = draw.normal(0, 0.01, RATE)
    samples[start : start + len(sound)] += draw.uniform(0.3, 0.8) * sound
    return np.clip(samples, -1, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=60, help="clips of each pitch (60)")
    args = parser.parse_args()
    draw = np.random.default_rng(1)
    for number in range(10):
        folder = args.folder / f"pitch{number}"
        folder.mkdir(parents=True)
        for i in range(args.count):
            samples = clip(LOWEST * INTERVAL**number, draw)
            wavfile.write(folder / f"{i:04}.wav", RATE, (samples * 32767).astype(np.int16))


if __name__ == "__main__":
    main()
