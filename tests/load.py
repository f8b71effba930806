"""Runs several kinds of models in eight threads; every output must equal that of one thread.

    python tests/load.py [--seconds 60] [--threads 8]

is part of `make numerics`. Each thread draws its works at random, and threads switch as often as
they can.
"""

import argparse
import random
import sys
import threading
import time
from pathlib import Path
from typing import Callable, Dict, List, Tuple

import torch
from fairseq.sequence_generator import SequenceGenerator
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import classification  # noqa: E402
from helpers import (  # noqa: E402
    TINY,
    batch_of,
    make_dictionary,
    make_model,
    sentences,
)

VARIANTS = 3  # inputs of each work
Work = Callable[[int], List[Tensor]]


def beam_search() -> Work:
    options = dict(rel_pos_bias="rotary", encoder_chunk_size=4, decoder_chunk_size=4)
    model = make_model(TINY["mega"], **options).float()

    def translate(i: int) -> List[Tensor]:
        src_tokens = batch_of(sentences(3 + i, 9 - i, seed=i), left_pad=True)
        sample = {"net_input": {"src_tokens": src_tokens, "src_lengths": src_tokens.ne(1).sum(1)}}
        generator = SequenceGenerator([model], make_dictionary(20), beam_size=3, max_len_b=7)
        found = [h for each in generator.generate([model], sample) for h in each]
        return [h[name] for h in found for name in ("tokens", "positional_scores")]

    return translate


def language_model() -> Work:
    """Work of a parallel pass and of a state that reads in parts and step by step."""
    model = make_model(TINY["mega_lm"], rel_pos_bias="rotary", decoder_chunk_size=4).float()

    def read(i: int) -> List[Tensor]:
        tokens = batch_of(sentences(14 + 3 * i, seed=i))
        state = model.start()
        parts = [state.read(part) for part in tokens.split([5, 1, 1, tokens.size(1) - 7], dim=1)]
        return [model(tokens)[0], *parts, state.predict(), state.fork(1)[0].read(tokens)]

    return read


def classifier() -> Work:
    model = classification.make_model(chunk_size=4).float()

    def classify(i: int) -> List[Tensor]:
        return [classification.logits(model, classification.symbols(5 + i, 12, 3, seed=i))]

    return classify


def make_works() -> Dict[str, Work]:
    return {
        "beam search": beam_search(),
        "language model": language_model(),
        "classifier": classifier(),
    }


@torch.no_grad()
def disturbances(seconds: float, threads: int = 8) -> Tuple[int, List[str]]:
    """Number of outputs compared, and the names of those that differ from one thread's."""
    works = make_works()
    cases = [(name, i) for name in works for i in range(VARIANTS)]
    expected = {(name, i): works[name](i) for name, i in cases}
    counts, wrong, end = [0] * threads, [], time.time() + seconds

    def run(number: int) -> None:
        rng = random.Random(number)
        with torch.no_grad():  # of each thread
            while time.time() < end:
                name, i = rng.choice(cases)
                try:
                    outputs = works[name](i)
                    same = all(map(torch.equal, outputs, expected[name, i]))
                except Exception as error:
                    same, name = False, f"{name} ({error!r})"
                counts[number] += 1
                if not same:
                    wrong.append(f"{name} {i}, thread {number}")

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        running = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
        [thread.start() for thread in running]
        [thread.join() for thread in running]
    finally:
        sys.setswitchinterval(before)
    return sum(counts), wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--threads", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(1)
    count, wrong = disturbances(args.seconds, args.threads)
    print(f"{args.threads} threads, {args.seconds:.0f} s: {count} outputs, {len(wrong)} wrong")
    print("\n".join(wrong[:20]))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
