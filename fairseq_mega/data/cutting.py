"""Where a text is cut into samples.

A text is known by ``ends (lines,)``, the offsets at which its lines end, rising; samples are slices
``(samples, 2)`` of it, each from an offset to another. Break modes are those of fairseq's
``--sample-break-mode``.
"""

from typing import List, NamedTuple, Tuple

import numpy as np


class ValidBlock(NamedTuple):
    """``--valid-block``: streams of at most ``number`` tokens (``size``), or of at most the text's
    tokens divided by ``number`` (``splits``)."""

    kind: str
    number: int

    @classmethod
    def parse(cls, option: str) -> "ValidBlock":
        """
        Raises:
            ValueError: where the option is not ``splits:K`` or ``size:N`` with a positive number.
        """
        kind, _, number = option.partition(":")
        if kind not in ("splits", "size") or not number.isdecimal() or int(number) == 0:
            raise ValueError(
                f"--valid-block is {option!r}, but must be splits:K, for streams of 1/K of the "
                "text, or size:N, for streams of N tokens, with a positive number"
            )
        return cls(kind, int(number))


def line_ends(sizes: np.ndarray) -> np.ndarray:
    """Offsets at which lines of these sizes end; one without tokens is none."""
    ends = np.cumsum(sizes, dtype=np.int64)
    return ends[np.diff(ends, prepend=0) > 0]


def cut_into_samples(ends: np.ndarray, lengths: np.ndarray, break_mode: str) -> np.ndarray:
    """Slices of at most ``lengths``, one after the other, which must be enough for the text.

    - ``none``: exactly of these lengths, but for the last.
    - ``complete``: lines as long as they fit; one that is longer is a slice of its own.
    - ``complete_doc``: the same within documents, which lines of a single token divide; these are
      in no slice.
    - ``eos``: a line each.

    Raises:
        ValueError: where ``complete_doc`` finds no document.
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


def cut_into_streams(ends: np.ndarray, streams: ValidBlock, break_mode: str) -> np.ndarray:
    """All of the text in streams of lines as long as they fit in a number of tokens, which
    ``splits`` makes of the text's; regardless of lines where the break mode is ``none``.

    Raises:
        ValueError: where there are fewer tokens than splits.
    """
    longest = streams.number
    if streams.kind == "splits":
        if streams.number > ends[-1]:
            raise ValueError(
                f"--valid-block is splits:{streams.number}, but the text has only {ends[-1]} "
                "tokens: ask for fewer splits"
            )
        longest = -(-int(ends[-1]) // streams.number)
    break_mode = "none" if break_mode == "none" else "complete"
    return cut_into_samples(
        ends, np.full(most_samples(ends, longest, break_mode), longest), break_mode
    )


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
