"""Runs fairseq's commands as a user does, and reads what they print."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import warm
from filelock import FileLock

import fairseq_mega

ROOT = Path(fairseq_mega.__file__).parents[1]
PLUGIN = ROOT / "fairseq_mega"
BIN = Path(sys.executable).parent
WHERE = ["--cpu"]  # or nothing for a GPU


def words_of(command, options, user_dir):
    """The command line of fairseq-`command`; options are strings of options, or paths.

    By default, fairseq leaves out the last sentences of a set if they are not a multiple of 8.
    """
    words = [str(BIN / f"fairseq-{command}")]
    for option in options:
        words += shlex.split(option) if isinstance(option, str) else [str(option)]
    if command not in ("preprocess", "hydra-train"):
        words += ["--user-dir", str(user_dir), "--required-batch-size-multiple", "1", *WHERE]
    return words


def start(command, *options, cwd=ROOT, user_dir="fairseq_mega", env=None, **kwargs):
    """A process of fairseq-`command`, as a shell starts it."""
    return subprocess.Popen(
        words_of(command, options, user_dir),
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


def finish(process, stdin=None, fails=False):
    """Waits until the process ends as expected, and returns its output."""
    output = "".join(process.communicate(stdin, timeout=300))
    assert (process.returncode != 0) == fails, output[-1500:]
    return output


def run(*args, stdin=None, fails=False, **kwargs):
    return finish(start(*args, **kwargs), stdin, fails)


def run_warm(command, *options, stdin="", fails=False, cwd=ROOT):
    """Does what `run` does without the seconds to import fairseq and torch, see `warm`. Tests of
    the command line itself use `run`, and so does a GPU."""
    if not WHERE:
        return run(command, *options, stdin=stdin, fails=fails, cwd=cwd)
    status, output = warm.run(words_of(command, options, "fairseq_mega"), cwd, stdin)
    assert (status != 0) == fails, output[-1500:]
    return output


def logged(output, metric):
    """The metric of each update, from a log with `--log-interval 1`."""
    lines = re.findall(r"train_inner\b.*? (\{.*\})", output)
    return {int(line["num_updates"]): float(line[metric]) for line in map(json.loads, lines)}


def losses(output):
    return logged(output, "loss")


def valid_loss(output):
    """The last loss on the validation set, in base 2."""
    return float(re.findall(r'"valid_loss": "([\d.]+)"', output)[-1])


def distributed_options():
    """Options of each of two processes that train together."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    parallel = "--ddp-backend legacy_ddp --distributed-backend gloo --distributed-no-spawn "
    parallel += f"--distributed-world-size 2 --distributed-init-method {address}"
    return [f"{parallel} --distributed-rank {rank}" for rank in (0, 1)]


def made_once(tmp_path_factory, name, make):
    """The folder `name` after `make(folder)`, which the first test process to need it runs."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder = root / name
    with FileLock(root / f"{name}.lock"):
        if not (folder / "made").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            (folder / "made").touch()
    return folder


def readme_commands(folder, section):
    """The commands that a section of the README.md in examples/`folder` gives to copy."""
    text = (ROOT / "examples" / folder / "README.md").read_text()
    section = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", section, re.DOTALL))
    return [line for line in blocks.replace("\\\n", " ").split("\n") if line]
