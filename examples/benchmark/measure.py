"""Times on a GPU what count.py counts: two minutes, and less than 80 GB of its memory.

    python examples/benchmark/measure.py

Writes measured.json beside this file; count.py puts it beside its estimates.
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
from typing import Callable, Dict, Iterator, Optional

import torch
from torch.profiler import ProfilerActivity, profile

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
logging.disable(logging.INFO)  # of fairseq and hydra
warnings.simplefilter("ignore", UserWarning)  # of torch, about how fairseq uses it

from examples.benchmark.counted import (  # noqa: E402
    FORMS,
    Average,
    Counted,
    Place,
    cases_and_sides,
)

WARM_UP, REPETITIONS = 4, 15


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


def measured_case(case: Counted, side: str) -> Optional[Dict[str, float]]:
    place = Place("cuda", torch.Tensor.cuda)
    with suppress(torch.cuda.OutOfMemoryError), case.running(side, place) as step:
        return measured(step)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("measured.json"))
    out = parser.parse_args().out
    if not torch.cuda.is_available():
        sys.exit(f"this torch ({torch.__version__}) sees no GPU; count.py needs none")
    torch.manual_seed(1)
    found: Dict[str, Dict] = {}
    for case, side, result in results():
        print(case, side, result, flush=True)
        found.setdefault(case, {})[side] = result
    card = {"card": torch.cuda.get_device_name(), "torch": torch.__version__}
    out.write_text(json.dumps({**card, "found": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
