"""A text to learn recall from with fairseq-train, and how much a model recalls of a long one.

    python examples/experiments/needle.py data OUT
    python examples/experiments/needle.py score CHECKPOINT --data DATA-BIN

A line is random words with one of a few values among the first of them. Queries come after it,
each followed by the value, after gaps of all lengths: in training, the loss is of all tokens of all
lines, and only those after queries can be foreseen. The score is of lines with a single query: the
share of them after which the value is the likeliest token.
"""

import argparse
import logging
import random
import sys
import time
import warnings
from pathlib import Path
from typing import Iterator, List, Tuple

import torch
from fairseq.data import Dictionary
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
warnings.simplefilter("ignore", UserWarning)  # of torch, about how fairseq uses it

from fairseq_mega import MegaLanguageModel  # noqa: E402

VALUES = [f"value{i}" for i in range(8)]
WORDS = [f"word{i}" for i in range(8)]
QUERY = "query"
FIRST = 64  # words before the value are fewer
PIECE = 4096  # tokens that are drawn at a time


# --- the text -------------------------------------------------------------------------------------


def gap(longest: int, draw: random.Random) -> int:
    """From 2 to ``longest`` tokens, evenly by its logarithm."""
    return round(2 * (longest / 2) ** draw.random())


def line(longest: int, draw: random.Random, first: int = FIRST, length: int = 0) -> List[str]:
    """Fewer words than ``first``, a value, and the value again after each query: more than
    ``length`` tokens, or than ``longest`` if that is 0.

    A gap is from one mention of the value to the next, of which the query is the token before.
    """
    value = draw.choice(VALUES)
    words = [*draw.choices(WORDS, k=draw.randrange(first)), value]
    while len(words) <= (length or longest):
        words += [*draw.choices(WORDS, k=gap(longest, draw) - 2), QUERY, value]
    return words


def write_text(args: argparse.Namespace) -> None:
    """Writes ``train.txt``, and ``valid.txt`` of a hundredth as many lines."""
    args.out.mkdir(parents=True, exist_ok=True)
    draw = random.Random(args.seed)
    for split, count in (("train", args.lines), ("valid", max(1, args.lines // 100))):
        with open(args.out / f"{split}.txt", "w", encoding="utf-8") as file:
            for _ in range(count):
                words = line(args.longest, draw, args.first, args.length)
                file.write(" ".join(words) + "\n")


# --- the score ------------------------------------------------------------------------------------


def single_queries(
    dictionary: Dictionary, length: int, distance: int, rows: int, draw: torch.Generator
) -> Tuple[Iterator[Tensor], Tensor]:
    """Texts ``(rows, length)`` in pieces of some thousand tokens, and their values ``(rows,)``: the
    answers to the query at the end. A value is ``distance`` before its answer."""
    values, words = (torch.tensor([dictionary.index(w) for w in each]) for each in (VALUES, WORDS))
    answers = values[torch.randint(len(VALUES), (rows,), generator=draw)]

    def pieces():
        place = length - distance
        for start in range(0, length, PIECE):
            size = min(PIECE, length - start)
            piece = words[torch.randint(len(WORDS), (rows, size), generator=draw)]
            if start <= place < start + size:
                piece[:, place - start] = answers
            if start + size == length:
                piece[:, -1] = dictionary.index(QUERY)
            yield piece

    return pieces(), answers


@torch.no_grad()
def recalled(model, length: int, distance: int, rows: int, draw: torch.Generator) -> int:
    """How many of so many texts the value is recalled of, read as a stream."""
    pieces, answers = single_queries(model.decoder.dictionary, length, distance, rows, draw)
    state = model.start(rows)
    for piece in pieces:
        state.read(piece)
    return int((state.predict().argmax(-1) == answers).sum())


def score(model, lengths: List[int], distances: List[int], tests: int, rows: int) -> None:
    """Prints the share of values that are recalled over some ``distances``, and from random places
    of texts of some ``lengths``."""
    draw = torch.Generator().manual_seed(1)
    for kind, sizes in (("distance", distances), ("a text of", lengths)):
        for size in sizes:
            right, start = 0, time.time()
            for _ in range(tests // rows):
                if kind == "distance":
                    first = int(torch.randint(FIRST, (), generator=draw))
                    right += recalled(model, first + size, size, rows, draw)
                else:
                    distance = int(torch.randint(2, size + 1, (), generator=draw))
                    right += recalled(model, size, distance, rows, draw)
            share, seconds = right / (tests // rows * rows), time.time() - start
            print(f"{kind} {size:,} tokens: {share:.1%} recalled, {seconds:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    data = commands.add_parser("data", help="writes train.txt and valid.txt")
    data.add_argument("out", type=Path)
    data.add_argument("--longest", type=int, default=1024, help="gap, in tokens")
    data.add_argument(
        "--first", type=int, help=f"fewer words than so many before the value ({FIRST})"
    )
    data.add_argument("--length", type=int, default=0, help="of a line, at least (--longest)")
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
        length = args.length or args.longest
        if args.first is None:
            args.first = min(FIRST, length)
        if not 0 < args.first <= length:
            parser.error(f"--first {args.first}: a line of {length} tokens has from 1 to as many")
        write_text(args)
        return
    model = MegaLanguageModel.from_pretrained(
        str(args.checkpoint.parent), args.checkpoint.name, str(args.data)
    ).models[0]
    model.eval()  # returns nothing, in a model that fairseq has made ready to generate
    score(model, args.lengths, args.distances, args.tests, args.rows)


if __name__ == "__main__":
    main()
