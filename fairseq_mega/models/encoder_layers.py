"""What all encoders share: from embeddings through the bidirectional layers."""

from typing import List, Optional

import torch
from torch import Tensor

from ..modules import SequenceNorm
from ..modules.dropout import make_dropout
from .layers import EncoderLayer, make_layers
from .padding import zero_padding


class EncoderLayers:
    """The part of an encoder, an ``nn.Module``, after its embeddings (Mega, section "Mega Blocks").

    It is a base class rather than a module, so that the layers keep the published names.
    """

    def build_layers(self, cfg) -> None:
        """Adds the norm of the embeddings, the layers and the final norm, as the options ask."""
        dim, norm = cfg.encoder_embed_dim, str(cfg.normalization_type)
        self.embed_norm = SequenceNorm(norm, dim) if cfg.normalize_embedding else None
        self.dropout = make_dropout(cfg.dropout, self, cfg.feature_dropout)
        self.layers = make_layers([EncoderLayer(cfg) for _ in range(cfg.encoder_layers)], cfg)
        self.compiled = cfg.compile_layers
        self.final_norm = SequenceNorm(norm, dim) if cfg.normalize_before else None

    def run_layers(
        self, x: Tensor, padding_mask: Optional[Tensor], states: Optional[List[Tensor]] = None
    ) -> Tensor:
        """
        Args:
            x: embeddings ``(B, L, D)``.
            padding_mask: ``(B, L)``, true at padding; None without padding.
            states: a list, to which the first layer's input and all layers' outputs are added,
                ``(B, L, D)`` each.

        Returns:
            ``(B, L, D)``, zero at padding.
        """
        if self.embed_norm is not None:
            x = self.embed_norm(x)
        x = self.dropout(x)
        if padding_mask is None and self.compiled:  # or there would be a graph for either case
            padding_mask = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        if padding_mask is not None:
            x = zero_padding(x, padding_mask)

        if states is not None:
            states.append(x)
        for layer in self.layers:
            x = layer(x, padding_mask)
            if states is not None:
                states.append(x)
        if self.final_norm is not None:
            x = self.final_norm(x)
        return x if padding_mask is None else zero_padding(x, padding_mask)
