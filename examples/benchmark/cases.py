"""Cases of the benchmark, each of which builds the same work for several sides.

A side's work is a callable that takes the number of the repetition. ``prepare`` comes before it and
is not timed. ``outcome`` is what two formulations of one model must agree in, without dropout;
``tests/test_benchmark.py`` compares the sides at tiny sizes.
"""

from dataclasses import dataclass
from typing import Callable, Dict, List, NamedTuple, Tuple

import numpy as np
import torch
from fairseq.dataclass.configs import FairseqConfig
from fairseq.modules import FairseqDropout, MultiheadAttention
from fairseq.sequence_generator import SequenceGenerator
from fairseq.utils import apply_to_sample
from omegaconf import OmegaConf
from torch import Tensor, nn

from fairseq_mega.modules import MultiHeadEMA

from .fused import as_dense, as_fused
from .models import Built, build, build_equal, mean_batch, pairs, parameters, sentence_lengths, text
from .plain import as_plain

TRAINED = ("ours", "plain", "transformer", "fused")
GENERATED = ("ours", "int8", "transformer")
WINDOWS = ("ours", "before")

Outcome = Dict[str, Tensor]


class Work:
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

    def prepare(self) -> None: ...


@dataclass(frozen=True)
class Case:
    """``build`` takes the side and whether sizes are tiny: for tests, and to load libraries before
    memory is measured."""

    name: str
    title: str
    build: Callable[[str, bool], Work]
    sides: Tuple[str, ...] = TRAINED
    parts: float = 1  # repetitions that make up what the title names


# --- one layer ------------------------------------------------------------------------------------


class ForwardBackward(Work):
    def __init__(self, layer: nn.Module, batch: int, length: int, channels: int):
        self.layer = layer
        self.x = torch.randn(batch, length, channels).requires_grad_()
        self.grad = torch.randn(batch, length, channels)

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


def ema_case(
    name: str, title: str, length: int, batch: int = 1, dim: int = 512, truncation=None
) -> Case:
    def make(side: str, tiny: bool) -> Work:
        torch.manual_seed(1)
        L, D, N, taps = (80, 16, 4, truncation and 20) if tiny else (length, dim, 16, truncation)
        ema = MultiHeadEMA(D, N, "causal" not in title, taps)
        return ForwardBackward(as_plain(ema) if side == "plain" else ema, batch, L, D)

    return Case(name, title, make, ("ours", "plain"))


# --- models ---------------------------------------------------------------------------------------


class Sizes(NamedTuple):
    layers: int = 6
    embed: int = 512
    hidden: int = 1024
    z: int = 128
    n: int = 16
    heads: int = 8  # the Transformer's
    words: int = 8192


SMALL = Sizes(layers=3, embed=256, hidden=512, z=64, heads=4)
TEXTS = Sizes(layers=4, embed=128, hidden=256, z=64, heads=4, words=169)
TINY = Sizes(layers=2, embed=32, hidden=48, z=8, n=4, heads=4, words=100)


def build_side(side: str, s: Sizes, mega: str, mega_sizes: Dict, other: str, sizes: Dict) -> Built:
    """Mega, or a Transformer with as many parameters."""
    built = build(mega, s.words, mega_sizes)
    if side in ("transformer", "fused"):
        built = build_equal(other, s.words, sizes, parameters(built.model))
        return built._replace(model=as_fused(built.model)) if side == "fused" else built
    _strengthen_attention(built.model)
    return built._replace(model=as_plain(built.model)) if side == "plain" else built


@torch.no_grad()
def _strengthen_attention(model: nn.Module) -> None:
    """Makes a wrong bias or score visible; initial attention is almost uniform."""
    for name, parameter in model.named_parameters():
        if "rel_pos_bias" in name or name.endswith("mega_layer.gamma"):
            parameter.mul_(15)


def language_model(side: str, s: Sizes, length: int, chunk: int) -> Built:
    before = int(side == "before")  # half the chunk, and the one before it
    common = dict(decoder_layers=s.layers, decoder_embed_dim=s.embed)
    common.update(tokens_per_sample=length, max_target_positions=length)
    mega = dict(common, decoder_hidden_dim=s.hidden, decoder_ffn_embed_dim=s.hidden)
    mega.update(decoder_z_dim=s.z, decoder_n_dim=s.n)
    mega.update(decoder_chunk_size=chunk // (1 + before), decoder_chunks_before=before)
    other = dict(common, decoder_input_dim=s.embed, decoder_output_dim=s.embed)
    other["decoder_attention_heads"] = s.heads
    return build_side(side, s, "mega_lm", mega, "transformer_lm", other)


def translation_model(side: str, s: Sizes, preset: str) -> Built:
    common = dict(encoder_layers=s.layers, decoder_layers=s.layers, encoder_embed_dim=s.embed)
    common.update(max_source_positions=1024, max_target_positions=1024)
    mega = dict(common, encoder_hidden_dim=s.hidden, encoder_ffn_embed_dim=s.hidden)
    mega.update(encoder_z_dim=s.z, encoder_n_dim=s.n)
    other = dict(common, encoder_attention_heads=s.heads, decoder_attention_heads=s.heads)
    other.update({f"decoder_{name}_dim": s.embed for name in ("embed", "input", "output")})
    return build_side(side, s, f"mega_{preset}", mega, f"transformer_{preset}", other)


# --- a training step ------------------------------------------------------------------------------


class TrainingStep(Work):
    """A training step as in fairseq, without its bookkeeping."""

    def __init__(self, built: Built, sample: dict):
        self.model, self.criterion, self.sample = built.model.train(), built.criterion, sample
        self.optimizer = torch.optim.Adam(built.model.parameters(), lr=1e-5, betas=(0.9, 0.98))

    def __call__(self, repetition: int) -> None:
        self._gradients()
        self.optimizer.step()

    def _gradients(self) -> Tensor:
        self.optimizer.zero_grad()
        loss, size, _ = self.criterion(self.model, self.sample)
        loss = loss / size
        loss.backward()
        return loss.detach()

    def outcome(self) -> Outcome:
        """Loss and gradients without dropout, in float64: rounding may change the sign of a ReLU's
        input."""
        for module in self.model.double().modules():
            if isinstance(module, FairseqDropout):
                module.p = 0.0
        loss = self._gradients()
        return {"loss": loss, **{name: p.grad for name, p in self.model.named_parameters()}}


def lm_case(length: int, name: str = "lm", chunk: int = 1024, sides=TRAINED) -> Case:
    def make(side: str, tiny: bool) -> Work:
        s, L, C = (TINY, 88, 32) if tiny else (Sizes(), length, chunk)
        return TrainingStep(language_model(side, s, L, C), text(L, s.words))

    title = f"LM training step, chunk {chunk}, L {length}"
    return Case(f"{name}-{length}", title, make, sides)


def translation_case(name: str, title: str, sizes: Sizes, preset: str, max_tokens: int) -> Case:
    def make(side: str, tiny: bool) -> Work:
        s = TINY if tiny else sizes
        lengths = mean_batch(200, 200) if tiny else mean_batch(max_tokens)
        return TrainingStep(translation_model(side, s, preset), pairs(lengths, s.words))

    return Case(name, title, make)


def text_case(length: int, chunk: int) -> Case:
    """The Long Range Arena's texts of bytes, all of one length. The Transformer is the example's,
    with fairseq's own attention and no dropout of its weights: Mega's recipe has none either."""

    def make(side: str, tiny: bool) -> Work:
        s, L, C = (TINY, 88, min(chunk, 32)) if tiny else (TEXTS, length, chunk)
        common = dict(encoder_layers=s.layers, encoder_embed_dim=s.embed)
        mega = dict(common, encoder_hidden_dim=s.hidden, z_dim=s.z, n_dim=s.n, chunk_size=C)
        other = dict(common, encoder_attention_heads=s.heads, max_positions=L)
        other["classifier_out_dim"] = 2 * s.embed
        built = build_side(side, s, "mega_text", mega, "transformer_classifier", other)
        if side == "transformer":
            as_dense(built.model)
        for module in built.model.modules():
            if isinstance(module, MultiheadAttention):
                module.dropout_module.p = 0.0
        return TrainingStep(built, _classes(built, [L, L - 30] if tiny else [L, L]))

    kind = "full" if chunk < 0 else f"chunk {chunk}"
    title = f"text classification training step, {kind}, L {length}, B 2"
    return Case(f"text-{'full' if chunk < 0 else 'chunked'}-{length}", title, make)


def _classes(built: Built, lengths: List[int]) -> dict:
    """A batch of texts, filled up on the right."""
    torch.manual_seed(2)
    tokens = torch.randint(4, len(built.dictionary), (len(lengths), max(lengths)))
    for row, length in zip(tokens, lengths):
        row[length:] = built.dictionary.pad()
    return {
        "net_input": {"src_tokens": tokens, "src_lengths": torch.tensor(lengths)},
        "target": torch.arange(len(lengths)) % 2,
        "nsentences": len(lengths),
        "ntokens": sum(lengths),
    }


# --- generation -----------------------------------------------------------------------------------


def _prepare(model: nn.Module, side: str) -> None:
    """Prepares a model as ``fairseq-generate`` does."""
    cfg = OmegaConf.structured(FairseqConfig)
    cfg.common_eval.model_overrides = "{'cpu_int8': True}" if side == "int8" else "{}"
    model.eval()
    model.prepare_for_inference_(cfg)


class BeamSearch(Work):
    def __init__(self, built: Built, batches: List[dict], tokens: int):
        self.model, self.batches = built.model, batches
        lengths = dict(max_len_a=0, max_len_b=tokens, min_len=tokens)
        self.generator = SequenceGenerator([built.model], built.dictionary, beam_size=5, **lengths)

    def __call__(self, repetition: int) -> None:
        self.generator.generate([self.model], self.batches[repetition % len(self.batches)])


def beam_case(tokens: int, batch: int, parts: int) -> Case:
    def make(side: str, tiny: bool) -> Work:
        s, T, B = (TINY, 4, 2) if tiny else (Sizes(), tokens, batch)
        built = translation_model(side, s, "wmt_en_de")
        lengths = sentence_lengths(B * parts)
        lengths = lengths[lengths[:, 0].argsort()[::-1]]  # fairseq translates the longest first
        batches = [pairs(b, s.words, with_target=False) for b in np.split(lengths, parts)]
        _prepare(built.model, side)
        return BeamSearch(built, batches, T)

    title = f"beam 5, {batch * parts} sentences, outputs of {tokens}"
    return Case(f"beam-{tokens}", title, make, GENERATED, parts)


class Generation(Work):
    """One token after the other, after a context that is read in parallel. A repetition is a run
    of tokens, as the first of them finds the processor's caches full of the other sides' values.
    """

    RUN = 8
    AHEAD = 256  # tokens until the context is full: enough for all repetitions

    def __init__(self, model: nn.Module, tokens: Tensor, segment: int):
        self.decoder, self.tokens, self.segment = model.decoder, tokens, segment

    @torch.no_grad()
    def prepare(self) -> None:
        self.state: Dict = {}
        self.read = self.tokens.size(1) - self.AHEAD
        for end in [*range(self.segment, self.read, self.segment), self.read]:
            self.decoder(self.tokens[:, :end], incremental_state=self.state, features_only=True)

    @torch.no_grad()
    def __call__(self, repetition: int) -> None:
        for _ in range(self.RUN):
            self.read += 1
            self.decoder(self.tokens[:, : self.read], incremental_state=self.state)


class TransformerGeneration(Generation):
    def prepare(self) -> None:
        """Caches random keys and values: reading 32k tokens at once would take all of this
        machine's memory, and the time of a step does not depend on them."""
        self.state = {}
        self.read = self.tokens.size(1) - self.AHEAD
        for layer in self.decoder.layers:
            attention = layer.self_attn
            shape = 1, attention.num_heads, self.read, attention.head_dim
            device = self.tokens.device
            cache = {f"prev_{n}": torch.randn(shape, device=device) for n in ("key", "value")}
            cache["prev_key_padding_mask"] = None
            attention.set_incremental_state(self.state, "attn_state", cache)


def generation_case(k: int) -> Case:
    """The last tokens of a chunk, whose caches are almost full."""

    def make(side: str, tiny: bool) -> Work:
        s, L, chunk = (TINY, 320, 32) if tiny else (Sizes(), 1024 * k, 1024)
        model = language_model(side, s, L, chunk).model
        _prepare(model, side)
        kind = TransformerGeneration if side == "transformer" else Generation
        return kind(model, text(L, s.words)["net_input"]["src_tokens"], chunk)

    title = f"generation, chunk 1024, a token at context {k}k"
    return Case(f"generation-{k}k", title, make, ("ours", "transformer"), 1 / Generation.RUN)


# --- all of them ----------------------------------------------------------------------------------


def all_cases(full: bool) -> List[Case]:
    """``full``: with the lengths that take longer."""
    cases: List[Case] = []
    for kind in ("causal", "bidirectional"):
        for length, batch in ((128, 8), (1024, 1), (4096, 1), *([(16384, 1)] if full else [])):
            title = f"EMA, {kind}, L {length}" + f", B {batch}" * (batch > 1)
            cases.append(ema_case(f"ema-{kind}-{length}", title, length, batch))
    title = "EMA of Path-X, bidirectional, L 16384, B 2, D 64, 4096 taps"
    cases.append(ema_case("ema-pathx-16384", title, 16384, 2, 64, 4096))
    cases += [lm_case(length) for length in ((1024, 4096, 16384) if full else (1024, 4096))]
    lengths = (1024, 4096, 16384) if full else (4096,)
    cases += [lm_case(length, "windows", 512, WINDOWS) for length in lengths]
    title = "translation training step, 4096 tokens"
    cases.append(translation_case("translation", title, Sizes(), "wmt_en_de", 4096))
    title = "small translation (3+3 layers, D 256) training step, 2048 tokens"
    cases.append(translation_case("small-translation", title, SMALL, "iwslt_de_en", 2048))
    lengths = (1000, 2000, 3000, 4000) if full else (1000, 4000)
    cases += [text_case(length, chunk) for length in lengths for chunk in (-1, 128)]
    cases += [beam_case(27, 40, 5), beam_case(200, *((40, 5) if full else (10, 1)))]
    return cases + [generation_case(k) for k in (1, 8, 32)]
