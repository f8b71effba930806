"""ListOps from its definition (Nangia and Bowman, 2018; Long Range Arena, 2021): nested operations
on digits, and what they come to.

A sequence such as ``[MAX 4 [MIN 2 3 ] 1 0 ]`` has the operators MAX, MIN, MED (the median, rounded
down) and SM (the sum modulo 10); its class is the digit that it evaluates to, here 4.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Callable, List, NamedTuple, Optional

from examples.steps import PreparationError

CLOSE = "]"
ATTEMPTS = 20_000  # in a row without a new sequence, before the limits are taken for impossible


def median(values: List[int]) -> int:
    """The middle value; of an even number of values the mean of both middle ones, rounded down."""
    ordered, middle = sorted(values), len(values) - 1
    return (ordered[middle // 2] + ordered[(middle + 1) // 2]) // 2


OPERATORS: dict[str, Callable[[List[int]], int]] = {
    "[MIN": min,
    "[MAX": max,
    "[MED": median,
    "[SM": lambda values: sum(values) % 10,
}


class Expression(NamedTuple):
    symbols: List[str]
    value: int


@dataclass(frozen=True)
class Limits:
    """What sequences there are.

    Args:
        max_depth: operators within operators, at most.
        max_arguments: arguments of an operator, at least 2 and at most so many.
        min_length, max_length: symbols of a sequence.
        operator_rate: the probability that an argument is an operation, not a digit.
    """

    max_depth: int = 10
    max_arguments: int = 10
    min_length: int = 500
    max_length: int = 2000
    operator_rate: float = 0.25

    def check(self) -> None:
        """
        Raises:
            PreparationError: at a limit out of range; names the option.
        """
        for option, value, low, high in [
            ("--max-depth", self.max_depth, 1, 100),
            ("--max-arguments", self.max_arguments, 2, 1000),
            ("--min-length", self.min_length, 4, self.max_length),
            ("--operator-rate", self.operator_rate, 0, 1),
        ]:
            if not low <= value <= high:
                raise PreparationError(f"{option} is {value}, but must be from {low} to {high}")


def expression(limits: Limits, draw: random.Random) -> Optional[Expression]:
    """A random operation, or None where it would be longer than the limits allow."""
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

    value = operation(1)
    return None if value is None else Expression(symbols, value)


def generate(limits: Limits, seed: int) -> Iterator[Expression]:
    """Different sequences within the limits, for ever; always the same of a seed.

    Raises:
        PreparationError: at limits that (almost) no sequence is within.
    """
    limits.check()
    draw, seen, failures = random.Random(seed), set[int](), 0
    while True:
        each = expression(limits, draw)
        fits = each and limits.min_length <= len(each.symbols) <= limits.max_length
        if fits and (mark := hash(tuple(each.symbols))) not in seen:
            seen.add(mark)
            failures = 0
            yield each
        elif (failures := failures + 1) > ATTEMPTS:
            raise PreparationError(
                f"after {len(seen):,} sequences of {limits.min_length} to {limits.max_length} "
                f"symbols there is hardly another one of depth {limits.max_depth} with "
                f"{limits.max_arguments} arguments: raise --max-depth, --max-arguments or "
                "--max-length, or ask for fewer"
            )
