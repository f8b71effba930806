"""The one state of decoding: what a decoder has read, and what its layers keep of it."""

import weakref
from contextlib import contextmanager
from typing import Any, Dict, Iterator, Optional

from torch import Tensor, nn

from ..modules.state import LayerState, Reordering

KEY = "mega"  # of our entry in fairseq's incremental_state


class InterruptedReadError(RuntimeError):
    """A read was interrupted, so that layers may differ in what they have read."""


class DecodingState:
    """The state of a decoder between steps.

    fairseq hands a dictionary, its ``incremental_state``, through all steps of a generation; this
    is our one entry in it.

    Args:
        decoder: whose state it is.
        layers: how many it has.
        beam: rows that follow each other and are hypotheses of one sentence, in beam search.

    Attributes:
        layers: a ``LayerState`` for each layer.
        prefix: the column of the next ``prev_output_tokens`` at which reading goes on. ``prefill``
            does not move it: after a prefill, give only the tokens that follow.
    """

    def __init__(self, decoder: nn.Module, layers: int, beam: int = 1):
        self._decoder = weakref.ref(decoder)
        self.layers = [LayerState(beam) for _ in range(layers)]
        self.prefix = 0
        self._interrupted = False
        self._rows: Optional[int] = None

    @staticmethod
    def of(decoder: nn.Module, incremental_state: Dict[str, Any]) -> Optional["DecodingState"]:
        """The decoder's state in fairseq's dictionary, None at the start.

        Raises:
            ValueError: where the dictionary has the state of another decoder.
        """
        state = incremental_state.get(KEY)
        if state is not None and state._decoder() is not decoder:
            raise ValueError(
                "this incremental_state is of another decoder: give each a dictionary of its own"
            )
        return state

    def enter_into(self, incremental_state: Dict[str, Any]) -> None:
        """Makes fairseq's decoding continue from this state."""
        incremental_state[KEY] = self

    @property
    def beam(self) -> int:
        """As given, until hypotheses of a sentence part."""
        return self.layers[0].beam

    @property
    def has_source(self) -> bool:
        """Whether the layers have keys and values of the source sentences."""
        return self.layers[0].source is not None

    @property
    def is_new(self) -> bool:
        """Whether nothing was read."""
        return self.layers[0].ema is None

    def check_unread(self, tokens: Tensor) -> None:
        """
        Raises:
            ValueError: where the state has read all of the ``prev_output_tokens (B, T)``, or has
                another number of rows.
        """
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
        """Makes the state unusable if what runs inside fails: layers may have read part of it.

        Raises:
            InterruptedReadError: where an earlier read has failed.
        """
        self.check()
        try:
            yield
        except BaseException:  # Ctrl-C, too
            self._interrupted = True
            raise

    def check(self) -> None:
        """
        Raises:
            InterruptedReadError: where a read has failed.
        """
        if self._interrupted:
            raise InterruptedReadError(
                "this state cannot be used: a read of it was interrupted or failed, and some "
                "layers have read the tokens where others have not. Start a new state, or restore "
                "a saved one"
            )

    def reorder(self, new_order: Tensor) -> None:
        """Goes on from rows ``new_order (B,)``, which may repeat or leave out some."""
        with self.reading():
            order = Reordering.of(new_order, self.beam)
            for layer in self.layers:
                layer.reorder(order)
            self._rows = new_order.numel()


def beam_size(rows: Tensor) -> int:
    """How many rows that follow each other are of one sentence, if all sentences have as many; else
    1. Copies the rows to the host: one wait for the device.

    Args:
        rows: the sentence that each row translates, ``(B,)``.
    """
    sentences = rows.tolist()
    starts = [i for i, s in enumerate(sentences) if i == 0 or s != sentences[i - 1]]
    sizes = {end - start for start, end in zip(starts, [*starts[1:], len(sentences)])}
    return sizes.pop() if len(sizes) == 1 else 1
