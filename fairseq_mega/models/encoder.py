"""The encoder of the translation model."""

import math
import sys
from typing import Any, Dict, List, Optional

import torch
from fairseq.models import FairseqEncoder
from torch import Tensor, nn

from .encoder_layers import EncoderLayers
from .padding import left_padding, may_have_padding, move_left


class MegaEncoder(EncoderLayers, FairseqEncoder):
    """Embeds source tokens and runs them through bidirectional Mega layers.

    Positions count from the first token of a sentence, whichever side fairseq pads, so that a
    sentence's output does not depend on its batch. The published code counts them from the edge
    of the batch, padding included, and its models have learnt so: their checkpoints hold a buffer
    ``version``, by whose presence they are known, here and when they are saved again.
    """

    def __init__(self, cfg, dictionary, embed_tokens: nn.Embedding):
        super().__init__(dictionary)
        self.padding_idx = dictionary.pad()
        self.embed_tokens = embed_tokens
        self.embed_scale = 1.0 if cfg.no_scale_embedding else math.sqrt(cfg.encoder_embed_dim)
        self.build_layers(cfg)
        self.register_buffer("version", None)
        limited = cfg.rel_pos_bias == "simple"
        self._max_positions = cfg.max_source_positions if limited else sys.maxsize

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Optional[Tensor] = None,
        return_all_hiddens: bool = False,
        token_embeddings: Optional[Tensor] = None,
    ) -> Dict[str, Any]:
        """
        Args:
            src_tokens: ``(B, S)``, padded on either side.
            src_lengths: not needed: padding is seen in the tokens.
            return_all_hiddens: also return the layers' outputs.
            token_embeddings: ``(B, S, D)``, instead of those of the tokens.

        Returns:
            fairseq's encoder output: ``encoder_out`` ``[(S, B, D)]``, ``encoder_padding_mask``
            ``[(B, S)]``, ``encoder_embedding`` ``[(B, S, D)]``, ``encoder_states``
            ``[(S, B, D), ...]``, ``src_tokens`` (empty) and ``src_lengths`` ``[(B, 1)]``. Also
            ``has_padding``; ``left_padding`` ``[(B,)]``: by how much the tokens were moved to the
            left; and ``rows``, see ``reorder_encoder_out``.
        """
        padding_mask = src_tokens.eq(self.padding_idx)
        has_padding = may_have_padding(padding_mask)
        shifts = left_padding(padding_mask) if has_padding and self.version is None else None
        if shifts is not None:
            src_tokens, padding_mask = (move_left(t, shifts) for t in (src_tokens, padding_mask))
            if token_embeddings is not None:
                token_embeddings = move_left(token_embeddings, shifts)
        if token_embeddings is None:
            token_embeddings = self.embed_tokens(src_tokens)

        x = embedding = self.embed_scale * token_embeddings  # (B, S, D)
        states: Optional[List[Tensor]] = [] if return_all_hiddens else None
        x = self.run_layers(x, padding_mask if has_padding else None, states)
        return {
            "encoder_out": [x.transpose(0, 1)],
            "encoder_padding_mask": [padding_mask],
            "encoder_embedding": [embedding],
            "encoder_states": [state.transpose(0, 1) for state in states or []],
            "src_tokens": [],
            "src_lengths": [(~padding_mask).sum(dim=1, keepdim=True, dtype=torch.int32)],
            "has_padding": has_padding,
            "left_padding": [] if shifts is None else [shifts],
            "rows": [],
        }

    def reorder_encoder_out(self, encoder_out: Dict[str, Any], new_order: Tensor):
        """The output for the sentences ``new_order``, as beam search asks for it.

        Nothing is moved: ``rows`` ``[(B,)]`` tells the decoder which sentence of the output each
        of its rows translates, so that hypotheses of one sentence share what it computes of it.
        """
        rows = [rows.index_select(0, new_order) for rows in encoder_out["rows"]] or [new_order]
        return {**encoder_out, "rows": rows}

    def max_positions(self) -> int:
        """The longest source: of the ``simple`` bias's table; without limit otherwise."""
        return self._max_positions

    def upgrade_state_dict_named(self, state_dict: Dict[str, Tensor], name: str):
        version = state_dict.get(f"{name}.version")
        if version is not None:
            version = version.to(self.embed_tokens.weight.device, copy=True)
        self.version = version
        return state_dict
