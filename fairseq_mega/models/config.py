"""Every option of the models: its name, type, default, help and check, in one place."""

import math
from argparse import ArgumentError
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Any, List, Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.dataclass.utils import gen_parser_from_dataclass

from ..modules.activations import ACTIVATIONS
from ..modules.checks import (
    check_chunk_size,
    check_longest_memory,
    check_positive,
    check_rotary,
)
from ..modules.norm import NORMS
from ..modules.relative_bias import BIASES
from ..ops.attention import ATTENTION_FUNCTIONS

# More is a mistake, or a file's attempt to take all memory.
MOST_LAYERS = 1000
MOST_FEATURES = 1_000_000
MOST_POSITIONS = 10_000_000  # of a table
EMA_INITS = ("normal", "spread")
EMA_LONGEST = 4096  # of spread
DEFAULT_POSITIONS = 1024  # of fairseq's models, for tasks without such an option


def _from(option: str) -> Any:
    """Stands for an option of another part of the configuration; None where it is missing there.

    fairseq removes the parts of tasks and criteria that have no dataclass.
    """
    return f"${{oc.select:{option},null}}"


def _option(default, help):
    return field(default=default, metadata={"help": help})


@dataclass
class LayersConfig(FairseqDataclass):
    """Options of the layers that all models have by the same names."""

    activation_fn: ChoiceEnum(list(ACTIVATIONS)) = _option("silu", "activation function")
    attention_activation_fn: ChoiceEnum(list(ATTENTION_FUNCTIONS)) = _option(
        "softmax", "attention function"
    )
    rel_pos_bias: ChoiceEnum(list(BIASES)) = _option(
        "simple",
        "relative positional bias: simple (learned, up to the maximal positions or the chunk size) "
        "or rotary (any length)",
    )
    weight_init: ChoiceEnum(["normal", "xavier", "residual"]) = _option(
        "normal",
        "initial values: normal is the published N(0, 0.02^2) for linear weights; xavier learns "
        "faster in small models and short trainings; residual, also in pre-norm translation "
        "models, keeps the embeddings and lets cross attention's source through",
    )
    ema_init: ChoiceEnum(list(EMA_INITS)) = _option(
        "normal",
        "initial memories of the EMA's dimensions: normal is the published one, 4 or 5 tokens; "
        "spread has them from 2 tokens to --ema-longest",
    )
    ema_longest: Optional[int] = _option(
        None, f"the longest initial memory of --ema-init spread, in tokens (default: {EMA_LONGEST})"
    )
    dropout: float = _option(0.1, "dropout probability")
    attention_dropout: float = _option(0.0, "dropout probability for attention weights")
    feature_dropout: bool = _option(False, "drop whole channels instead of single values")
    truncation_length: Optional[int] = _option(
        1024,
        "taps of the EMA kernel that are kept; decoding and streams, which have a state, keep all; "
        "0 for all",
    )
    checkpoint_activations: bool = _option(
        False, "recompute each layer's activations in the backward pass to save memory"
    )
    compile_layers: bool = _option(
        False,
        "compile the layers with torch.compile for training; takes a minute or more at the first "
        "updates",
    )
    log_memory_per_layer: bool = _option(
        False, "log the half-lives of each layer's EMA, not only those of the whole model"
    )


@dataclass
class MegaLayersConfig(LayersConfig):
    """Options of translation and language models: of the layers, the decoder and its embeddings."""

    normalization_type: ChoiceEnum(list(NORMS)) = _option("layernorm", "kind of norm")
    normalize_before: bool = _option(False, "apply the norm before each sublayer")
    hidden_dropout: float = _option(0.0, "dropout probability for values")
    activation_dropout: float = _option(
        0.0, "dropout probability after the activation of the feed-forward sublayer"
    )

    decoder_embed_path: Optional[str] = _option(None, "path to pre-trained decoder embeddings")
    decoder_layers: Optional[int] = _option(None, "decoder layers")
    decoder_embed_dim: Optional[int] = _option(None, "decoder model dimension")
    decoder_input_dim: Optional[int] = _option(
        None, "decoder embedding dimension (default: --decoder-embed-dim)"
    )
    decoder_hidden_dim: Optional[int] = _option(None, "decoder value dimension")
    decoder_ffn_embed_dim: Optional[int] = _option(
        None, "decoder feed-forward dimension; 0 for no feed-forward sublayer"
    )
    decoder_z_dim: Optional[int] = _option(None, "decoder query and key dimension")
    decoder_n_dim: Optional[int] = _option(None, "decoder EMA dimensions per channel")
    decoder_chunk_size: Optional[int] = _option(
        None, "decoder chunk size; -1 for attention over the whole sequence"
    )

    share_decoder_input_output_embed: bool = _option(
        False, "share decoder input and output embeddings"
    )
    no_scale_embedding: bool = _option(False, "do not scale embeddings by sqrt(dimension)")
    normalize_embedding: bool = _option(
        False, "apply a norm to the embeddings (only without --normalize-before)"
    )
    adaptive_softmax_cutoff: Optional[str] = _option(
        None,
        "comma separated list of adaptive softmax cutoff points; needs --criterion adaptive_loss",
    )
    adaptive_softmax_dropout: float = _option(
        0.0, "dropout probability in the tails of the adaptive softmax"
    )
    adaptive_softmax_factor: float = _option(
        4.0, "factor by which each tail of the adaptive softmax is narrower"
    )
    tie_adaptive_weights: bool = _option(
        False, "tie the weights of adaptive softmax and adaptive input"
    )
    tie_adaptive_proj: bool = _option(
        False, "tie the projections of adaptive softmax and adaptive input"
    )

    max_target_positions: Optional[int] = _from("task.max_target_positions")
    criterion_name: Optional[str] = _from("criterion._name")


@dataclass
class MegaConfig(MegaLayersConfig):
    """Options of the encoder-decoder. Decoder sizes default to the encoder's."""

    encoder_embed_path: Optional[str] = _option(None, "path to pre-trained encoder embeddings")
    encoder_layers: int = _option(6, "encoder layers")
    encoder_embed_dim: int = _option(512, "encoder model dimension")
    encoder_hidden_dim: int = _option(1024, "encoder value dimension")
    encoder_ffn_embed_dim: int = _option(
        1024, "encoder feed-forward dimension; 0 for no feed-forward sublayer"
    )
    encoder_z_dim: int = _option(128, "encoder query and key dimension")
    encoder_n_dim: int = _option(16, "encoder EMA dimensions per channel")
    encoder_chunk_size: int = _option(
        -1, "encoder chunk size; -1 for attention over the whole sequence"
    )
    share_all_embeddings: bool = _option(
        False, "share encoder, decoder and output embeddings (needs a joined dictionary)"
    )
    max_source_positions: Optional[int] = _from("task.max_source_positions")
    required_seq_len_multiple: Optional[int] = _from("task.required_seq_len_multiple")


@dataclass
class MegaLanguageModelConfig(MegaLayersConfig):
    """Options of the language model."""

    decoder_layers: Optional[int] = _option(6, "layers")
    decoder_embed_dim: Optional[int] = _option(512, "model dimension")
    decoder_hidden_dim: Optional[int] = _option(1664, "value dimension")
    decoder_ffn_embed_dim: Optional[int] = _option(
        1664, "feed-forward dimension; 0 for no feed-forward sublayer"
    )
    decoder_z_dim: Optional[int] = _option(128, "query and key dimension")
    decoder_n_dim: Optional[int] = _option(16, "EMA dimensions per channel")
    decoder_chunk_size: Optional[int] = _option(
        -1, "chunk size; -1 for attention over the whole sequence"
    )
    truncation_length: Optional[int] = _option(
        2048,
        "taps of the EMA kernel that are kept; decoding and streams, which have a state, keep all; "
        "0 for all",
    )
    no_affine_final_norm: bool = _option(False, "no learned weights in the final norm")
    adaptive_input: bool = _option(False, "use adaptive input embeddings")
    adaptive_input_factor: float = _option(
        4.0, "factor by which each band of the adaptive input is narrower"
    )
    adaptive_input_cutoff: Optional[str] = _option(
        None, "comma separated list of adaptive input cutoff points"
    )
    tokens_per_sample: Optional[int] = _from("task.tokens_per_sample")
    add_bos_token: Optional[bool] = _from("task.add_bos_token")


def add_options(parser, config) -> None:
    """Adds the options of a dataclass to a parser, as fairseq does, but that a flag sets its option
    whatever the default: fairseq's would unset one that an architecture sets."""
    for each in fields(config):
        if each.type is bool:
            add_option(parser, _flag(each.name), action="store_true", help=each.metadata["help"])
    gen_parser_from_dataclass(parser, config, delete_default=True)


def add_option(parser, *args, **kwargs) -> None:
    with suppress(ArgumentError):  # it is there already, as from the task
        parser.add_argument(*args, **kwargs)


def cutoffs(option: Optional[str]) -> Optional[List[int]]:
    """The numbers of ``--adaptive-softmax-cutoff`` or ``--adaptive-input-cutoff``."""
    return None if option is None else [int(point) for point in option.split(",")]


def complete_positions(cfg, *names: str) -> None:
    """Sets maximal positions that neither the user nor the task has given, as fairseq's models do,
    and rounds them up to what the task pads batches to."""
    multiple = cfg.get("required_seq_len_multiple") or 1
    for name in names:
        positions = DEFAULT_POSITIONS if cfg[name] is None else cfg[name]
        cfg[name] = -(-positions // multiple) * multiple


def complete_decoder_sizes(cfg) -> None:
    """Sets the decoder's sizes that were not given: to the encoder's, the input to the model's."""
    for size in ("layers", "embed_dim", "hidden_dim", "ffn_embed_dim", "z_dim", "n_dim"):
        _default(cfg, f"decoder_{size}", f"encoder_{size}")
    _default(cfg, "decoder_chunk_size", "encoder_chunk_size")
    _default(cfg, "decoder_input_dim", "decoder_embed_dim")


def _default(cfg, option: str, other: str) -> None:
    if cfg[option] is None:
        cfg[option] = cfg[other]


def check_layers(cfg, side: str) -> None:
    """Checks the sizes of the ``encoder`` or ``decoder``.

    Raises:
        ValueError: names the option, its value and what to do.
    """
    check_sizes(cfg, f"{side}_layers", most=MOST_LAYERS)
    sizes = ("embed_dim", "hidden_dim", "z_dim", "n_dim")
    check_sizes(cfg, *(f"{side}_{size}" for size in sizes))
    check_most(cfg, f"{side}_ffn_embed_dim", MOST_FEATURES)
    check_chunk_size(_flag(f"{side}_chunk_size"), cfg[f"{side}_chunk_size"])
    check_ema(cfg)
    if cfg.rel_pos_bias == "rotary":
        check_rotary(_flag(f"{side}_z_dim"), cfg[f"{side}_z_dim"])


def check_ema(cfg) -> None:
    """Checks the initial values of the EMA.

    Raises:
        ValueError: names the option, its value and what to do.
    """
    if cfg.ema_longest is None:
        return
    if cfg.ema_init != "spread":
        raise ValueError(
            f"--ema-longest is {cfg.ema_longest}, but --ema-init is {cfg.ema_init}, whose memories "
            "are all of 4 or 5 tokens: give --ema-init spread, or leave --ema-longest out"
        )
    check_longest_memory("--ema-longest", cfg.ema_longest)


def check_compilation(cfg) -> None:
    """Checks that the layers can be compiled.

    Raises:
        ValueError: names the option, its value and what to do.
    """
    if cfg.checkpoint_activations:
        raise ValueError(
            "--compile-layers is set, and so is --checkpoint-activations: leave the latter out, "
            "since compiled layers choose by themselves what they recompute"
        )


def longest_memory(cfg) -> Optional[int]:
    """The longest initial memory of the EMA, in tokens; None for the published initial values."""
    if cfg.ema_init != "spread":
        return None
    return EMA_LONGEST if cfg.ema_longest is None else cfg.ema_longest


def check_sizes(cfg, *names: str, most: int = MOST_FEATURES) -> None:
    """Checks that these options are positive, and no more than any model needs."""
    for name in names:
        check_positive(**{_flag(name): cfg[name]})
        check_most(cfg, name, most)


def check_most(cfg, name: str, most: int) -> None:
    if cfg[name] > most:
        raise ValueError(f"{_flag(name)} is {cfg[name]}, but must be at most {most}")


def table_size(cfg, chunk: str, positions: str) -> str:
    """Which of two options is the size of a layer's table of the ``simple`` bias."""
    return chunk if cfg[chunk] > 0 else positions


def check_tables(cfg, *names: str) -> None:
    """Checks options that are sizes of tables of the ``simple`` bias.

    Raises:
        ValueError: names the option, its value and what to do.
    """
    for name in names if str(cfg.rel_pos_bias) == "simple" else ():
        if not 0 < cfg[name] <= MOST_POSITIONS:
            raise ValueError(
                f"{_flag(name)} is {cfg[name]}, but --rel-pos-bias simple learns a number for each "
                f"distance up to it: give at least 1 and at most {MOST_POSITIONS}, or use the "
                "rotary bias"
            )


def check_dropouts(cfg, *names: str) -> None:
    """Checks that these options are probabilities below 1."""
    for name in names:
        if not 0 <= cfg[name] < 1:
            raise ValueError(f"{_flag(name)} is {cfg[name]}, but must be at least 0 and below 1")


def _check_common(cfg) -> None:
    """Checks the options that encoder and decoder share."""
    if cfg.normalize_embedding and cfg.normalize_before:
        raise ValueError(
            "--normalize-embedding is for models that normalise after each sublayer, but "
            "--normalize-before is set, by itself or by the architecture: leave one of the two out"
        )
    kinds = ("", "attention_", "hidden_", "activation_", "adaptive_softmax_")
    check_dropouts(cfg, *(f"{kind}dropout" for kind in kinds))


def check_decoder(cfg, adaptive_input: bool) -> None:
    """Checks the options of the decoder's input and output.

    Raises:
        ValueError: names the option, its value and what to do.
    """
    _check_common(cfg)
    check_layers(cfg, "decoder")
    if adaptive_input and cfg.decoder_embed_path is not None:
        raise ValueError(
            f"--decoder-embed-path is {cfg.decoder_embed_path}, but --adaptive-input has tables of "
            "several widths, which it cannot fill: leave one of the two out"
        )
    if adaptive_input and cfg.adaptive_input_cutoff is None:
        raise ValueError("--adaptive-input needs cutoff points: give --adaptive-input-cutoff")
    check_sizes(cfg, "decoder_input_dim")
    adaptive_softmax = cfg.adaptive_softmax_cutoff is not None
    if cfg.share_decoder_input_output_embed and adaptive_softmax:
        raise ValueError(
            "--share-decoder-input-output-embed shares a full output projection, but "
            f"--adaptive-softmax-cutoff is {cfg.adaptive_softmax_cutoff}: leave it out, and use "
            "--adaptive-input --tie-adaptive-weights to tie the adaptive ones"
        )
    if cfg.share_decoder_input_output_embed and adaptive_input:
        raise ValueError(
            "--share-decoder-input-output-embed needs one embedding table, but --adaptive-input is "
            "set: use --tie-adaptive-weights with an adaptive softmax instead"
        )
    if cfg.share_decoder_input_output_embed and cfg.decoder_input_dim != cfg.decoder_embed_dim:
        raise ValueError(
            "--share-decoder-input-output-embed needs --decoder-input-dim "
            f"({cfg.decoder_input_dim}) equal to --decoder-embed-dim ({cfg.decoder_embed_dim})"
        )
    if adaptive_softmax and cfg.criterion_name not in (None, "adaptive_loss"):
        raise ValueError(
            f"--adaptive-softmax-cutoff is {cfg.adaptive_softmax_cutoff}, but --criterion "
            f"{cfg.criterion_name} does not support it: use --criterion adaptive_loss"
        )
    if cfg.criterion_name == "adaptive_loss" and not adaptive_softmax:
        raise ValueError(
            "--criterion adaptive_loss needs an adaptive softmax: give --adaptive-softmax-cutoff, "
            "or use --criterion cross_entropy"
        )
    if cfg.criterion_name == "nat_loss":
        raise ValueError(
            "--criterion nat_loss is for models that predict all words at once, such as --arch "
            "levenshtein_transformer, but Mega's decoder predicts one after the other: use "
            "--criterion label_smoothed_cross_entropy"
        )
    if cfg.tie_adaptive_weights:
        _check_tied_adaptive(cfg, adaptive_input)


def _check_tied_adaptive(cfg, adaptive_input: bool) -> None:
    if not adaptive_input:
        raise ValueError(
            "--tie-adaptive-weights ties the adaptive softmax to the adaptive input of a language "
            "model: give --adaptive-input, or leave it out"
        )
    for option in ("cutoff", "factor"):
        softmax, input = (cfg[f"adaptive_{part}_{option}"] for part in ("softmax", "input"))
        if softmax != input:
            raise ValueError(
                f"--tie-adaptive-weights needs --adaptive-softmax-{option} ({softmax}) equal to "
                f"--adaptive-input-{option} ({input})"
            )
    if cfg.decoder_input_dim != cfg.decoder_embed_dim:
        raise ValueError(
            f"--tie-adaptive-weights needs --decoder-input-dim ({cfg.decoder_input_dim}) equal to "
            f"--decoder-embed-dim ({cfg.decoder_embed_dim})"
        )


def check_bands(cfg, part: str, dim: str, vocabulary: int, least: int = 1) -> None:
    """Checks the bands of the adaptive ``input`` or ``softmax``: each, from a cutoff point to the
    next, has at least ``least`` words, and a width: the option ``dim`` divided by the factor once
    and again.

    Raises:
        ValueError: names the option, its value and what to do.
    """
    cutoff, factor = (cfg[f"adaptive_{part}_{option}"] for option in ("cutoff", "factor"))
    try:
        points = cutoffs(cutoff)
    except ValueError:
        points = []
    if points is None:
        return
    ends = [0, *points, *([vocabulary] if points and points[-1] < vocabulary else [])]
    words = [end - start for start, end in zip(ends, ends[1:])]
    if not points or min(words) < least or points[-1] > vocabulary:
        raise ValueError(
            f"--adaptive-{part}-cutoff is {cutoff}, but must be rising numbers of at most the "
            f"vocabulary's {vocabulary} words, which put at least {least} in each band"
        )
    divisions = len(words) - 1
    if not 0 < factor < math.inf or not _has_width(cfg[dim], factor, divisions):
        raise ValueError(
            f"--adaptive-{part}-factor is {factor}, but must leave at least 1 and at most "
            f"{MOST_FEATURES} dimensions of {_flag(dim)} ({cfg[dim]}) in all {len(words)} bands"
        )


def _has_width(dim: int, factor: float, divisions: int) -> bool:
    left = math.log(dim) - divisions * math.log(factor)
    return -1e-9 <= left <= math.log(MOST_FEATURES)


def check_cross_attention(cfg) -> None:
    """Checks that the decoder can attend to the encoder.

    Raises:
        ValueError: names the option, its value and what to do.
    """
    if cfg.decoder_embed_dim != cfg.encoder_embed_dim:
        raise ValueError(
            f"--decoder-embed-dim ({cfg.decoder_embed_dim}) must be equal to --encoder-embed-dim "
            f"({cfg.encoder_embed_dim}), as the decoder attends to the encoder: leave it out"
        )


def check_shared_embeddings(cfg, source_dictionary, target_dictionary) -> None:
    """Checks that ``--share-all-embeddings`` can be done.

    Raises:
        ValueError: names the option, its value and what to do.
    """
    if source_dictionary != target_dictionary:
        raise ValueError(
            f"--share-all-embeddings needs one dictionary, but source ({len(source_dictionary)} "
            f"words) and target ({len(target_dictionary)} words) differ: run fairseq-preprocess "
            "with --joined-dictionary, or use --share-decoder-input-output-embed"
        )
    if cfg.encoder_embed_dim != cfg.decoder_input_dim:
        raise ValueError(
            f"--share-all-embeddings needs --encoder-embed-dim ({cfg.encoder_embed_dim}) equal to "
            f"--decoder-input-dim ({cfg.decoder_input_dim})"
        )
    if cfg.decoder_embed_path not in (None, cfg.encoder_embed_path):
        raise ValueError(
            f"--share-all-embeddings has one embedding, but --decoder-embed-path is "
            f"{cfg.decoder_embed_path}: give --encoder-embed-path alone"
        )


def _flag(option: str) -> str:
    return "--" + option.replace("_", "-")
