"""What is measured: each case builds the same piece of work for several sides.

A side's work is a callable that takes the number of the repetition. ``prepare`` comes before it and
is not timed; ``outcome`` is what two formulations of one model must agree in.
"""

import math
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Callable, ClassVar, Dict, List, Optional

import numpy as np
import torch
from fairseq.criterions.cross_entropy import CrossEntropyCriterion
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from fairseq.data.data_utils import batch_by_size
from fairseq.data.language_pair_dataset import collate
from fairseq.dataclass.configs import FairseqConfig
from fairseq.modules import FairseqDropout, MultiheadAttention
from fairseq.sequence_generator import SequenceGenerator
from fairseq.utils import apply_to_sample
from omegaconf import OmegaConf
from torch import Tensor, nn

from fairseq_mega.criterions.lra_cross_entropy import LRACrossEntropyCriterion
from fairseq_mega.modules import MovingAverageGatedAttention, MultiHeadEMA

from .floor import Replay, ema_floor, record
from .fused import as_dense, as_fused
from .models import build_equal, build_mega, dictionary, parameters
from .plain import as_plain

TOLERANCE = 1e-3  # of the largest number in a tensor, in float32
EQUAL = 0.03  # of the parameters, to call two models equally large
REFERENCE = {"plain": "ours", "fused": "transformer"}  # what computes the same function
TRANSFORMERS = ("transformer", "fused")

Outcome = Dict[str, Tensor]


class Work:
    parameters: Optional[int] = None

    def to(self, device: torch.device) -> "Work":
        """Moves models, inputs and batches there; before ``prepare``."""
        for name, value in vars(self).items():
            if isinstance(value, nn.Module):
                value.to(device)
            elif isinstance(value, Tensor):
                moved = value.detach().to(device)
                setattr(self, name, moved.requires_grad_(value.requires_grad))
            elif isinstance(value, (dict, list)):
                setattr(self, name, apply_to_sample(lambda t: t.to(device), value))
        return self

    def prepare(self) -> None:
        pass

    def __call__(self, repetition: int) -> None:
        raise NotImplementedError

    def outcome(self) -> Outcome:
        raise NotImplementedError


@dataclass(frozen=True)
class Case:
    """``goals``: the least speed against a side, the most time over the ``floor``, and the most
    memory over a side's (``plain memory``)."""

    name: str
    title: str
    goals: Dict[str, float] = field(default_factory=dict)

    sides: ClassVar = ("ours", "plain", "transformer", "fused")
    has_floor: ClassVar = False
    parts: ClassVar = 1  # repetitions that make up what the title names

    def build(self, side: str) -> Work:
        raise NotImplementedError

    def tiny(self) -> "Case":
        """The same with small sizes: for tests, and to load libraries before memory is measured."""
        raise NotImplementedError

    def floor(self, ours: Work) -> Callable:
        """The products and FFTs of our side alone."""
        with record() as recorded:
            ours(0)
        return Replay(recorded.calls)

    def faults(self, works: Dict[str, Work]) -> Dict[str, str]:
        """Why a side may not be compared with ours: outputs and gradients are not those of the
        same function, or the Transformer is of another size or gives no finite numbers."""
        outcomes = {side: work.outcome() for side, work in works.items()}
        found = {}
        if "transformer" in works:
            fault = unlike(works["ours"], works["transformer"], outcomes["transformer"])
            if fault:
                found = {side: fault for side in TRANSFORMERS if side in works}
        for side, reference in REFERENCE.items():
            if side in works and side not in found:
                fault = difference(outcomes[side], outcomes[reference])
                if fault:
                    found[side] = f"not {reference}'s function: {fault}"
        return found


def difference(actual: Outcome, expected: Outcome) -> Optional[str]:
    """What differs in two formulations of one model, or None. A gradient that is much smaller than
    others is zero but for rounding."""
    largest = max(t.abs().max().item() for t in expected.values())
    for name, value in expected.items():
        scale = max(value.abs().max().item(), 1e-3 * largest)
        error = (actual[name] - value).abs().max().item() / scale
        if not error <= TOLERANCE:
            return f"{name} differs by {error:.1e} of its largest value"
    return None


def unlike(ours: Work, transformer: Work, outcome: Outcome) -> Optional[str]:
    """Why a Transformer may not be compared with ours, or None."""
    if abs(transformer.parameters / ours.parameters - 1) > EQUAL:
        return f"{transformer.parameters:,} parameters to ours {ours.parameters:,}"
    for name, value in outcome.items():
        if not math.isfinite(value.sum().item()):
            return f"{name} is not finite"
    return None


# --- one layer ------------------------------------------------------------------------------------


class ForwardBackward(Work):
    def __init__(self, layer: nn.Module, batch: int, length: int, channels: int):
        self.layer = layer
        self.x = torch.randn(batch, length, channels).requires_grad_()
        self.grad = torch.randn(batch, length, channels)
        self.parameters = parameters(layer)

    def __call__(self, repetition: int) -> Tensor:
        self.layer.zero_grad()
        self.x.grad = None
        y = self.layer(self.x)
        y = y[0] if isinstance(y, tuple) else y
        y.backward(self.grad)
        return y

    def outcome(self) -> Outcome:
        y = self(0).detach()
        gradients = {name: p.grad for name, p in self.layer.named_parameters()}
        return {"output": y, "gradient of the input": self.x.grad, **gradients}


@dataclass(frozen=True)
class EMACase(Case):
    length: int = 0
    batch: int = 1
    bidirectional: bool = False
    truncation: Optional[int] = None
    embed_dim: int = 512
    ndim: int = 16

    sides = ("ours", "plain")
    has_floor = True

    def tiny(self):
        truncation = self.truncation and 20
        return replace(self, length=80, embed_dim=16, ndim=4, truncation=truncation)

    def build(self, side):
        torch.manual_seed(1)
        ema = MultiHeadEMA(self.embed_dim, self.ndim, self.bidirectional, self.truncation)
        ema = as_plain(ema) if side == "plain" else ema
        return ForwardBackward(ema, self.batch, self.length, self.embed_dim)

    def floor(self, ours):
        return ema_floor(self.embed_dim, self.batch, self.length, self.truncation, ours.x.device)


@dataclass(frozen=True)
class LayerCase(Case):
    length: int = 0
    chunk_size: int = -1
    embed_dim: int = 512
    zdim: int = 128
    hdim: int = 1024
    ndim: int = 16

    sides = ("ours", "plain")
    has_floor = True

    def tiny(self):
        chunk = self.chunk_size and 32
        return replace(self, length=80, chunk_size=chunk, embed_dim=16, zdim=8, hdim=32, ndim=4)

    def build(self, side):
        torch.manual_seed(1)
        layer = MovingAverageGatedAttention(
            self.embed_dim,
            self.zdim,
            self.hdim,
            self.ndim,
            chunk_size=self.chunk_size,
            rel_pos_bias="rotary",
        )
        layer = as_plain(layer) if side == "plain" else layer
        return ForwardBackward(layer, 1, self.length, self.embed_dim)


# --- a training step ------------------------------------------------------------------------------


class TrainingStep(Work):
    """What fairseq does with a batch, without its bookkeeping."""

    def __init__(self, model: nn.Module, criterion: nn.Module, sample: dict, small_sample: dict):
        self.model, self.criterion = model.train(), criterion
        self.sample, self.small_sample = sample, small_sample
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-5, betas=(0.9, 0.98))
        self.parameters = parameters(model)

    def __call__(self, repetition: int) -> None:
        self._gradients(self.sample)
        self.optimizer.step()

    def _gradients(self, sample: dict) -> Tensor:
        self.optimizer.zero_grad()
        loss, size, _ = self.criterion(self.model, sample)
        loss = loss / size
        loss.backward()
        return loss.detach()

    def outcome(self) -> Outcome:
        """Loss and gradients of the smaller batch without dropout, which no two runs share."""
        with _without_dropout(self.model):
            loss = self._gradients(self.small_sample)
        gradients = {name: p.grad.clone() for name, p in self.model.named_parameters()}
        self.optimizer.zero_grad()
        return {"loss": loss, **gradients}


@contextmanager
def _without_dropout(model: nn.Module):
    modules = [m for m in model.modules() if isinstance(m, FairseqDropout)]
    probabilities = [m.p for m in modules]
    for module in modules:
        module.p = 0.0
    yield
    for module, p in zip(modules, probabilities):
        module.p = p


@dataclass(frozen=True)
class _ModelCase(Case):
    layers: int = 6
    embed_dim: int = 512
    hidden_dim: int = 1024
    z_dim: int = 128
    n_dim: int = 16
    attention_heads: int = 8  # the Transformer's
    words: int = 8192

    def tiny(self):
        sizes = dict(embed_dim=32, hidden_dim=48, z_dim=8, n_dim=4, attention_heads=4)
        return replace(self, layers=2, words=100, **sizes)

    def _model(self, side: str):
        """The side's model and its task."""
        mega, transformer = self._options()
        if side not in TRANSFORMERS:
            return build_mega(side, *mega)
        wanted = parameters(build_mega("ours", *mega)[0])
        model, task = build_equal(*transformer, wanted)
        return (as_fused(model) if side == "fused" else model), task

    def _options(self):
        """Architecture, vocabulary and sizes of Mega and of the Transformer."""
        raise NotImplementedError

    def _sizes(self, part: str, names: str) -> Dict[str, int]:
        return {f"{part}_{name}": getattr(self, name) for name in names.split()}


@dataclass(frozen=True)
class _LanguageModelCase(_ModelCase):
    length: int = 0
    chunk_size: int = 1024

    def tiny(self):
        return replace(super().tiny(), length=88, chunk_size=32)

    def _options(self):
        positions = dict(tokens_per_sample=self.length, max_target_positions=self.length)
        dims = {f"decoder_{name}_dim": self.embed_dim for name in ("embed", "input", "output")}
        mega = self._sizes("decoder", "layers embed_dim hidden_dim z_dim n_dim chunk_size")
        mega = {**mega, "decoder_ffn_embed_dim": self.hidden_dim, **positions}
        transformer = {**self._sizes("decoder", "layers attention_heads"), **dims, **positions}
        return ("mega_lm", self.words, mega), ("transformer_lm", self.words, transformer)

    def _tokens(self, length: int) -> Tensor:
        torch.manual_seed(2)
        return torch.randint(4, self.words, (1, length))


@dataclass(frozen=True)
class LanguageModelCase(_LanguageModelCase):
    has_floor = True

    def build(self, side):
        model, task = self._model(side)
        criterion = CrossEntropyCriterion(task, sentence_avg=False)
        small = min(self.length, 3 * self.chunk_size // 2)
        return TrainingStep(model, criterion, self._sample(self.length), self._sample(small))

    def _sample(self, length: int) -> dict:
        text = self._tokens(length + 1)
        net_input = {"src_tokens": text[:, :-1], "src_lengths": torch.tensor([length])}
        return {"net_input": net_input, "target": text[:, 1:], "ntokens": length}


@dataclass(frozen=True)
class _TranslationCase(_ModelCase):
    preset: str = "wmt_en_de"

    def _options(self):
        mega = self._sizes("encoder", "layers embed_dim hidden_dim z_dim n_dim")
        mega["encoder_ffn_embed_dim"] = self.hidden_dim
        transformer = {}
        for part in ("encoder", "decoder"):
            transformer.update(self._sizes(part, "layers embed_dim attention_heads"))
        for part in ("input", "output"):
            transformer[f"decoder_{part}_dim"] = self.embed_dim
        mega, transformer = (
            {**sizes, "max_source_positions": 1024, "max_target_positions": 1024}
            for sizes in (mega, transformer)
        )
        words = self.words
        mega, transformer = (
            (f"{kind}_{self.preset}", words, sizes)
            for kind, sizes in (("mega", mega), ("transformer", transformer))
        )
        return mega, transformer

    def _batch(self, lengths: np.ndarray, with_target: bool) -> dict:
        """A batch as fairseq makes it, for ``lengths (sentences, 2)`` of source and target."""
        torch.manual_seed(2)
        words = dictionary(self.words)
        samples = []
        for i, pair in enumerate(lengths):
            source, target = (torch.randint(4, self.words, (int(n),)) for n in pair)
            source[-1] = target[-1] = words.eos()
            samples.append({"id": i, "source": source, "target": target if with_target else None})
        return collate(samples, words.pad(), words.eos())


def sentence_lengths(sentences: int) -> np.ndarray:
    """Source and target lengths ``(sentences, 2)``, end of sentence included: 27 on average, with
    a long tail and targets of about the length of their sources, as in WMT."""
    random = np.random.default_rng(3)
    source = random.gamma(3.0, 26.0 / 3.0, sentences)
    target = source * random.normal(1.0, 0.15, sentences)
    return np.stack([source, target], axis=1).clip(1, 150).round().astype(np.int64) + 1


@dataclass(frozen=True)
class TranslationCase(_TranslationCase):
    """The batch of sentences of mean length, out of all batches of a corpus sorted by length."""

    max_tokens: int = 4096
    sentences: int = 20000

    has_floor = True

    def tiny(self):
        return replace(super().tiny(), max_tokens=200, sentences=200)

    def build(self, side):
        model, task = self._model(side)
        criterion = LabelSmoothedCrossEntropyCriterion(task, False, 0.1)
        lengths = sentence_lengths(self.sentences)
        order = np.lexsort((lengths[:, 1], lengths[:, 0]))  # by source, then by target
        longest = lengths.max(axis=1)
        batches = batch_by_size(order, None, longest[order], self.max_tokens, None, 8)
        batch = min(batches, key=lambda b: abs(lengths[b].mean() - lengths.mean()))
        samples = [self._batch(lengths[b], with_target=True) for b in (batch, batch[:8])]
        return TrainingStep(model, criterion, *samples)


@dataclass(frozen=True)
class TextCase(_ModelCase):
    """The Long Range Arena's texts of bytes, all of one length. The Transformer is the example's,
    with fairseq's own attention and no dropout of its weights: Mega's recipe has none either."""

    length: int = 0
    chunk_size: int = -1
    batch: int = 2
    layers: int = 4
    embed_dim: int = 128
    hidden_dim: int = 256
    z_dim: int = 64
    attention_heads: int = 4
    words: int = 169

    def tiny(self):
        return replace(super().tiny(), length=88, chunk_size=self.chunk_size and 32)

    def _options(self):
        sizes = self._sizes("encoder", "layers embed_dim")
        heads = self._sizes("encoder", "attention_heads")
        mega = dict(z_dim=self.z_dim, n_dim=self.n_dim, chunk_size=self.chunk_size)
        mega = {**sizes, **mega, "encoder_hidden_dim": self.hidden_dim}
        transformer = {**sizes, **heads, "max_positions": self.length}
        transformer["classifier_out_dim"] = 2 * self.embed_dim
        words = self.words
        return ("mega_text", words, mega), ("transformer_classifier", words, transformer)

    def build(self, side):
        model, task = self._model(side)
        model = as_dense(model) if side == "transformer" else model
        for module in model.modules():
            if isinstance(module, MultiheadAttention):
                module.dropout_module.p = 0.0
        small = min(self.length, 192)  # one and a half of the chunks
        samples = self._sample([self.length] * self.batch), self._sample([small, small - 30])
        return TrainingStep(model, LRACrossEntropyCriterion(task, True), *samples)

    def _sample(self, lengths: List[int]) -> dict:
        """A batch of texts, filled up on the right."""
        torch.manual_seed(2)
        tokens = torch.randint(4, self.words, (len(lengths), max(lengths)))
        for row, length in zip(tokens, lengths):
            row[length:] = dictionary(self.words).pad()
        return {
            "net_input": {"src_tokens": tokens, "src_lengths": torch.tensor(lengths)},
            "target": torch.arange(len(lengths)) % 2,
            "nsentences": len(lengths),
            "ntokens": sum(lengths),
        }


# --- generation -----------------------------------------------------------------------------------


def _prepare(model: nn.Module, side: str) -> None:
    """Prepares a model as ``fairseq-generate`` does; the plain side stays plain."""
    model.eval()
    if side != "plain":
        model.prepare_for_inference_(OmegaConf.structured(FairseqConfig))


class BeamSearch(Work):
    def __init__(self, model: nn.Module, target_dictionary, batches: List[dict], tokens: int):
        self.model, self.batches = model, batches
        self.parameters = parameters(model)
        lengths = dict(max_len_a=0, max_len_b=tokens, min_len=tokens)
        self.generator = SequenceGenerator([model], target_dictionary, beam_size=5, **lengths)
        short = dict(lengths, max_len_b=6, min_len=6)
        self.short = SequenceGenerator([model], target_dictionary, beam_size=5, **short)

    def __call__(self, repetition: int) -> None:
        self._translate(self.generator, repetition)

    def _translate(self, generator, repetition: int):
        return generator.generate([self.model], self.batches[repetition % len(self.batches)])

    def outcome(self) -> Outcome:
        """Scores, as the words of equally good translations may differ."""
        found = self._translate(self.short, 0)
        return {"scores": torch.stack([hypothesis["score"] for h in found for hypothesis in h])}


@dataclass(frozen=True)
class BeamSearchCase(_TranslationCase):
    tokens: int = 27
    batch: int = 40
    parts: int = 5

    sides = ("ours", "plain", "transformer")

    def tiny(self):
        return replace(super().tiny(), tokens=4, batch=2, parts=2)

    def build(self, side):
        model, task = self._model(side)
        lengths = sentence_lengths(self.batch * self.parts)
        lengths = lengths[lengths[:, 0].argsort()[::-1]]  # fairseq translates the longest first
        batches = [self._batch(b, with_target=False) for b in np.split(lengths, self.parts)]
        _prepare(model, side)
        return BeamSearch(model, task.target_dictionary, batches, self.tokens)


class Generation(Work):
    """One token after the other, after a context that is read in parallel. A repetition is a run
    of tokens, as the first of them finds the processor's caches full of the other sides' numbers.
    """

    RUN = 8
    AHEAD = 256  # tokens until the context is full: enough for all repetitions

    def __init__(self, model: nn.Module, tokens: Tensor, segment: int):
        self.decoder, self.tokens, self.segment = model.decoder, tokens, segment
        self.parameters = parameters(model)
        self.state: Optional[Dict] = None

    @torch.no_grad()
    def prepare(self) -> None:
        self.state = {}
        self.read = self.tokens.size(1) - self.AHEAD
        for end in [*range(self.segment, self.read, self.segment), self.read]:
            self.decoder(self.tokens[:, :end], incremental_state=self.state, features_only=True)

    def __call__(self, repetition: int) -> None:
        for _ in range(self.RUN):
            self._step()

    @torch.no_grad()
    def _step(self) -> Tensor:
        self.read += 1
        return self.decoder(self.tokens[:, : self.read], incremental_state=self.state)[0]

    def outcome(self) -> Outcome:
        return {f"scores of token {i}": self._step() for i in range(3)}


class TransformerGeneration(Generation):
    @torch.no_grad()
    def prepare(self) -> None:
        """Random numbers for cached keys and values: to read 32k tokens at once would take all of
        this machine's memory, and the time of a step does not depend on them."""
        self.state = {}
        self.read = self.tokens.size(1) - self.AHEAD
        for layer in self.decoder.layers:
            attention = layer.self_attn
            shape = 1, attention.num_heads, self.read, attention.head_dim
            device = self.tokens.device
            cache = {f"prev_{n}": torch.randn(shape, device=device) for n in ("key", "value")}
            cache["prev_key_padding_mask"] = None
            attention.set_incremental_state(self.state, "attn_state", cache)


@dataclass(frozen=True)
class GenerationCase(_LanguageModelCase):
    """The last tokens of a chunk, whose caches are almost full."""

    sides = ("ours", "plain", "transformer")
    parts = 1 / Generation.RUN

    def build(self, side):
        model, _ = self._model(side)
        _prepare(model, side)
        kind = TransformerGeneration if side == "transformer" else Generation
        return kind(model, self._tokens(self.length), self.chunk_size)

    def tiny(self):
        return replace(super().tiny(), length=320)
