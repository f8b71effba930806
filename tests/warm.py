"""Runs fairseq's scripts in processes whose imports were done before: forks of one that has fairseq
and torch imported, but not the plugin."""

import multiprocessing
import os
import runpy
import signal
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

PROGRAMS = ("train", "generate", "interactive", "validate", "eval_lm", "preprocess", "hydra_train")
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    # The last is what torch imports with the first optimizer.
    [*(f"fairseq_cli.{program}" for program in PROGRAMS), "torch._dynamo"]
)
SECONDS = 300
STREAMS = ("stdin", "stdout", "stderr")


def run(words, cwd, stdin):
    """The exit status of a command line, whose first word is the path of a Python script, and what
    it prints: with one thread.

    Raises:
        TimeoutError: when it takes more than five minutes; it is killed.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # read when the server, which starts with this, loads torch
    with TemporaryDirectory() as folder:
        files = [os.path.join(folder, name) for name in STREAMS]
        Path(files[0]).write_text(stdin)
        process = FORKS.Process(target=run_script, args=(words, str(cwd), dict(os.environ), files))
        process.start()
        process.join(SECONDS)
        late = process.is_alive()
        if late:
            os.killpg(process.pid, signal.SIGKILL)
            process.join()
        output = "".join(Path(file).read_text() for file in files[1:] if os.path.exists(file))
    if late:
        raise TimeoutError(f"{' '.join(words)}\n{output[-1500:]}")
    return process.exitcode, output


def run_script(words, cwd, environment, files):
    os.setsid()  # a group of processes, with its data workers, that is killed together
    multiprocessing.set_start_method("fork", force=True)  # as it is in a process of its own
    for descriptor, (file, mode) in enumerate(zip(files, (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY))):
        os.dup2(os.open(file, mode | (os.O_CREAT if descriptor else 0)), descriptor)
    sys.stdin = os.fdopen(0)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = words
    # Python's own, without what the tests have added.
    sys.path[:] = [os.path.dirname(words[0]), *filter(_is_of_python, sys.path)]
    runpy.run_path(words[0], run_name="__main__")


def _is_of_python(path):
    return path.startswith((sys.prefix, sys.base_prefix)) or "__editable__" in path
