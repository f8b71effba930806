"""The models that are compared, built as ``fairseq-train`` builds them, and batches for them."""

import copy
import shlex
from functools import cache
from types import SimpleNamespace
from typing import Callable, Dict, NamedTuple

import numpy as np
import torch
from fairseq import criterions, models, options
from fairseq.data import Dictionary
from fairseq.data.data_utils import batch_by_size
from fairseq.data.language_pair_dataset import collate
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.tasks.language_modeling import LanguageModelingTask
from fairseq.tasks.translation import TranslationTask
from torch import Tensor, nn

import examples.classification.baseline  # noqa: F401 - registers the Transformer that classifies
import fairseq_mega  # noqa: F401 - registers the models

_TRANSLATION = (
    "--task translation --source-lang en --target-lang de --share-all-embeddings "
    "--criterion label_smoothed_cross_entropy --label-smoothing 0.1"
)
_TRANSFORMER = f"{_TRANSLATION} --encoder-normalize-before --decoder-normalize-before"
_TEXTS = "--task lra-text --criterion lra_cross_entropy --sentence-avg"
_SHARED = "--task language_modeling --share-decoder-input-output-embed --criterion cross_entropy"
_ADAPTIVE = "--task language_modeling --criterion adaptive_loss --ddp-backend legacy_ddp"
_WIKITEXT = (  # as published
    "--normalize-before --no-affine-final-norm --rel-pos-bias rotary --truncation-length 8192 "
    "--decoder-chunk-size 1024"
)
OPTIONS = {
    "mega_lm": f"{_SHARED} {_WIKITEXT}",
    "transformer_lm": f"{_SHARED} --decoder-normalize-before",
    "mega_lm_adaptive_big": f"{_ADAPTIVE} {_WIKITEXT} --max-target-positions 16384",
    "transformer_lm_wiki103": f"{_ADAPTIVE} --max-target-positions 16384",
    "mega_wmt_en_de": _TRANSLATION,
    "transformer_wmt_en_de": _TRANSFORMER,
    "mega_iwslt_de_en": _TRANSLATION,
    "transformer_iwslt_de_en": _TRANSFORMER,
    "mega_text": _TEXTS,
    "transformer_classifier": f"{_TEXTS} --dropout 0.1",
}
FFN_MULTIPLE = 8


class Built(NamedTuple):
    model: nn.Module
    criterion: nn.Module
    dictionary: Dictionary


@cache
def _parse(arch: str):
    """fairseq's configuration for an architecture and its options above; not to be changed."""
    words = ["data", "--arch", arch, *shlex.split(OPTIONS[arch])]
    args = options.parse_args_and_arch(options.get_training_parser(), words)
    return convert_namespace_to_omegaconf(args)


@cache
def dictionary(words: int) -> Dictionary:
    """A dictionary of so many entries, the four special ones among them."""
    made = Dictionary()
    for i in range(words - len(made)):
        made.add_symbol(f"w{i}")
    return made


def build(arch: str, words: int, sizes: Dict) -> Built:
    """The model with these sizes (further model options), and its criterion."""
    cfg, entries = copy.deepcopy(_parse(arch)), dictionary(words)
    for name, value in sizes.items():
        setattr(cfg.model, name, value)
    tasks = {"language_modeling": LanguageModelingTask, "translation": TranslationTask}
    if cfg.task._name in tasks:
        task = tasks[cfg.task._name](cfg.task, entries, entries)
    else:  # what models ask the task lra-text, which itself reads its dictionaries from the data
        task = SimpleNamespace(source_dictionary=entries, pad=entries.pad(), documents=1)
    torch.manual_seed(1)
    model = models.build_model(cfg.model, task)
    return Built(model, criterions.build_criterion(cfg.criterion, task), entries)


def build_equal(arch: str, words: int, sizes: Dict, wanted: int) -> Built:
    """A Transformer with about ``wanted`` parameters: the feed-forward dimension is chosen so."""

    def with_ffn(ffn: int) -> Built:
        parts = [name[: -len("_layers")] for name in sizes if name.endswith("_layers")]
        return build(arch, words, {**sizes, **{f"{part}_ffn_embed_dim": ffn for part in parts}})

    small, large = (parameters(with_ffn(n * FFN_MULTIPLE).model) for n in (1, 2))
    steps = max(0, round((wanted - small) / (large - small)))
    return with_ffn((1 + steps) * FFN_MULTIPLE)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# --- batches --------------------------------------------------------------------------------------


def _zipf(random: np.random.Generator, words: int, count: int) -> Tensor:
    """Words of a dictionary, as frequent as in Zipf's law."""
    return torch.from_numpy(np.exp(random.uniform(np.log(4), np.log(words), count)).astype(int))


def text(tokens: int, words: int) -> Dict:
    """One sample of a language model."""
    text = _zipf(np.random.default_rng(2), words, tokens + 1).unsqueeze(0)
    net_input = {"src_tokens": text[:, :-1], "src_lengths": torch.tensor([tokens])}
    return {"net_input": net_input, "target": text[:, 1:].contiguous(), "ntokens": tokens}


def sentence_lengths(sentences: int) -> np.ndarray:
    """Source and target lengths ``(sentences, 2)``, end of sentence included: 27 on average, with
    a long tail and targets of about the length of their sources, as in WMT."""
    random = np.random.default_rng(3)
    source = random.gamma(3.0, 26.0 / 3.0, sentences)
    target = source * random.normal(1.0, 0.15, sentences)
    return np.stack([source, target], axis=1).clip(1, 150).round().astype(np.int64) + 1


def mean_batch(max_tokens: int, sentences: int = 20000) -> np.ndarray:
    """Lengths ``(B, 2)`` of the batch of sentences of mean length, out of all batches of a corpus
    sorted by length."""
    lengths = sentence_lengths(sentences)
    longest = lengths.max(axis=1)
    order = np.lexsort(lengths.T[::-1])  # by source, then by target
    batches = batch_by_size(order, None, longest[order], max_tokens, None, 8)
    return lengths[min(batches, key=lambda b: abs(lengths[b].mean() - lengths.mean()))]


def pairs(lengths: np.ndarray, words: int, with_target: bool = True) -> Dict:
    """A batch as fairseq makes it, for ``lengths (B, 2)`` of source and target."""
    random, names, samples = np.random.default_rng(2), dictionary(words), []
    for i, pair in enumerate(lengths):
        source, target = (_zipf(random, words, int(n)) for n in pair)
        source[-1] = target[-1] = names.eos()
        samples.append({"id": i, "source": source, "target": target if with_target else None})
    return collate(samples, names.pad(), names.eos())


@torch.no_grad()
def beam_step(
    model: nn.Module, src_tokens: Tensor, src_lengths: Tensor, beam: int = 5, longest: int = 32
) -> Callable[[], Tensor]:
    """A step of beam search: reorders the hypotheses and scores the next word. After ``longest``
    words, it starts again."""
    sentences, device = len(src_tokens), src_tokens.device
    rows = torch.arange(sentences, device=device).repeat_interleave(beam)
    source = model.encoder(src_tokens, src_lengths)
    source = model.encoder.reorder_encoder_out(source, rows)
    order = torch.arange(len(rows), device=device).view(-1, beam).flip(1).flatten()
    words = torch.full((len(rows), longest), 5, device=device)
    encoded, state, length = source, {}, 0

    @torch.no_grad()
    def step() -> Tensor:
        nonlocal encoded, state, length
        if length == longest:
            encoded, state, length = source, {}, 0
        length += 1
        if length > 1:
            model.decoder.reorder_incremental_state_scripting(state, order)
            encoded = model.encoder.reorder_encoder_out(encoded, order)
        logits, _ = model.decoder(words[:, :length], encoder_out=encoded, incremental_state=state)
        return torch.log_softmax(logits[:, -1].float(), dim=-1)

    return step
