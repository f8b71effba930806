"""Times training steps and beam search at published sizes on a GPU: two minutes, less than 80 GB.

    python examples/benchmark/measure.py

Parameters are in bfloat16. Writes measured.json next to this file: for each case and side the
milliseconds of a step, those of its kernels alone, how many kernels there are, and the peak of
memory in GB. Sides: ``ours`` with Triton's kernels and without; ``plain``, the formulas in plain
torch; fairseq's ``transformer`` with its own attention; ``fused``, the same with torch's.
"""

import argparse
import gc
import json
import logging
import shlex
import statistics
import sys
import warnings
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Callable, Dict, Iterator, NamedTuple, Optional, Tuple
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
from torch.profiler import ProfilerActivity, profile

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
logging.disable(logging.INFO)  # of fairseq and hydra
warnings.simplefilter("ignore", UserWarning)  # of torch, about how fairseq uses it

from examples.benchmark.cases import sentence_lengths  # noqa: E402
from examples.benchmark.fused import as_dense, as_fused  # noqa: E402
from examples.benchmark.models import dictionary  # noqa: E402
from examples.benchmark.plain import as_plain  # noqa: E402
from fairseq_mega.modules import MultiHeadEMA  # noqa: E402
from fairseq_mega.ops import ema, operators  # noqa: E402

WARM_UP, REPETITIONS = 4, 15


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


class Case(NamedTuple):
    """A model's sizes may be made smaller by ``extra`` options."""

    name: str
    model: str  # "wmt" or "lm"
    prepare: Callable[["Case", str, str], Callable[[], object]]
    tokens: int = 0
    extra: str = ""

    @contextmanager
    def running(self, side: str, device: str) -> Iterator[Callable[[], object]]:
        """The step, to be run inside, as a side and on a device."""
        triton = side == "ours" and device == "cuda"
        plain = torch.device(device) if side == "plain" else nullcontext()
        with patch.object(operators, "runs_kernels", lambda x: triton), plain:
            yield self.prepare(self, side, device)


@cache
def _parse(words: str):
    parser = options.get_training_parser()
    args = options.parse_args_and_arch(parser, ["data", *shlex.split(words)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hydra's, about how fairseq uses it
        return convert_namespace_to_omegaconf(args)


def build(case: Case, side: str, device: str):
    """Model and criterion."""
    mega = side in ("ours", "ours, no Triton", "plain")
    cfg = _parse(f"{(MEGA if mega else TRANSFORMER)[case.model]} {case.extra}")
    words = dictionary(WORDS[case.model])
    task = {"wmt": TranslationTask, "lm": LanguageModelingTask}[case.model](cfg.task, words, words)
    with torch.device(device):
        model = task.build_model(cfg.model).to(device, torch.bfloat16)
    change = {"plain": as_plain, "transformer": as_dense, "fused": as_fused}.get(side)
    return (change(model) if change else model), task.build_criterion(cfg.criterion)


def training_step(case: Case, side: str, device: str) -> Callable[[], None]:
    """Forward and backward pass with the loss; the update is the same for all sides."""
    model, criterion = build(case, side, device)
    make = translation_batch if case.model == "wmt" else text
    sample = to_device(device, make(case.tokens, WORDS[case.model]))
    model.train()

    def step():
        model.zero_grad()
        loss, size, _ = criterion(model, sample)
        (loss / size).backward()

    return step


def beam_step(case: Case, side: str, device: str) -> Callable[[], Tensor]:
    """The order of the hypotheses, and the scores of the next words; each run is a word further."""
    model, _ = build(case, side, device)
    model.eval()
    lengths = sentence_lengths(20000)
    lengths = lengths[np.abs(lengths[:, 0] - lengths[:, 0].mean()).argsort(kind="stable")]
    sample = _pairs(lengths[:SENTENCES], WORDS["wmt"])
    sample = to_device(device, sample["net_input"])
    rows = torch.arange(SENTENCES, device="cpu").repeat_interleave(BEAM)
    with torch.no_grad():
        encoded = model.encoder(sample["src_tokens"], sample["src_lengths"])
        encoded = model.encoder.reorder_encoder_out(encoded, to_device(device, rows))
    tokens = to_device(device, torch.full((SENTENCES * BEAM, LONGEST), 5, device="cpu"))
    order = torch.arange(SENTENCES * BEAM, device="cpu").view(-1, BEAM).flip(1).flatten()
    order = to_device(device, order)
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


def cases_and_sides() -> Iterator[Tuple[Case, str]]:
    for case in CASES:
        for side in SIDES:
            if case.name != "beam" or side != "fused":  # there, one query reads the cache
                yield case, side


class Average(NamedTuple):
    """One EMA alone, forward and backward pass, by one of its forms."""

    form: str
    length: int = 6144
    channels: int = 1024
    ndim: int = 16

    def prepare(self, device: str) -> Callable[[], None]:
        module = MultiHeadEMA(self.channels, self.ndim).to(device, torch.bfloat16)
        x = torch.empty(1, self.length, self.channels, device=device, dtype=torch.bfloat16)
        grad = torch.empty_like(x)
        x.normal_().requires_grad_()
        grad.normal_()

        def step():
            x.grad = None
            module.zero_grad()
            self._average(module, x).to(x.dtype).backward(grad)

        return step

    def _average(self, module: MultiHeadEMA, x: Tensor) -> Tensor:
        if self.form == "Triton":
            return ema.fused_ema(x, module.ema_parameters())
        if self.form == "blocks":
            return ema.ema_by_blocks(x.float(), ema.block_matrices(module.directions(), ema.BLOCK))
        parameters = module.ema_parameters().precise()
        return ema.ema_by_kernel(x.float(), parameters, None, self.length, ema.fft)


def to_device(device: str, sample):
    return apply_to_sample(lambda tensor: tensor.to(device), sample)


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


CASES = (
    Case("wmt", "wmt", training_step, 8192),
    Case("lm-6144", "lm", training_step, 6144),
    Case("lm-16384", "lm", training_step, 16384),
    Case("beam", "wmt", beam_step),
)


# --- times ----------------------------------------------------------------------------------------


def measured(step: Callable[[], object]) -> Dict[str, float]:
    """Milliseconds of a step (the median), its kernels (copies and fills among them), and the peak
    of memory in GB."""
    gc.collect()  # what did not fit before
    torch.cuda.empty_cache()
    for _ in range(WARM_UP):
        step()
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(REPETITIONS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        step()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    peak = torch.cuda.max_memory_allocated() / 1e9
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        step()
        torch.cuda.synchronize()
    kernels = [event for event in profiler.events() if event.device_type.name == "CUDA"]
    busy = sum(event.device_time for event in kernels) / 1e3
    return {"ms": statistics.median(times), "busy_ms": busy, "kernels": len(kernels), "gb": peak}


def results() -> Iterator[tuple]:
    """Case, side, and what was measured; None where it does not fit into the memory."""
    for case, side in cases_and_sides():
        yield case.name, side, measured_case(case, side)
    for form in FORMS:
        yield "average", form, measured(Average(form).prepare("cuda"))


def measured_case(case: Case, side: str) -> Optional[Dict[str, float]]:
    with suppress(torch.cuda.OutOfMemoryError), case.running(side, "cuda") as step:
        return measured(step)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("measured.json"))
    out = parser.parse_args().out
    if not torch.cuda.is_available():
        sys.exit(f"this torch ({torch.__version__}) sees no GPU; see benchmark.py for a CPU")
    torch.manual_seed(1)
    found: Dict[str, Dict] = {}
    for case, side, result in results():
        print(case, side, result, flush=True)
        found.setdefault(case, {})[side] = result
    card = {"card": torch.cuda.get_device_name(), "torch": torch.__version__}
    out.write_text(json.dumps({**card, "found": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
