"""Every option of the masked language model: its name, type, default, help and check."""

from dataclasses import dataclass, fields
from typing import Optional

from fairseq.dataclass import ChoiceEnum
from omegaconf import DictConfig, OmegaConf

from ..modules.checks import check_positive
from ..modules.norm import NORMS
from .config import (
    LayersConfig,
    _option,
    check_dropouts,
    check_layers,
    check_tables,
    table_size,
)


@dataclass
class MaskedLMConfig(LayersConfig):
    """Options of the masked language model and of the classifier that starts from it; those of the
    encoder have the names of the translation model's."""

    encoder_embed_path: Optional[str] = _option(None, "path to pre-trained embeddings")
    encoder_layers: int = _option(6, "layers")
    encoder_embed_dim: int = _option(512, "model dimension")
    encoder_hidden_dim: int = _option(1024, "value dimension")
    encoder_ffn_embed_dim: int = _option(
        1024, "feed-forward dimension; 0 for no feed-forward sublayer"
    )
    encoder_z_dim: int = _option(128, "query and key dimension")
    encoder_n_dim: int = _option(16, "EMA dimensions per channel")
    encoder_chunk_size: int = _option(-1, "chunk size; -1 for attention over the whole sequence")
    normalization_type: ChoiceEnum(list(NORMS)) = _option("layernorm", "kind of norm")
    normalize_before: bool = _option(False, "apply the norm before each sublayer")
    no_final_norm: bool = _option(
        False, "no norm after the last layer of a model with --normalize-before"
    )
    normalize_embedding: bool = _option(
        False, "apply a norm to the embeddings (only without --normalize-before)"
    )
    no_scale_embedding: bool = _option(False, "do not scale embeddings by sqrt(dimension)")
    hidden_dropout: float = _option(0.0, "dropout probability for values")
    activation_dropout: float = _option(
        0.0, "dropout probability after the activation of the feed-forward sublayer"
    )
    max_positions: Optional[int] = _option(
        None,
        "the longest sequence with --rel-pos-bias simple and without chunks (default: of the "
        "task); the same for a classifier as for the model that it starts from",
    )
    untie_lm_head: bool = _option(
        False, "scores of words from a matrix of their own, not from the embeddings"
    )
    no_lm_dense: bool = _option(False, "no hidden layer before the scores of words")
    pooler_dropout: float = _option(0.0, "dropout probability in classification heads")


# The largest is for texts of hundreds of millions of words; none of them is published.
PRESETS = {
    "mega_masked_lm_small": dict(
        encoder_layers=4,
        encoder_embed_dim=256,
        encoder_hidden_dim=512,
        encoder_ffn_embed_dim=512,
        encoder_z_dim=64,
        weight_init="xavier",
        normalize_before=True,
        rel_pos_bias="rotary",
        truncation_length=0,
    ),
    "mega_masked_lm_base": dict(
        encoder_layers=12,
        encoder_embed_dim=768,
        encoder_hidden_dim=1536,
        encoder_ffn_embed_dim=1536,
        encoder_z_dim=256,
        weight_init="xavier",
        normalize_before=True,
        rel_pos_bias="rotary",
        attention_dropout=0.1,
        hidden_dropout=0.1,
    ),
}


def encoder_options(cfg) -> DictConfig:
    """The options, with the longest sequence by the name that the encoder's layers know."""
    names = [each.name for each in fields(MaskedLMConfig) if not each.name.startswith("_")]
    options = {name: cfg[name] for name in names}
    return OmegaConf.create({**options, "max_source_positions": cfg.max_positions})


def check_masked_lm(cfg) -> None:
    """Checks all options once, with the longest sequence set.

    Raises:
        ValueError: names the option, its value and what to do.
    """
    check_layers(cfg, "encoder")
    check_positive(**{"--max-positions": cfg.max_positions})
    check_tables(cfg, table_size(cfg, "encoder_chunk_size", "max_positions"))
    if cfg.normalize_embedding and cfg.normalize_before:
        raise ValueError(
            "--normalize-embedding is for models that normalise after each sublayer, but "
            "--normalize-before is set, by itself or by the architecture: leave one of the two out"
        )
    if cfg.no_final_norm and not cfg.normalize_before:
        raise ValueError(
            "--no-final-norm takes away the norm that only models with --normalize-before have: "
            "leave it out"
        )
    kinds = ("", "attention_", "hidden_", "activation_", "pooler_")
    check_dropouts(cfg, *(f"{kind}dropout" for kind in kinds))
