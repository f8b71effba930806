"""Translates the options and weights of the Hugging Face port of Mega.

The port was part of transformers from 4.30 to 4.57, as ``MegaForMaskedLM`` and others. If it
computes something that no option here does, the error names its option.
"""

import re
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

from torch import Tensor

from ..ops.attention import ATTENTION_FUNCTIONS

# The port's options: the default, which a config.json may leave out, and the option here that has
# the same value, if there is one.
OPTIONS: Dict[str, Tuple[Any, Optional[str]]] = dict(
    model_type=("mega", None),
    vocab_size=(30522, None),
    hidden_size=(128, "encoder_embed_dim"),
    num_hidden_layers=(4, "encoder_layers"),
    intermediate_size=(256, "encoder_hidden_dim"),
    ema_projection_size=(16, "encoder_n_dim"),
    bidirectional=(True, None),
    shared_representation_size=(64, "encoder_z_dim"),
    use_chunking=(False, None),
    chunk_size=(-1, None),
    truncation=(None, None),
    normalize_before_mega=(True, "normalize_before"),
    normalization_type=("scalenorm", "normalization_type"),
    norm_affine=(True, None),
    activation=("silu", None),
    attention_activation=("softmax", "attention_activation_fn"),
    dropout_prob=(0.1, "dropout"),
    hidden_dropout_prob=(0.1, "hidden_dropout"),
    attention_probs_dropout_prob=(0.1, "attention_dropout"),
    use_feature_dropout=(False, "feature_dropout"),
    use_normalized_ffn=(True, None),
    nffn_hidden_size=(256, None),
    normalize_before_ffn=(True, None),
    nffn_activation_dropout_prob=(0.1, "activation_dropout"),
    max_positions=(2048, None),
    add_token_type_embeddings=(False, None),
    pad_token_id=(1, None),
    bos_token_id=(0, None),
    eos_token_id=(2, None),
    relative_positional_bias=("rotary", "rel_pos_bias"),
    classifier_dropout=(None, None),
    add_lm_hidden_dense_layer=(True, None),
    is_decoder=(False, None),
    add_cross_attention=(False, None),
    tie_word_embeddings=(True, None),
    problem_type=(None, None),
)
ACTIVATIONS = {
    **dict.fromkeys(("silu", "swish"), "silu"),
    **dict.fromkeys(("gelu", "gelu_python"), "gelu"),
    **dict.fromkeys(
        ("gelu_accurate", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python_tanh"),
        "gelu_accurate",
    ),
    **{name: name for name in ("relu", "tanh", "linear")},
}
_SPECIAL = "fairseq's dictionaries begin with <s>, <pad>, </s>, <unk>"
_DECODER = "a decoder is not a masked language model"
# Options of which only these values have an equivalent, and why.
ONLY: Dict[str, Tuple[Sequence, str]] = {
    "model_type": (("mega",), "it is another model"),
    "is_decoder": ((False,), _DECODER),
    "add_cross_attention": ((False,), _DECODER),
    "bidirectional": ((True,), "the port then averages one way but attends both ways"),
    "add_token_type_embeddings": ((False,), "Mega here has no token type embeddings"),
    "bos_token_id": ((0,), _SPECIAL),
    "pad_token_id": ((1,), _SPECIAL),
    "eos_token_id": ((2,), _SPECIAL),
    "norm_affine": ((True,), "all norms here have weights"),
    "activation": (tuple(ACTIVATIONS), ""),
    "attention_activation": (tuple(ATTENTION_FUNCTIONS), ""),
    "relative_positional_bias": (("simple", "rotary"), ""),
    "normalization_type": (
        ("layernorm", "scalenorm", "batchnorm", "syncbatchnorm"),
        "the port's rmsnorm multiplies by its weight and leaves the division out",
    ),
    "problem_type": ((None, "regression", "single_label_classification"), ""),
}
NAMES = (
    (r"^mega\.embedding_layer\.word_embeddings\.", "encoder.embed_tokens."),
    (r"^mega\.layers\.", "encoder.layers."),
    (r"\.ema_gate\.damping_factor$", ".move.delta"),
    (r"\.ema_gate\.decay_factor$", ".move.alpha"),
    (r"\.ema_gate\.ema_expansion_matrix$", ".move.beta"),
    (r"\.ema_gate\.kernel_projection_matrix$", ".move.gamma"),
    (r"\.ema_gate\.residual_weight$", ".move.omega"),
    (r"\.qk_weight$", ".gamma"),
    (r"\.qk_bias$", ".beta"),
    (r"\.rel_pos_bias\.b_param$", ".rel_pos_bias.beta"),
    (r"^dense\.", "lm_head.dense."),
    (r"^mlm_head\.", "lm_head."),
    (r"^classifier\.(dense|out_proj)\.", r"classification_heads.sentence_classification_head.\1."),
)
# Buffers that hold nothing learned.
BOOKKEEPING = ("._float_tensor", ".token_type_ids")


def complete(config: Mapping[str, Any], path: str) -> Dict[str, Any]:
    """Returns the options, with the port's defaults.

    Raises:
        ValueError: names an option that has no exact equivalent, and its value.
    """
    config = {**{name: default for name, (default, _) in OPTIONS.items()}, **config}

    def refuse(wrong: bool, name: str, reason: str) -> None:
        if wrong:
            raise ValueError(f"{path}: {name} is {config[name]!r}, but {reason}")

    for name, (default, _) in OPTIONS.items():
        if name in ONLY:
            allowed, why = ONLY[name]
            only = f"only {list(allowed)} can be converted{why and ': ' + why}"
            refuse(config[name] not in allowed, name, only)
        else:
            kinds: Any = (int, float) if "dropout" in name else type(default)
            kinds = int if name == "truncation" else kinds
            typed = config[name] == default or isinstance(config[name], kinds)
            refuse(not typed, name, f"must be like {default!r}")
    size, before = config["chunk_size"], config["normalize_before_mega"]
    simple, chunks = config["relative_positional_bias"] == "simple", config["use_chunking"]
    norms = config["use_normalized_ffn"] and config["normalize_before_ffn"] != before
    refuse(norms, "normalize_before_ffn", f"normalize_before_mega is {before}, for all norms here")
    no_taps = config["truncation"] is not None and config["truncation"] <= 0
    refuse(no_taps, "truncation", "the port's kernel then has no taps")
    nothing = size <= 0 and (chunks or (simple and size == 0))
    refuse(nothing, "chunk_size", "the port then attends to nothing")
    most = f"the port's table of biases has max_positions, {config['max_positions']}"
    refuse(simple and size > config["max_positions"], "chunk_size", most)
    return config


def table_positions(config: Mapping[str, Any]) -> int:
    """Returns for how many positions the ``simple`` bias is defined: for a chunk size, if one is
    given, even without chunks."""
    return config["chunk_size"] if config["chunk_size"] > 0 else config["max_positions"]


def convert_options(config: Mapping[str, Any]) -> Dict[str, Any]:
    """Returns the options of ``mega_masked_lm`` for completed ones of the port."""
    dropout, chunks = config["classifier_dropout"], config["use_chunking"]
    return dict(
        {ours: config[name] for name, (_, ours) in OPTIONS.items() if ours is not None},
        _name="mega_masked_lm",
        activation_fn=ACTIVATIONS[config["activation"]],
        no_final_norm=config["normalize_before_mega"],
        no_scale_embedding=True,
        truncation_length=config["truncation"] or 0,
        encoder_ffn_embed_dim=config["nffn_hidden_size"] if config["use_normalized_ffn"] else 0,
        encoder_chunk_size=config["chunk_size"] if chunks else -1,
        max_positions=config["max_positions"] if chunks else table_positions(config),
        pooler_dropout=config["hidden_dropout_prob"] if dropout is None else dropout,
        untie_lm_head=not config["tie_word_embeddings"],
        no_lm_dense=not config["add_lm_hidden_dense_layer"],
    )


def convert_weights(weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> Dict[str, Tensor]:
    """Returns the weights by their names here, in float32; tables of the ``simple`` bias up to the
    chunk size, as the port uses them."""
    converted = {}
    for name, value in weights.items():
        if name.endswith(BOOKKEEPING):
            continue
        for pattern, ours in NAMES:
            name = re.sub(pattern, ours, name)
        if name.endswith(".rel_pos_bias.rel_pos_bias"):
            value = value[: 2 * table_positions(config) - 1].clone()
        converted[name] = value.float() if value.is_floating_point() else value
    if config["tie_word_embeddings"]:  # as loading it in the port ties them
        converted.pop("lm_head.weight", None)
    return converted
