"""Keys and values that a query of incremental decoding may still see."""

import math
from typing import Optional

import torch
from torch import Tensor

FIRST_CAPACITY = 32


class KeyValueCache:
    """A growing list of keys ``(B, S, Z)`` and values ``(B, S, H)``, with their padding.

    In beam search, every ``width`` sequences that follow each other are hypotheses of one sentence,
    and go on from each other at every step. What they have read stays where it is: the cache gives
    the positions of all hypotheses of a sentence, ``(B / width, S width, Z)``, and ``lineage`` says
    which of them are a hypothesis's own past.

    Holds no gradients.
    """

    def __init__(self, width: int = 1):
        self.width, self.length = width, 0
        self._keys, self._values = _Buffer(), _Buffer()
        self._padding: Optional[Tensor] = None  # (B, S), or None as long as there was none
        self._lineage: Optional[Tensor] = None  # (B, S, width)
        self._strangers: Optional[Tensor] = None  # (width, width), minus infinity off the diagonal

    @property
    def keys(self) -> Tensor:
        return self._keys.first(self.length).flatten(1, 2)

    @property
    def values(self) -> Tensor:
        return self._values.first(self.length).flatten(1, 2)

    @property
    def padding_mask(self) -> Optional[Tensor]:
        return self._padding

    @property
    def lineage(self) -> Optional[Tensor]:
        """``(B, S, width)``: 0 where the position of a sentence's hypothesis is in the past of
        another, minus infinity where it is not. None if the width is 1."""
        return self._lineage

    def append(self, keys: Tensor, values: Tensor, padding_mask: Optional[Tensor]) -> None:
        """Appends ``keys (B, L, Z)``, ``values (B, L, H)``, ``padding_mask (B, L)`` or None.

        What is shared is read one position at a time, and without padding.
        """
        padded = self._padding is not None or padding_mask is not None
        if self.length > 0 and (keys.size(1) > 1 or padded):
            self.separate()
        if padded:
            if self._padding is None:
                self._padding = padding_mask.new_zeros(keys.size(0), self.length)
            if padding_mask is None:
                padding_mask = self._padding.new_zeros(keys.shape[:2])
            self._padding = torch.cat([self._padding, padding_mask], dim=1)
        if self.width > 1:
            own = self._own_positions(keys)
            before = [] if self._lineage is None else [self._lineage]
            self._lineage = torch.cat([*before, own], dim=1)
        self._keys.write(self.length, _by_sentence(keys, self.width))
        self._values.write(self.length, _by_sentence(values, self.width))
        self.length += keys.size(1)

    def clear(self) -> None:
        self.length = 0
        self._padding = self._lineage = None

    def reorder(self, new_order: Tensor) -> None:
        """Keeps the sequences ``new_order``, which may repeat or leave out some."""
        rows = _sentences(new_order, self.width)
        if rows is None:
            self.separate()
            rows = new_order
        if self.length == 0:
            return
        if self._padding is not None:
            self._padding = self._padding.index_select(0, new_order)
        if self._lineage is not None:
            self._lineage = self._lineage.index_select(0, new_order)
            if torch.equal(rows, torch.arange(self._keys.sentences, device=rows.device)):
                return
        self._keys.reorder(rows)
        self._values.reorder(rows)

    def separate(self) -> None:
        """Gives every sequence keys and values of its own, and the width 1."""
        if self._lineage is not None:
            source = self._lineage.argmax(-1)  # (B, S): the hypothesis that read the position
            self._keys.separate(source)
            self._values.separate(source)
        self.width, self._lineage = 1, None

    def _own_positions(self, x: Tensor) -> Tensor:
        """The lineage ``(B, L, width)`` of positions ``x (B, L, Z)`` that were just read."""
        batch, length, _ = x.shape
        if self._strangers is None:
            own = torch.eye(self.width, dtype=torch.bool, device=x.device)
            self._strangers = x.new_zeros(own.shape).masked_fill(~own, -math.inf)
        rows = self._strangers.expand(batch // self.width, -1, -1).reshape(batch, 1, self.width)
        return rows.expand(batch, length, self.width)


def _by_sentence(x: Tensor, width: int) -> Tensor:
    """``(B, L, Z)`` to ``(B / width, L, width, Z)``."""
    return x.detach().unflatten(0, (-1, width)).transpose(1, 2)


def _sentences(order: Tensor, width: int) -> Optional[Tensor]:
    """The sentence that every ``width`` of the sequences ``order`` come of, if it is one."""
    if width == 1:
        return order
    if order.numel() % width:
        return None
    sentences = order.view(-1, width) // width
    first = sentences[:, 0]
    return first if bool((sentences == first.unsqueeze(1)).all()) else None


class _Buffer:
    """Memory for ``(G, S, W, Z)``, of which the first steps ``S`` are in use.

    Writing and reordering copy nothing that need not move: there is room for as much again when it
    grows, and reordering goes back and forth between two of them.
    """

    def __init__(self):
        self._data: Optional[Tensor] = None
        self._spare: Optional[Tensor] = None

    @property
    def sentences(self) -> int:
        return self._data.size(0)

    def first(self, steps: int) -> Tensor:
        return self._data[:, :steps]

    def write(self, start: int, new: Tensor) -> None:
        """Puts ``new (G, L, W, Z)`` at steps ``start ..``."""
        sentences, length, *rest = new.shape
        end = start + length
        if start == 0 and (self._data is None or self._data[:, 0].shape != new[:, 0].shape):
            self._data = new.new_empty(sentences, max(end, FIRST_CAPACITY), *rest)
        elif self._data.size(1) < end:
            grown = new.new_empty(sentences, max(end, 2 * start), *rest)
            grown[:, :start] = self._data[:, :start]
            self._data, self._spare = grown, None
        self._data[:, start:end] = new

    def reorder(self, rows: Tensor) -> None:
        shape = rows.numel(), *self._data.shape[1:]
        if self._spare is None or self._spare.shape != shape:
            self._spare = self._data.new_empty(shape)
        torch.index_select(self._data, 0, rows, out=self._spare)
        self._data, self._spare = self._spare, self._data

    def separate(self, source: Tensor) -> None:
        """Of the hypotheses of a sentence, ``source (B, S)`` is the one to take a step from."""
        batch, steps = source.shape
        width = self._data.size(2)
        sentence = torch.arange(batch, device=source.device).unsqueeze(1) // width
        step = torch.arange(steps, device=source.device)
        self._data = self._data[sentence, step, source].unsqueeze(2)  # (B, S, 1, Z)
        self._spare = None
