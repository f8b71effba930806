"""The encoder of the classifier: symbols or real numbers to a vector for each sequence."""

import torch
from torch import Tensor, nn

from .encoder import EncoderLayers
from .options import Options
from .padding import may_have_padding


class SymbolEmbedding(nn.Module):
    """A vector for each symbol, ``~ N(0, 1/dim)``, padding included, as in the published code."""

    def __init__(self, symbols: int, dim: int, padding_idx: int):
        super().__init__()
        self.embed = nn.Embedding(symbols, dim, padding_idx=padding_idx)
        nn.init.normal_(self.embed.weight, std=dim**-0.5)

    def forward(self, symbols: Tensor) -> Tensor:
        """``(B, L)`` to ``(B, L, D)``."""
        return self.embed(symbols)


class RealNumberEmbedding(nn.Module):
    """``x weight + bias`` for each number ``x``, with ``weight ~ N(0, 1)``, ``bias ~ N(0, 0.1^2)``
    (Mega, section "Long-Context Sequence Modeling": pixels without quantisation)."""

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim))
        self.bias = nn.Parameter(torch.empty(dim))
        nn.init.normal_(self.weight)
        nn.init.normal_(self.bias, std=0.1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, L)`` to ``(B, L, D)``."""
        return torch.addcmul(self.bias, x.unsqueeze(-1).to(self.weight.dtype), self.weight)


class SequenceEncoder(EncoderLayers, nn.Module):
    """Embeds sequences of any length, runs them through bidirectional Mega layers, and pools each
    to a vector: the mean of all positions, or the first of them with ``--sen-rep-type cls``. In
    evaluation, the padding of a batch changes no sequence's output.

    Args:
        embed_tokens: ``(B, L)`` to ``(B, L, D)``.
    """

    def __init__(self, o: Options, embed_tokens: nn.Module):
        super().__init__()
        self.embed_tokens = embed_tokens
        self.pooling = o.sen_rep_type
        self.build_layers(o)

    def forward(self, src_tokens: Tensor, src_lengths: Tensor) -> Tensor:
        """
        Args:
            src_tokens: symbols or real numbers ``(B, L)``, padded on the right.
            src_lengths: ``(B,)``, the numbers of positions without padding.

        Returns:
            ``(B, D)``.
        """
        positions = torch.arange(src_tokens.size(1), device=src_tokens.device)
        padding_mask = positions >= src_lengths.unsqueeze(1)  # (B, L)
        has_padding = may_have_padding(padding_mask)
        x = self.run_layers(self.embed_tokens(src_tokens), padding_mask if has_padding else None)
        return x[:, 0] if self.pooling == "cls" else mean_of_positions(x, src_lengths)


def mean_of_positions(x: Tensor, lengths: Tensor) -> Tensor:
    """``(B, L, D)``, zero from ``lengths (B,)`` on, to ``(B, D)``; summed in float32 at least, as
    half precision cannot sum over thousands of positions."""
    total = x.sum(dim=1, dtype=torch.promote_types(x.dtype, torch.float32))
    return (total / lengths.unsqueeze(1)).to(x.dtype)
