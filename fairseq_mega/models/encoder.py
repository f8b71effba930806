"""The encoder of the translation model."""

import math
import sys
from typing import Dict, List, Optional

import torch
from fairseq.models import FairseqEncoder
from torch import Tensor, nn

from .encoder_layers import EncoderLayers
from .layers import may_have_padding


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
    ) -> Dict[str, List[Tensor]]:
        """
        Args:
            src_tokens: ``(B, S)``, padded on either side.
            src_lengths: not needed: padding is seen in the tokens.
            return_all_hiddens: also return the layers' outputs.

        Returns:
            fairseq's encoder output: ``encoder_out`` ``[(S, B, D)]``, ``encoder_padding_mask``
            ``[(B, S)]`` (empty without padding), ``encoder_states`` ``[(S, B, D), ...]``;
            ``left_padding`` ``[(B,)]``: by how much the tokens were moved to the left; and
            ``rows``, see ``reorder_encoder_out``.
        """
        padding_mask = src_tokens.eq(self.padding_idx)
        has_padding = may_have_padding(padding_mask)
        left_padding = []
        if has_padding and self.version is None:
            left_padding = [padding_mask.long().cumprod(dim=1).sum(dim=1)]
            src_tokens = roll_rows(src_tokens, left_padding[0])
            padding_mask = src_tokens.eq(self.padding_idx)

        x = self.embed_scale * self.embed_tokens(src_tokens)  # (B, S, D)
        states: Optional[List[Tensor]] = [] if return_all_hiddens else None
        x = self.run_layers(x, padding_mask if has_padding else None, states)
        return {
            "encoder_out": [x.transpose(0, 1)],
            "encoder_padding_mask": [padding_mask] if has_padding else [],
            "encoder_states": [state.transpose(0, 1) for state in states or []],
            "left_padding": left_padding,
            "rows": [],
        }

    def reorder_encoder_out(self, encoder_out: Dict[str, List[Tensor]], new_order: Tensor):
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


def roll_rows(x: Tensor, shifts: Tensor) -> Tensor:
    """Each row of ``x (B, S)`` moved ``shifts (B,)`` columns to the left, around the edge."""
    columns = torch.arange(x.size(1), device=x.device)
    return x.gather(1, (columns + shifts.unsqueeze(1)) % x.size(1))
