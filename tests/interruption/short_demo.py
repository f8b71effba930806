"""The quickstart's demo with a small corpus and six updates; takes the demo's options."""

import re
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.quickstart import demo  # noqa: E402


def short(task: demo.Task) -> demo.Task:
    train = re.sub(r"--total-num-update \d+ --max-update \d+", "--max-update 6", task.train)
    train = re.sub(r"--warmup-updates \d+", "--warmup-updates 2 --total-num-update 6", train)
    return replace(task, train=train, subword="--vocab-size 600")


if __name__ == "__main__":
    demo.CORPUS = "--pairs 1000 --seed 1"
    demo.TASKS = demo.TRANSLATION, demo.LANGUAGE_MODEL = tuple(map(short, demo.TASKS))
    demo.main()
