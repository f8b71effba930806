"""ListOps from its definition (Nangia and Bowman, 2018; Long Range Arena, 2021): nested operations
on digits, and their values.

A sequence such as ``[MAX 4 [MIN 2 3 ] 1 0 ]`` has the operators MAX, MIN, MED (the median, rounded
down) and SM (the sum modulo 10); its class is the digit that it evaluates to, here 4.
"""

import argparse
import random
import statistics
from collections.abc import Iterator
from typing import Callable, List, Optional, Tuple

from examples.steps import PreparationError

CLOSE = "]"
ATTEMPTS = 20_000  # in a row without a new sequence, before the limits are taken for impossible


OPERATORS: dict[str, Callable[[List[int]], int]] = {
    "[MIN": min,
    "[MAX": max,
    "[MED": lambda values: int(statistics.median(values)),
    "[SM": lambda values: sum(values) % 10,
}


def expression(limits: argparse.Namespace, draw: random.Random) -> Tuple[List[str], Optional[int]]:
    """The symbols of a random operation, and its value: None where it is longer than allowed."""
    symbols: List[str] = []

    def operation(depth: int) -> Optional[int]:
        name, count = draw.choice(list(OPERATORS)), draw.randint(2, limits.max_arguments)
        symbols.append(name)
        values = []
        for _ in range(count):
            if depth < limits.max_depth and draw.random() < limits.operator_rate:
                value = operation(depth + 1)
            else:
                value = draw.randrange(10)
                symbols.append(str(value))
            if value is None or len(symbols) >= limits.max_length:
                return None  # the closing brackets do not fit any more
            values.append(value)
        symbols.append(CLOSE)
        return OPERATORS[name](values)

    return symbols, operation(1)


def generate(limits: argparse.Namespace) -> Iterator[Tuple[int, str]]:
    """The values and symbols of different sequences, without end, for the options of prepare.py:
    at most `max_depth` operators within operators, of 2 to `max_arguments` arguments, each an
    operation with the probability `operator_rate`; `min_length` to `max_length` symbols.

    Raises:
        PreparationError: at limits that (almost) no sequence is within.
    """
    for option, value, low, high in [
        ("--max-depth", limits.max_depth, 1, 100),
        ("--max-arguments", limits.max_arguments, 2, 1000),
        ("--min-length", limits.min_length, 4, limits.max_length),
        ("--operator-rate", limits.operator_rate, 0, 1),
    ]:
        if not low <= value <= high:
            raise PreparationError(f"{option} is {value}, but must be from {low} to {high}")
    draw, seen, failures = random.Random(limits.seed), set[int](), 0
    while True:
        symbols, value = expression(limits, draw)
        text = " ".join(symbols)
        fits = value is not None and limits.min_length <= len(symbols) <= limits.max_length
        if fits and hash(text) not in seen:
            seen.add(hash(text))
            failures = 0
            yield value, text
        elif (failures := failures + 1) > ATTEMPTS:
            raise PreparationError(
                f"after {len(seen):,} sequences of {limits.min_length} to {limits.max_length} "
                f"symbols there is hardly another one of depth {limits.max_depth} with "
                f"{limits.max_arguments} arguments: raise --max-depth, --max-arguments or "
                "--max-length, or ask for fewer"
            )
