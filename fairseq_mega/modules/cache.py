"""Keys and values that a query of incremental decoding may still see."""

from typing import Optional

import torch
from torch import Tensor

FIRST_CAPACITY = 32


class KeyValueCache:
    """A growing list of keys ``(B, S, Z)`` and values ``(B, S, H)``, with their padding.

    Appending and reordering copy nothing that need not move: buffers are time first, have room for
    as much again when they grow, and reordering goes back and forth between two of them. They hold
    no gradients.
    """

    def __init__(self):
        self.length = 0
        self._keys, self._values = _Buffer(), _Buffer()
        self._padding: Optional[Tensor] = None  # (B, S), or None as long as there was none

    @property
    def keys(self) -> Tensor:
        return self._keys.first(self.length).transpose(0, 1)

    @property
    def values(self) -> Tensor:
        return self._values.first(self.length).transpose(0, 1)

    @property
    def padding_mask(self) -> Optional[Tensor]:
        return self._padding

    def append(self, keys: Tensor, values: Tensor, padding_mask: Optional[Tensor]) -> None:
        """Appends ``keys (B, L, Z)``, ``values (B, L, H)``, ``padding_mask (B, L)`` or None."""
        if self._padding is not None or padding_mask is not None:
            if self._padding is None:
                self._padding = padding_mask.new_zeros(keys.size(0), self.length)
            if padding_mask is None:
                padding_mask = self._padding.new_zeros(keys.shape[:2])
            self._padding = torch.cat([self._padding, padding_mask], dim=1)
        self._keys.write(self.length, keys.transpose(0, 1))
        self._values.write(self.length, values.transpose(0, 1))
        self.length += keys.size(1)

    def clear(self) -> None:
        self.length = 0
        self._padding = None

    def reorder(self, new_order: Tensor) -> None:
        """Keeps the sequences ``new_order``, which may repeat or leave out some."""
        if self.length == 0:
            return
        self._keys.reorder(self.length, new_order)
        self._values.reorder(self.length, new_order)
        if self._padding is not None:
            self._padding = self._padding.index_select(0, new_order)


class _Buffer:
    """Memory for ``(S, B, Z)`` of which the first steps are in use."""

    def __init__(self):
        self._data: Optional[Tensor] = None
        self._spare: Optional[Tensor] = None

    def first(self, steps: int) -> Tensor:
        return self._data[:steps]

    def write(self, start: int, new: Tensor) -> None:
        """Puts ``new (L, B, Z)`` at steps ``start ..``."""
        new, end = new.detach(), start + new.size(0)
        if self._data is None or (start == 0 and self._data.shape[1:] != new.shape[1:]):
            self._data = new.new_empty(max(end, FIRST_CAPACITY), *new.shape[1:])
        elif self._data.size(0) < end:
            grown = new.new_empty(max(end, 2 * start), *new.shape[1:])
            grown[:start] = self._data[:start]
            self._data, self._spare = grown, None
        self._data[start:end] = new

    def reorder(self, steps: int, new_order: Tensor) -> None:
        shape = self._data.size(0), new_order.numel(), self._data.size(2)
        if self._spare is None or self._spare.shape != shape:
            self._spare = self._data.new_empty(shape)
        torch.index_select(self._data[:steps], 1, new_order, out=self._spare[:steps])
        self._data, self._spare = self._spare, self._data
