"""The KV cache of self-attention, which the hypotheses of beam search share."""

from typing import Optional, Tuple

import torch
from torch import Tensor

from ...ops.attention import tiled_attention
from ..relative_bias import RelativePositionalBias
from .reordering import Reordering, empty_buffer, persistent

FIRST_CAPACITY = 32  # positions


class BeamKVCache:
    """A growing list of keys ``(B, S, Z)`` and values ``(B, S, H)``, with their padding.

    Reordering hypotheses does not move keys: each position holds the keys of all beam slots of its
    sentence, and ``_ancestry`` marks the slot that belongs to a hypothesis's own past. The cache
    holds no gradients.
    """

    def __init__(self, beam: int = 1):
        self.beam, self.length = beam, 0
        self._keys, self._values = _Buffer(), _Buffer()  # (B / beam, S, beam, Z or H)
        self._key_padding_mask: Optional[Tensor] = None  # (B, S), or None before any padding
        self._ancestry: Optional[Tensor] = None  # (B, S, beam): 0, or minus infinity
        self._own: Optional[Tensor] = None  # (B, 1, beam): ancestry of a new position

    @property
    def keys(self) -> Tensor:
        """``(B / beam, S beam, Z)``: the beam slots are interleaved in each position."""
        return self._keys.data[:, : self.length].flatten(1, 2)

    @property
    def values(self) -> Tensor:
        """``(B / beam, S beam, H)``."""
        return self._values.data[:, : self.length].flatten(1, 2)

    def append(self, keys: Tensor, values: Tensor, key_padding_mask: Optional[Tensor]) -> None:
        """Appends ``keys (B, L, Z)``, ``values (B, L, H)``, ``key_padding_mask (B, L)`` or None.

        Padding, or several positions at once after others, end the sharing of hypotheses.
        """
        mask = self._continued_padding(key_padding_mask, keys)
        if self.length > 0 and (keys.size(1) > 1 or mask is not None):
            self.separate()
        if mask is not None:
            self._key_padding_mask = persistent(mask)
        if self.beam > 1:
            before = [] if self._ancestry is None else [self._ancestry]
            self._ancestry = persistent(torch.cat([*before, self._own_slots(keys)], dim=1))
        self._keys.write(self.length, self._by_sentence(keys))
        self._values.write(self.length, self._by_sentence(values))
        self.length += keys.size(1)

    def continued_by(
        self, keys: Tensor, values: Tensor, key_padding_mask: Optional[Tensor]
    ) -> Tuple[Tensor, Tensor, Optional[Tensor]]:
        """The cached positions and new ones, which the cache does not keep: ``(B, S + L, Z)``,
        ``(B, S + L, H)`` and ``(B, S + L)`` or None. Ends the sharing of hypotheses."""
        self.separate()
        mask = self._continued_padding(key_padding_mask, keys)
        keys = torch.cat([self.keys.to(keys.dtype), keys], dim=1)
        return keys, torch.cat([self.values.to(values.dtype), values], dim=1), mask

    def attend(
        self, q: Tensor, bias: RelativePositionalBias, function: str, **options
    ) -> Tuple[Tensor, Optional[Tensor]]:
        """Causal attention of the last positions ``q (B, L, Z)`` to all that their own hypothesis
        has read: ``(B, L, H)`` and the weights ``(B, L, S)`` or None."""
        batch, queries, zdim = q.shape
        keys, start = self.length, self.length - queries
        # Autocast may have begun or ended since earlier steps.
        k, v = self.keys.to(q.dtype), self.values.to(q.dtype)
        if q.requires_grad:  # later positions may overwrite them before the backward pass
            k, v = k.clone(), v.clone()
        if self.beam == 1:
            mask = self._key_padding_mask
            table = bias(queries, keys, start, causal=True)
            return tiled_attention(q, k, v, table, function, True, mask, **options)
        own = bias(1, keys, start).view(keys, 1) + self._ancestry
        o, weights = tiled_attention(
            q.view(-1, self.beam, zdim),
            k,
            v,
            own.view(-1, self.beam, keys * self.beam),
            function,
            scale=None if function == "softmax" else 1 / keys,  # one slot of each position counts
            **options,
        )
        if weights is not None:
            weights = weights.view(batch, 1, keys, self.beam).sum(-1)
        return o.view(batch, 1, -1), weights

    def clear(self) -> None:
        self.length = 0
        self._key_padding_mask = self._ancestry = None

    def drop(self, count: int) -> None:
        """Forgets the first ``count`` positions."""
        if count == self.length:
            return self.clear()
        for buffer in (self._keys, self._values):
            buffer.write(0, buffer.data[:, count : self.length])
        if self._key_padding_mask is not None:
            self._key_padding_mask = self._key_padding_mask[:, count:]
        if self._ancestry is not None:
            self._ancestry = self._ancestry[:, count:]
        self.length -= count

    def reorder(self, order: Reordering) -> None:
        """Continues from the rows that ``order`` names."""
        if self.beam > 1 and order.sentences is None:
            self.separate()
        if self.length == 0:
            return
        if self._key_padding_mask is not None:
            self._key_padding_mask = persistent(self._key_padding_mask.index_select(0, order.rows))
        index = order.rows
        if self._ancestry is not None and order.sentences is not None:
            self._ancestry = persistent(self._ancestry.index_select(0, order.rows))
            if not order.moves(self._keys.data.size(0)):
                return
            index = order.sentences
        self._keys.reorder(index)
        self._values.reorder(index)

    def separate(self) -> None:
        """Gives every row its own keys and values: the beam becomes 1."""
        if self._ancestry is not None:
            slot = self._ancestry.argmax(-1)  # (B, S)
            self._keys.separate(slot)
            self._values.separate(slot)
        self.beam, self._ancestry = 1, None

    def _continued_padding(self, mask: Optional[Tensor], keys: Tensor) -> Optional[Tensor]:
        """The mask ``(B, S + L)`` of the cached positions and new ``keys (B, L, Z)``; None without
        padding."""
        before = self._key_padding_mask
        if before is None and mask is None:
            return None
        if mask is None:
            mask = torch.zeros(keys.shape[:2], dtype=torch.bool, device=keys.device)
        if before is None:
            before = mask.new_zeros(keys.size(0), self.length)
        return torch.cat([before, mask], dim=1)

    def _own_slots(self, x: Tensor) -> Tensor:
        """Ancestry ``(B, L, beam)`` of new positions ``x (B, L, Z)``."""
        own = self._own
        if own is None or (own.size(0), own.dtype, own.device) != (x.size(0), x.dtype, x.device):
            own = torch.eye(self.beam, dtype=x.dtype, device=x.device).log()
            own = self._own = persistent(own.repeat(x.size(0) // self.beam, 1).unsqueeze(1))
        return own.expand(-1, x.size(1), -1)

    def _by_sentence(self, x: Tensor) -> Tensor:
        """``(B, L, Z)`` to ``(B / beam, L, beam, Z)``."""
        return x.detach().unflatten(0, (-1, self.beam)).transpose(1, 2)


class _Buffer:
    """Memory for ``(G, S, W, Z)``, of which the first positions ``S`` are in use, and which doubles
    when it grows."""

    def __init__(self) -> None:
        self.data = torch.empty(0, 0, 0, 0)

    def write(self, start: int, new: Tensor) -> None:
        """Writes ``new (G, L, W, Z)`` from position ``start`` on."""
        sentences, length, *rest = new.shape
        end = start + length
        if start == 0:
            self.data = empty_buffer(new, sentences, max(end, FIRST_CAPACITY), *rest)
        elif self.data.size(1) < end:
            grown = empty_buffer(self.data, sentences, max(end, 2 * start), *rest)
            grown[:, :start] = self.data[:, :start]
            self.data = grown
        self.data[:, start:end] = new

    def reorder(self, rows: Tensor) -> None:
        new = empty_buffer(self.data, rows.numel(), *self.data.shape[1:])
        self.data = torch.index_select(self.data, 0, rows, out=new)

    def separate(self, slot: Tensor) -> None:
        """Keeps the beam slot ``slot (B, S)`` of each position."""
        batch, positions = slot.shape
        sentence = torch.arange(batch, device=slot.device).unsqueeze(1) // self.data.size(2)
        position = torch.arange(positions, device=slot.device)
        own = self.data[sentence, position, slot].unsqueeze(2)  # (B, S, 1, Z)
        self.data = empty_buffer(own, *own.shape).copy_(own)
