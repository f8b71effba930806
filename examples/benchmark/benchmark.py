"""Measures Mega against its formulas in plain torch, Transformers, and the floor.

    python examples/benchmark/benchmark.py           about ten minutes on two CPU cores
    python examples/benchmark/benchmark.py --full    with the lengths that take longer
    python examples/benchmark/benchmark.py --only ema lm-1024
    python examples/benchmark/benchmark.py --device cuda
    python examples/benchmark/benchmark.py --matmul medium    products in lower precision, all sides

Prints a table, and writes it to the output folder with results.json and chart.png.
"""

import argparse
import ctypes
import gc
import logging
import multiprocessing
import platform
import re
import statistics
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Callable, Dict, List, Optional, Tuple

import torch
import torch._dynamo  # noqa: F401 - or the first step of each process imports it

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
logging.disable(logging.INFO)  # of fairseq and hydra
warnings.simplefilter("ignore", UserWarning)  # of torch, about how fairseq uses it

from examples.benchmark.cases import (  # noqa: E402
    BeamSearchCase,
    Case,
    EMACase,
    GenerationCase,
    LanguageModelCase,
    LayerCase,
    TextCase,
    TranslationCase,
)
from examples.benchmark.models import OPTIONS, parse  # noqa: E402
from examples.benchmark.report import write_report  # noqa: E402

FEWEST, MOST = 2, 25  # repetitions
PATIENCE = 3.0  # seconds after which a case has repetitions enough
LONG = 30.0  # seconds of one repetition that need no other

EMA_GOALS = {
    "ema-causal-1024": {"plain": 4, "floor": 2.5},
    "ema-causal-4096": {"plain": 9, "floor": 2.5, "plain memory": 1 / 6},
    "ema-bidirectional-1024": {"plain": 8, "floor": 2.5},
    "ema-bidirectional-4096": {"plain": 18, "floor": 2.5, "plain memory": 1 / 6},
}
LM_GOALS = {
    4096: {"plain": 1.6, "transformer": 1.3, "floor": 1.45, "plain memory": 0.45},
    16384: {"plain": 1.8, "transformer": 3, "plain memory": 0.4},
}
# The paper's for texts of 4,000, with and without chunks.
TEXT_GOALS = {
    -1: {"transformer": 2.9, "transformer memory": 0.31},
    128: {"transformer": 5.5, "transformer memory": 0.13},
}


def all_cases(full: bool) -> List[Case]:
    return [*_layers(full), *_training_steps(full), *_texts(full), *_generation(full)]


def _layers(full: bool) -> List[Case]:
    cases: List[Case] = []
    for kind in ("causal", "bidirectional"):
        lengths = ((128, 8), (1024, 1), (4096, 1), *([(16384, 1)] if full else []))
        for length, batch in lengths:
            name = f"ema-{kind}-{length}"
            title = f"EMA, {kind}, L {length}" + f", B {batch}" * (batch > 1)
            goals = EMA_GOALS.get(name, {})
            sizes = dict(length=length, batch=batch, bidirectional=kind == "bidirectional")
            cases.append(EMACase(name, title, goals, **sizes))
    sizes = dict(length=16384, batch=2, bidirectional=True, truncation=4096, embed_dim=64)
    title = "EMA of Path-X, bidirectional, L 16384, B 2, D 64, 4096 taps"
    cases.append(EMACase("ema-pathx-16384", title, {"floor": 2.5}, **sizes))
    for length, chunk in ((1024, -1), (4096, -1), (4096, 1024)):
        kind = "full" if chunk < 0 else f"chunk {chunk}"
        name = f"layer-{'full' if chunk < 0 else 'chunked'}-{length}"
        title = f"Mega layer, {kind}, L {length}"
        cases.append(LayerCase(name, title, length=length, chunk_size=chunk))
    return cases


def _training_steps(full: bool) -> List[Case]:
    cases: List[Case] = []
    for length in (1024, 4096, 16384) if full else (1024, 4096):
        title = f"LM training step, chunk 1024, L {length}"
        goals = LM_GOALS.get(length, {})
        cases.append(LanguageModelCase(f"lm-{length}", title, goals, length=length))
    goals = {"plain": 1.3, "transformer": 0.8, "floor": 1.7}
    cases.append(TranslationCase("translation", "translation training step, 4096 tokens", goals))
    title = "small translation (3+3 layers, D 256) training step, 2048 tokens"
    sizes = dict(layers=3, embed_dim=256, hidden_dim=512, z_dim=64, attention_heads=4)
    sizes = dict(sizes, max_tokens=2048, preset="iwslt_de_en")
    cases.append(TranslationCase("small-translation", title, **sizes))
    return cases


def _texts(full: bool) -> List[Case]:
    cases: List[Case] = []
    for length in (1000, 2000, 3000, 4000) if full else (1000, 4000):
        for chunk in (-1, 128):
            name = f"text-{'full' if chunk < 0 else 'chunked'}-{length}"
            kind = "full" if chunk < 0 else f"chunk {chunk}"
            title = f"text classification training step, {kind}, L {length}, B 2"
            goals = TEXT_GOALS[chunk] if length == 4000 else {}
            cases.append(TextCase(name, title, goals, length=length, chunk_size=chunk))
    return cases


def _generation(full: bool) -> List[Case]:
    cases: List[Case] = []
    for tokens, batch, parts, least in (
        (27, 40, 5, 1.3),
        (200, *((40, 5) if full else (10, 1)), 2),
    ):
        title = f"beam 5, {batch * parts} sentences, outputs of {tokens}"
        goals = {"plain": least, "transformer": 1.2}
        sizes = dict(tokens=tokens, batch=batch, parts=parts)
        cases.append(BeamSearchCase(f"beam-{tokens}", title, goals, **sizes))
    for k in (1, 8, 32):
        title = f"generation, chunk 1024, a token at context {k}k"
        cases.append(GenerationCase(f"generation-{k}k", title, length=1024 * k))
    return cases


# --- one case -------------------------------------------------------------------------------------


def isolated(function: Callable, *args):
    """The function's result in a process of its own. This process never computes, so that each of
    them starts with untouched memory and no threads."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def run():
        gc.freeze()  # the libraries' objects: to look through them takes longer than a short step
        sender.send(function(*args))

    process = context.Process(target=run)
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        raise SystemExit(f"{function.__name__}{args} ended with {process.exitcode}") from None
    finally:
        process.join()


def measure(case: Case, device: torch.device, matmul: str) -> Dict:
    """Seconds of every side, in turns on the same inputs, after the sides were compared, in full
    precision. `matmul` is what torch.set_float32_matmul_precision takes."""
    works = {side: case.build(side).to(device) for side in case.sides}
    for work in works.values():
        work.prepare()
    faults = case.faults(works)
    counts = {side: work.parameters for side, work in works.items()}
    if case.has_floor:
        works["floor"] = case.floor(works["ours"])
    torch.set_float32_matmul_precision(matmul)

    seconds: Dict[str, List[float]] = {side: [] for side in works}
    start = time.perf_counter()
    for repetition in range(MOST):
        for side, work in list(works.items())[:: 1 if repetition % 2 else -1]:
            seconds[side].append(timed(work, repetition, device))
        spent = time.perf_counter() - start
        if repetition == 0 and spent < PATIENCE:  # a warm-up, where it makes a difference
            seconds = {side: [] for side in works}
        fewest = max(1 if spent > LONG else FEWEST, case.parts)
        if repetition + 1 >= fewest and spent > PATIENCE:
            break
    return {
        "seconds": {s: case.parts * statistics.median(times) for s, times in seconds.items()},
        "repetitions": seconds,
        "parameters": counts,
        "faults": faults,
    }


def timed(work: Callable, repetition: int, device: torch.device) -> float:
    gc.collect()
    start = time.perf_counter()
    work(repetition)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_memory(case: Case, side: str, device: torch.device) -> Optional[float]:
    """MiB that one repetition takes at its peak above what the process (or the GPU) held with the
    model and inputs alone; gradients and the optimizer's state are part of it."""
    cuda = device.type == "cuda"
    if not cuda and not Path("/proc/self/clear_refs").exists():
        return None  # not Linux
    small = case.tiny().build(side).to(device)
    small.prepare()
    small(0)
    del small
    work = case.build(side).to(device)
    _free_unused()
    before = torch.cuda.memory_allocated() / 1024 if cuda else _status("VmRSS")
    work.prepare()
    _free_unused()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
    work(0)
    after = torch.cuda.max_memory_allocated() / 1024 if cuda else _status("VmHWM")
    return (after - before) / 1024


def device_name(device: torch.device) -> Tuple[str, Optional[str]]:
    """The device's name, and why torch cannot use it."""
    try:
        torch.zeros(1, device=device)
    except (AssertionError, RuntimeError) as error:  # torch without CUDA; no GPU
        return "", str(error).splitlines()[0]
    if device.type == "cuda":
        return torch.cuda.get_device_name(), None
    return platform.processor() or platform.machine(), None


def _status(name: str) -> int:
    """A number of KiB that Linux knows of this process."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE).group(1))


def _free_unused() -> None:
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


# --- all of it ------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="add the lengths that take longer")
    parser.add_argument("--only", nargs="+", default=[""], help="cases: how their names begin")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to compute")
    parser.add_argument(
        "--matmul",
        choices=["highest", "high", "medium"],
        default="highest",
        help="torch.set_float32_matmul_precision, on all sides (highest)",
    )
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "benchmark")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to test this program")
    args = parser.parse_args()

    cases = [c for c in all_cases(args.full) if c.name.startswith(tuple(args.only))]
    if not cases:
        names = ", ".join(case.name for case in all_cases(args.full))
        sys.exit(f"no case begins with {' or '.join(args.only)}: there are {names}")
    if args.tiny:
        cases = [replace(case.tiny(), goals={}) for case in cases]
    device = torch.device(args.device)
    name, fault = isolated(device_name, device)
    if fault:
        sys.exit(
            f"--device {device}: torch cannot use it here ({fault}); --device cpu needs no GPU"
        )
    machine = {
        "processor": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "dtype": "float32",
        "matmul precision": args.matmul,
    }
    for arch in OPTIONS:
        parse(arch)  # once, for all processes to come
    results, start = [], time.time()
    for case in cases:
        memory = {side: isolated(peak_memory, case, side, device) for side in case.sides}
        result = {**isolated(measure, case, device, args.matmul), "peak_mib": memory}
        results.append((case, result))
        times = ", ".join(f"{side} {s:.3g} s" for side, s in result["seconds"].items())
        print(f"[{time.time() - start:4.0f} s] {case.title}: {times}", flush=True)
    print("\n" + write_report(args.out, machine, results))
    if any(result["faults"] for _, result in results):
        sys.exit("sides that could not be compared have no ratio: see the tables")


if __name__ == "__main__":
    main()
