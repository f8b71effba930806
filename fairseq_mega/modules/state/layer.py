"""The state of one decoder layer."""

from typing import Optional, Tuple

import torch
from torch import Tensor

from ...ops.attention import tiled_attention
from ...ops.ema import StepCoefficients
from .beam_cache import BeamKVCache
from .reordering import Reordering, empty_buffer, persistent


class LayerState:
    """The past of a decoder layer, without gradients. ``beam`` consecutive rows are hypotheses of
    one sentence."""

    def __init__(self, beam: int = 1):
        self.beam = beam
        self.ema: Optional[HiddenState] = None  # before the first position
        self.cache = BeamKVCache(beam)
        self.source: Optional[SourceCache] = None  # before the first position

    def reorder(self, order: Tensor | Reordering) -> None:
        """Continues from rows ``order (B,)``, which may repeat or omit some."""
        if isinstance(order, Tensor):
            order = Reordering.of(order, self.beam)
        for part in (self.ema, self.cache, self.source):
            if part is not None:
                part.reorder(order)
        if order.sentences is None:
            self.beam = 1


class HiddenState:
    """The hidden state ``h (B, D, N)`` of an EMA, kept with channels last: ``(B, N, D)``."""

    def __init__(self, h: Tensor):
        h = h.detach().transpose(1, 2)
        self._h = empty_buffer(h, *h.shape).copy_(h)
        self._scratch = empty_buffer(h, *h.shape)
        self.step_coefficients: Optional[StepCoefficients] = None

    @property
    def h(self) -> Tensor:
        """``(B, D, N)``: a view, which the next position changes."""
        return self._h.transpose(1, 2)

    @h.setter
    def h(self, new: Tensor) -> None:
        self._h.copy_(new.detach().transpose(1, 2))

    def memory(self) -> Tuple[Tensor, Tensor]:
        """``h`` and scratch memory ``(B, N, D)`` for ``ema_step_``."""
        return self._h, self._scratch

    def reorder(self, order: Reordering) -> None:
        if order.rows.numel() != self._h.size(0):
            self._scratch = empty_buffer(self._h, order.rows.numel(), *self._h.shape[1:])
        torch.index_select(self._h, 0, order.rows, out=self._scratch)
        self._h, self._scratch = self._scratch, self._h
        if self._scratch.shape != self._h.shape:
            self._scratch = empty_buffer(self._h, *self._h.shape)


class SourceCache:
    """Keys ``(B / beam, S, Z)``, values ``(B / beam, S, D)`` and the key padding mask of the source
    sentences, ``(B / beam, S)`` or None, which all hypotheses of a sentence share."""

    def __init__(self, keys: Tensor, values: Tensor, key_padding_mask: Optional[Tensor], beam: int):
        self.keys, self.values = persistent(keys), persistent(values)
        self.key_padding_mask = None if key_padding_mask is None else persistent(key_padding_mask)
        self.beam = beam
        self.start = 0  # position of the next query

    def attend(
        self, q: Tensor, v: Tensor, bias: Tensor, **options
    ) -> Tuple[Tensor, Optional[Tensor]]:
        """Attention of ``q (B, L, Z)`` to ``v (B / beam, S, D)``, the values after dropout, with
        ``bias (L, S)``: ``(B, L, D)`` and the weights ``(B, L, S)`` or None."""
        batch, length, _ = q.shape
        if length > 1:
            bias = bias.repeat(self.beam, 1)
        o, weights = tiled_attention(
            q.reshape(-1, self.beam * length, q.size(2)),
            self.keys.to(q.dtype),
            v.to(q.dtype),
            bias.expand(self.beam * length, -1),
            key_padding_mask=self.key_padding_mask,
            **options,
        )
        o = o.view(batch, length, -1)
        return o, None if weights is None else weights.view(batch, length, -1)

    def reorder(self, order: Reordering) -> None:
        index = order.sentences
        if index is None:  # every hypothesis gets its own copy
            index = order.rows // self.beam
            self.beam = 1
        elif not order.moves(self.keys.size(0)):
            return
        self.keys = persistent(self.keys.index_select(0, index))
        self.values = persistent(self.values.index_select(0, index))
        if self.key_padding_mask is not None:
            self.key_padding_mask = persistent(self.key_padding_mask.index_select(0, index))
