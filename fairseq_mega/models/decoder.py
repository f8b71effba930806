"""The decoder of both models: with an encoder to attend to, or alone as a language model."""

import math
import sys
from typing import Dict, List, Optional, Tuple

import torch
from fairseq.models import FairseqIncrementalDecoder
from fairseq.modules import AdaptiveSoftmax
from torch import Tensor, nn

from ..modules import SequenceNorm
from ..modules.cross_attention import SharedSource
from ..modules.dropout import make_dropout
from ..modules.linear import Linear
from .config import cutoffs
from .layers import DecoderLayer, make_layers, zero_padding


class MegaDecoder(FairseqIncrementalDecoder):
    """Embeds target tokens, runs them through causal Mega layers and projects to the vocabulary.

    Args:
        cfg: ``MegaConfig`` or ``MegaLanguageModelConfig``, complete and checked.
        embed_tokens: an ``nn.Embedding`` or an ``AdaptiveInput``.
        cross_attention: whether the layers attend to an encoder.
        final_norm_affine: whether the final norm of a pre-norm model has weights.
    """

    def __init__(
        self,
        cfg,
        dictionary,
        embed_tokens: nn.Module,
        cross_attention: bool,
        final_norm_affine: bool = True,
    ):
        super().__init__(dictionary)
        dim = cfg.decoder_embed_dim
        norm = str(cfg.normalization_type)
        self.padding_idx = embed_tokens.padding_idx
        self.embed_tokens = embed_tokens
        self.embed_scale = 1.0 if cfg.no_scale_embedding else math.sqrt(dim)
        self.project_in_dim = None
        if embed_tokens.embedding_dim != dim:
            self.project_in_dim = nn.Linear(embed_tokens.embedding_dim, dim, bias=False)
        self.embed_norm = SequenceNorm(norm, dim) if cfg.normalize_embedding else None
        self.dropout = make_dropout(cfg.dropout, self, cfg.feature_dropout)
        self.layers = make_layers(
            DecoderLayer, cfg.decoder_layers, cfg, cross_attention=cross_attention
        )
        self.final_norm = None
        if cfg.normalize_before:
            self.final_norm = SequenceNorm(norm, dim, affine=final_norm_affine)

        self.adaptive_softmax = None
        self.output_projection = None
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
            self.output_projection = Linear(dim, len(dictionary), bias=False)
            if cfg.share_decoder_input_output_embed:
                self.output_projection.weight = embed_tokens.weight
            else:
                nn.init.normal_(self.output_projection.weight, std=dim**-0.5)

        chunked = cfg.decoder_chunk_size > 0 and not cross_attention
        limited = cfg.rel_pos_bias == "simple" and not chunked
        self._max_positions = cfg.max_target_positions if limited else sys.maxsize

    def forward(
        self,
        prev_output_tokens: Tensor,
        encoder_out: Optional[Dict[str, List[Tensor]]] = None,
        incremental_state: Optional[Dict] = None,
        features_only: bool = False,
        alignment_layer: Optional[int] = None,
        return_all_hiddens: bool = False,
        **unused,
    ) -> Tuple[Tensor, Dict[str, List[Optional[Tensor]]]]:
        """
        Args:
            prev_output_tokens: ``(B, T)``, from the start of the sentence.
            encoder_out: output of ``MegaEncoder``.
            incremental_state: what was read of the sentence before; only the tokens after it are
                read, any number of them.
            features_only: return features in place of scores.
            alignment_layer: the layer whose cross attention is returned (default: the last).
            return_all_hiddens: also return the layers' outputs.

        Returns:
            scores over the vocabulary ``(B, T', V)`` (features ``(B, T', D)`` with an adaptive
            softmax) of the ``T'`` tokens that were read, and a dict of ``attn`` ``[(B, T', S)]``
            and ``inner_states`` ``[(T', B, D), ...]``.
        """
        x, extra = self.extract_features(
            prev_output_tokens, encoder_out, incremental_state, alignment_layer, return_all_hiddens
        )
        return (x if features_only else self.output_layer(x, incremental_state)), extra

    def extract_features(
        self,
        prev_output_tokens: Tensor,
        encoder_out: Optional[Dict[str, List[Tensor]]] = None,
        incremental_state: Optional[Dict] = None,
        alignment_layer: Optional[int] = None,
        return_all_hiddens: bool = False,
        **unused,
    ) -> Tuple[Tensor, Dict[str, List[Optional[Tensor]]]]:
        """As ``forward``, but features ``(B, T', D)`` in place of scores."""
        tokens = self._unread(prev_output_tokens, incremental_state)
        padding_mask = tokens.eq(self.padding_idx)
        has_padding = bool(padding_mask.any())
        # Causal layers see no padding that follows the tokens; in a segment, tokens may follow it.
        seen = has_padding and (
            incremental_state is not None
            or bool((padding_mask[:, :-1] & ~padding_mask[:, 1:]).any())
        )
        source, source_padding, shared = _source(encoder_out, incremental_state is not None)
        need_attn = alignment_layer is not None or not self.training
        if alignment_layer is None:
            alignment_layer = len(self.layers) - 1

        x = self.embed_scale * self.embed_tokens(tokens)  # (B, T, D)
        if self.project_in_dim is not None:
            x = self.project_in_dim(x)
        if self.embed_norm is not None:
            x = self.embed_norm(x)
        x = self.dropout(x)
        if has_padding:
            x = zero_padding(x, padding_mask)

        x = x.transpose(0, 1)  # (T, B, D)
        states = [x] if return_all_hiddens else []
        attn = None
        for i, layer in enumerate(self.layers):
            x, weights = layer(
                x,
                padding_mask if seen else None,
                source,
                source_padding,
                shared,
                incremental_state,
                need_attn and i == alignment_layer,
            )
            attn = weights if weights is not None else attn
            if return_all_hiddens:
                states.append(x)
        if self.final_norm is not None:
            x = self.final_norm(x)
        x = x.transpose(0, 1)  # (B, T, D)
        if has_padding:
            x = zero_padding(x, padding_mask)
        if attn is not None and encoder_out["left_padding"]:
            shifts = encoder_out["left_padding"][0]
            for rows in encoder_out["rows"]:
                shifts = shifts.index_select(0, rows)
            attn = _as_padded(attn, shifts)
        return x, {"attn": [attn], "inner_states": states}

    def read_on(self, tokens: Tensor, incremental_state: Dict) -> Tensor:
        """The features ``(B, T, D)`` of the ``tokens (B, T)`` that follow what the state has read.

        With such a state, ``prev_output_tokens`` starts where it has read to.
        """
        features, _ = self.extract_features(tokens, incremental_state=incremental_state)
        self.set_incremental_state(incremental_state, "tokens", {"read": 0})
        return features

    def output_layer(
        self, features: Tensor, incremental_state: Optional[Dict] = None, **unused
    ) -> Tensor:
        """Scores ``(B, T, V)``; the features themselves where the criterion projects them."""
        if self.adaptive_softmax is not None:
            return features
        return self.output_projection(features, incremental_state)

    def max_positions(self) -> int:
        """The longest target: of the ``simple`` bias's table; without limit otherwise."""
        return self._max_positions

    def upgrade_state_dict_named(self, state_dict: Dict[str, Tensor], name: str):
        state_dict.pop(f"{name}.version", None)  # published checkpoints hold one
        return state_dict

    def _unread(self, tokens: Tensor, incremental_state: Optional[Dict]) -> Tensor:
        """The tokens that the incremental state has not seen yet; notes that it has now."""
        if incremental_state is None:
            return tokens
        saved = self.get_incremental_state(incremental_state, "tokens")
        read = saved["read"] if saved else 0
        self.set_incremental_state(incremental_state, "tokens", {"read": tokens.size(1)})
        return tokens[:, read:]


def _as_padded(attn: Tensor, left_padding: Tensor) -> Tensor:
    """Attention ``(B, T, S)`` with its columns where fairseq has the source tokens: the encoder
    moved them ``left_padding (B,)`` to the left."""
    columns = torch.arange(attn.size(2), device=attn.device) - left_padding.unsqueeze(1)
    return attn.gather(2, (columns % attn.size(2)).unsqueeze(1).expand_as(attn))


def _source(encoder_out: Optional[Dict[str, List[Tensor]]], incremental: bool):
    """Encoder output ``(S, B, D)``, its padding mask ``(B, S)``, and which rows share a sentence,
    each None where there is none."""
    if encoder_out is None:
        return None, None, None
    source = encoder_out["encoder_out"][0]
    padding = (
        encoder_out["encoder_padding_mask"][0] if encoder_out["encoder_padding_mask"] else None
    )
    if encoder_out["rows"]:
        return source, padding, SharedSource.of(encoder_out["rows"][0])
    if incremental:  # the next step may come with rows
        rows = torch.arange(source.size(1), device=source.device)
        return source, padding, SharedSource(rows, 1)
    return source, padding, None
