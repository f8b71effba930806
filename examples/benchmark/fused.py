"""fairseq's Transformers with torch's fused attention, as one would build them today."""

import torch.nn.functional as F
from fairseq.modules import MultiheadAttention
from torch import Tensor, nn


def as_fused(model: nn.Module) -> nn.Module:
    """The same model with the same weights, its attention computed as in this file; in place."""
    for module in model.modules():
        if type(module) is MultiheadAttention:
            module.__class__ = FusedAttention
    return model


def as_dense(model: nn.Module) -> nn.Module:
    """The same model with fairseq's own attention, which makes the matrix of all weights as
    Transformers did at the time of the paper: without this, fairseq calls torch's."""
    for module in model.modules():
        if type(module) is MultiheadAttention:
            module.skip_embed_dim_check = True
    return model


class FusedAttention(MultiheadAttention):
    """Attention for training: it has no state and returns no weights."""

    def forward(self, query, key, value, key_padding_mask=None, attn_mask=None, **_):
        """
        Args:
            query: ``(L, B, D)``.
            key, value: ``(S, B, D)``.
            key_padding_mask: ``(B, S)``, true at padding.
            attn_mask: given where attention is causal, as decoders of fairseq do. Padding is then
                on the right, where no other position sees it.

        Returns:
            ``(L, B, D)``, and None for the weights.
        """
        q = self._heads(self.q_proj(query))
        k, v = self._heads(self.k_proj(key)), self._heads(self.v_proj(value))
        causal = attn_mask is not None
        visible = None
        if key_padding_mask is not None and not causal:
            visible = ~key_padding_mask.bool().unsqueeze(1).unsqueeze(2)  # (B, 1, 1, S)
        dropout = self.dropout_module.p if self.training else 0.0
        o = F.scaled_dot_product_attention(q, k, v, visible, dropout, is_causal=causal)
        return self.out_proj(o.permute(2, 0, 1, 3).flatten(2)), None

    def _heads(self, x: Tensor) -> Tensor:
        """``(L, B, D)`` to ``(B, heads, L, D / heads)``."""
        return x.unflatten(-1, (self.num_heads, self.head_dim)).permute(1, 2, 0, 3)
