"""Cuts a text into samples.

``ends (lines,)`` are the rising offsets at which the text's lines end. Samples are slices
``(samples, 2)`` from one offset to another. Break modes are those of ``--sample-break-mode``.
"""

from typing import List, Tuple

import numpy as np


def stream_length(option: str, tokens: int) -> int:
    """Returns the longest stream that ``--valid-block`` allows for a text of so many tokens."""
    kind, _, number = option.partition(":")
    if kind not in ("splits", "size") or not number.isdecimal() or int(number) == 0:
        raise ValueError(
            f"--valid-block is {option!r}, but must be splits:K, for streams of 1/K of the text, "
            "or size:N, for streams of N tokens, with a positive number"
        )
    return int(number) if kind == "size" else -(-tokens // int(number))


def line_ends(sizes: np.ndarray) -> np.ndarray:
    """Returns the offsets at which lines of these sizes end, without empty lines."""
    ends = np.cumsum(sizes, dtype=np.int64)
    return ends[np.diff(ends, prepend=0) > 0]


def cut_into_samples(ends: np.ndarray, lengths: np.ndarray, break_mode: str) -> np.ndarray:
    """Cuts the text into consecutive slices of at most ``lengths``.

    - ``none``: slices of exactly these lengths, except for the last.
    - ``complete``: as many complete lines as fit; a longer line is a slice of its own.
    - ``complete_doc``: the same within documents. Lines of a single token separate documents, and
      are in no slice.
    - ``eos``: a line each.
    """
    if break_mode == "none":
        stops = np.cumsum(lengths)
        return _between(np.append(stops[stops < ends[-1]], ends[-1]))
    if break_mode == "eos":
        return _between(ends)
    documents = [(0, len(ends))] if break_mode == "complete" else _documents(ends)
    if not len(documents):
        raise ValueError(
            "--sample-break-mode is complete_doc, but the text has no documents, because all of "
            "its lines are empty: use another mode, or another text"
        )
    starts = np.append(0, ends[:-1])
    slices: List[Tuple[int, int]] = []
    for line, last in documents:
        while line < last:
            start = starts[line]
            fitting = int(ends.searchsorted(start + lengths[len(slices)], "right"))
            line = min(max(fitting, line + 1), last)
            slices.append((start, ends[line - 1]))
    return np.array(slices, dtype=np.int64)


def cut_into_streams(ends: np.ndarray, longest: int, break_mode: str) -> np.ndarray:
    """Cuts the complete text into streams of at most ``longest`` tokens. Streams end with a line
    unless the break mode is ``none``; a longer line is a stream of its own."""
    mode = "none" if break_mode == "none" else "complete"
    return cut_into_samples(ends, np.full(most_samples(ends, longest, mode), longest), mode)


def most_samples(ends: np.ndarray, shortest: int, break_mode: str) -> int:
    """Returns how many slices of at least ``shortest`` tokens, or of a line, there can be."""
    return -(-int(ends[-1]) // shortest) if break_mode == "none" else len(ends)


def _between(stops: np.ndarray) -> np.ndarray:
    return np.stack([np.append(0, stops[:-1]), stops], axis=1)


def _documents(ends: np.ndarray) -> np.ndarray:
    """Returns ``(documents, 2)``, the first line of each document and the first line after it."""
    in_document = np.diff(ends, prepend=0) > 1
    return np.flatnonzero(np.diff(in_document, prepend=False, append=False)).reshape(-1, 2)
