"""The models that are compared, built as ``fairseq-train`` builds them."""

import copy
import shlex
import warnings
from functools import cache
from types import SimpleNamespace
from typing import Dict

import torch
from fairseq import models, options
from fairseq.data import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.tasks.language_modeling import LanguageModelingTask
from fairseq.tasks.translation import TranslationTask
from torch import nn

import examples.classification.baseline  # noqa: F401 - registers the Transformer that classifies
import fairseq_mega  # noqa: F401 - registers the models

from .plain import as_plain

_TRANSLATION = "--task translation --source-lang en --target-lang de --share-all-embeddings"
_TRANSFORMER = f"{_TRANSLATION} --encoder-normalize-before --decoder-normalize-before"
_LANGUAGE_MODEL = "--task language_modeling --share-decoder-input-output-embed"
OPTIONS = {
    "mega_lm": f"{_LANGUAGE_MODEL} --normalize-before --no-affine-final-norm "
    "--rel-pos-bias rotary --truncation-length 8192",  # as published for WikiText-103
    "transformer_lm": f"{_LANGUAGE_MODEL} --decoder-normalize-before",
    "mega_wmt_en_de": _TRANSLATION,
    "transformer_wmt_en_de": _TRANSFORMER,
    "mega_iwslt_de_en": _TRANSLATION,
    "transformer_iwslt_de_en": _TRANSFORMER,
    "mega_text": "--task lra-text",
    "transformer_classifier": "--task lra-text --dropout 0.1",
}
FFN_MULTIPLE = 8


@cache
def parse(arch: str):
    """fairseq's configuration for an architecture and its options above; not to be changed."""
    parser = options.get_training_parser()
    words = ["data", "--arch", arch, *shlex.split(OPTIONS[arch])]
    args = options.parse_args_and_arch(parser, words)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hydra's, about how fairseq uses it
        return convert_namespace_to_omegaconf(args)


@cache
def dictionary(words: int) -> Dictionary:
    """A dictionary of so many entries, the four special ones among them."""
    made = Dictionary()
    for i in range(words - len(made)):
        made.add_symbol(f"w{i}")
    return made


def build(arch: str, words: int, sizes: Dict[str, int]):
    """The model with these sizes (further model options), and its task."""
    cfg = copy.deepcopy(parse(arch))
    for name, value in sizes.items():
        setattr(cfg.model, name, value)
    task = _task(cfg.task, dictionary(words))
    torch.manual_seed(1)
    return models.build_model(cfg.model, task), task


def _task(cfg, words: Dictionary):
    if cfg._name == "language_modeling":
        return LanguageModelingTask(cfg, words, words)
    if cfg._name == "translation":
        return TranslationTask(cfg, words, words)
    # What models ask the task lra-text, which itself reads its dictionaries from the data.
    return SimpleNamespace(source_dictionary=words, pad=words.pad(), documents=1)


def build_mega(side: str, arch: str, words: int, sizes: Dict[str, int]):
    """Mega as ``ours`` or as ``plain``, with the same weights, and its task."""
    model, task = build(arch, words, sizes)
    _strengthen_attention(model)
    return (as_plain(model) if side == "plain" else model), task


def build_equal(arch: str, words: int, sizes: Dict[str, int], wanted: int):
    """A Transformer with about ``wanted`` parameters, and its task: the feed-forward dimension is
    chosen so."""

    def with_ffn(ffn: int):
        parts = [name[: -len("_layers")] for name in sizes if name.endswith("_layers")]
        return build(arch, words, {**sizes, **{f"{part}_ffn_embed_dim": ffn for part in parts}})

    small, large = (parameters(with_ffn(n * FFN_MULTIPLE)[0]) for n in (1, 2))
    steps = max(0, round((wanted - small) / (large - small)))
    return with_ffn((1 + steps) * FFN_MULTIPLE)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@torch.no_grad()
def _strengthen_attention(model: nn.Module) -> None:
    """As initialised, attention is almost uniform, so that a wrong bias or score would hardly
    change what the sides are compared by."""
    for name, parameter in model.named_parameters():
        if "rel_pos_bias" in name or name.endswith("mega_layer.gamma"):
            parameter.mul_(15)
