"""Checks of hyperparameters. ``name`` is an argument or a command-line option."""


def check_positive(**values: float) -> None:
    for name, value in values.items():
        if value <= 0:
            raise ValueError(f"{name} is {value}, but must be positive")


def check_choice(name: str, value: str, choices) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, but must be one of: {', '.join(choices)}")


def check_longest_memory(name: str, value: int) -> None:
    if value < 2:
        raise ValueError(
            f"{name} is {value}, but must be at least 2: the memories of an EMA are spread "
            "from 2 tokens to so many"
        )


def check_chunk_size(name: str, value: int) -> None:
    if value == 0 or value < -1:
        raise ValueError(
            f"{name} is {value}, but must be positive, or -1 for attention over the whole sequence"
        )


def check_chunks_before(name: str, value: int) -> None:
    if value < 0:
        raise ValueError(
            f"{name} is {value}, but must be 0, for attention inside chunks, or the number of "
            "chunks before its own that a position attends to"
        )


def check_rotary(name: str, value: int) -> None:
    if value % 2:
        raise ValueError(
            f"{name} is {value}, but must be even with the rotary bias, which turns pairs of "
            "coordinates: add one, or use the simple bias"
        )
