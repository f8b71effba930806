"""Runs fairseq's scripts in processes whose imports were done before: forks of one that has fairseq
and torch imported, but not the plugin."""

import multiprocessing
import os
import runpy
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

PROGRAMS = ("train", "generate", "interactive", "validate", "eval_lm", "preprocess", "hydra_train")
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [*(f"fairseq_cli.{program}" for program in PROGRAMS), "torch._dynamo"]  # of any optimizer
)
SECONDS = 300


def run(words, cwd, environment, stdin):
    """The exit status of a command line, whose first word is the path of a Python script, and what
    it prints."""
    with TemporaryDirectory() as folder:
        files = [os.path.join(folder, name) for name in ("stdin", "output")]
        Path(files[0]).write_text(stdin)
        args = words, str(cwd), environment, *files
        process = FORKS.Process(target=run_script, args=args)
        process.start()
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
        return process.exitcode, Path(files[1]).read_text()


def run_script(words, cwd, environment, stdin, output):
    source, target = os.open(stdin, os.O_RDONLY), os.open(output, os.O_WRONLY | os.O_CREAT)
    for copy, descriptor in ((source, 0), (target, 1), (target, 2)):
        os.dup2(copy, descriptor)
    sys.stdin = os.fdopen(0)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = words
    sys.path[0] = os.path.dirname(words[0])
    runpy.run_path(words[0], run_name="__main__")
