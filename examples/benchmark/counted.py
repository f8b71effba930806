"""The steps that are counted and, on a GPU, timed: published sizes, parameters in bfloat16."""

import shlex
import warnings
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Callable, Dict, Iterator, NamedTuple, Tuple
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from fairseq import options
from fairseq.data.data_utils import batch_by_size
from fairseq.data.language_pair_dataset import collate
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.tasks.language_modeling import LanguageModelingTask
from fairseq.tasks.translation import TranslationTask
from fairseq.utils import apply_to_sample
from torch import Tensor

from fairseq_mega.modules import MultiHeadEMA
from fairseq_mega.ops import ema, operators

from .cases import sentence_lengths
from .counter import Counter, Counts
from .fused import as_dense, as_fused
from .models import dictionary
from .plain import as_plain

BEAM, SENTENCES, LONGEST = 5, 40, 32  # words: as many as a step is run at most
_TRANSLATION = (
    "--task translation --source-lang en --target-lang de --share-all-embeddings "
    "--criterion label_smoothed_cross_entropy --label-smoothing 0.1"
)
_LANGUAGE_MODEL = "--task language_modeling --criterion adaptive_loss --ddp-backend legacy_ddp"
MEGA = {
    "wmt": f"--arch mega_wmt_en_de {_TRANSLATION}",
    "lm": f"--arch mega_lm_adaptive_big {_LANGUAGE_MODEL} --decoder-chunk-size 1024 "
    "--rel-pos-bias rotary --normalize-before --no-affine-final-norm --truncation-length 8192 "
    "--max-target-positions 16384",
}
TRANSFORMER = {
    "wmt": f"--arch transformer_wmt_en_de {_TRANSLATION}",
    "lm": f"--arch transformer_lm_wiki103 {_LANGUAGE_MODEL} --max-target-positions 16384",
}
WORDS = {"wmt": 32768, "lm": 267744}
FORMS = ("Triton", "blocks", "FFTs")
SIDES = ("ours", "ours, no Triton", "plain", "transformer", "fused")


class Counted(NamedTuple):
    """A model's sizes may be made smaller by ``extra`` options."""

    name: str
    title: str
    model: str  # "wmt" or "lm"
    prepare: Callable[["Counted", str, "Place"], Callable[[], object]]
    first: int  # the run of the step that is counted: tables that are kept are there by then
    tokens: int = 0
    extra: str = ""

    def count(self, side: str) -> Counts:
        """What a step would do, on the meta device."""
        with Counter() as counter, self.running(side, Place("meta", counter.on_device)) as step:
            for _ in range(self.first):
                counter.start()
                step()
            return counter.counts

    @contextmanager
    def running(self, side: str, place: "Place") -> Iterator[Callable[[], object]]:
        """The step, to be run inside, as a side and on a device."""
        triton = side == "ours" and place.device in ("meta", "cuda")
        plain = torch.device(place.device) if side == "plain" else nullcontext()
        with patch.object(operators, "runs_kernels", lambda x: triton), plain:
            yield self.prepare(self, side, place)


class Place(NamedTuple):
    """A device, and how tensors of the host get there."""

    device: str
    move: Callable[[Tensor], Tensor]


@cache
def _parse(words: str):
    parser = options.get_training_parser()
    args = options.parse_args_and_arch(parser, ["data", *shlex.split(words)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hydra's, about how fairseq uses it
        return convert_namespace_to_omegaconf(args)


def build(counted: Counted, side: str, device: str):
    """Model and criterion."""
    mega = side in ("ours", "ours, no Triton", "plain")
    cfg = _parse(f"{(MEGA if mega else TRANSFORMER)[counted.model]} {counted.extra}")
    words = dictionary(WORDS[counted.model])
    task = {"wmt": TranslationTask, "lm": LanguageModelingTask}[counted.model](
        cfg.task, words, words
    )
    with torch.device(device):
        model = task.build_model(cfg.model).to(device, torch.bfloat16)
    change = {"plain": as_plain, "transformer": as_dense, "fused": as_fused}.get(side)
    return (change(model) if change else model), task.build_criterion(cfg.criterion)


def training_step(counted: Counted, side: str, place: Place) -> Callable[[], None]:
    """Forward and backward pass with the loss; the update is the same for all sides."""
    model, criterion = build(counted, side, place.device)
    make = translation_batch if counted.model == "wmt" else text
    sample = apply_to_sample(place.move, make(counted.tokens, WORDS[counted.model]))
    model.train()

    def step():
        model.zero_grad()
        loss, size, _ = criterion(model, sample)
        (loss / size).backward()

    return step


def beam_step(counted: Counted, side: str, place: Place) -> Callable[[], Tensor]:
    """The order of the hypotheses, and the scores of the next words; each run is a word further."""
    model, _ = build(counted, side, place.device)
    model.eval()
    lengths = sentence_lengths(20000)
    lengths = lengths[np.abs(lengths[:, 0] - lengths[:, 0].mean()).argsort(kind="stable")]
    sample = _pairs(lengths[:SENTENCES], WORDS["wmt"])
    sample = apply_to_sample(place.move, sample["net_input"])
    rows = torch.arange(SENTENCES, device="cpu").repeat_interleave(BEAM)
    with torch.no_grad():
        encoded = model.encoder(sample["src_tokens"], sample["src_lengths"])
        encoded = model.encoder.reorder_encoder_out(encoded, place.move(rows))
    tokens = place.move(torch.full((SENTENCES * BEAM, LONGEST), 5, device="cpu"))
    order = torch.arange(SENTENCES * BEAM, device="cpu").view(-1, BEAM).flip(1).flatten()
    order = place.move(order)
    state, words = {}, iter(range(1, LONGEST + 1))

    @torch.no_grad()
    def step():
        nonlocal encoded
        length = next(words)
        if length > 1:
            model.decoder.reorder_incremental_state_scripting(state, order)
            encoded = model.encoder.reorder_encoder_out(encoded, order)
        logits, _ = model.decoder(tokens[:, :length], encoder_out=encoded, incremental_state=state)
        return F.log_softmax(logits[:, -1].float(), dim=-1)

    return step


def cases_and_sides() -> Iterator[Tuple[Counted, str]]:
    for case in COUNTED:
        for side in SIDES:
            if case.name != "beam" or side != "fused":  # there, one query reads the cache
                yield case, side


class Average(NamedTuple):
    """One EMA alone, forward and backward pass, by one of its forms."""

    form: str
    length: int = 6144
    channels: int = 1024
    ndim: int = 16

    def count(self) -> Counts:
        with Counter() as counter:
            step = self.prepare("meta")
            counter.start()
            step()
            return counter.counts

    def prepare(self, device: str) -> Callable[[], None]:
        module = MultiHeadEMA(self.channels, self.ndim).to(device, torch.bfloat16)
        x = torch.empty(1, self.length, self.channels, device=device, dtype=torch.bfloat16)
        grad = torch.empty_like(x)
        if device != "meta":
            x.normal_()
            grad.normal_()
        x.requires_grad_()

        def step():
            x.grad = None
            module.zero_grad()
            self._average(module, x).to(x.dtype).backward(grad)

        return step

    def _average(self, module: MultiHeadEMA, x: Tensor) -> Tensor:
        if self.form == "Triton":
            return ema.fused_ema(x, module.ema_parameters())
        (coefficients,) = module.directions()
        if self.form == "blocks":
            return ema.ema_by_blocks(x.float(), ema.block_matrices([coefficients], ema.BLOCK))
        return ema.fft_convolution(x.float(), ema.kernel_taps(coefficients, self.length))


# --- data -----------------------------------------------------------------------------------------


def zipf(random: np.random.Generator, words: int, count: int) -> Tensor:
    """Words of a dictionary, as frequent as in Zipf's law."""
    return torch.from_numpy(np.exp(random.uniform(np.log(4), np.log(words), count)).astype(int))


def text(tokens: int, words: int) -> Dict:
    """One sample of a language model."""
    text = zipf(np.random.default_rng(2), words, tokens + 1).unsqueeze(0)
    net_input = {"src_tokens": text[:, :-1], "src_lengths": torch.tensor([tokens], device="cpu")}
    return {"net_input": net_input, "target": text[:, 1:].contiguous(), "ntokens": tokens}


def translation_batch(tokens: int, words: int) -> Dict:
    """The batch of sentences of mean length, out of all batches of a corpus sorted by length."""
    lengths = sentence_lengths(20000)
    longest = lengths.max(axis=1)
    order = np.lexsort(lengths.T[::-1])  # by source, then by target
    batches = batch_by_size(order, None, longest[order], tokens, None, 8)
    batch = min(batches, key=lambda b: abs(lengths[b].mean() - lengths.mean()))
    return _pairs(lengths[batch], words)


def _pairs(lengths: np.ndarray, words: int) -> Dict:
    random, names = np.random.default_rng(2), dictionary(words)
    pairs = []
    for i, pair in enumerate(lengths):
        source, target = (zipf(random, words, int(n)) for n in pair)
        source[-1] = target[-1] = names.eos()
        pairs.append({"id": i, "source": source, "target": target})
    with torch.device("cpu"):
        return collate(pairs, names.pad(), names.eos())


COUNTED = (
    Counted("wmt", "`mega_wmt_en_de`, a training step of 8,192 tokens", "wmt", training_step, 2,
            8192),
    Counted("lm-6144", "`mega_lm_adaptive_big` for WikiText-103, a training step of 6,144 tokens, "
            "chunk 1024", "lm", training_step, 2, 6144),
    Counted("lm-16384", "the same, a step of 16,384 tokens", "lm", training_step, 2, 16384),
    Counted("beam", f"`mega_wmt_en_de`, a step of beam search: {SENTENCES} sentences, beam {BEAM}",
            "wmt", beam_step, 4),
)  # fmt: skip
