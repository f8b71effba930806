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
import statistics
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Callable, Dict, Optional
from unittest.mock import patch

import numpy as np
import torch
from fairseq.utils import apply_to_sample
from torch.profiler import ProfilerActivity, profile

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
logging.disable(logging.INFO)  # of fairseq and hydra
warnings.simplefilter("ignore", UserWarning)  # of torch, about how fairseq uses it

from examples.benchmark import models  # noqa: E402
from examples.benchmark.fused import as_dense, as_fused  # noqa: E402
from examples.benchmark.plain import as_plain  # noqa: E402
from fairseq_mega.modules import MultiHeadEMA  # noqa: E402
from fairseq_mega.ops import operators  # noqa: E402

WARM_UP, REPETITIONS = 4, 15
SENTENCES = 40  # of a beam search
MEGA = ("ours", "ours, no Triton", "plain")
TRANSFORMERS = ("transformer", "fused")
TRANSLATION = ("mega_wmt_en_de", "transformer_wmt_en_de", 32768)  # with the vocabulary
LANGUAGE_MODEL = ("mega_lm_adaptive_big", "transformer_lm_wiki103", 267744)

Step = Callable[[], object]


def build(archs: tuple, side: str, device: str, **sizes: int) -> models.Built:
    mega, transformer, words = archs
    with torch.device(device):
        built = models.build(mega if side in MEGA else transformer, words, sizes)
    model = built.model.to(device, torch.bfloat16)
    change = {"plain": as_plain, "transformer": as_dense, "fused": as_fused}.get(side)
    return built._replace(model=change(model) if change else model)


def training_step(built: models.Built, sample: Dict, device: str) -> Step:
    """Forward and backward pass with the loss; the update is the same for all sides."""
    sample = apply_to_sample(lambda tensor: tensor.to(device), sample)
    built.model.train()

    def step():
        built.model.zero_grad()
        loss, size, _ = built.criterion(built.model, sample)
        (loss / size).backward()

    return step


def translation(side: str, device: str, tokens: int = 8192, **sizes: int) -> Step:
    sample = models.pairs(models.mean_batch(tokens), TRANSLATION[-1])
    return training_step(build(TRANSLATION, side, device, **sizes), sample, device)


def language_model(side: str, device: str, tokens: int, **sizes: int) -> Step:
    sample = models.text(tokens, LANGUAGE_MODEL[-1])
    return training_step(build(LANGUAGE_MODEL, side, device, **sizes), sample, device)


def beam_search(side: str, device: str, **sizes: int) -> Step:
    model = build(TRANSLATION, side, device, **sizes).model.eval()
    lengths = models.sentence_lengths(20000)
    lengths = lengths[np.abs(lengths[:, 0] - lengths[:, 0].mean()).argsort(kind="stable")]
    sample = models.pairs(lengths[:SENTENCES], TRANSLATION[-1])["net_input"]
    return models.beam_step(model, *(sample[f"src_{x}"].to(device) for x in ("tokens", "lengths")))


def average(side: str, device: str, length: int = 6144, channels: int = 1024) -> Step:
    """One EMA alone, forward and backward pass."""
    module = MultiHeadEMA(channels, 16).to(device, torch.bfloat16)
    module = as_plain(module) if side == "plain" else module
    x, grad = (torch.randn(1, length, channels, device=device).bfloat16() for _ in range(2))
    x.requires_grad_()

    def step():
        x.grad = None
        module.zero_grad()
        module(x).backward(grad)

    return step


CASES: Dict[str, tuple] = {
    "wmt": (translation, MEGA + TRANSFORMERS),
    "lm-6144": (lambda *where: language_model(*where, 6144), MEGA + TRANSFORMERS),
    "lm-16384": (lambda *where: language_model(*where, 16384), MEGA + TRANSFORMERS),
    "beam": (beam_search, ("ours", "ours, no Triton", "transformer")),
    "average": (average, MEGA),
}


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


def measured_side(prepare: Callable, side: str) -> Optional[Dict[str, float]]:
    """None where it does not fit into the memory."""
    forms = patch.object(operators, "runs_kernels", lambda x: side == "ours")
    with forms, suppress(torch.cuda.OutOfMemoryError):
        return measured(prepare(side, "cuda"))
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("measured.json"))
    out = parser.parse_args().out
    if not torch.cuda.is_available():
        sys.exit(f"this torch ({torch.__version__}) sees no GPU; see benchmark.py for a CPU")
    torch.manual_seed(1)
    found: Dict[str, Dict] = {}
    for case, (prepare, sides) in CASES.items():
        for side in sides:
            result = measured_side(prepare, side)
            print(case, side, result, flush=True)
            found.setdefault(case, {})[side] = result
    card = {"card": torch.cuda.get_device_name(), "torch": torch.__version__}
    out.write_text(json.dumps({**card, "found": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
