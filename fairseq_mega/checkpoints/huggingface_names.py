"""Translates the options and weights of the Hugging Face port of Mega.

The port was part of transformers from 4.30 to 4.57, as ``MegaForMaskedLM`` and others. If it
computes something that no option here does, the error names its option.
"""

import re
from typing import Any, Dict, Mapping, Sequence, Tuple

import torch
from torch import Tensor

from ..ops.attention import ATTENTION_FUNCTIONS

# Of options that a config.json may leave out, as the port has them.
DEFAULTS: Dict[str, Any] = dict(
    model_type="mega",
    vocab_size=30522,
    hidden_size=128,
    num_hidden_layers=4,
    intermediate_size=256,
    ema_projection_size=16,
    bidirectional=True,
    shared_representation_size=64,
    use_chunking=False,
    chunk_size=-1,
    truncation=None,
    normalize_before_mega=True,
    normalization_type="scalenorm",
    norm_affine=True,
    activation="silu",
    attention_activation="softmax",
    dropout_prob=0.1,
    hidden_dropout_prob=0.1,
    attention_probs_dropout_prob=0.1,
    use_feature_dropout=False,
    use_normalized_ffn=True,
    nffn_hidden_size=256,
    normalize_before_ffn=True,
    nffn_activation_dropout_prob=0.1,
    max_positions=2048,
    add_token_type_embeddings=False,
    pad_token_id=1,
    bos_token_id=0,
    eos_token_id=2,
    relative_positional_bias="rotary",
    classifier_dropout=None,
    add_lm_hidden_dense_layer=True,
    is_decoder=False,
    add_cross_attention=False,
    tie_word_embeddings=True,
    problem_type=None,
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
# Options of which only these values have an equivalent, and why.
ONLY: Dict[str, Tuple[Sequence, str]] = {
    "model_type": (("mega",), "it is another model"),
    "is_decoder": ((False,), "a decoder is not a masked language model"),
    "add_cross_attention": ((False,), "a decoder is not a masked language model"),
    "bidirectional": ((True,), "the port then averages one way but attends both ways"),
    "add_token_type_embeddings": ((False,), "there are no embeddings of token types here"),
    "bos_token_id": ((0,), _SPECIAL),
    "pad_token_id": ((1,), _SPECIAL),
    "eos_token_id": ((2,), _SPECIAL),
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
    config = {**DEFAULTS, **config}
    for name, default in DEFAULTS.items():
        kinds: Any = (int, float) if "dropout" in name else type(default)
        kinds = int if name == "truncation" else kinds
        if name in ONLY:
            allowed, why = ONLY[name]
            wrong = config[name] not in allowed
            reason = f"only {list(allowed)} can be converted{why and ': ' + why}"
        else:
            wrong = config[name] != default and not isinstance(config[name], kinds)
            reason = f"must be like {default!r}"
        if wrong:
            raise ValueError(f"{path}: {name} is {config[name]!r}, but {reason}")
    size, before = config["chunk_size"], config["normalize_before_mega"]
    simple, chunks = config["relative_positional_bias"] == "simple", config["use_chunking"]
    norms = config["use_normalized_ffn"] and config["normalize_before_ffn"] != before
    no_taps = config["truncation"] is not None and config["truncation"] <= 0
    most = f"the port's table of biases has max_positions, {config['max_positions']}"
    for wrong, name, reason in (
        (no_taps, "truncation", "the port then has a kernel of no taps"),
        (norms, "normalize_before_ffn", f"normalize_before_mega, for all norms here, is {before}"),
        (size == 0 and simple, "chunk_size", "the port then attends to nothing"),
        (size <= 0 and chunks, "chunk_size", "the port then attends to nothing"),
        (simple and size > config["max_positions"], "chunk_size", most),
    ):
        if wrong:
            raise ValueError(f"{path}: {name} is {config[name]!r}, but {reason}")
    return config


def table_positions(config: Mapping[str, Any]) -> int:
    """Returns for how many positions the ``simple`` bias is defined: for a chunk size, if one is
    given, even without chunks."""
    return config["chunk_size"] if config["chunk_size"] > 0 else config["max_positions"]


def convert_options(config: Mapping[str, Any]) -> Dict[str, Any]:
    """Returns the options of ``mega_masked_lm`` for completed ones of the port."""
    dropout = config["classifier_dropout"]
    chunks = config["use_chunking"]
    return dict(
        _name="mega_masked_lm",
        activation_fn=ACTIVATIONS[config["activation"]],
        attention_activation_fn=config["attention_activation"],
        rel_pos_bias=config["relative_positional_bias"],
        normalization_type=config["normalization_type"],
        normalize_before=config["normalize_before_mega"],
        no_final_norm=config["normalize_before_mega"],
        no_scale_embedding=True,
        truncation_length=config["truncation"] or 0,
        encoder_layers=config["num_hidden_layers"],
        encoder_embed_dim=config["hidden_size"],
        encoder_hidden_dim=config["intermediate_size"],
        encoder_ffn_embed_dim=config["nffn_hidden_size"] if config["use_normalized_ffn"] else 0,
        encoder_z_dim=config["shared_representation_size"],
        encoder_n_dim=config["ema_projection_size"],
        encoder_chunk_size=config["chunk_size"] if chunks else -1,
        max_positions=config["max_positions"] if chunks else table_positions(config),
        dropout=config["dropout_prob"],
        attention_dropout=config["attention_probs_dropout_prob"],
        hidden_dropout=config["hidden_dropout_prob"],
        activation_dropout=config["nffn_activation_dropout_prob"],
        feature_dropout=config["use_feature_dropout"],
        pooler_dropout=config["hidden_dropout_prob"] if dropout is None else dropout,
        untie_lm_head=not config["tie_word_embeddings"],
        no_lm_dense=not config["add_lm_hidden_dense_layer"],
    )


def convert_weights(weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> Dict[str, Tensor]:
    """Returns the weights by their names here, in float32.

    The port uses the table of a ``simple`` bias only up to the chunk size. Norms without weights
    become norms with weights that change nothing.
    """
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
    if not config["norm_affine"]:
        converted.update(_plain_norms(config))
    return converted


def _plain_norms(config: Mapping[str, Any]) -> Dict[str, Tensor]:
    """Weights of norms that only normalise."""
    dim = config["hidden_size"]
    values = {"weight": torch.ones(dim), "bias": torch.zeros(dim)}
    if config["normalization_type"] == "scalenorm":
        values = {"scalar": torch.ones(1)}
    sublayers = ["mega_layer"] + ["nffn"] * config["use_normalized_ffn"]
    return {
        f"encoder.layers.{layer}.{sublayer}.norm.norm.{name}": value.clone()
        for layer in range(config["num_hidden_layers"])
        for sublayer in sublayers
        for name, value in values.items()
    }
