"""The decoder of both models: with an encoder to attend to, or alone as a language model."""

import math
import sys
from contextlib import nullcontext
from typing import Any, Dict, Optional, Sequence, Tuple

import torch
from fairseq.models import FairseqIncrementalDecoder
from fairseq.modules import AdaptiveInput, AdaptiveSoftmax
from torch import Tensor, nn

from ..modules import SequenceNorm
from ..modules.dropout import make_dropout
from .layers import DecoderLayer, make_layers
from .options import Options, cutoffs
from .padding import left_padding, may_have_padding, move_left, move_right, zero_padding
from .state import KEY, DecodingState, beam_size

EncoderOut = Dict[str, Any]
Extra = Dict[str, Sequence[Optional[Tensor]]]


class MegaDecoder(FairseqIncrementalDecoder):
    """Embeds target tokens, runs them through causal Mega layers and projects to the vocabulary.

    Args:
        o: the options, complete and checked.
        cross_attention: whether the layers attend to an encoder.
        attention_in_training: whether training also returns the cross attention, for criteria that
            learn from it.
        final_norm_affine: whether the final norm of a pre-norm model has weights.
    """

    def __init__(
        self,
        o: Options,
        dictionary,
        embed_tokens: nn.Embedding | AdaptiveInput,
        cross_attention: bool,
        attention_in_training: bool = False,
    ):
        super().__init__(dictionary)
        dim = o.decoder_embed_dim
        norm = o.normalization_type
        self.padding_idx = dictionary.pad()
        self.attention_in_training = attention_in_training
        self.embed_tokens = embed_tokens
        self.embed_scale = 1.0 if o.no_scale_embedding else math.sqrt(dim)
        # names fixed by published checkpoints
        self.project_in_dim = None
        if embed_tokens.embedding_dim != dim:
            self.project_in_dim = nn.Linear(embed_tokens.embedding_dim, dim, bias=False)
        self.embed_norm = SequenceNorm(norm, dim) if o.normalize_embedding else None
        self.dropout = make_dropout(o.dropout, self, o.feature_dropout)
        layers = [DecoderLayer(o, cross_attention) for _ in range(o.decoder_layers)]
        self.layers = make_layers(layers, o)
        self.compiled = o.compile_layers
        self.final_norm = None
        if o.normalize_before:
            self.final_norm = SequenceNorm(norm, dim, affine=not o.get("no_affine_final_norm"))

        self.adaptive_softmax: Optional[AdaptiveSoftmax] = None
        self.output_projection: Optional[nn.Linear] = None
        if o.adaptive_softmax_cutoff is not None:
            self.adaptive_softmax = AdaptiveSoftmax(
                len(dictionary),
                dim,
                cutoffs(o.adaptive_softmax_cutoff),
                dropout=o.adaptive_softmax_dropout,
                adaptive_inputs=embed_tokens if o.tie_adaptive_weights else None,
                factor=o.adaptive_softmax_factor,
                tie_proj=o.tie_adaptive_proj,
            )
        else:
            self.output_projection = nn.Linear(dim, len(dictionary), bias=False)
            if o.share_decoder_input_output_embed:
                self.output_projection.weight = embed_tokens.weight
            else:
                nn.init.normal_(self.output_projection.weight, std=dim**-0.5)

        for name, buffer in self.named_buffers():
            if name.endswith("_float_tensor"):  # fairseq's adaptive tables leave it unwritten
                buffer.zero_()

        # Chunks and cross attention count positions; the rest depends on distances only.
        self.counts_positions = o.decoder_chunk_size > 0 or cross_attention
        chunked = o.decoder_chunk_size > 0 and not cross_attention
        limited = o.rel_pos_bias == "simple" and not chunked
        self._max_positions = o.max_target_positions if limited else sys.maxsize

    def forward(
        self,
        prev_output_tokens: Tensor,
        encoder_out: Optional[EncoderOut] = None,
        incremental_state: Optional[Dict[str, Any]] = None,
        features_only: bool = False,
        alignment_layer: Optional[int] = None,
        alignment_heads: Optional[int] = None,
        src_lengths: Optional[Tensor] = None,
        return_all_hiddens: bool = False,
    ) -> Tuple[Tensor, Extra]:
        """
        Args:
            prev_output_tokens: ``(B, T)``, from the start of the sentence, padded on either side;
                with an ``incremental_state``, on the left only if the decoder has neither chunks
                nor an encoder.
            encoder_out: output of ``MegaEncoder``, or of any encoder of fairseq's.
            incremental_state: fairseq's dictionary, which holds our ``DecodingState``: only the
                ``T'`` tokens that the state has not read are read.
            features_only: return features instead of logits.
            alignment_layer: the layer whose cross attention is returned (default: the last).
            alignment_heads, src_lengths: ignored: there is one head, and the tokens show the
                padding.
            return_all_hiddens: also return the layers' outputs.

        Returns:
            logits ``(B, T', V)`` (features ``(B, T', D)`` with an adaptive softmax), and a dict of
            ``attn`` ``[(B, T', S)]`` and ``inner_states`` ``[(T', B, D), ...]``.

        Raises:
            InterruptedReadError: if an earlier read of the state has failed.
            ValueError: if there is nothing to read, or the state has a different number of rows.
        """
        x, extra = self.extract_features(
            prev_output_tokens, encoder_out, incremental_state, alignment_layer, return_all_hiddens
        )
        return x if features_only else self.output_layer(x), extra

    def extract_features(
        self,
        prev_output_tokens: Tensor,
        encoder_out: Optional[EncoderOut] = None,
        incremental_state: Optional[Dict[str, Any]] = None,
        alignment_layer: Optional[int] = None,
        return_all_hiddens: bool = False,
    ) -> Tuple[Tensor, Extra]:
        """Features ``(B, T', D)`` instead of the logits of ``forward``."""
        options = encoder_out, alignment_layer, return_all_hiddens
        if incremental_state is None:
            return self._features(prev_output_tokens, None, *options)
        state = self.get_incremental_state(incremental_state, KEY)
        if state is None:
            state = self.new_state(encoder_out)
            self.set_incremental_state(incremental_state, KEY, state)
        state.check_unread(prev_output_tokens)
        with state.reading():
            features = self._features(prev_output_tokens[:, state.prefix :], state, *options)
            state.prefix = prev_output_tokens.size(1)
        return features

    def read(self, tokens: Tensor, state: DecodingState) -> Tensor:
        """Features ``(B, T, D)`` of ``tokens (B, T)``, which continue what the state has read."""
        with state.reading():
            return self._features(tokens, state)[0]

    def new_state(self, encoder_out: Optional[EncoderOut] = None) -> DecodingState:
        """The state at the start of a batch of sentences."""
        rows = None if encoder_out is None else encoder_out.get("rows")
        return DecodingState(len(self.layers), beam_size(rows[0]) if rows else 1)

    def _features(
        self,
        tokens: Tensor,
        state: Optional[DecodingState],
        encoder_out: Optional[EncoderOut] = None,
        alignment_layer: Optional[int] = None,
        return_all_hiddens: bool = False,
    ) -> Tuple[Tensor, Extra]:
        padding_mask = tokens.eq(self.padding_idx)
        has_padding = may_have_padding(padding_mask)
        shifts = key_padding_mask = None
        if has_padding and state is None:  # then the causal mask hides padding at the end
            shifts = left_padding(padding_mask)
        elif has_padding and state is not None:
            key_padding_mask = padding_mask
            counts = self.counts_positions and state.layers[0].ema is None
            if counts and padding_mask[:, 0].any():
                raise ValueError(
                    "prev_output_tokens has rows that start with padding, but an incremental_state "
                    "counts all rows from one position: pad on the right, or decode such rows one "
                    "by one"
                )
        if shifts is not None:
            tokens, padding_mask = (move_left(t, shifts) for t in (tokens, padding_mask))
        x = self._embed(tokens)  # (B, T, D)
        if has_padding:
            x = zero_padding(x, padding_mask)
        source, source_mask = _encoder_output(encoder_out, state)
        if self.compiled and source is not None and source_mask is None:  # saves a graph
            source_mask = torch.zeros(source.shape[:2], dtype=torch.bool, device=source.device)
        aligned = alignment_layer
        if aligned is None and (self.attention_in_training or not self.training):
            aligned = len(self.layers) - 1

        hiddens = [x] if return_all_hiddens else []
        attn = None
        states = [None] * len(self.layers) if state is None else state.layers
        # A state changes its shape at every step: each would be compiled.
        eager = self.compiled and state is not None
        with torch.compiler.set_stance("force_eager") if eager else nullcontext():
            for i, (layer, layer_state) in enumerate(zip(self.layers, states)):
                x, weights = layer(
                    x, key_padding_mask, source, source_mask, layer_state, i == aligned
                )
                attn = weights if weights is not None else attn
                if return_all_hiddens:
                    hiddens.append(x)
        if self.final_norm is not None:
            x = self.final_norm(x)
        if has_padding:
            x = zero_padding(x, padding_mask)
        attn = _aligned(attn, encoder_out)
        if shifts is not None:
            x, *hiddens = (move_right(each, shifts) for each in (x, *hiddens))
            attn = None if attn is None else move_right(attn, shifts)
        inner_states = [hidden.transpose(0, 1) for hidden in hiddens]
        return x, {"attn": [attn], "inner_states": inner_states}

    def _embed(self, tokens: Tensor) -> Tensor:
        """``(B, T)`` to ``(B, T, D)``."""
        x = self.embed_scale * self.embed_tokens(tokens)
        if self.project_in_dim is not None:
            x = self.project_in_dim(x)
        if self.embed_norm is not None:
            x = self.embed_norm(x)
        return self.dropout(x)

    def output_layer(self, features: Tensor) -> Tensor:
        """Logits ``(B, T, V)``; the features themselves if an adaptive softmax projects them."""
        return features if self.output_projection is None else self.output_projection(features)

    def reorder_incremental_state(
        self, incremental_state: Dict[str, Any], new_order: Tensor
    ) -> None:
        """Continues from rows ``new_order (B,)``, between the steps of beam search."""
        state = self.get_incremental_state(incremental_state, KEY)
        if state is not None:
            state.reorder(new_order)

    reorder_incremental_state_scripting = reorder_incremental_state

    def max_positions(self) -> int:
        """The longest target, which only the ``simple`` bias limits."""
        return self._max_positions

    def upgrade_state_dict_named(self, state_dict: Dict[str, Tensor], name: str):
        state_dict.pop(f"{name}.version", None)  # published checkpoints hold one
        return state_dict


def _encoder_output(
    encoder_out: Optional[EncoderOut], state: Optional[DecodingState]
) -> Tuple[Optional[Tensor], Optional[Tensor]]:
    """Encoder output ``(B, S, D)`` and key padding mask ``(B, S)``, or None for them.

    A state gets one row for all hypotheses of a sentence, and only before the layers have read it.
    """
    if encoder_out is None or (state is not None and state.has_source):
        return None, None
    source = encoder_out["encoder_out"][0].transpose(0, 1)
    masks = encoder_out["encoder_padding_mask"] if encoder_out.get("has_padding", True) else []
    mask = masks[0] if masks else None
    rows = encoder_out.get("rows")
    if rows:
        index = rows[0] if state is None else rows[0][:: state.beam]
        source = source.index_select(0, index)
        mask = None if mask is None else mask.index_select(0, index)
    return source, mask


def _aligned(attn: Optional[Tensor], encoder_out: Optional[EncoderOut]) -> Optional[Tensor]:
    """Attention ``(B, T, S)`` with its columns in fairseq's order: our encoder has moved the source
    tokens left, over their padding."""
    if attn is None or encoder_out is None or not encoder_out.get("left_padding"):
        return attn
    shifts = encoder_out["left_padding"][0]
    for rows in encoder_out["rows"]:
        shifts = shifts.index_select(0, rows)
    return move_right(attn.transpose(1, 2), shifts).transpose(1, 2).contiguous()
