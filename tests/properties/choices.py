"""Random options of every model: sets that must work, and odd values that may be refused."""

import math

from helpers import BIASES, FUNCTIONS, NORMS
from hypothesis import strategies as st

from fairseq_mega.modules.activations import ACTIVATIONS

HUGE = (10**9, 2**31, 2**40, 2**63 - 1)
ODD_SIZES = (0, -1, -2, -7, 1, *HUGE)
ODD_RATES = (-0.1, -1.0, 1.0, 1.5, 1e9, math.nan, math.inf, -math.inf, 0.999999)

flags = st.booleans()
rates = st.sampled_from((0.0, 0.0, 0.1, 0.5, 0.99))
chunks = st.sampled_from((-1, -1, 1, 2, 3, 5, 64))


def sizes(least=1, most=9):
    return st.integers(least, most)


LAYERS = {
    "activation_fn": st.sampled_from(list(ACTIVATIONS)),
    "attention_activation_fn": st.sampled_from(FUNCTIONS),
    "rel_pos_bias": st.sampled_from(BIASES),
    "weight_init": st.sampled_from(("normal", "xavier")),
    "dropout": rates,
    "attention_dropout": rates,
    "feature_dropout": flags,
    "truncation_length": st.sampled_from((None, 0, 1, 2, 5, 1024)),
    "checkpoint_activations": flags,
}
INNER = {"hidden_dropout": rates, "activation_dropout": rates}
NORM = {"normalization_type": st.sampled_from(NORMS)}
EMBEDDING = {"normalize_before": flags, "normalize_embedding": flags, "no_scale_embedding": flags}


def side(name, **others):
    """The sizes of an encoder or decoder."""
    options = {
        "layers": sizes(most=2),
        "embed_dim": sizes(),
        "hidden_dim": sizes(),
        "ffn_embed_dim": sizes(least=0),
        "z_dim": sizes(),
        "n_dim": sizes(most=4),
        "chunk_size": chunks,
    }
    return {f"{name}_{option}": each for option, each in {**options, **others}.items()}


def maybe(strategy):
    return st.none() | strategy


SOFTMAX = {
    "adaptive_softmax_cutoff": maybe(st.sampled_from(("1", "2,3", "8", "5,14", "19", "20"))),
    "adaptive_softmax_factor": st.sampled_from((1.0, 1.5, 2.0)),
    "adaptive_softmax_dropout": rates,
    "tie_adaptive_weights": st.just(False),
    "tie_adaptive_proj": flags,
    "share_decoder_input_output_embed": flags,
}
DECODER = {
    name: maybe(each) if name != "decoder_embed_dim" else st.none()
    for name, each in {**side("decoder"), "decoder_input_dim": sizes()}.items()
}
TRANSLATION = {
    **LAYERS,
    **INNER,
    **NORM,
    **EMBEDDING,
    **SOFTMAX,
    **side("encoder"),
    **DECODER,
    "share_all_embeddings": flags,
    "max_source_positions": sizes(least=12, most=16),
    "max_target_positions": sizes(least=12, most=16),
}
LANGUAGE_MODEL = {
    **LAYERS,
    **INNER,
    **NORM,
    **EMBEDDING,
    **SOFTMAX,
    **side("decoder"),
    "decoder_input_dim": maybe(sizes()),
    "no_affine_final_norm": flags,
    "adaptive_input": flags,
    "adaptive_input_cutoff": st.sampled_from(("2", "2,4", "8", "5,14", "18", "20")),
    "adaptive_input_factor": st.sampled_from((1.0, 1.5, 2.0)),
    "tie_adaptive_weights": flags,
    "max_target_positions": sizes(least=12, most=16),
}
MASKED_LM = {
    **LAYERS,
    **INNER,
    **NORM,
    **EMBEDDING,
    **side("encoder"),
    "no_final_norm": flags,
    "max_positions": maybe(sizes(least=12, most=16)),
    "untie_lm_head": flags,
    "no_lm_dense": flags,
    "pooler_dropout": rates,
}
CLASSIFIER = {
    **LAYERS,
    "norm_type": st.sampled_from(NORMS),
    "sen_rep_type": st.just("mp"),
    "sentence_class_num": sizes(least=1, most=5),
    "max_positions": sizes(least=12, most=16),
    "chunk_size": chunks,
    "encoder_layers": sizes(most=2),
    "encoder_embed_dim": sizes(),
    "encoder_hidden_dim": sizes(),
    "encoder_ffn_embed_dim": maybe(sizes(least=0)),
    "z_dim": sizes(),
    "n_dim": sizes(most=4),
    "encoder_normalize_before": flags,
    "normalize_embedding": flags,
    "act_dropout": rates,
    "classifier_layers": sizes(most=3),
    "classifier_in_dim": st.none(),
    "classifier_out_dim": maybe(sizes()),
    "classifier_activation_fn": st.sampled_from(list(ACTIVATIONS)),
    "apply_bert_init": flags,
}
TEXTS = {**CLASSIFIER, "sen_rep_type": st.sampled_from(("mp", "cls"))}
IMAGES = {
    **LAYERS,
    **INNER,
    **NORM,
    **side("encoder", ffn_embed_dim=sizes()),
    "image_size": st.sampled_from((6, 12)),
    "patch_size": st.sampled_from((1, 2, 3, 6)),
    "drop_path": rates,
}


def settle(options):
    """Takes back those of freely drawn options that exclude one another."""
    options = dict(options)
    before = options.get("normalize_before", options.get("encoder_normalize_before"))
    if before:
        options["normalize_embedding"] = False
    if "no_final_norm" in options and not before:
        options["no_final_norm"] = False
    if options["rel_pos_bias"] == "rotary":
        for name in [name for name in options if name.endswith("z_dim")]:
            options[name] = options[name] and options[name] + options[name] % 2
    if "decoder_layers" in options:
        _settle_embeddings(options)
    return options


def _settle_embeddings(options):
    adaptive, softmax = options.get("adaptive_input"), options["adaptive_softmax_cutoff"]
    if adaptive or softmax is not None:
        options["share_decoder_input_output_embed"] = False
    if not adaptive or softmax is None:
        options["tie_adaptive_weights"] = False
    shared = ("share_decoder_input_output_embed", "share_all_embeddings", "tie_adaptive_weights")
    if any(options.get(name) for name in shared):
        options["decoder_input_dim"] = None
    if options["tie_adaptive_weights"]:
        for each in ("cutoff", "factor"):
            options[f"adaptive_softmax_{each}"] = options[f"adaptive_input_{each}"]
    _widen(options)


def _widen(options):
    """No band of an adaptive input or softmax is narrower than 1."""
    if options["adaptive_softmax_cutoff"] is None and not options.get("adaptive_input"):
        return
    for name in ("encoder_embed_dim", "decoder_embed_dim", "decoder_input_dim"):
        if options.get(name) is not None:
            options[name] += 3


def good(strategies):
    """Options that work together."""
    return st.fixed_dictionaries(strategies).map(settle)


def odd(strategies):
    """Options of which one to three are replaced: by odd values, or by ones that do not fit the
    others."""

    @st.composite
    def draw_options(draw):
        options = draw(good(strategies))
        for name in draw(st.lists(st.sampled_from(sorted(options)), min_size=1, max_size=3)):
            options[name] = draw(_odd_values(name, strategies[name]) | strategies[name])
        return options

    return draw_options()


TEXT_VALUES = ("", "0", "-1", "8,8", "9,8", "2,30", "1e3", "8,", "x", "5,14", "20", "1")


def _odd_values(name, strategy):
    if name.endswith("cutoff"):
        return st.sampled_from(TEXT_VALUES)
    if "dropout" in name and name != "feature_dropout" or name == "drop_path":
        return st.sampled_from(ODD_RATES)
    if name.endswith("factor"):
        return st.sampled_from((0.0, -1.0, 0.5, 4.0, 1e9, math.nan, math.inf))
    if name.endswith(("_dim", "_size", "_layers", "_positions", "_length", "_num")):
        return st.sampled_from(ODD_SIZES)
    return strategy
