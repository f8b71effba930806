"""Measures Mega, its formulas in plain torch, and Transformers of the same size.

    python examples/benchmark/benchmark.py           about ten minutes on two CPU cores
    python examples/benchmark/benchmark.py --full    with the lengths that take longer
    python examples/benchmark/benchmark.py --only ema lm-1024
    python examples/benchmark/benchmark.py --device cuda

Prints tables of times and of memory, and writes them to results.md in the output folder.
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
from pathlib import Path
from typing import Callable, Dict, List, Optional, Tuple

import torch
import torch._dynamo  # noqa: F401 - or the first step of each process imports it

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
logging.disable(logging.INFO)  # of fairseq and hydra
warnings.simplefilter("ignore", UserWarning)  # of torch, about how fairseq uses it

from examples.benchmark.cases import Case, all_cases  # noqa: E402
from examples.quickstart.demo import table  # noqa: E402

SIDES = ("ours", "plain", "transformer", "fused", "int8", "before")
FEWEST, MOST = 2, 25  # repetitions
PATIENCE = 3.0  # seconds after which a case has repetitions enough
LONG = 30.0  # seconds of one repetition that need no other


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
        sys.exit(f"{function.__name__} ended with status {process.exitcode}: see above")
    finally:
        process.join()


def measure(case: Case, device: torch.device, tiny: bool) -> Dict[str, float]:
    """Seconds of every side, interleaved on the same inputs."""
    works = {side: case.build(side, tiny).to(device) for side in case.sides}
    for work in works.values():
        work.prepare()
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
    return {side: case.parts * statistics.median(times) for side, times in seconds.items()}


def timed(work: Callable, repetition: int, device: torch.device) -> float:
    gc.collect()
    start = time.perf_counter()
    work(repetition)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_memory(case: Case, side: str, device: torch.device, tiny: bool) -> Optional[float]:
    """MiB that one repetition takes at its peak above what the process (or the GPU) held with the
    model and inputs alone; gradients and the optimizer's state are part of it."""
    cuda = device.type == "cuda"
    if not cuda and not Path("/proc/self/clear_refs").exists():
        return None  # not Linux
    small = case.build(side, True).to(device)
    small.prepare()
    small(0)
    del small
    work = case.build(side, tiny).to(device)
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


def _status(name: str) -> int:
    """KiB of this process, from Linux's /proc/self/status."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE).group(1))


def _free_unused() -> None:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # glibc's


def row(title: str, values: Dict[str, Optional[float]], form: Callable) -> Tuple[str, ...]:
    """Values of the sides, with their ratios to ours in brackets."""
    cells = [title]
    for side in SIDES:
        value = values.get(side)
        text = "" if value is None else form(value)
        if value and side != "ours":
            text += f" ({value / values['ours']:.2f})"
        cells.append(text)
    return tuple(cells)


def duration(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="add the lengths that take longer")
    parser.add_argument("--only", nargs="+", default=[""], help="cases: how their names begin")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to compute")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "benchmark")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to test this program")
    args = parser.parse_args()

    cases = [c for c in all_cases(args.full) if c.name.startswith(tuple(args.only))]
    if not cases:
        parser.error(f"--only: there are {' '.join(case.name for case in all_cases(args.full))}")
    device = torch.device(args.device)
    name = platform.processor() or platform.machine()
    if args.device == "cuda":
        if not isolated(torch.cuda.is_available):
            sys.exit(f"--device cuda: torch {torch.__version__} sees no GPU; leave it out")
        name = isolated(torch.cuda.get_device_name)
    times = [("time (and that of ours)", *SIDES)]
    memory = [("peak memory, MiB (and that of ours)", *SIDES)]
    start = time.time()
    for case in cases:
        seconds = isolated(measure, case, device, args.tiny)
        peaks = {side: isolated(peak_memory, case, side, device, args.tiny) for side in case.sides}
        times.append(row(case.title, seconds, duration))
        memory.append(row(case.title, peaks, "{:.0f}".format))
        print(f"[{time.time() - start:4.0f} s] {' | '.join(times[-1])}", flush=True)
    text = (
        f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, float32; in "
        f"brackets: times ours\n\n{table(times)}\n\n{table(memory)}\n"
    )
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.md").write_text(text)
    print(f"\n{text}\nWritten to {args.out}.")


if __name__ == "__main__":
    main()
