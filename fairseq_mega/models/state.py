"""The state of decoding."""

from contextlib import contextmanager
from itertools import groupby
from typing import Iterator, Optional

from torch import Tensor

from ..modules.state import LayerState, Reordering

KEY = "mega"  # of the state in fairseq's incremental_state, to which fairseq adds the decoder's id


class InterruptedReadError(RuntimeError):
    """Raised by a state after an interrupted read: its layers may have read different tokens."""


class DecodingState:
    """The state of a decoder between reads.

    Args:
        beam: the number of consecutive rows that are hypotheses of one sentence, in beam search.

    Attributes:
        prefix: the number of columns of fairseq's ``prev_output_tokens`` that have been read.
    """

    def __init__(self, layers: int, beam: int = 1):
        self.layers = [LayerState(beam) for _ in range(layers)]
        self.prefix = 0
        self._interrupted = False
        self._rows: Optional[int] = None

    @property
    def beam(self) -> int:
        """The number of rows that share, 1 once hypotheses of a sentence have parted."""
        return self.layers[0].beam

    @property
    def has_source(self) -> bool:
        """Tells whether the layers keep keys and values of the source sentences."""
        return self.layers[0].source is not None

    def check_unread(self, tokens: Tensor) -> None:
        """Refuses ``prev_output_tokens (B, T)`` of which all have been read, or of another number
        of rows."""
        if tokens.size(1) <= self.prefix:
            raise ValueError(
                f"prev_output_tokens has {tokens.size(1)} tokens, all of which this state has "
                "read: give it longer ones, or a new incremental_state for another text"
            )
        if self._rows not in (None, tokens.size(0)):
            raise ValueError(
                f"prev_output_tokens has {tokens.size(0)} rows, but this state {self._rows}: "
                "reorder it, or give a new incremental_state for another batch"
            )
        self._rows = tokens.size(0)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Marks the state as unusable if the body fails: layers may have read part of the text."""
        self.check()
        try:
            yield
        except BaseException:  # including KeyboardInterrupt
            self._interrupted = True
            raise

    def check(self) -> None:
        """Raises an ``InterruptedReadError`` if an earlier read has failed."""
        if self._interrupted:
            raise InterruptedReadError(
                "this state cannot be used: a read was interrupted or failed, and some layers have "
                "read tokens that others have not. Start a new state, or restore a saved one"
            )

    def reorder(self, new_order: Tensor) -> None:
        """Continues from rows ``new_order (B,)``, which may repeat or omit some."""
        with self.reading():
            order = Reordering.of(new_order, self.beam)
            for layer in self.layers:
                layer.reorder(order)
            self._rows = new_order.numel()


def beam_size(rows: Tensor) -> int:
    """The number of consecutive rows of each sentence if it is the same for all; otherwise 1.
    ``rows (B,)``, the sentence of each row, are copied to the host: one synchronisation."""
    sizes = {len(list(group)) for _, group in groupby(rows.tolist())}
    return sizes.pop() if len(sizes) == 1 else 1
