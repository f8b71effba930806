"""Architectures of the classifier: options in which each differs from ``ClassifierConfig``.

The published ones are exactly as published. They leave the attention function, the dropouts and
the place of the norm to the command line, and without it are other models than the paper's. Those
of the second kind, ``mega_listops`` to ``mega_speech``, are the paper's models (Mega, appendix
"Experimental Details", table of hyperparameters) by their names alone.
"""

from typing import Any, Dict


def _sizes(layers: int, dim: int, z: int, classes: int, positions: int) -> Dict[str, Any]:
    return dict(
        encoder_layers=layers,
        encoder_embed_dim=dim,
        encoder_hidden_dim=2 * dim,
        z_dim=z,
        n_dim=16,
        classifier_out_dim=2 * dim,
        sen_rep_type="mp",
        truncation_length=1024,
        sentence_class_num=classes,
        max_positions=positions,
    )


# The published architecture lra, and the values that those made from it fall back to.
_LRA: Dict[str, Any] = dict(
    activation_fn="gelu",
    attention_activation_fn="relu2",
    attention_dropout=0.1,
    classifier_out_dim=2048,
    truncation_length=None,
    apply_bert_init=True,
)
_LRA_TEXT = dict(_LRA, activation_fn="silu", apply_bert_init=False, input_type="text")
_LRA_IMAGE = dict(_LRA_TEXT, input_type="image", norm_type="batchnorm")

_LISTOPS = _sizes(6, 80, 64, 10, 2002)
_TEXT = _sizes(4, 128, 64, 2, 4002)
_RETRIEVAL = _sizes(6, 128, 64, 2, 4002)
_IMAGE = _sizes(8, 160, 96, 10, 1024)
_PATHFINDER = _sizes(6, 128, 64, 2, 1024)
_PATHX = dict(_sizes(4, 64, 32, 2, 16384), truncation_length=4096)

# The recipes: texts in post-norm models, pixels and samples in pre-norm ones with batch norms.
_READ = dict(input_type="text", attention_activation_fn="softmax", dropout=0.1)
_SEEN = dict(
    attention_activation_fn="laplace",
    norm_type="batchnorm",
    encoder_normalize_before=True,
    dropout=0.0,
)
_PIXELS = dict(_SEEN, input_type="image")


def _speech(dim: int, z: int) -> Dict[str, Any]:
    # classifier_out_dim None is twice --encoder-embed-dim, whatever that is set to.
    sizes = dict(_sizes(6, dim, z, 10, 16000), classifier_out_dim=None)
    return {**sizes, **_SEEN, "truncation_length": 1000, "chunk_size": 1000}


PUBLISHED = {
    "lra": _LRA,
    "mega_lra_listop": {**_LRA_TEXT, **_LISTOPS, "norm_type": "scalenorm"},
    "mega_lra_imdb": {**_LRA_TEXT, **_TEXT, "norm_type": "scalenorm"},
    "mega_lra_aan": {**_LRA_TEXT, **_RETRIEVAL},
    "mega_lra_cifar10": {**_LRA_IMAGE, **_IMAGE, "chunk_size": 1024},
    "mega_lra_pf32": {**_LRA_IMAGE, **_PATHFINDER, "chunk_size": 1024},
    "mega_lra_pf128": {**_LRA_IMAGE, **_PATHX, "chunk_size": 16384},
    **dict.fromkeys(("sc_raw", "mega_sc_raw", "mega_sc_raw_base"), _speech(60, 30)),
    "mega_sc_raw_big": _speech(72, 36),
}
PAPER = {
    "mega_listops": {**_LISTOPS, **_READ, "norm_type": "layernorm"},
    "mega_text": {**_TEXT, **_READ, "norm_type": "scalenorm"},
    "mega_retrieval": {**_RETRIEVAL, **_READ, "norm_type": "scalenorm"},
    "mega_image": {**_IMAGE, **_PIXELS},
    "mega_pathfinder": {**_PATHFINDER, **_PIXELS},
    "mega_pathx": {**_PATHX, **_PIXELS, "norm_type": "syncbatchnorm"},
    "mega_speech": _speech(60, 30),
    "mega_speech_big": _speech(72, 36),
}
PRESETS = {**PUBLISHED, **PAPER}
