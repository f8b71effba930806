"""Every option of the classifier: its name, type, default, help and check, in one place."""

from dataclasses import dataclass, fields
from typing import Optional

from fairseq.dataclass import ChoiceEnum
from omegaconf import DictConfig, OmegaConf

from ..modules.activations import ACTIVATIONS
from ..modules.checks import check_chunk_size, check_positive, check_rotary
from ..modules.norm import NORMS
from .config import (
    MOST_FEATURES,
    MOST_LAYERS,
    LayersConfig,
    _flag,
    _option,
    check_dropouts,
    check_ema,
    check_most,
    check_sizes,
    check_tables,
    table_size,
)

INPUTS = ("text", "image")
POOLINGS = ("mp", "cls")


def _ignored(default):
    """An option of the published code that has no effect on its Mega models either."""
    return _option(default, "accepted, as published commands may have it; it has no effect")


@dataclass
class ClassifierConfig(LayersConfig):
    """Options of the classifier, by the published names; see ``classification_presets.py`` for the
    defaults of each architecture."""

    input_type: Optional[ChoiceEnum(list(INPUTS))] = _option(
        None, "text (symbols) or image (real numbers); by default, what the task reads"
    )
    norm_type: Optional[ChoiceEnum(list(NORMS))] = _option(None, "kind of norm")
    sen_rep_type: Optional[ChoiceEnum(list(POOLINGS))] = _option(
        None,
        "what represents a sequence: mp, the mean of all positions, or cls, the first of them, for "
        "which the task puts the symbol <CLS> before each text",
    )
    sentence_class_num: int = _option(2, "number of classes")
    max_positions: Optional[int] = _option(
        None, "the longest sequence: of longer texts, only so many symbols are read"
    )
    chunk_size: int = _option(-1, "chunk size; -1 for attention over the whole sequence")

    encoder_layers: int = _option(6, "layers")
    encoder_embed_dim: int = _option(512, "model dimension")
    encoder_hidden_dim: int = _option(2048, "value dimension")
    encoder_ffn_embed_dim: Optional[int] = _option(
        None,
        "feed-forward dimension (default: --encoder-hidden-dim); 0 for no feed-forward sublayer",
    )
    z_dim: int = _option(128, "query and key dimension")
    n_dim: int = _option(2, "EMA dimensions per channel")
    encoder_normalize_before: bool = _option(False, "apply the norm before each sublayer")
    normalize_embedding: bool = _option(
        False, "apply a norm to the embeddings (only without --encoder-normalize-before)"
    )
    act_dropout: float = _option(
        0.0, "dropout probability for values, and after the activation of the feed-forward sublayer"
    )
    classifier_layers: int = _option(1, "hidden layers of the classifier")
    classifier_in_dim: Optional[int] = _option(
        None, "input dimension of the classifier, which follows from the model and the data"
    )
    classifier_out_dim: Optional[int] = _option(
        None, "hidden dimension of the classifier (default: twice --encoder-embed-dim)"
    )
    classifier_activation_fn: ChoiceEnum(list(ACTIVATIONS)) = _option(
        "gelu", "activation function of the classifier"
    )
    apply_bert_init: bool = _option(
        False, "initialise the classifier's weights with N(0, 0.02^2) in place of Xavier's"
    )
    layer_type: str = _option("mega", "only mega: the published baselines are not in this package")

    encoder_attention_heads: int = _ignored(8)
    encoder_layerdrop: float = _ignored(0.0)
    encoder_learned_pos: bool = _ignored(False)
    encoder_projection_length: Optional[int] = _ignored(None)
    encoder_projected_attention_heads: Optional[int] = _ignored(None)
    decoder_projected_attention_heads: Optional[int] = _ignored(None)
    no_scale_embedding: bool = _ignored(False)
    no_token_positional_embeddings: bool = _ignored(False)
    quant_noise_pq: float = _ignored(0.0)
    quant_noise_pq_block_size: int = _ignored(8)
    sent_loss: bool = _ignored(False)
    share_encoder_input_output_embed: bool = _ignored(False)
    use_p: bool = _ignored(False)


def complete_sizes(cfg, documents: int) -> None:
    """Sets the sizes that were not given, for samples of one or two ``documents``."""
    if cfg.encoder_ffn_embed_dim is None:
        cfg.encoder_ffn_embed_dim = cfg.encoder_hidden_dim
    if cfg.classifier_in_dim is None:
        cfg.classifier_in_dim = documents * cfg.encoder_embed_dim
    if cfg.classifier_out_dim is None:
        cfg.classifier_out_dim = 2 * cfg.encoder_embed_dim


def encoder_options(cfg) -> DictConfig:
    """The options by the names that the encoder's layers know."""
    names = [each.name for each in fields(LayersConfig) if not each.name.startswith("_")]
    return OmegaConf.create(
        {
            **{name: cfg[name] for name in names},
            **{f"encoder_{name}": cfg[name] for name in ("z_dim", "n_dim", "chunk_size")},
            **{
                name: cfg[name]
                for name in (
                    "encoder_layers",
                    "encoder_embed_dim",
                    "encoder_hidden_dim",
                    "encoder_ffn_embed_dim",
                    "normalize_embedding",
                )
            },
            "normalization_type": cfg.norm_type,
            "normalize_before": cfg.encoder_normalize_before,
            "hidden_dropout": cfg.act_dropout,
            "activation_dropout": cfg.act_dropout,
            "max_source_positions": cfg.max_positions,
        }
    )


def check_classifier(cfg, reads: str, documents: int) -> None:
    """Checks all options once, after ``complete_sizes``.

    Args:
        reads: ``text`` or ``image``: what the samples of the task are made of.
        documents: how many sequences a sample has, 1 or 2.

    Raises:
        ValueError: names the option, its value and what to do.
    """
    _check_choices(cfg, reads)
    _check_sizes(cfg, documents)
    if cfg.normalize_embedding and cfg.encoder_normalize_before:
        raise ValueError(
            "--normalize-embedding is for models that normalise after each sublayer, but "
            "--encoder-normalize-before is set, by itself or by the architecture: leave one out"
        )
    check_dropouts(cfg, "dropout", "attention_dropout", "act_dropout")


def _check_choices(cfg, reads: str) -> None:
    if cfg.layer_type != "mega":
        raise ValueError(
            f"--layer-type is {cfg.layer_type}, but this package has Mega layers alone: leave it "
            "out, or say mega"
        )
    for name, choices in (("norm_type", NORMS), ("sen_rep_type", POOLINGS)):
        if cfg[name] is None:
            raise ValueError(
                f"{_flag(name)} is not given, and the architecture sets none: give one of "
                f"{', '.join(choices)}"
            )
    if cfg.input_type is not None and str(cfg.input_type) != reads:
        raise ValueError(
            f"--input-type is {cfg.input_type}, but the task reads "
            f"{'symbols' if reads == 'text' else 'real numbers'}: leave it out, or say {reads}"
        )
    if reads != "text" and str(cfg.sen_rep_type) == "cls":
        raise ValueError(
            "--sen-rep-type is cls, but only texts can have a symbol before them: use mp"
        )


def _check_sizes(cfg, documents: int) -> None:
    check_sizes(cfg, "encoder_layers", "classifier_layers", most=MOST_LAYERS)
    check_sizes(cfg, "encoder_embed_dim", "encoder_hidden_dim", "z_dim", "n_dim")
    check_sizes(cfg, "sentence_class_num", "classifier_out_dim")
    check_most(cfg, "encoder_ffn_embed_dim", MOST_FEATURES)
    check_chunk_size("--chunk-size", cfg.chunk_size)
    check_ema(cfg)
    if cfg.max_positions is not None:
        check_positive(**{"--max-positions": cfg.max_positions})
    elif str(cfg.rel_pos_bias) == "simple" and cfg.chunk_size < 0:
        raise ValueError(
            "--max-positions is not given, but --rel-pos-bias simple learns a number for each "
            "distance: give the length of the longest sequence, or use the rotary bias"
        )
    check_tables(cfg, table_size(cfg, "chunk_size", "max_positions"))
    if str(cfg.rel_pos_bias) == "rotary":
        check_rotary("--z-dim", cfg.z_dim)
    needed = documents * cfg.encoder_embed_dim
    if cfg.classifier_in_dim != needed:
        raise ValueError(
            f"--classifier-in-dim is {cfg.classifier_in_dim}, but samples of {documents} "
            f"sequence{'s' if documents > 1 else ''} have {needed} features with "
            f"--encoder-embed-dim {cfg.encoder_embed_dim}: leave it out"
        )
