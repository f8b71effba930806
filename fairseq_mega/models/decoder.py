"""The decoder of both models: with an encoder to attend to, or alone as a language model."""

import math
import sys
from contextlib import nullcontext
from typing import Any, ContextManager, Dict, Optional, Sequence, Tuple

import torch
from fairseq.models import FairseqIncrementalDecoder
from fairseq.modules import AdaptiveInput, AdaptiveSoftmax
from torch import Tensor, nn

from ..modules import SequenceNorm
from ..modules.dropout import make_dropout
from .config import cutoffs
from .layers import DecoderLayer, make_layers
from .padding import left_padding, may_have_padding, move_left, move_right, zero_padding
from .state import DecodingState, beam_size

EncoderOut = Dict[str, Any]
Extra = Dict[str, Sequence[Optional[Tensor]]]


class MegaDecoder(FairseqIncrementalDecoder):
    """Embeds target tokens, runs them through causal Mega layers and projects to the vocabulary.

    Args:
        cfg: ``MegaConfig`` or ``MegaLanguageModelConfig``, complete and checked.
        embed_tokens: an ``nn.Embedding`` or an ``AdaptiveInput``.
        cross_attention: whether the layers attend to an encoder.
        attention_in_training: whether training returns the cross attention, too, for criteria that
            learn from it.
        final_norm_affine: whether the final norm of a pre-norm model has weights.
    """

    def __init__(
        self,
        cfg,
        dictionary,
        embed_tokens: nn.Embedding | AdaptiveInput,
        cross_attention: bool,
        attention_in_training: bool = False,
        final_norm_affine: bool = True,
    ):
        super().__init__(dictionary)
        dim = cfg.decoder_embed_dim
        norm = str(cfg.normalization_type)
        self.padding_idx = dictionary.pad()
        self.attention_in_training = attention_in_training
        self.embed_tokens = embed_tokens
        self.embed_scale = 1.0 if cfg.no_scale_embedding else math.sqrt(dim)
        self.project_in_dim = None
        if embed_tokens.embedding_dim != dim:
            self.project_in_dim = nn.Linear(embed_tokens.embedding_dim, dim, bias=False)
        self.embed_norm = SequenceNorm(norm, dim) if cfg.normalize_embedding else None
        self.dropout = make_dropout(cfg.dropout, self, cfg.feature_dropout)
        layers = [DecoderLayer(cfg, cross_attention) for _ in range(cfg.decoder_layers)]
        self.layers = make_layers(layers, cfg)
        self.compiled = cfg.compile_layers
        self.final_norm = None
        if cfg.normalize_before:
            self.final_norm = SequenceNorm(norm, dim, affine=final_norm_affine)

        self.adaptive_softmax: Optional[AdaptiveSoftmax] = None
        self.output_projection: Optional[nn.Linear] = None
        if cfg.adaptive_softmax_cutoff is not None:
            self.adaptive_softmax = AdaptiveSoftmax(
                len(dictionary),
                dim,
                cutoffs(cfg.adaptive_softmax_cutoff),
                dropout=cfg.adaptive_softmax_dropout,
                adaptive_inputs=embed_tokens if cfg.tie_adaptive_weights else None,
                factor=cfg.adaptive_softmax_factor,
                tie_proj=cfg.tie_adaptive_proj,
            )
        else:
            self.output_projection = nn.Linear(dim, len(dictionary), bias=False)
            if cfg.share_decoder_input_output_embed:
                self.output_projection.weight = embed_tokens.weight
            else:
                nn.init.normal_(self.output_projection.weight, std=dim**-0.5)

        for name, buffer in self.named_buffers():
            if name.endswith("_float_tensor"):  # fairseq's adaptive tables leave it unwritten
                buffer.zero_()

        # Chunks and cross attention count positions; else there are distances alone.
        self.counts_positions = cfg.decoder_chunk_size > 0 or cross_attention
        chunked = cfg.decoder_chunk_size > 0 and not cross_attention
        limited = cfg.rel_pos_bias == "simple" and not chunked
        self._max_positions = cfg.max_target_positions if limited else sys.maxsize

    def forward(
        self,
        prev_output_tokens: Tensor,
        encoder_out: Optional[EncoderOut] = None,
        incremental_state: Optional[Dict[str, Any]] = None,
        features_only: bool = False,
        full_context_alignment: bool = False,
        alignment_layer: Optional[int] = None,
        alignment_heads: Optional[int] = None,
        src_lengths: Optional[Tensor] = None,
        return_all_hiddens: bool = False,
    ) -> Tuple[Tensor, Extra]:
        """
        Args:
            prev_output_tokens: ``(B, T)``, from the start of the sentence, padded on either side.
                With an ``incremental_state``, padding must not come before them, unless the
                decoder has neither chunks nor an encoder.
            encoder_out: output of ``MegaEncoder``, or of any encoder of fairseq's.
            incremental_state: fairseq's dictionary, in which our ``DecodingState`` knows what was
                read of the sentence before; only the tokens after it are read, any number of them.
            features_only: return features instead of logits.
            full_context_alignment: must be False: the layers are causal.
            alignment_layer: the layer whose cross attention is returned (default: the last).
            alignment_heads, src_lengths: not needed: there is one head, and padding is seen in the
                tokens.
            return_all_hiddens: also return the layers' outputs.

        Returns:
            logits over the vocabulary ``(B, T', V)`` (features ``(B, T', D)`` with an adaptive
            softmax) of the ``T'`` tokens that were read, and a dict of ``attn`` ``[(B, T', S)]``
            and ``inner_states`` ``[(T', B, D), ...]``.

        Raises:
            InterruptedReadError: where an earlier read of the state has failed.
            ValueError: where there is nothing to read, or of other rows than the state's.
        """
        x, extra = self.extract_features(
            prev_output_tokens,
            encoder_out,
            incremental_state,
            full_context_alignment,
            alignment_layer,
            alignment_heads,
            return_all_hiddens,
        )
        if features_only:
            return x, extra
        return self.output_layer(x), extra

    def extract_features(
        self,
        prev_output_tokens: Tensor,
        encoder_out: Optional[EncoderOut] = None,
        incremental_state: Optional[Dict[str, Any]] = None,
        full_context_alignment: bool = False,
        alignment_layer: Optional[int] = None,
        alignment_heads: Optional[int] = None,
        return_all_hiddens: bool = False,
    ) -> Tuple[Tensor, Extra]:
        """Features ``(B, T', D)`` instead of the logits of ``forward``."""
        if full_context_alignment:
            raise ValueError(
                "full_context_alignment is True, but Mega's decoder is causal: leave it out"
            )
        options = encoder_out, alignment_layer, return_all_hiddens
        if incremental_state is None:
            return self._features(prev_output_tokens, None, *options)
        state = DecodingState.of(self, incremental_state)
        if state is None:
            state = self.new_state(encoder_out)
            state.enter_into(incremental_state)
        state.check_unread(prev_output_tokens)
        with state.reading():
            features = self._features(prev_output_tokens[:, state.prefix :], state, *options)
            state.prefix = prev_output_tokens.size(1)
        return features

    def prefill(self, tokens: Tensor, state: DecodingState) -> Tensor:
        """Reads ``tokens (B, T)``, any number of them, which follow what the state has read.

        A decoding that continues from the state has only the tokens after them in its
        ``prev_output_tokens``.

        Returns:
            features ``(B, T, D)``.
        """
        with state.reading():
            return self._features(tokens, state)[0]

    def new_state(self, encoder_out: Optional[EncoderOut] = None) -> DecodingState:
        """The state at the start of a sentence, or of several in a batch."""
        rows = None if encoder_out is None else encoder_out.get("rows")
        return DecodingState(self, len(self.layers), beam_size(rows[0]) if rows else 1)

    def _features(
        self,
        tokens: Tensor,
        state: Optional[DecodingState],
        encoder_out: Optional[EncoderOut] = None,
        alignment_layer: Optional[int] = None,
        return_all_hiddens: bool = False,
    ) -> Tuple[Tensor, Extra]:
        """Features ``(B, T, D)`` of ``tokens (B, T)``, which follow what the state has read."""
        padding_mask = tokens.eq(self.padding_idx)
        has_padding = may_have_padding(padding_mask)
        shifts = left_padding(padding_mask) if has_padding and state is None else None
        if shifts is not None:
            tokens, padding_mask = (move_left(t, shifts) for t in (tokens, padding_mask))
        if has_padding and state is not None and self.counts_positions and state.is_new:
            _check_padding(padding_mask)
        x = self._embed(tokens)  # (B, T, D)
        if has_padding:
            x = zero_padding(x, padding_mask)
        # The causal mask hides padding at the end. With a state, tokens may still follow it.
        key_padding_mask = padding_mask if has_padding and state is not None else None
        source, source_mask = _encoder_output(encoder_out, state)
        if self.compiled and source is not None and source_mask is None:  # a graph less
            source_mask = torch.zeros(source.shape[:2], dtype=torch.bool, device=source.device)
        if alignment_layer is not None or self.attention_in_training or not self.training:
            aligned = len(self.layers) - 1 if alignment_layer is None else alignment_layer
        else:
            aligned = None

        hiddens = [x] if return_all_hiddens else []
        attn = None
        states = [None] * len(self.layers) if state is None else state.layers
        with _eager() if self.compiled and state is not None else nullcontext():
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
        """Logits ``(B, T, V)``; the features themselves where the criterion projects them."""
        return features if self.output_projection is None else self.output_projection(features)

    def reorder_incremental_state(
        self, incremental_state: Dict[str, Any], new_order: Tensor
    ) -> None:
        """As beam search asks for it: goes on from rows ``new_order (B,)``."""
        state = DecodingState.of(self, incremental_state)
        if state is not None:
            state.reorder(new_order)

    reorder_incremental_state_scripting = reorder_incremental_state

    def max_positions(self) -> int:
        """The longest target: of the ``simple`` bias's table; without limit otherwise."""
        return self._max_positions

    def upgrade_state_dict_named(self, state_dict: Dict[str, Tensor], name: str):
        state_dict.pop(f"{name}.version", None)  # published checkpoints hold one
        return state_dict


def _eager() -> ContextManager:
    """A context in which compiled layers run eagerly: a state changes its shape at every step."""
    return torch.compiler.set_stance("force_eager")


def _check_padding(padding_mask: Tensor) -> None:
    """
    Raises:
        ValueError: where a row of ``padding_mask (B, T)`` starts with padding.
    """
    if padding_mask[:, 0].any():
        raise ValueError(
            "prev_output_tokens has rows that start with padding, but an incremental_state counts "
            "all rows from one position: pad on the right, or decode such rows one by one"
        )


def _encoder_output(
    encoder_out: Optional[EncoderOut], state: Optional[DecodingState]
) -> Tuple[Optional[Tensor], Optional[Tensor]]:
    """Returns encoder output ``(B, S, D)`` and key padding mask ``(B, S)``, or None for them.

    With a state, they have one row for all hypotheses of a sentence, until the layers have read
    them.
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
    """Attention ``(B, T, S)`` with its columns where fairseq has the source tokens: our encoder
    moved them to the left by what padding there was."""
    if attn is None or encoder_out is None or not encoder_out.get("left_padding"):
        return attn
    shifts = encoder_out["left_padding"][0]
    for rows in encoder_out["rows"]:
        shifts = shifts.index_select(0, rows)
    return move_right(attn.transpose(1, 2), shifts).transpose(1, 2).contiguous()
