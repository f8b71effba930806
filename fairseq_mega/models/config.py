"""Every option of the models, declared once: its name, type, default, help and own check.

A model with another published name or default for an option refers to its declaration with
``_as``. ``options.py`` reads them all by the names declared here, and has the rules between them.
"""

from dataclasses import dataclass, field, fields, make_dataclass
from functools import partial
from typing import Any, Callable, Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass

from ..modules.activations import ACTIVATIONS
from ..modules.checks import (
    check_chunk_size,
    check_chunks_before,
    check_longest_memory,
    check_positive,
)
from ..modules.norm import NORMS
from ..modules.relative_bias import BIASES
from ..ops.attention import ATTENTION_FUNCTIONS

# More is a mistake, or a file's attempt to take all memory.
MOST_LAYERS = 1000
MOST_FEATURES = 1_000_000
MOST_PIXELS = 10_000  # along a side
EMA_LONGEST = 4096  # of --ema-init spread
_ACTIVATION, _NORM = ChoiceEnum(list(ACTIVATIONS)), ChoiceEnum(list(NORMS))
_ATTENTION = ChoiceEnum(list(ATTENTION_FUNCTIONS))


def _from(option: str, check: Optional[Callable] = None) -> Any:
    """An option of another part of the configuration; None if that part does not have it."""
    return field(default=f"${{oc.select:{option},null}}", metadata={"check": check})


def _option(default, help: str, check: Optional[Callable] = None) -> Any:
    """``check``: is given the flag and the value, and raises a ``ValueError``."""
    return field(default=default, metadata={"help": help, "check": check})


def _size(default, help: str, most: int = MOST_FEATURES) -> Any:
    return _option(default, help, partial(_check_size, most=most))


def _ffn(default, help: str) -> Any:
    return _option(default, f"{help}; 0 for no feed-forward sublayer", _check_most)


def _chunk(default, help: str) -> Any:
    return _option(default, f"{help}; -1 for attention over the whole sequence", check_chunk_size)


def _rate(default, help: str) -> Any:
    return _option(default, help, _check_rate)


def _check_positive(flag: str, value: float) -> None:
    check_positive(**{flag: value})


def _check_most(flag: str, value: int, most: int = MOST_FEATURES) -> None:
    if value > most:
        raise ValueError(f"{flag} is {value}, but must be at most {most}")


def _check_size(flag: str, value: int, most: int = MOST_FEATURES) -> None:
    _check_positive(flag, value)
    _check_most(flag, value, most)


def _check_rate(flag: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{flag} is {value}, but must be at least 0 and below 1")


def with_defaults(**defaults) -> Callable[[type], type]:
    """Decorates a dataclass: gives its options other defaults."""

    def decorate(config: type) -> type:
        known = {each.name: each for each in fields(config)}
        changed = [
            (name, known[name].type, field(default=value, metadata=known[name].metadata))
            for name, value in defaults.items()
        ]
        names = {"__doc__": config.__doc__, "__module__": config.__module__}
        return make_dataclass(config.__name__, changed, bases=(config,), namespace=names)

    return decorate


# --- translation and language models --------------------------------------------------------------


@dataclass
class LayersConfig(FairseqDataclass):
    """Options of the layers that all models have by the same names."""

    activation_fn: _ACTIVATION = _option("silu", "activation function")
    attention_activation_fn: _ATTENTION = _option("softmax", "attention function")
    rel_pos_bias: ChoiceEnum(list(BIASES)) = _option(
        "simple", "positional bias: simple (a table of learned values) or rotary (of any length)"
    )
    weight_init: ChoiceEnum(["normal", "xavier", "residual"]) = _option(
        "normal",
        "initial values: normal is the published N(0, 0.02^2) for linear weights; xavier learns "
        "faster in small models and short trainings; residual, also in pre-norm translation "
        "models, keeps the embeddings and lets cross attention's source through",
    )
    ema_init: ChoiceEnum(["normal", "spread"]) = _option(
        "normal",
        "initial memories of the EMA's dimensions: normal is the published one, 4 or 5 tokens; "
        "spread has them from 2 tokens to --ema-longest",
    )
    ema_longest: Optional[int] = _option(
        None, f"longest memory of --ema-init spread (default: {EMA_LONGEST})", check_longest_memory
    )
    dropout: float = _rate(0.1, "dropout probability")
    attention_dropout: float = _rate(0.0, "dropout probability for attention weights")
    feature_dropout: bool = _option(False, "drop whole channels instead of single values")
    truncation_length: Optional[int] = _option(
        1024, "taps of the EMA kernel; 0 for all, as decoding and streams, with a state, have them"
    )
    checkpoint_activations: bool = _option(
        False, "recompute each layer's activations in the backward pass to save memory"
    )
    compile_layers: bool = _option(
        False, "compile the layers for training; the first updates take a minute or more"
    )
    log_memory_per_layer: bool = _option(
        False, "log the half-lives of each layer's EMA, not only those of the whole model"
    )


@dataclass
class SublayersConfig(LayersConfig):
    """Options of the layers that classifiers have by other names."""

    normalization_type: _NORM = _option("layernorm", "kind of norm")
    hidden_dropout: float = _rate(0.0, "dropout probability for values")
    activation_dropout: float = _rate(0.0, "dropout probability after the feed-forward activation")


@dataclass
class EncoderConfig(SublayersConfig):
    """The sizes of an encoder."""

    encoder_layers: int = _size(6, "encoder layers", MOST_LAYERS)
    encoder_embed_dim: int = _size(512, "encoder model dimension")
    encoder_hidden_dim: int = _size(1024, "encoder value dimension")
    encoder_ffn_embed_dim: int = _ffn(1024, "encoder feed-forward dimension")
    encoder_z_dim: int = _size(128, "encoder query and key dimension")
    encoder_n_dim: int = _size(16, "encoder EMA dimensions per channel")
    encoder_chunk_size: int = _chunk(-1, "encoder chunk size")
    encoder_chunks_before: int = _option(
        0, "chunks on either side that a position of the encoder also sees", check_chunks_before
    )


@dataclass
class TokensConfig(SublayersConfig):
    """Options of models of tokens."""

    normalize_before: bool = _option(False, "apply the norm before each sublayer")
    normalize_embedding: bool = _option(
        False, "apply a norm to the embeddings (only in models that normalise after each sublayer)"
    )
    no_scale_embedding: bool = _option(False, "do not scale embeddings by sqrt(dimension)")


@dataclass
class TokenEncoderConfig(EncoderConfig, TokensConfig):
    """Options of encoders of tokens."""

    encoder_embed_path: Optional[str] = _option(None, "path to pre-trained encoder embeddings")


@dataclass
class DecoderConfig(TokensConfig):
    """Options of decoders."""

    decoder_embed_path: Optional[str] = _option(None, "path to pre-trained decoder embeddings")
    decoder_layers: Optional[int] = _size(None, "decoder layers", MOST_LAYERS)
    decoder_embed_dim: Optional[int] = _size(None, "decoder model dimension")
    decoder_input_dim: Optional[int] = _size(
        None, "decoder embedding dimension (default: the model's)"
    )
    decoder_hidden_dim: Optional[int] = _size(None, "decoder value dimension")
    decoder_ffn_embed_dim: Optional[int] = _ffn(None, "decoder feed-forward dimension")
    decoder_z_dim: Optional[int] = _size(None, "decoder query and key dimension")
    decoder_n_dim: Optional[int] = _size(None, "decoder EMA dimensions per channel")
    decoder_chunk_size: Optional[int] = _chunk(None, "decoder chunk size")
    decoder_chunks_before: Optional[int] = _option(
        None, "chunks before its own that a position of the decoder also sees", check_chunks_before
    )

    share_decoder_input_output_embed: bool = _option(False, "share input and output embeddings")
    adaptive_softmax_cutoff: Optional[str] = _option(
        None, "comma separated cutoff points of an adaptive softmax, for --criterion adaptive_loss"
    )
    adaptive_softmax_dropout: float = _rate(0.0, "dropout probability in the softmax's tails")
    adaptive_softmax_factor: float = _option(4.0, "factor by which each of its tails is narrower")
    tie_adaptive_weights: bool = _option(False, "tie the weights of adaptive softmax and input")
    tie_adaptive_proj: bool = _option(False, "tie the projections of adaptive softmax and input")

    peak_tflops: Optional[float] = _option(
        None,
        "log the achieved model TFLOP/s and, as mfu, their percentage of this peak: that of one "
        "device in the precision of the training, dense, from its data sheet. FLOPs are counted "
        "as in PaLM's appendix B: 6 per parameter and position, and those of the attention",
        _check_positive,
    )

    max_target_positions: Optional[int] = _from("task.max_target_positions")
    criterion_name: Optional[str] = _from("criterion._name")


@dataclass
class MegaConfig(DecoderConfig, TokenEncoderConfig):
    """Options of the encoder-decoder. Decoder sizes default to the encoder's."""

    share_all_embeddings: bool = _option(
        False, "share encoder, decoder and output embeddings (needs a joined dictionary)"
    )
    max_source_positions: Optional[int] = _from("task.max_source_positions")
    required_seq_len_multiple: Optional[int] = _from("task.required_seq_len_multiple")


@with_defaults(
    decoder_layers=6,
    decoder_embed_dim=512,
    decoder_hidden_dim=1664,
    decoder_ffn_embed_dim=1664,
    decoder_z_dim=128,
    decoder_n_dim=16,
    decoder_chunk_size=-1,
    decoder_chunks_before=0,
    truncation_length=2048,
)
@dataclass
class MegaLanguageModelConfig(DecoderConfig):
    """Options of the language model."""

    no_affine_final_norm: bool = _option(False, "no learned weights in the final norm")
    adaptive_input: bool = _option(False, "use adaptive input embeddings")
    adaptive_input_factor: float = _option(4.0, "factor by which each of its bands is narrower")
    adaptive_input_cutoff: Optional[str] = _option(None, "its comma separated cutoff points")
    tokens_per_sample: Optional[int] = _from("task.tokens_per_sample")
    add_bos_token: Optional[bool] = _from("task.add_bos_token")


# --- other models, with some published names of their own -----------------------------------------

_DECLARED = {each.name: each for each in fields(MegaConfig)}


def _as(*names: str, **changes) -> Any:
    """Gives the name of the field to an option of ``MegaConfig``, or to several; ``changes`` are
    another ``default``, ``help`` or ``check``."""
    declared = _DECLARED[names[0]]
    default = changes.pop("default", declared.default)
    return field(default=default, metadata={**declared.metadata, "stands_for": names, **changes})


@dataclass
class MaskedLMConfig(TokenEncoderConfig):
    """Options of the masked language model and of the classifier that starts from it."""

    no_final_norm: bool = _option(False, "no norm after the last layer with --normalize-before")
    max_positions: Optional[int] = _as(
        "max_source_positions",
        default=None,
        help="the longest sequence with --rel-pos-bias simple and without chunks (default: the "
        "task's); a classifier has that of the model it starts from",
        check=_check_positive,
    )
    untie_lm_head: bool = _option(False, "scores of words from a matrix other than the embeddings")
    no_lm_dense: bool = _option(False, "no hidden layer before the scores of words")
    pooler_dropout: float = _rate(0.0, "dropout probability in classification heads")


@with_defaults(
    encoder_layers=12,
    encoder_embed_dim=768,
    encoder_hidden_dim=1536,
    encoder_ffn_embed_dim=1536,
    encoder_z_dim=256,
)
@dataclass
class ImageNetConfig(EncoderConfig):
    """Options of the model of images in patches, which are its positions."""

    image_size: Optional[int] = _from("task.image_size", partial(_check_size, most=MOST_PIXELS))
    patch_size: int = _size(16, "pixels along a side of a patch", MOST_PIXELS)
    drop_path: float = _rate(
        0.0, "probability of dropping a sublayer for an image; rises evenly up to the last layer"
    )


def _ignored(default) -> Any:
    return _option(default, "accepted, as published commands may have it; it has no effect")


@dataclass
class ClassifierConfig(LayersConfig):
    """Options of the classifier, by the published names; see ``classification_presets.py`` for the
    defaults of each architecture."""

    input_type: Optional[ChoiceEnum(["text", "image"])] = _option(
        None, "text (symbols) or image (real numbers); the task's by default"
    )
    norm_type: Optional[_NORM] = _as("normalization_type", default=None)
    sen_rep_type: Optional[ChoiceEnum(["mp", "cls"])] = _option(
        None, "mp, the mean of all positions, or cls, the first: a symbol <CLS> before each text"
    )
    sentence_class_num: int = _size(2, "number of classes")
    max_positions: Optional[int] = _as(
        "max_source_positions",
        default=None,
        help="the longest sequence: of longer texts, only so many symbols are read",
        check=_check_positive,
    )
    chunk_size: int = _as("encoder_chunk_size")
    chunks_before: int = _as("encoder_chunks_before")

    encoder_layers: int = _as("encoder_layers")
    encoder_embed_dim: int = _as("encoder_embed_dim")
    encoder_hidden_dim: int = _as("encoder_hidden_dim", default=2048)
    encoder_ffn_embed_dim: Optional[int] = _as(
        "encoder_ffn_embed_dim",
        default=None,
        help="feed-forward dimension (default: --encoder-hidden-dim); 0 for no such sublayer",
    )
    z_dim: int = _as("encoder_z_dim")
    n_dim: int = _as("encoder_n_dim", default=2)
    encoder_normalize_before: bool = _as("normalize_before")
    normalize_embedding: bool = _as("normalize_embedding")
    act_dropout: float = _as(
        "hidden_dropout",
        "activation_dropout",
        help="dropout probability for values, and after the feed-forward activation",
    )
    classifier_layers: int = _size(1, "hidden layers of the classifier", MOST_LAYERS)
    classifier_in_dim: Optional[int] = _option(None, "its input dimension, which need not be given")
    classifier_out_dim: Optional[int] = _size(
        None, "its hidden dimension (default: twice --encoder-embed-dim)"
    )
    classifier_activation_fn: _ACTIVATION = _option("gelu", "activation of the classifier")
    apply_bert_init: bool = _option(False, "its initial weights from N(0, 0.02^2), not Xavier's")
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
