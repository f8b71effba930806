"""Beam search on a CPU with weights of 8 bits: Mega's and fairseq's Transformer's, beside float32.

    python examples/benchmark/int8.py            five minutes on two CPU cores
    python examples/benchmark/int8.py --tiny     in seconds: only that it runs

All four take turns in one process, on the same batches. Of the Transformer, whose encoder fairseq
runs by torch's fused layers, the decoder and the output projection have weights of 8 bits.
"""

import argparse
import logging
import statistics
import sys
import warnings
from pathlib import Path
from typing import Dict, List, Optional

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
logging.disable(logging.INFO)  # of fairseq and hydra
warnings.simplefilter("ignore", UserWarning)  # of torch, about how fairseq uses it

from examples.benchmark.benchmark import timed  # noqa: E402
from examples.benchmark.cases import BeamSearch, BeamSearchCase  # noqa: E402
from examples.quickstart.demo import table  # noqa: E402
from fairseq_mega.modules.int8 import is_exact_here, multiply_in_int8_  # noqa: E402

SIDES = {
    "ours, float32": ("ours", ""),
    "ours, 8 bits": ("ours", "model"),
    "transformer, float32": ("transformer", ""),
    "transformer, decoder with 8 bits": ("transformer", "decoder"),
}
ROUNDS = 3  # through all batches


def build(case: BeamSearchCase, side: str, part: str) -> BeamSearch:
    """``part`` of the model has weights of 8 bits; if empty, none."""
    work = case.build(side)
    if part:
        multiply_in_int8_(work.model if part == "model" else work.model.decoder)
    return work


def measure(case: BeamSearchCase) -> Dict[str, float]:
    """Seconds for all batches: of each, the median of its rounds. A round before warms up."""
    works = {name: build(case, *what) for name, what in SIDES.items()}
    seconds = {name: [[] for _ in range(case.parts)] for name in works}
    with torch.no_grad():
        for number in range(ROUNDS + 1):
            for batch in range(case.parts):
                for name, work in list(works.items())[:: 1 if (number + batch) % 2 else -1]:
                    spent = timed(work, batch, torch.device("cpu"))
                    if number > 0:
                        seconds[name][batch].append(spent)
    return {name: sum(map(statistics.median, each)) for name, each in seconds.items()}


def report(case: BeamSearchCase, seconds: Dict[str, float]) -> str:
    sentences = case.batch * case.parts
    rows = [("", "seconds", "sentences a second", "× transformer, float32")]
    for name, spent in seconds.items():
        ratio = seconds["transformer, float32"] / spent
        rows.append((name, f"{spent:.2f}", f"{sentences / spent:.1f}", f"{ratio:.2f}"))
    return (
        f"Beam 5, {sentences} sentences, outputs of {case.tokens}, {case.words:,} words, "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads\n\n{table(rows)}"
    )


def main(words: Optional[List[str]] = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="small sizes: only that it runs")
    args = parser.parse_args(words)
    if not is_exact_here():
        sys.exit("this processor, or this torch, has no exact products of 8 bits")
    case = BeamSearchCase("beam-27", "beam 5")
    case = case.tiny() if args.tiny else case
    print(report(case, measure(case)))


if __name__ == "__main__":
    main()
