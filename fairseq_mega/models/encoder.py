"""The encoder of tokens, and the layers that all encoders of sequences have."""

import math
import sys
from typing import Any, Dict, List, Optional

import torch
from fairseq.models import FairseqEncoder
from torch import Tensor, nn

from ..modules import SequenceNorm
from ..modules.dropout import make_dropout
from .layers import EncoderLayer, make_layers
from .options import Options
from .padding import left_padding, may_have_padding, move_left, zero_padding


class EncoderLayers:
    """The part of an encoder, an ``nn.Module``, after its embeddings (Mega, section "Mega Blocks").

    It is a base class rather than a module, so that the layers keep the published names.
    """

    def build_layers(self, o: Options) -> None:
        """Adds the norm of the embeddings, the layers and the final norm, as the options ask."""
        dim, norm = o.encoder_embed_dim, o.normalization_type
        # names fixed by published checkpoints
        self.embed_norm = SequenceNorm(norm, dim) if o.normalize_embedding else None
        self.dropout = make_dropout(o.dropout, self, o.feature_dropout)
        self.layers = make_layers([EncoderLayer(o) for _ in range(o.encoder_layers)], o)
        self.compiled = o.compile_layers
        final_norm = o.normalize_before and not o.get("no_final_norm")
        self.final_norm = SequenceNorm(norm, dim) if final_norm else None

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


class MegaEncoder(EncoderLayers, FairseqEncoder):
    """Embeds source tokens and runs them through bidirectional Mega layers.

    Positions count from the first token of a sentence, whichever side fairseq pads, so that a
    sentence's output does not depend on its batch. The published code counts from the edge of the
    batch, padding included; its checkpoints are recognised by a buffer ``version``.
    """

    def __init__(self, o: Options, dictionary, embed_tokens: nn.Embedding):
        super().__init__(dictionary)
        self.padding_idx = dictionary.pad()
        self.embed_tokens = embed_tokens
        self.embed_scale = 1.0 if o.no_scale_embedding else math.sqrt(o.encoder_embed_dim)
        self.build_layers(o)
        self.register_buffer("version", None)
        limited = o.rel_pos_bias == "simple"
        self._max_positions = o.max_source_positions if limited else sys.maxsize

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
            src_lengths: ignored: the tokens show the padding.
            return_all_hiddens: also return the layers' outputs.
            token_embeddings: ``(B, S, D)``, instead of those of the tokens.

        Returns:
            fairseq's encoder output: ``encoder_out`` ``[(S, B, D)]``, ``encoder_padding_mask``
            ``[(B, S)]``, ``encoder_embedding`` ``[(B, S, D)]``, ``encoder_states``
            ``[(S, B, D), ...]``, ``src_tokens`` (empty) and ``src_lengths`` ``[(B, 1)]``. Also
            ``has_padding``; ``left_padding`` ``[(B,)]``, the shift of the tokens to the left; and
            ``rows``, see ``reorder_encoder_out``.
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
        """Returns the output for the sentences ``new_order``, for beam search. No tensor is moved:
        ``rows`` ``[(B,)]`` tells the decoder which sentence each of its rows translates, so that
        the hypotheses of a sentence share its keys and values."""
        rows = [rows.index_select(0, new_order) for rows in encoder_out["rows"]] or [new_order]
        return {**encoder_out, "rows": rows}

    def max_positions(self) -> int:
        """The longest source, which only the ``simple`` bias limits."""
        return self._max_positions

    def upgrade_state_dict_named(self, state_dict: Dict[str, Tensor], name: str):
        version = state_dict.get(f"{name}.version")
        if version is not None:
            version = version.to(self.embed_tokens.weight.device, copy=True)
        self.version = version
        return state_dict
