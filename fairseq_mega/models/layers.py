"""The layers of encoder and decoder, built from the options."""

import os
from typing import Optional, Sequence, Tuple

import torch
from fairseq.distributed import fsdp_wrap
from fairseq.modules.checkpoint_activations import checkpoint_wrapper
from torch import Tensor, nn

from ..modules import (
    GatedCrossAttention,
    MovingAverageGatedAttention,
    NormalizedFeedForwardNetwork,
)
from ..modules.state import LayerState
from .embedding_file import read_embedding_file
from .initial import initialise
from .options import Options, longest_memory


def make_embedding(dictionary, dim: int, option: str, path: Optional[str]) -> nn.Embedding:
    """Returns a table ``~ N(0, 1/dim)`` with a padding row of zeros, and the rows of the file at
    ``path``, which ``option`` names. If the file cannot be read, a model that is used without the
    weights of a checkpoint raises an error."""
    embedding = nn.Embedding(len(dictionary), dim, padding_idx=dictionary.pad())
    nn.init.normal_(embedding.weight, std=dim**-0.5)
    nn.init.zeros_(embedding.weight[dictionary.pad()])
    if path:
        try:
            if not os.path.isfile(path):  # nor a pipe or device, which a checkpoint may name
                raise FileNotFoundError("the file does not exist")
            _fill(embedding, dictionary, path)
        except (OSError, ValueError) as error:
            vars(embedding)["unread"] = f"{option} is {path}, which cannot be read: {error}"
            embedding.register_forward_pre_hook(_check_read)
            embedding.register_load_state_dict_post_hook(_note_loaded)
    return embedding


@torch.no_grad()
def _fill(embedding: nn.Embedding, dictionary, path: str) -> None:
    for word, row in read_embedding_file(path, embedding.embedding_dim):
        if word in dictionary:
            embedding.weight[dictionary.index(word)] = torch.tensor(row)


def _check_read(embedding: nn.Embedding, _) -> None:
    if embedding.unread is not None:
        raise ValueError(embedding.unread)


def _note_loaded(embedding: nn.Embedding, _) -> None:
    vars(embedding)["unread"] = None


class Layer(nn.Module):
    """A layer of a model, which is compiled, checkpointed or sharded as one."""

    logs_memory = False  # whether the log has its EMA's half-lives
    size: int  # parameters, before they are sharded


def make_layers(layers: Sequence[Layer], o: Options) -> nn.ModuleList:
    """Initialises, compiles and checkpoints new layers as the options ask, and wraps them for
    sharding."""
    initialise(layers, o.weight_init)
    for layer in layers:
        layer.logs_memory = o.log_memory_per_layer
        layer.size = sum(parameter.numel() for parameter in layer.parameters())
        if o.compile_layers:
            layer.compile(dynamic=True)  # for batches of any shape
    if o.checkpoint_activations:
        layers = [checkpoint_wrapper(layer) for layer in layers]
    return nn.ModuleList(fsdp_wrap(layer) for layer in layers)


def compile_layers_(model: nn.Module, compiled: bool) -> None:
    """Compiles all layers of a model, as ``--compile-layers``, or lets them run eagerly again."""
    for module in model.modules():
        if isinstance(module, Layer):
            module._compiled_call_impl = None
            if compiled:
                module.compile(dynamic=True)
        elif "compiled" in vars(module):
            vars(module)["compiled"] = compiled


class EncoderLayer(Layer):
    """Bidirectional Mega layer and feed-forward."""

    def __init__(self, o: Options):
        super().__init__()
        # names fixed by published checkpoints
        self.mega_layer = _mega_layer(o, "encoder", o.max_source_positions, True)
        self.nffn = _feed_forward(o, "encoder")

    def forward(self, x: Tensor, padding_mask: Optional[Tensor]) -> Tensor:
        """``x (B, L, D)``, ``padding_mask (B, L)`` to ``(B, L, D)``."""
        x, _ = self.mega_layer(x, padding_mask)
        return x if self.nffn is None else self.nffn(x)


class DecoderLayer(Layer):
    """Causal Mega layer, cross attention where there is an encoder, and feed-forward."""

    def __init__(self, o: Options, cross_attention: bool):
        super().__init__()
        # names fixed by published checkpoints
        self.mega_layer = _mega_layer(o, "decoder", o.max_target_positions, False)
        self.cross_attn = _cross_attention(o) if cross_attention else None
        self.nffn = _feed_forward(o, "decoder")

    def forward(
        self,
        x: Tensor,
        padding_mask: Optional[Tensor],
        encoder_out: Optional[Tensor],
        encoder_padding_mask: Optional[Tensor],
        state: Optional[LayerState],
        need_weights: bool,
    ) -> Tuple[Tensor, Optional[Tensor]]:
        """``x (B, L, D)``, ``encoder_out (B, S, D)`` to ``(B, L, D)``, attention ``(B, L, S)``."""
        x, _ = self.mega_layer(x, padding_mask, state)
        weights = None
        if self.cross_attn is not None:
            x, weights = self.cross_attn(x, encoder_out, encoder_padding_mask, state, need_weights)
        return x if self.nffn is None else self.nffn(x), weights


def _sublayer(o: Options) -> dict:
    """Constructor arguments of all sublayers."""
    return dict(
        dropout=o.dropout,
        activation=o.activation_fn,
        norm_type=o.normalization_type,
        prenorm=o.normalize_before,
        feature_dropout=o.feature_dropout,
    )


def _attention(o: Options, side: str) -> dict:
    """Constructor arguments of both kinds of attention."""
    return dict(
        embed_dim=o[f"{side}_embed_dim"],
        zdim=o[f"{side}_z_dim"],
        attention_dropout=o.attention_dropout,
        hidden_dropout=o.hidden_dropout,
        rel_pos_bias=o.rel_pos_bias,
        attention_activation=o.attention_activation_fn,
        **_sublayer(o),
    )


def _mega_layer(o: Options, side: str, max_positions: int, bidirectional: bool):
    return MovingAverageGatedAttention(
        hdim=o[f"{side}_hidden_dim"],
        ndim=o[f"{side}_n_dim"],
        chunk_size=o[f"{side}_chunk_size"],
        chunks_before=o[f"{side}_chunks_before"],
        truncation=o.truncation_length,
        longest_memory=longest_memory(o),
        max_positions=max_positions,
        bidirectional=bidirectional,
        **_attention(o, side),
    )


def _cross_attention(o: Options) -> GatedCrossAttention:
    positions = max(o.max_source_positions, o.max_target_positions)
    return GatedCrossAttention(max_positions=positions, **_attention(o, "decoder"))


def _feed_forward(o: Options, side: str) -> Optional[NormalizedFeedForwardNetwork]:
    hidden = o[f"{side}_ffn_embed_dim"]
    if hidden <= 0:
        return None
    return NormalizedFeedForwardNetwork(
        embed_dim=o[f"{side}_embed_dim"],
        ffn_hidden_dim=hidden,
        hidden_dropout=o.activation_dropout,
        **_sublayer(o),
    )
