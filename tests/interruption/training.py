"""Interrupts trainings, gives the same command again until it ends, and compares the ends.

    python tests/interruption/training.py [--runs 100] [--seed 1] [--mount]

is part of `make interruption`. A run is a training with fairseq-train that is interrupted one to
three times: by SIGKILL or SIGTERM at a random moment, while a checkpoint is written or while it is
copied; by a disk that is full; by a folder that has become read-only. Before each further start,
`recover` looks after the folder, as `python -m fairseq_mega recover` does. Every start must go on
from the newest whole checkpoint, and the last checkpoint must have, bit by bit, the parameters and
the state of the optimizer of a training that was never interrupted.

One run in ten starts the command as a shell does; the others call its function in a fork of this
process, which has imported what it needs. With --mount, full and read-only disks are a tmpfs;
without, or where that is not permitted, a limit on the size of files stands for a full one, and the
folder's permissions, which root ignores, for a read-only one.
"""

import argparse
import collections
import logging
import multiprocessing
import os
import random
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Optional

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import fairseq_cli.train  # noqa: E402
import torch  # noqa: E402
from classification import dictionary_of, make_texts, write_lines  # noqa: E402
from commands import BIN, PLUGIN  # noqa: E402

from fairseq_mega.checkpoints.recovery import LAST, is_whole, number_of_updates, recover  # noqa: E402

# Many words make checkpoints of megabytes, which take a while to write.
WORDS = [f"w{i}" for i in range(20000)]
SIZES = "-embed-dim 16 --{0}-hidden-dim 24 --{0}-ffn-embed-dim 24 --{0}-z-dim 8 --{0}-n-dim 2"
UPDATES = 36
TRAIN = (
    "--optimizer adam --lr 5e-3 --lr-scheduler linear_decay --warmup-updates 5 --dropout 0.2 "
    f"--total-num-update 100 --max-update {UPDATES} --save-interval-updates 6 "
    "--update-epoch-batch-itr True --log-format json --log-interval 6 --num-workers 0 --seed 3"
)
KINDS = {
    "language-model": (
        "--task mega_language_modeling --sample-break-mode complete --tokens-per-sample 16 "
        "--variant-block-multiple-min 1 --variant-block-multiple-max 3 --max-tokens 48 "
        "--valid-block splits:2 --arch mega_lm --decoder-layers 1 --decoder-chunk-size 8 "
        "--rel-pos-bias rotary --decoder" + SIZES.format("decoder")
    ),
    "translation": (
        "--task translation --arch mega --encoder-layers 1 --decoder-layers 1 --batch-size 8 "
        "--max-source-positions 20 --max-target-positions 20 --criterion "
        "label_smoothed_cross_entropy --share-all-embeddings --encoder" + SIZES.format("encoder")
    ),
    "classifier": (
        "--task lra-text --arch mega_text --encoder-layers 1 --encoder-embed-dim 12 --batch-size 8 "
        "--encoder-hidden-dim 16 --encoder-ffn-embed-dim 20 --z-dim 4 --n-dim 2 "
        "--classifier-out-dim 10 --criterion lra_cross_entropy --sentence-avg"
    ),
}
COMMON = "--cpu --required-batch-size-multiple 1"
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM}
MOMENTS = ("at a random moment", "while one is written", "while one is copied")


# --- data and places ----------------------------------------------------------------------------


def make_data(kind: str, folder: Path) -> Path:
    """Three epochs of it take about 36 updates."""
    if kind == "classifier":
        return make_texts(folder, sets={"train": 96, "valid": 16, "test": 16})
    dictionary, generator = dictionary_of(WORDS), random.Random(5)
    names = {"language-model": [""], "translation": [".src-tgt.src", ".src-tgt.tgt"]}[kind]
    for split, count in {"train": 96, "valid": 8}.items():
        rows = [generator.choices(WORDS, k=generator.randint(3, 9)) for _ in range(count)]
        for name in names:
            write_lines(folder / f"{split}{name}", rows, dictionary)
    for side in ("src", "tgt"):
        shutil.copy(folder / "dict.txt", folder / f"dict.{side}.txt")
    return folder


class Disk:
    """A folder of which the size and the right to write can be taken away."""

    def __init__(self, folder: Path, mount: bool):
        folder.mkdir()
        self.folder, self.save = folder, folder / "checkpoints"
        self.mounted = mount and self._mount("-t", "tmpfs", "tmpfs") == 0
        self.limit: Optional[int] = None  # bytes of a file, where it is not mounted

    def _mount(self, *words: str) -> int:
        command = ["mount", *words, str(self.folder)]
        return subprocess.run(command, stderr=subprocess.DEVNULL).returncode

    def room(self, size: int) -> None:
        """For so many bytes more."""
        if self.mounted:
            size += sum(path.stat().st_blocks * 512 for path in self.folder.rglob("*"))
            assert self._mount("-o", f"remount,size={size}") == 0
        else:
            self.limit = size

    def make_room(self) -> None:
        self.limit = None
        if self.mounted:
            assert self._mount("-o", "remount,size=1g") == 0

    def forbid_writing(self) -> None:
        if not self.mounted:
            self.save.chmod(0o555)
            return
        while self._mount("-o", "remount,ro"):  # it is busy while a file is written
            time.sleep(0.001)

    def permit_writing(self) -> None:
        if self.mounted:
            assert self._mount("-o", "remount,rw") == 0
        elif self.save.exists():
            self.save.chmod(0o755)

    def remove(self) -> None:
        if self.mounted:
            subprocess.run(["umount", str(self.folder)], check=True)
        shutil.rmtree(self.folder)


# --- one training -------------------------------------------------------------------------------


def run_command(words: list[str], output: Path, limit: Optional[int], imported: bool) -> None:
    """In a process of its own: fairseq-train, all that it prints, and the limit of its files."""
    output.unlink(missing_ok=True)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if not imported:
        os.execv(words[0], words)
    sys.argv = words
    with open(output, "a", encoding="utf-8") as sys.stdout:
        logging.basicConfig(stream=sys.stdout, level=logging.INFO, force=True)
        fairseq_cli.train.cli_main()


class Training:
    """A process of fairseq-train."""

    def __init__(
        self, kind: str, data: Path, save: Path, limit: Optional[int] = None, imported: bool = True
    ):
        self.save, self._output = save, data.with_name("output.txt")
        words = [str(BIN / "fairseq-train"), str(data)]
        for options in (KINDS[kind], TRAIN, COMMON):
            words += shlex.split(options)
        words += ["--user-dir", str(PLUGIN), "--save-dir", str(save)]
        arguments = words, self._output, limit, imported
        self._process = multiprocessing.get_context("fork").Process(
            target=run_command, args=arguments
        )
        self._process.start()

    @property
    def status(self) -> Optional[int]:
        """The exit status, minus the signal if it was one; None while it runs."""
        return self._process.exitcode

    @property
    def output(self) -> str:
        return self._output.read_text()

    def kill(self, signal_number: int) -> None:
        if self.status is None:
            os.kill(self._process.pid, signal_number)

    def until(self, condition: Callable[[], bool], seconds: float = 300) -> bool:
        """Waits for it, or for the end of the process; whether it has become true."""
        end = time.time() + seconds
        while self.status is None and time.time() < end:
            if condition():
                return True
            time.sleep(0.0002)
        return False

    def end(self) -> int:
        """Waits for the end of the process; returns its exit status."""
        self._process.join(300)
        assert self.status is not None, "it hangs"
        return self.status

    def begins_to_write(self) -> bool:
        return any(self.save.glob("*.tmp"))

    def copies(self) -> bool:
        """A checkpoint is shorter than another: it is being copied."""
        sizes = [path.stat().st_size for path in self.save.glob("*.pt")]
        return bool(sizes) and min(sizes) < 0.98 * max(sizes)

    def resumed_at(self) -> int:
        """The number of updates that it has gone on from."""
        found = re.findall(r"Loaded checkpoint .* @ (\d+) updates", self.output)
        return int(found[-1]) if found else 0


@dataclass
class Tally:
    """What has been done and met."""

    runs: int = 0
    interruptions: collections.Counter = field(default_factory=collections.Counter)
    found: collections.Counter = field(default_factory=collections.Counter)
    wrong: list = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.runs} runs, {sum(self.interruptions.values())} interruptions"]
        lines += [f"  {count:4} {name}" for name, count in sorted(self.interruptions.items())]
        lines += ["what they left behind"]
        lines += [f"  {count:4} {name}" for name, count in sorted(self.found.items())]
        return "\n".join([*lines, f"{len(self.wrong)} wrong", *self.wrong])


Begin = Callable[[], Training]

# --- interruptions ------------------------------------------------------------------------------


def wait(training: Training, seconds: float) -> None:
    """So long after it has made its folder, or until it ends."""
    training.until(training.save.exists)
    end = time.time() + seconds
    training.until(lambda: time.time() > end)


def send_signal(training: Training, rng: random.Random, name: str, moment: str) -> None:
    """At a random moment, or when it writes next or copies next."""
    if moment != MOMENTS[0]:
        training.until(training.begins_to_write if moment == MOMENTS[1] else training.copies)
        time.sleep(rng.uniform(0, 0.004))
    training.kill(SIGNALS[name])
    assert training.end() in (-SIGNALS[name], 0), training.output[-2000:]


def interrupt(begin: Begin, disk: Disk, rng: random.Random, case: "Case") -> tuple[Training, str]:
    """Begins a training and interrupts it; returns it, and what has been done to it."""
    name = rng.choices([*SIGNALS, "full disk", "read-only folder"], [40, 30, 20, 10])[0]
    if name == "full disk":
        disk.room(int(rng.uniform(0.2, 3.5) * case.expected.stat().st_size))
        training = begin()
        if training.end():
            assert re.search("No space left|File too large|unexpected pos", training.output)
        disk.make_room()
        return training, name
    training = begin()
    wait(training, rng.uniform(0, case.seconds))
    if name in SIGNALS:
        moment = rng.choices(MOMENTS, [40, 30, 30])[0]
        send_signal(training, rng, name, moment)
        return training, f"{name} {moment}"
    disk.forbid_writing()
    assert training.end() == 0 or re.search("Read-only|Permission denied", training.output)
    disk.permit_writing()
    return training, name


def state_of(folder: Path) -> str:
    """What an interruption has left in the folder."""
    files = list(folder.glob("*.pt"))
    if any(not is_whole(path) for path in files):
        last = (folder / LAST).exists() and not is_whole(folder / LAST)
        return f"a copy that is cut off: {'the last' if last else 'the best'} checkpoint"
    elif any(folder.glob("*.tmp")):
        return "a checkpoint half written, under another name"
    return "whole checkpoints" if files else "no checkpoint"


def differences(ours: Path, theirs: Path) -> list[str]:
    """Parts of two checkpoints that are not equal bit by bit."""
    a, b = (torch.load(path, weights_only=True) for path in (ours, theirs))
    for each in (a, b):
        # The rest of the history differs: it has an entry for each start, and the best validation
        # loss, for --lr-scheduler reduce_lr_on_plateau, of which fairseq forgets one in a restart.
        each["updates"] = each["optimizer_history"][-1]["num_updates"]
        each["train_iterator"] = each["extra_state"]["train_iterator"]
    parts = ("model", "last_optimizer_state", "updates", "train_iterator")
    return [part for part in parts if not equal(a[part], b[part])]


def equal(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[name], b[name]) for name in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@dataclass(frozen=True)
class Case:
    """A training that is interrupted, and the checkpoint that it must end with."""

    kind: str
    data: Path
    expected: Path
    seconds: float  # that it takes from when it makes its folder
    seed: str
    imported: bool
    mount: bool


def one_run(case: Case, work: Path, tally: Tally) -> None:
    """Interrupts a training some times, lets it end, and compares."""
    rng, disk, goes_on_at = random.Random(case.seed), Disk(work / "disk", case.mount), 0
    story: list[str] = []

    def begin() -> Training:
        return Training(case.kind, case.data, disk.save, disk.limit, case.imported)

    try:
        for _ in range(rng.choice([1, 1, 2, 3])):
            training, done = interrupt(begin, disk, rng, case)
            done += "" if training.status else ", too late"
            found = state_of(disk.save)
            tally.interruptions[done] += 1
            tally.found[found] += 1
            story += [f"{done}: {found}", *wrong_start(training, goes_on_at)]
            goes_on_at = recovered(disk.save)
            if goes_on_at == UPDATES:  # it was over: fairseq would make one update more
                break
        else:
            training = begin()
        if training.end() and goes_on_at < UPDATES:
            story.append(f"WRONG: it does not end: {training.output[-1500:]}")
        else:
            unequal = differences(disk.save / LAST, case.expected)
            story += wrong_start(training, goes_on_at) if goes_on_at < UPDATES else []
            story += [f"WRONG: {part} is not as without interruptions" for part in unequal]
    finally:
        disk.remove()
    tally.runs += 1
    if any("WRONG" in line for line in story):
        tally.wrong.append(f"{case.kind}, seed {case.seed}: " + "; ".join(story))


def recovered(save: Path) -> int:
    """The number of updates from which the training has to go on."""
    if save.exists():
        recover(save)
    return number_of_updates(save / LAST) if (save / LAST).exists() else 0


def wrong_start(training: Training, updates: int) -> list[str]:
    if not re.search("Loaded checkpoint|No existing checkpoint found", training.output):
        return []  # it was stopped before
    found = training.resumed_at()
    return [] if found == updates else [f"WRONG: it goes on at {found}, not {updates}"]


def uninterrupted(kind: str, data: Path, work: Path) -> tuple[Path, float]:
    """The last checkpoint of a training that nothing disturbs, and the seconds that it takes."""
    folder = work / kind
    training = Training(kind, data, folder)
    training.until(folder.exists)
    start = time.time()
    assert training.end() == 0, training.output[-2000:]
    assert number_of_updates(folder / LAST) == UPDATES
    return folder / LAST, time.time() - start


def main(words: Optional[list[str]] = None) -> Tally:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100, help="trainings (100)")
    parser.add_argument("--seed", type=int, default=1, help="of what is done to them (1)")
    parser.add_argument("--mount", action="store_true", help="disks of a given size: as root")
    args = parser.parse_args(words)
    tally, kinds = Tally(), list(KINDS)[: args.runs]
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        data = {kind: make_data(kind, work / f"data-{kind}") for kind in kinds}
        expected = {kind: uninterrupted(kind, data[kind], work) for kind in kinds}
        for i in range(args.runs):
            kind = kinds[i % len(kinds)]
            seed, imported = f"{args.seed}-{i}", i % 10 < 9
            case = Case(kind, data[kind], *expected[kind], seed, imported, args.mount)
            one_run(case, work, tally)
            print(f"{i + 1} of {args.runs}: {len(tally.wrong)} wrong", flush=True)
    print(tally)
    return tally


if __name__ == "__main__":
    sys.exit(1 if main().wrong else 0)
