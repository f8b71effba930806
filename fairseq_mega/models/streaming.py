"""Reads texts of any length in segments: memory does not grow with the text.

fairseq's ``SequenceScorer`` asks for all scores of a sample, ``(B, T, V)``, only to pick those of
the targets. A streaming model returns a ``Stream`` instead, to which fairseq hands the targets.
"""

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
    """Features of ``tokens (B, T)``, which continue what the state has read: parts ``(B, t, D)``,
    with ``t`` up to ``segment``."""
    for start in range(0, tokens.size(1), segment):
        yield decoder.read(tokens[:, start : start + segment], state)


def target_scores(
    decoder: MegaDecoder, features: Tensor, target: Tensor, log_probs: bool = True
) -> Tensor:
    """(Log-)probabilities ``(B, T)`` of ``target (B, T)`` under ``features (B, T, D)``."""
    positions = max(ENTRIES // (target.size(0) * len(decoder.dictionary)), 1)
    picked = []
    for x, words in zip(features.split(positions, dim=1), target.split(positions, dim=1)):
        sample = {"target": words.contiguous()}  # fairseq's adaptive softmax takes a view of it
        probs = decoder.get_normalized_probs((decoder.output_layer(x),), log_probs, sample)
        picked.append(probs.gather(2, words.unsqueeze(2)).squeeze(2))
    return torch.cat(picked, dim=1)


class Stream:
    """Reads ``tokens (B, T)``, row after row and at most a segment at a time, as their targets'
    scores are asked for, from the first to the last."""

    def __init__(self, decoder: MegaDecoder, tokens: Tensor, segment: int):
        self._decoder = decoder
        self._segments = (
            features
            for row in tokens.split(1)
            for features in read_segments(decoder, row, segment, decoder.new_state())
        )
        self._features = torch.empty(1, 0)  # those of the last segment that have no target yet

    def scores(self, target: Tensor, log_probs: bool) -> Tensor:
        """(Log-)probabilities ``(B, T, V)`` of the next targets ``(B, T)``: each is repeated for
        the whole vocabulary, of which the scorer gathers the target's, in a view."""
        picked, rest = [], target.reshape(1, -1)
        while rest.size(1) > 0:
            if self._features.size(1) == 0:
                self._features = next(self._segments)
            count = min(rest.size(1), self._features.size(1))
            features, self._features = self._features.tensor_split([count], dim=1)
            words, rest = rest.tensor_split([count], dim=1)
            picked.append(target_scores(self._decoder, features, words, log_probs))
        scores = torch.cat(picked, dim=1).view(*target.shape, 1)
        return scores.expand(-1, -1, len(self._decoder.dictionary))
