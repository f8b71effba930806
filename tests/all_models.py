"""A small model of each kind, built as fairseq builds it, and a batch that it takes."""

from types import SimpleNamespace

import classification
import fairseq.models
import masked_lm
from helpers import TINY, batch_of, build, configured, randn, sentences

IMAGENET = (
    "--task image_folder -a mega_tiny_patch16_224 --encoder-layers 2 --encoder-embed-dim 12 "
    "--encoder-hidden-dim 16 --encoder-ffn-embed-dim 20 --encoder-z-dim 4 --encoder-n-dim 3 "
    "--image-size 12 --patch-size 4"
)


def build_imagenet(options=IMAGENET, classes=5, **model_options):
    """The model that fairseq-train would build for so many classes."""
    cfg = configured(options, **model_options).model
    task = SimpleNamespace(class_names=[str(i) for i in range(classes)])
    return fairseq.models.build_model(cfg, task)


def build_images(options, **model_options):
    return classification.build(options, words=None, **model_options)


# By the kind: what builds the model of options, the options, and what the model takes.
MODELS = {
    "mega": (
        build,
        TINY["mega"],
        lambda: (batch_of(sentences(9, 4), left_pad=True), None, batch_of(sentences(5, 11))),
    ),
    "mega_lm": (build, TINY["mega_lm"], lambda: (batch_of(sentences(5, 11)),)),
    "masked_lm": (
        masked_lm.build,
        masked_lm.WORDS,
        lambda: (batch_of(sentences(9, 4, 13)),),
    ),
    "text": (
        classification.build,
        classification.TEXT,
        lambda: (classification.batch(classification.symbols(7, 3, 7)),),
    ),
    "image": (
        build_images,
        classification.IMAGE,
        lambda: (classification.batch(classification.numbers(7, 7, 7), pad=0),),
    ),
    "imagenet": (build_imagenet, IMAGENET, lambda: (randn(4, 3, 12, 12),)),
}


def build_kind(kind, options="", **model_options):
    """The model of a kind with further options: of the command line, or by name."""
    builder, own, _ = MODELS[kind]
    return builder(f"{own} {options}", **model_options)
