"""Scores of texts of any length, in constant memory.

fairseq evaluates a language model with its ``SequenceScorer``, which asks for all scores of a
sample at once, ``(B, T, V)``, only to pick one of each token. Those of a text of a million tokens
fit in no memory, and the scorer takes no other form. So a model that streams gives it
``StreamedScores``: a tensor as far as the scorer looks at it, which reads the text when the
targets' scores are picked.
"""

from dataclasses import dataclass, replace
from typing import Iterator

import torch
from torch import Tensor

from .decoder import MegaDecoder
from .state import DecodingState

# Scores over the vocabulary that are held at a time: 64 MiB in float32.
ENTRIES = 2**24


def read_segments(
    decoder: MegaDecoder, tokens: Tensor, segment: int, state: DecodingState
) -> Iterator[Tensor]:
    """The features of ``tokens (B, T)``, which follow what the state has read: parts ``(B, t, D)``,
    with ``t`` up to ``segment``."""
    for start in range(0, tokens.size(1), segment):
        yield decoder.prefill(tokens[:, start : start + segment], state)


def target_scores(
    decoder: MegaDecoder, features: Tensor, target: Tensor, log_probs: bool = True
) -> Tensor:
    """The (log-)probabilities ``(B, T)`` of ``target (B, T)`` under ``features (B, T, D)``."""
    positions = max(ENTRIES // (target.size(0) * len(decoder.dictionary)), 1)
    picked = []
    for x, words in zip(features.split(positions, dim=1), target.split(positions, dim=1)):
        sample = {"target": words.contiguous()}  # of which fairseq's adaptive softmax takes a view
        probs = decoder.get_normalized_probs((decoder.output_layer(x),), log_probs, sample)
        picked.append(probs.gather(2, words.unsqueeze(2)).squeeze(2))
    return torch.cat(picked, dim=1)


class _Features:
    """The features of ``tokens (B, T)``, row after row, of at most a segment at a time.

    A row's state goes from segment to segment. Features are computed once, so they can only be
    taken in order.
    """

    def __init__(self, decoder: MegaDecoder, tokens: Tensor, segment: int):
        self._segments = (
            part
            for row in tokens.split(1)
            for part in read_segments(decoder, row, segment, decoder.new_state())
        )
        self._rest = torch.empty(1, 0)  # of the last segment, what was not taken
        self._taken = 0

    def take(self, start: int, count: int) -> Iterator[Tensor]:
        """The features from ``start`` on, counted over all rows: parts ``(1, t, D)``."""
        if start != self._taken:
            raise RuntimeError(
                f"streamed scores are read once, in order: position {self._taken} is next, "
                f"not {start}"
            )
        while count > 0:
            if self._rest.size(1) == 0:
                self._rest = next(self._segments)
            part, self._rest = self._rest[:, :count], self._rest[:, count:]
            self._taken += part.size(1)
            count -= part.size(1)
            yield part


@dataclass(frozen=True)
class StreamedScores:
    """Scores ``(B, T, V)`` with the part of a tensor's interface that ``SequenceScorer`` uses.

    The scorer may flatten them to ``(1, B T, V)`` and slice that (``--softmax-batch``, which also
    bounds the tokens whose scores are computed at a time); then it has them normalised, and gathers
    the targets'. Only ``gather`` computes anything.
    """

    decoder: MegaDecoder
    features: _Features
    shape: torch.Size
    device: torch.device
    start: int = 0  # of the first token, counted over all rows
    log_probs: bool = True

    @classmethod
    def of(cls, decoder: MegaDecoder, tokens: Tensor, segment: int) -> "StreamedScores":
        """The scores after each of ``tokens (B, T)``, read ``segment`` tokens at a time."""
        shape = torch.Size((*tokens.shape, len(decoder.dictionary)))
        return cls(decoder, _Features(decoder, tokens, segment), shape, tokens.device)

    @property
    def data(self) -> "StreamedScores":
        return self

    def contiguous(self) -> "StreamedScores":
        return self

    def size(self, dim: int) -> int:
        return self.shape[dim]

    def view(self, *shape) -> "StreamedScores":
        return replace(self, shape=torch.empty(self.shape, device="meta").view(*shape).shape)

    def __getitem__(self, index) -> "StreamedScores":
        """Columns of flattened scores: ``scores[:, first:last]``."""
        rows, columns = index
        batch, length, words = self.shape
        if rows != slice(None) or batch != 1:
            raise IndexError("only columns of flattened scores can be taken: scores[:, a:b]")
        first, last, _ = columns.indices(length)
        return replace(self, shape=torch.Size((1, last - first, words)), start=self.start + first)

    def normalized(self, log_probs: bool) -> "StreamedScores":
        """As log-probabilities or probabilities."""
        return replace(self, log_probs=log_probs)

    def new(self, size: int) -> Tensor:
        return torch.empty(size, device=self.device)

    @torch.no_grad()
    def gather(self, dim: int, index: Tensor) -> Tensor:
        """Those of ``index (B, T, 1)``, in float32: reads the text, if that was not done."""
        target, picked = index.reshape(1, -1), self.new(index.numel())
        end = 0
        for part in self.features.take(self.start, index.numel()):
            start, end = end, end + part.size(1)
            picked[start:end] = target_scores(
                self.decoder, part, target[:, start:end], self.log_probs
            )[0]
        return picked.view(index.shape)
