"""Every option of the ImageNet model: its name, type, default, help and check."""

from dataclasses import dataclass
from typing import Optional

from fairseq.dataclass import ChoiceEnum

from ..modules.norm import NORMS
from .config import (
    LayersConfig,
    _from,
    _option,
    check_dropouts,
    check_layers,
    check_sizes,
    check_tables,
)

MOST_PIXELS = 10_000  # along a side


@dataclass
class ImageNetConfig(LayersConfig):
    """Options of the model of images in patches; those of the encoder have the names of the
    translation model's."""

    image_size: Optional[int] = _from("task.image_size")
    patch_size: int = _option(16, "pixels along a side of a patch")
    encoder_layers: int = _option(12, "layers")
    encoder_embed_dim: int = _option(768, "model dimension")
    encoder_hidden_dim: int = _option(1536, "value dimension")
    encoder_ffn_embed_dim: int = _option(1536, "feed-forward dimension")
    encoder_z_dim: int = _option(256, "query and key dimension")
    encoder_n_dim: int = _option(16, "EMA dimensions per channel")
    encoder_chunk_size: int = _option(-1, "chunk size in patches; -1 for attention over all")
    normalization_type: ChoiceEnum(list(NORMS)) = _option("layernorm", "kind of norm")
    hidden_dropout: float = _option(0.0, "dropout probability for values")
    activation_dropout: float = _option(
        0.0, "dropout probability after the activation of the feed-forward sublayer"
    )
    drop_path: float = _option(
        0.0,
        "stochastic depth: the probability to drop a sublayer's new value for a whole image, in "
        "the last layer; from 0 in the first it rises evenly",
    )


_PUBLISHED = dict(attention_activation_fn="laplace", dropout=0.0, truncation_length=0)
PRESETS = {
    "mega_base_patch16_224": _PUBLISHED,
    "mega_tiny_patch16_224": dict(
        _PUBLISHED,
        encoder_embed_dim=192,
        encoder_hidden_dim=384,
        encoder_ffn_embed_dim=384,
        encoder_z_dim=64,
    ),
}


def check_imagenet(cfg) -> None:
    """Checks all options once.

    Raises:
        ValueError: names the option, its value and what to do.
    """
    check_layers(cfg, "encoder")
    check_sizes(cfg, "image_size", "patch_size", most=MOST_PIXELS)
    check_sizes(cfg, "encoder_ffn_embed_dim")
    check_tables(cfg, *(["encoder_chunk_size"] if cfg.encoder_chunk_size > 0 else []))
    if cfg.image_size % cfg.patch_size:
        raise ValueError(
            f"--image-size is {cfg.image_size}, but must be a multiple of --patch-size "
            f"({cfg.patch_size})"
        )
    names = [f"{kind}dropout" for kind in ("", "attention_", "hidden_", "activation_")]
    check_dropouts(cfg, *names, "drop_path")
