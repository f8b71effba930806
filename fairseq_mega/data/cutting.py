"""Where a text is cut into samples.

A text is known by ``ends (lines,)``, the offsets at which its lines end, rising; samples are slices
``(samples, 2)`` of it, each from an offset to another. Break modes are those of fairseq's
``--sample-break-mode``.
"""

from typing import List, Tuple

import numpy as np


def stream_length(option: str, tokens: int) -> int:
    """The longest stream of a text of so many tokens, by ``--valid-block``.

    Raises:
        ValueError: if the option is not ``splits:K`` or ``size:N`` with a positive number.
    """
    kind, _, number = option.partition(":")
    if kind not in ("splits", "size") or not number.isdecimal() or int(number) == 0:
        raise ValueError(
            f"--valid-block is {option!r}, but must be splits:K, for streams of 1/K of the text, "
            "or size:N, for streams of N tokens, with a positive number"
        )
    return int(number) if kind == "size" else -(-tokens // int(number))


def line_ends(sizes: np.ndarray) -> np.ndarray:
    """Offsets at which lines of these sizes end; one without tokens is none."""
    ends = np.cumsum(sizes, dtype=np.int64)
    return ends[np.diff(ends, prepend=0) > 0]


def cut_into_samples(ends: np.ndarray, lengths: np.ndarray, break_mode: str) -> np.ndarray:
    """Consecutive slices of at most ``lengths``, which must be enough for the text.

    - ``none``: exactly of these lengths, but for the last.
    - ``complete``: lines as long as they fit; one that is longer is a slice of its own.
    - ``complete_doc``: the same within documents, which lines of a single token divide; these are
      in no slice.
    - ``eos``: a line each.

    Raises:
        ValueError: if ``complete_doc`` finds no document.
    """
    if break_mode == "none":
        stops = np.cumsum(lengths)
        return _between(np.append(stops[stops < ends[-1]], ends[-1]))
    if break_mode == "complete":
        return _whole_lines(ends, lengths, [(0, len(ends))])
    if break_mode == "complete_doc":
        documents = _documents(ends)
        if not len(documents):
            raise ValueError(
                "--sample-break-mode is complete_doc, but all lines of the text are empty: there "
                "is no document"
            )
        return _whole_lines(ends, lengths, documents)
    return _between(ends)


def cut_into_streams(ends: np.ndarray, longest: int, break_mode: str) -> np.ndarray:
    """All of the text in streams of lines as long as they fit in ``longest`` tokens; regardless of
    lines if the break mode is ``none``."""
    mode = "none" if break_mode == "none" else "complete"
    return cut_into_samples(ends, np.full(most_samples(ends, longest, mode), longest), mode)


def most_samples(ends: np.ndarray, shortest: int, break_mode: str) -> int:
    """How many slices of at least ``shortest`` tokens, or of a line, there can be."""
    return -(-int(ends[-1]) // shortest) if break_mode == "none" else len(ends)


def _between(stops: np.ndarray) -> np.ndarray:
    return np.stack([np.append(0, stops[:-1]), stops], axis=1)


def _whole_lines(ends: np.ndarray, lengths: np.ndarray, documents) -> np.ndarray:
    """``documents``: pairs of the first line of each and the first after it."""
    starts = np.append(0, ends[:-1])
    slices: List[Tuple[int, int]] = []
    for line, last in documents:
        while line < last:
            start = starts[line]
            fitting = int(ends.searchsorted(start + lengths[len(slices)], "right"))
            line = min(max(fitting, line + 1), last)
            slices.append((start, ends[line - 1]))
    return np.array(slices, dtype=np.int64)


def _documents(ends: np.ndarray) -> np.ndarray:
    in_document = np.diff(ends, prepend=0) > 1
    return np.flatnonzero(np.diff(in_document, prepend=False, append=False)).reshape(-1, 2)
