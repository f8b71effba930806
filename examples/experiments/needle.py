"""Recall learnt with fairseq-train: writes the text, and tests how much of a long one is recalled.

    python examples/experiments/needle.py data OUT
    python examples/experiments/needle.py score CHECKPOINT --data DATA-BIN

A line is random words with one of eight values among the first of them. Queries come after it, each
followed by the value, after gaps of all lengths. The training loss counts all tokens, of which only
those after queries can be foreseen. The score is of lines with a single query: the share of them
after which the value is the likeliest token.
"""

import argparse
import logging
import random
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from examples.experiments.recall import (  # noqa: E402
    QUERY,
    VALUES,
    WORDS,
    below,
    samples,
    stream,
)
from fairseq_mega import MegaLanguageModel  # noqa: E402

FIRST = 64  # fewer words than these come before the value


def line(longest: int, draw: random.Random, first: int, length: int) -> list[str]:
    """Fewer words than ``first``, a value, and the value again after each query: more than
    ``length`` tokens.

    A gap, from one mention of the value to the next, has from 2 to ``longest`` tokens, evenly by
    its logarithm; the query is the last token before the mention.
    """
    value = draw.choice(VALUES)
    words = [*draw.choices(WORDS, k=draw.randrange(first)), value]
    while len(words) <= length:
        gap = round(2 * (longest / 2) ** draw.random())
        words += [*draw.choices(WORDS, k=gap - 2), QUERY, value]
    return words


def write_text(args: argparse.Namespace) -> None:
    """Writes ``train.txt``, and ``valid.txt`` of a hundredth as many lines."""
    args.out.mkdir(parents=True, exist_ok=True)
    draw = random.Random(args.seed)
    for split, count in (("train", args.lines), ("valid", max(1, args.lines // 100))):
        with open(args.out / f"{split}.txt", "w", encoding="utf-8") as file:
            for _ in range(count):
                words = line(args.longest, draw, args.first, args.length or args.longest)
                file.write(" ".join(words) + "\n")


@torch.no_grad()
def score(model, args: argparse.Namespace) -> None:
    """Prints the share of values recalled over distances, and from random places of texts."""
    draw = torch.Generator().manual_seed(1)
    for kind, sizes in (("distance", args.distances), ("a text of", args.lengths)):
        for size in sizes:
            right, start, batches = 0, time.time(), args.tests // args.rows
            for _ in range(batches):
                distance, offset = size, below(FIRST, draw)
                if kind != "distance":
                    distance = 2 + below(size - 1, draw)
                    offset = size - distance
                words = model.decoder.dictionary
                texts, answers = samples(words, distance, args.rows, offset, draw)
                right += int((stream(model, texts).argmax(-1) == answers).sum())
            share, seconds = right / (batches * args.rows), time.time() - start
            print(f"{kind} {size:,} tokens: {share:.1%} recalled, {seconds:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    data = commands.add_parser("data", help="writes train.txt and valid.txt")
    data.add_argument("out", type=Path)
    data.add_argument("--longest", type=int, default=1024, help="gap, in tokens")
    data.add_argument("--first", type=int, default=FIRST, help=f"words before the value ({FIRST})")
    data.add_argument("--length", type=int, help="of a line, at least (--longest)")
    data.add_argument("--lines", type=int, default=4000)
    data.add_argument("--seed", type=int, default=1)
    test = commands.add_parser("score", help="prints the share of values that are recalled")
    test.add_argument("checkpoint", type=Path)
    test.add_argument("--data", type=Path, required=True, help="folder of dict.txt")
    test.add_argument("--distances", type=int, nargs="*", default=[16, 64, 128, 256, 512, 1024])
    test.add_argument("--lengths", type=int, nargs="*", default=[])
    test.add_argument("--tests", type=int, default=128)
    test.add_argument("--rows", type=int, default=8, help="read at once, with the same place")
    args = parser.parse_args()
    logging.disable(logging.INFO)  # of fairseq and hydra
    if args.command == "data":
        return write_text(args)
    model = MegaLanguageModel.from_pretrained(
        str(args.checkpoint.parent), args.checkpoint.name, str(args.data)
    ).models[0]
    model.eval()  # returns nothing, in a model that fairseq has made ready to generate
    score(model, args)


if __name__ == "__main__":
    main()
