"""Kills trainings at random moments, resumes them, and compares how they end.

    python tests/interruption.py [--runs 60] [--seed 1]

is `make interruption`. A run trains a language model with fairseq-train and kills it one to three
times, by SIGKILL or SIGTERM: at a random moment, while a checkpoint is written, or while one is
copied. Before each further start, `recover` repairs the folder. Every start must continue from the
newest intact checkpoint, and the last checkpoint must have, bit by bit, the parameters and the
optimizer state of a training that was never killed.
"""

import argparse
import logging
import multiprocessing
import os
import random
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, Optional

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import fairseq_cli.train  # noqa: E402
import torch  # noqa: E402
from classification import dictionary_of, write_lines  # noqa: E402
from commands import PLUGIN  # noqa: E402

from fairseq_mega.checkpoints.recovery import LAST, number_of_updates, recover  # noqa: E402

# Many words make checkpoints of megabytes, which take a while to write.
WORDS = [f"w{i}" for i in range(20000)]
UPDATES = 36
TRAIN = (
    "--task mega_language_modeling --sample-break-mode complete --tokens-per-sample 16 "
    "--variant-block-multiple-min 1 --variant-block-multiple-max 3 --max-tokens 48 "
    "--valid-block splits:2 --arch mega_lm --decoder-layers 1 --decoder-chunk-size 8 "
    "--rel-pos-bias rotary --decoder-embed-dim 16 --decoder-hidden-dim 24 "
    "--decoder-ffn-embed-dim 24 --decoder-z-dim 8 --decoder-n-dim 2 "
    "--cpu --required-batch-size-multiple 1 --dropout 0.2 --num-workers 0 --seed 3 "
    "--optimizer adam --lr 5e-3 --lr-scheduler linear_decay --warmup-updates 5 "
    f"--total-num-update 100 --max-update {UPDATES} --save-interval-updates 6 "
    "--update-epoch-batch-itr True"
)
MOMENTS = ("at a random moment", "while one is written", "while one is copied")


def make_data(folder: Path) -> Path:
    """A folder of binarised text; three epochs take about 36 updates."""
    dictionary, generator = dictionary_of(WORDS), random.Random(5)
    for split, count in {"train": 96, "valid": 8}.items():
        rows = [generator.choices(WORDS, k=generator.randint(3, 9)) for _ in range(count)]
        write_lines(folder / split, rows, dictionary)
    return folder


def run_command(words: list[str], output: Path) -> None:
    """Runs fairseq-train in this process; its output goes to a file."""
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, force=True)
    sys.argv = words
    fairseq_cli.train.cli_main()


class Training:
    """Process of fairseq-train, forked from this one, which has imported what it needs."""

    def __init__(self, data: Path, save: Path):
        self.save, self._output = save, data.with_name("output.txt")
        words = ["fairseq-train", str(data), *shlex.split(TRAIN)]
        words += ["--user-dir", str(PLUGIN), "--save-dir", str(save)]
        fork = multiprocessing.get_context("fork")
        self.process = fork.Process(target=run_command, args=(words, self._output))
        self.process.start()

    @property
    def output(self) -> str:
        return self._output.read_text()

    def until(self, condition: Callable[[], bool]) -> None:
        """Waits for it, or for the end of the process."""
        while self.process.exitcode is None and not condition():
            time.sleep(0.0002)

    def end(self) -> Optional[int]:
        self.process.join(300)
        return self.process.exitcode

    def kill(self, rng: random.Random, seconds: float) -> str:
        """Kills it within `seconds` of its first write, or when it next writes or copies."""
        self.until(self.save.exists)
        moment, end = rng.choice(MOMENTS), time.time() + rng.uniform(0, seconds)
        self.until(lambda: time.time() > end)
        if moment != MOMENTS[0]:
            written = moment == MOMENTS[1]
            self.until((lambda: any(self.save.glob("*.tmp"))) if written else self.copies)
            time.sleep(rng.uniform(0, 0.004))
        number = rng.choice([signal.SIGKILL, signal.SIGTERM])
        if self.process.exitcode is None:
            os.kill(self.process.pid, number)
        assert self.end() in (-number, 0), self.output[-2000:]
        return f"{number.name} {moment}" if self.process.exitcode else "too late"

    def copies(self) -> bool:
        """Whether a checkpoint is shorter than another, and so is being copied."""
        sizes = [path.stat().st_size for path in self.save.glob("*.pt")]
        return bool(sizes) and min(sizes) < 0.98 * max(sizes)

    def wrong_start(self, updates: int) -> list[str]:
        if not re.search("Loaded checkpoint|No existing checkpoint found", self.output):
            return []  # it was killed before
        found = re.findall(r"Loaded checkpoint .* @ (\d+) updates", self.output) or ["0"]
        return [] if int(found[-1]) == updates else [f"starts at {found[-1]}, not {updates}"]


def one_run(data: Path, expected: Path, seconds: float, rng: random.Random, save: Path):
    """Kills a training and lets it end; returns how it was killed, and what is wrong."""
    kills, wrong, resumed_at = [], [], 0
    for _ in range(rng.choice([1, 1, 2, 3])):
        training = Training(data, save)
        kills.append(training.kill(rng, seconds))
        wrong += training.wrong_start(resumed_at)
        if save.exists():
            recover(save)
        resumed_at = number_of_updates(save / LAST) if (save / LAST).exists() else 0
        if resumed_at == UPDATES:  # it was over: fairseq would make one update more
            break
    else:
        training = Training(data, save)
        assert training.end() == 0, training.output[-2000:]
        wrong += training.wrong_start(resumed_at)
    return kills, wrong + [f"another {part}" for part in differences(save / LAST, expected)]


def differences(ours: Path, theirs: Path) -> list[str]:
    """Parts of two checkpoints that must be equal bit by bit, and are not."""
    a, b = (torch.load(path, weights_only=True) for path in (ours, theirs))
    for each in (a, b):
        each["updates"] = each["optimizer_history"][-1]["num_updates"]
        each["iterator"] = each["extra_state"]["train_iterator"]
    parts = ("model", "last_optimizer_state", "updates", "iterator")
    return [part for part in parts if not equal(a[part], b[part])]


def equal(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[name], b[name]) for name in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def main(words: Optional[list[str]] = None) -> list[str]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=60, help="trainings (60)")
    parser.add_argument("--seed", type=int, default=1, help="of when they are killed (1)")
    args = parser.parse_args(words)
    failures = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        training = Training(make_data(work / "data"), work / "whole")
        training.until(training.save.exists)
        start = time.time()
        assert training.end() == 0, training.output[-2000:]
        case = work / "data", training.save / LAST, time.time() - start
        for i in range(args.runs):
            kills, wrong = one_run(*case, random.Random(f"{args.seed}-{i}"), work / f"run-{i}")
            shutil.rmtree(work / f"run-{i}")
            failures += [f"run {i}, {', '.join(kills)}: {each}" for each in wrong]
            print(f"{i + 1} of {args.runs}: {', '.join(kills)}", flush=True)
    print(*failures, f"{len(failures)} wrong", sep="\n")
    return failures


if __name__ == "__main__":
    sys.exit(bool(main()))
