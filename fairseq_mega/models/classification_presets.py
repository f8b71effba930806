"""Architectures of the classifier: options in which each differs from ``ClassifierConfig``.

The published ones are exactly as published. They leave the attention function, the dropouts and
the place of the norm to the command line, and without it are other models than the paper's. Those
of the second kind, ``mega_listops`` to ``mega_speech``, are the paper's models (Mega, appendix
"Experimental Details", table of hyperparameters) by their names alone.
"""

from typing import Dict


def _sizes(layers: int, dim: int, z: int, out: int) -> Dict:
    return dict(
        encoder_layers=layers,
        encoder_embed_dim=dim,
        encoder_hidden_dim=2 * dim,
        z_dim=z,
        n_dim=16,
        classifier_out_dim=out,
        sen_rep_type="mp",
        truncation_length=1024,
    )


# What the published architecture lra has, and those that are made from it fall back to.
_LRA = dict(
    activation_fn="gelu",
    attention_activation_fn="relu2",
    attention_dropout=0.1,
    classifier_out_dim=2048,
    truncation_length=None,
    apply_bert_init=True,
)
_LRA_MEGA = dict(_LRA, activation_fn="silu", apply_bert_init=False)

_LISTOPS = dict(_sizes(6, 80, 64, 160), sentence_class_num=10, max_positions=2002)
_TEXT = dict(_sizes(4, 128, 64, 256), sentence_class_num=2, max_positions=4002)
_RETRIEVAL = dict(_sizes(6, 128, 64, 256), sentence_class_num=2, max_positions=4002)
_IMAGE = dict(_sizes(8, 160, 96, 320), sentence_class_num=10, max_positions=1024)
_PATHFINDER = dict(_sizes(6, 128, 64, 256), sentence_class_num=2, max_positions=1024)
_PATHX = dict(_sizes(4, 64, 32, 128), sentence_class_num=2, max_positions=16384)
_PATHX["truncation_length"] = 4096
_PIXELS = dict(input_type="image")
_SYMBOLS = dict(input_type="text")
_SPEECH = dict(
    _sizes(6, 60, 30, 120),
    classifier_out_dim=None,  # twice --encoder-embed-dim
    sentence_class_num=10,
    max_positions=16000,
    truncation_length=1000,
    chunk_size=1000,
    attention_activation_fn="laplace",
    norm_type="batchnorm",
    encoder_normalize_before=True,
    dropout=0.0,
)
_SPEECH_BIG = dict(
    _SPEECH, encoder_embed_dim=72, encoder_hidden_dim=144, z_dim=36, classifier_out_dim=None
)

PUBLISHED = {
    "lra": _LRA,
    "mega_lra_listop": {**_LRA_MEGA, **_LISTOPS, **_SYMBOLS, "norm_type": "scalenorm"},
    "mega_lra_imdb": {**_LRA_MEGA, **_TEXT, **_SYMBOLS, "norm_type": "scalenorm"},
    "mega_lra_aan": {**_LRA_MEGA, **_RETRIEVAL, **_SYMBOLS},
    "mega_lra_cifar10": {
        **_LRA_MEGA,
        **_IMAGE,
        **_PIXELS,
        "norm_type": "batchnorm",
        "chunk_size": 1024,
    },
    "mega_lra_pf32": {
        **_LRA_MEGA,
        **_PATHFINDER,
        **_PIXELS,
        "norm_type": "batchnorm",
        "chunk_size": 1024,
    },
    "mega_lra_pf128": {
        **_LRA_MEGA,
        **_PATHX,
        **_PIXELS,
        "norm_type": "batchnorm",
        "chunk_size": 16384,
    },
    "sc_raw": _SPEECH,
    "mega_sc_raw": _SPEECH,
    "mega_sc_raw_base": _SPEECH,
    "mega_sc_raw_big": _SPEECH_BIG,
}

# The recipes: texts in post-norm models, pixels and samples in pre-norm ones with batch norms.
_READ = dict(_SYMBOLS, attention_activation_fn="softmax", dropout=0.1)
_SEEN = dict(
    _PIXELS,
    attention_activation_fn="laplace",
    norm_type="batchnorm",
    encoder_normalize_before=True,
    dropout=0.0,
)
PAPER = {
    "mega_listops": {**_LISTOPS, **_READ, "norm_type": "layernorm"},
    "mega_text": {**_TEXT, **_READ, "norm_type": "scalenorm"},
    "mega_retrieval": {**_RETRIEVAL, **_READ, "norm_type": "scalenorm"},
    "mega_image": {**_IMAGE, **_SEEN},
    "mega_pathfinder": {**_PATHFINDER, **_SEEN},
    "mega_pathx": {**_PATHX, **_SEEN, "norm_type": "syncbatchnorm"},
    "mega_speech": _SPEECH,
    "mega_speech_big": _SPEECH_BIG,
}
PRESETS = {**PUBLISHED, **PAPER}
