"""Counts what a GPU would do in a step of training and of beam search, without a GPU, and writes
COUNTS.md beside this file: about three minutes on one CPU core.

    python examples/benchmark/count.py

What measure.py has measured on a GPU, measured.json, stands beside the estimates.
"""

import argparse
import json
import logging
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Optional

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
logging.disable(logging.INFO)  # of fairseq and hydra
warnings.simplefilter("ignore", UserWarning)  # of torch, about how fairseq uses it

from examples.benchmark.counted import COUNTED, FORMS, Average, cases_and_sides  # noqa: E402
from examples.benchmark.counter import Counts  # noqa: E402


@dataclass(frozen=True)
class Card:
    name: str
    bandwidth: float  # bytes a second
    half: float  # operations a second, products of matrices in half precision, dense
    float32: float
    source: str

    def busy(self, counts: Counts) -> float:
        """Seconds of all launches one after the other, each as long as its memory or its
        operations take."""
        rates = {"half": self.half, "float32": self.float32, "FFT": self.float32}
        return sum(
            max(
                (launch.read + launch.written) / self.bandwidth,
                launch.operations / rates[launch.kind],
            )
            for launch in counts.launches
        )

    def seconds(self, counts: Counts) -> float:
        """As ``busy``, or as long as the host takes to launch them, if that is longer."""
        return max(self.busy(counts), LAUNCH * len(counts.launches))


LAUNCH = 5e-6  # seconds from one launch to the next, torch's own work included
CARDS = (
    Card("A100 SXM 80GB", 2.039e12, 312e12, 19.5e12, "NVIDIA A100 datasheet, 2021"),
    Card("H100 SXM", 3.35e12, 989e12, 67e12, "NVIDIA H100 datasheet, 2023"),
    Card("H200 SXM", 4.8e12, 989e12, 67e12, "NVIDIA H200 datasheet, 2024"),
)


@dataclass(frozen=True)
class Goal:
    what: str
    case: str
    most: float
    over: Optional[str] = None  # a side, whose count ours is divided by

    def line(self, found: Dict[str, Dict[str, Counts]]) -> str:
        def count(counts: Counts) -> float:
            by_name = {"launches": len(counts.launches), "bytes": counts.bytes}
            return {**by_name, "waits": len(counts.waits)}[self.what]

        value = count(found[self.case]["ours"])
        if self.over is not None:
            value /= count(found[self.case][self.over])
        shown = f"{value:.2f} of {self.over}" if self.over else f"{value:g}"
        met = "met" if value <= self.most else "missed"
        return f"| {self.what}, {self.case} | at most {self.most:g} | {shown} | {met} |"


GOALS = (
    Goal("waits", "wmt", 0),
    Goal("waits", "lm-6144", 0),
    Goal("waits", "beam", 2),
    Goal("launches", "wmt", 0.5, "plain"),
    Goal("launches", "lm-6144", 0.5, "plain"),
    Goal("bytes", "wmt", 0.4, "plain"),
    Goal("bytes", "lm-6144", 0.4, "plain"),
    Goal("bytes", "lm-16384", 0.5, "fused"),
)

INTRODUCTION = """# What a GPU would do

Made by `python examples/benchmark/count.py`, without a GPU: the code runs on torch's meta device,
where tensors have no numbers, and each operator is counted. Parameters and activations are in
bfloat16. The columns whose heads begin with "measured" alone are from a GPU: {card},
torch {torch}, by `python examples/benchmark/measure.py`.

- A **launch** is an operator that computes or copies: views, and memory without numbers, are none.
  Sums of a product and a tensor (`addmm`, `baddbmm`; not of a bias) are two, the tensor's copy
  first, as torch does it. torch launches more than one kernel for some others (long FFTs, sorting,
  backward passes of norms), which is left out on all sides alike.
- **Bytes** are what each launch must read and write, each number once: caches are taken to be
  perfect inside a launch, and to hold nothing between launches.
- **Operations** are those of products of matrices, by the type of their inputs, and of FFTs.
- A **wait** is a number that the host reads, so that it launches nothing until the GPU is done.
- **Peak**: the most memory that tensors hold at once, parameters and gradients included.

A training step is forward and backward pass and the loss. The update is not counted: it depends on
the number of parameters alone. Sides: `ours` with Triton's kernels and without;
`plain`, the formulas as plain torch; `transformer`, fairseq's of the same embeddings, with its own
attention; `fused`, the same with torch's fused attention.

The estimate for a card is the sum over all launches of what is longer, their bytes or their
operations at the datasheet's peak rates; or, where longer, {launch:.0f} µs for each launch (torch's
own cost of an operator). No kernel reaches the peak rates, and Python takes longer than torch: see
[how far off](#how-far-off) they are. The ratios tell more than the times.

Measured are the time of a step; that of its kernels alone, which is what is left when launches cost
nothing; how many kernels there are; and the peak. Of beam search, the fourth word is counted, and
the words after it are measured.{since}

| card | bytes a second | operations a second: half precision, float32 | source |
|---|---|---|---|
"""


def side_table(found: Dict[str, Counts], measured: Dict[str, Dict]) -> Iterator[str]:
    cards = "".join(f" {card.name}: ms |" for card in CARDS)
    yield (
        "| | launches | GB | half-precision Tops | float32 Tops | FFT Tops | waits | peak GB |"
        + cards
        + " measured: ms | measured: ms of kernels | measured: kernels | measured: peak GB |"
    )
    yield "|---" * (12 + len(CARDS)) + "|"
    for side, counts in found.items():
        operations = [counts.operations(kind) / 1e12 for kind in ("half", "float32", "FFT")]
        seconds = "".join(f" {1e3 * card.seconds(counts):.1f} |" for card in CARDS)
        yield (
            f"| {side} | {len(counts.launches):,} | {counts.bytes / 1e9:.2f} | "
            + " | ".join(f"{o:.3f}" for o in operations)
            + f" | {len(counts.waits)} | {counts.peak / 1e9:.2f} |{seconds}"
            + measured_cells(measured.get(side))
        )


def measured_cells(found: Optional[Dict]) -> str:
    if found is None:
        return " does not fit | | | |"
    times = f" {found['ms']:.1f} | {found['busy_ms']:.1f} |"
    peak = "" if found["gb"] is None else f"{found['gb']:.2f}"
    return f"{times} {found['kernels']:,} | {peak} |"


def accuracy(found: Dict[str, Dict[str, Counts]], measured: Dict) -> Iterator[str]:
    """Estimates of the kernels' time over what was measured, if the card is a known one."""
    card = next((card for card in CARDS if card.name.split()[0] in measured["card"]), None)
    if card is None:
        yield f"No estimates are made for the card that was measured, {measured['card']}."
        return
    yield f"| case | side | kernels, estimated for {card.name}: ms | measured: ms | ratio |"
    yield "|---|---|---|---|---|"
    for case, sides in found.items():
        for side, counts in sides.items():
            real = measured["found"].get(case, {}).get(side)
            if real is not None and side not in measured.get("changed", {}).get(case, ()):
                estimate, busy = 1e3 * card.busy(counts), real["busy_ms"]
                yield f"| {case} | {side} | {estimate:.2f} | {busy:.2f} | {estimate / busy:.2f} |"


def largest(counts: Counts) -> str:
    parts = list(counts.by_name().items())[:8]
    return ", ".join(f"`{name}` {size / 1e9:.2f} GB in {n}" for name, (n, size) in parts)


def report(found: Dict[str, Dict[str, Counts]], averages: Dict[str, Counts], measured: Dict) -> str:
    cases = measured["found"]
    names = dict(launch=1e6 * LAUNCH, card=measured["card"], torch=measured["torch"])
    since = f"\n{measured['since']}" if "since" in measured else ""  # written by hand
    lines: List[str] = [INTRODUCTION.format(**names, since=since).rstrip("\n")]
    for card in CARDS:
        rates = f"{card.half / 1e12:g} T, {card.float32 / 1e12:g} T"
        lines.append(f"| {card.name} | {card.bandwidth / 1e12:g} T | {rates} | {card.source} |")
    lines += ["", "## Goals", "", "| | goal | counted | |", "|---|---|---|---|"]
    lines += [goal.line(found) for goal in GOALS]
    ratio = averages["Triton"].bytes / averages["FFTs"].bytes
    met = "met" if ratio <= 0.25 else "missed"
    lines.append(f"| bytes, the EMA alone | at most 0.25 | {ratio:.2f} of FFTs | {met} |")
    for case in COUNTED:
        lines += ["", f"## {case.name}", "", f"{case.title[0].upper()}{case.title[1:]}.", ""]
        lines += side_table(found[case.name], cases[case.name])
        lines += ["", f"Most bytes of ours: {largest(found[case.name]['ours'])}."]
    lines += ["", "## The EMA alone", "", "L 6,144, `D` 1,024, `N` 16, forward and backward.", ""]
    lines += side_table(averages, cases["average"])
    lines += ["", "## How far off", "", *accuracy({**found, "average": averages}, measured)]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("COUNTS.md"))
    parser.add_argument("--measured", type=Path, default=Path(__file__).with_name("measured.json"))
    args = parser.parse_args()
    out, measured = args.out, json.loads(args.measured.read_text())
    torch.set_num_threads(1)
    found: Dict[str, Dict[str, Counts]] = {}
    for case, side in cases_and_sides():
        print(f"{case.name}: {side}", flush=True)
        found.setdefault(case.name, {})[side] = case.count(side)
    averages = {form: Average(form).count() for form in FORMS}
    out.write_text(report(found, averages, measured))


if __name__ == "__main__":
    main()
