"""Kills preparations and the demo at random moments, and gives the same command until it ends.

    python tests/interruption/preparation.py [--what preparation|demo] [--runs 20] [--seed 1]

is part of `make interruption`. In the end, all files must be those of a run that nobody
disturbed. One half of the kills is of the command alone, so that the processes that it has started
go on for a while; the other half is of all of them. Downloads are from a server of this process;
the demo is `short_demo.py`, of six updates.
"""

import argparse
import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, Iterator, List, Optional

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import archives  # noqa: E402
from server import running_server  # noqa: E402

# What notes folders or times, and differs between two runs that do the same: a SentencePiece model
# names the files that it has read, and its vocabulary, which is compared, does not.
UNLIKE = ("log.txt", "preprocess.log", "settings.json", "done", "subword.model")
PREPARATIONS = {
    "translation": "examples/translation/prepare.py multi30k --vocab-size 90 --workers 2",
    "language-modeling": "examples/language_modeling/prepare.py enwik8 --workers 2",
    "classification": "examples/classification/prepare.py text --workers 2 --longest 60",
}
DEMO = {"demo": "tests/interruption/short_demo.py"}


def reviews() -> Dict[str, str]:
    return {
        f"aclImdb/{split}/{kind}/{i}_{i % 10}.txt": f"{kind} {split} no {i}, and more\n" * 3
        for split in ("train", "test")
        for kind in ("pos", "neg")
        for i in range(200)
    }


@contextlib.contextmanager
def downloads() -> Iterator[Dict[str, str]]:
    """Variables that lead to a server that has the three programs' downloads."""
    en, de = archives.sentences(600)
    files = archives.multi30k(
        (en[:400], de[:400]), (en[400:500], de[400:500]), (en[500:], de[500:])
    )
    with running_server() as server:
        server.files = {f"raw/{name}": data for name, data in files.items()}
        server.files["enwik8.zip"] = archives.zipped({"enwik8": b"some bytes\n" * 20000})
        server.files["imdb"] = archives.tgz(reviews())
        variables = {"ENWIK8_URL": server.address("enwik8.zip")}
        variables["LRA_IMDB_URL"] = server.address("imdb")
        from examples.translation.prepare import PUBLISHED

        for remote in PUBLISHED["multi30k"].remotes:
            name = remote.published_url.rsplit("/", 1)[1]
            variables[f"{remote.name}_URL"] = server.address(f"raw/{name}")
        yield variables


class Program:
    """A command that fills a folder."""

    def __init__(self, words: List[str], variables: Dict[str, str]):
        self.words = words
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}

    def start(self, folder: Path) -> subprocess.Popen:
        words = [*self.words, "--workdir", str(folder)]
        return subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def finish(self, folder: Path) -> float:
        """Runs to the end; returns the seconds that it took."""
        start, process = time.time(), self.start(folder)
        output = process.communicate(timeout=600)[0]
        assert process.returncode == 0, output[-2000:]
        return time.time() - start

    def killed(self, folder: Path, seconds: float, everything: bool, name: int) -> bool:
        """Kills it after so many seconds; whether it still ran."""
        process = self.start(folder)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=seconds)
        running = process.poll() is None
        if running and everything:
            os.killpg(process.pid, name)
        elif running:
            process.send_signal(name)
        process.stdout.close()
        process.wait()
        return running


def programs(what: str, variables: Dict[str, str]) -> Dict[str, Program]:
    commands = PREPARATIONS if what == "preparation" else DEMO
    return {name: Program(words.split(), variables) for name, words in commands.items()}


def contents(folder: Path) -> Dict[str, str]:
    """The files and their hashes; of checkpoints, which note when they were made, the weights'."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in UNLIKE:
            data = weights(path) if path.suffix == ".pt" else path.read_bytes()
            found[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    return found


def weights(path: Path) -> bytes:
    import torch

    model = torch.load(path, weights_only=True)["model"]
    return b"".join(name.encode() + t.numpy().tobytes() for name, t in sorted(model.items()))


def check(name: str, program: Program, work: Path, runs: int, seed: int) -> List[str]:
    """What is wrong after each run of kills."""
    whole, wrong, kills = work / f"{name}-whole", [], 0
    seconds = program.finish(whole)
    expected = contents(whole)
    for i in range(runs):
        rng, folder = random.Random(f"{seed}-{i}"), work / f"{name}-{i}"
        for _ in range(rng.choice([1, 1, 2, 3])):
            signals = signal.SIGKILL, signal.SIGTERM
            moment, all_of_it = rng.uniform(0.1, 1) * seconds, rng.random() < 0.5
            kills += program.killed(folder, moment, all_of_it, rng.choice(signals))
        program.finish(folder)
        found = contents(folder)
        unlike = sorted({path for path, _ in found.items() ^ expected.items()})
        wrong += [f"{name}, run {i}: {', '.join(unlike[:4])}"] if unlike else []
    print(
        f"{name}: {runs} runs, {kills} kills, {len(expected)} files, {len(wrong)} wrong", flush=True
    )
    return wrong


def main(words: Optional[List[str]] = None) -> List[str]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--what", choices=["preparation", "demo"], default="preparation")
    parser.add_argument("--only", choices=PREPARATIONS, help="of the preparations (all)")
    parser.add_argument("--runs", type=int, default=20, help="of each program (20)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments (1)")
    args = parser.parse_args(words)
    wrong = []
    with tempfile.TemporaryDirectory() as name, downloads() as variables:
        work = Path(name)
        for program, each in programs(args.what, variables).items():
            if args.only in (None, program):
                wrong += check(program, each, work, args.runs, args.seed)
    print("\n".join(wrong))
    return wrong


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
