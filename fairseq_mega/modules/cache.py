"""Keys and values that a query of incremental decoding may still see."""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

FIRST_CAPACITY = 32


class KeyValueCache:
    """A growing list of keys ``(B, S, Z)`` and values ``(B, S, H)``, with their padding.

    Buffers double when they are full, so that a step appends without copying what is there.
    """

    def __init__(self):
        self.length = 0
        self._keys: Optional[Tensor] = None
        self._values: Optional[Tensor] = None
        self._padding: Optional[Tensor] = None  # (B, S), or None as long as there was none

    @property
    def keys(self) -> Tensor:
        return self._keys[:, : self.length]

    @property
    def values(self) -> Tensor:
        return self._values[:, : self.length]

    @property
    def padding_mask(self) -> Optional[Tensor]:
        return None if self._padding is None else self._padding[:, : self.length]

    def append(self, keys: Tensor, values: Tensor, padding_mask: Optional[Tensor]) -> None:
        """Appends ``keys (B, L, Z)``, ``values (B, L, H)``, ``padding_mask (B, L)`` or None."""
        end = self.length + keys.size(1)
        if end == self.length:
            return
        if self._padding is None and padding_mask is not None:
            self._padding = padding_mask.new_zeros(keys.size(0), self.length)
        if self._padding is not None:
            if padding_mask is None:
                padding_mask = self._padding.new_zeros(keys.shape[:2])
            self._padding = torch.cat([self._padding[:, : self.length], padding_mask], dim=1)
        self._keys = self._fill(self._keys, keys, end)
        self._values = self._fill(self._values, values, end)
        self.length = end

    def clear(self) -> None:
        self.length = 0
        self._padding = None

    def reordered(self, new_order: Tensor) -> "KeyValueCache":
        """A cache of the sequences ``new_order`` of this one."""
        other = KeyValueCache()
        if self.length > 0:
            padding = self.padding_mask
            other.append(
                self.keys.index_select(0, new_order),
                self.values.index_select(0, new_order),
                None if padding is None else padding.index_select(0, new_order),
            )
        return other

    def _fill(self, buffer: Optional[Tensor], new: Tensor, end: int) -> Tensor:
        """``buffer`` with ``new`` at ``length .. end - 1``; a larger one where it is too small."""
        if buffer is None:
            buffer = new.new_empty(new.size(0), max(end, FIRST_CAPACITY), new.size(2))
        elif buffer.size(1) < end:
            buffer = F.pad(buffer, (0, 0, 0, max(end, 2 * self.length) - buffer.size(1)))
        buffer[:, self.length : end] = new
        return buffer
