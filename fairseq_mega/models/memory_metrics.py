"""What a training's log says of the memory of the EMAs, beside the losses.

``memory_e0_longest`` and ``memory_e0_median`` are the half-lives, in positions, of the EMA of the
encoder's layer 0: the longest of all channels and dimensions, and their median. ``d0`` is the
decoder's layer 0. A memory of ``m`` positions, as ``--ema-longest`` means it, is a half-life of
``0.69 m``.
"""

import re
import weakref
from functools import partial
from typing import Dict, Optional

import torch
from fairseq.distributed import FullyShardedDataParallel
from fairseq.logging import metrics
from torch import nn

from ..modules import MultiHeadEMA
from ..ops.ema import half_lives

PREFIX = "memory_"
LAST = 100_000  # a priority: after all that fairseq has in a line


def log_memory_spans(model: nn.Module) -> None:
    """Adds the metrics to those that fairseq collects, to be called in every update.

    They are *derived*: fairseq computes them when it writes a line, and only then is anything
    waited for. Fully sharded models have none: no process has the whole of a parameter.
    """
    if all(_has_spans(meters) for meters in metrics.get_active_aggregators()):
        return
    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        return
    for label, ema in emas_by_label(model).items():
        for statistic in ("longest", "median"):
            # fairseq keeps its metrics for as long as the process lives.
            value = partial(_span, weakref.ref(ema), statistic)
            metrics.log_derived(f"{PREFIX}{label}_{statistic}", value, LAST)


def _has_spans(meters) -> bool:
    return any(key.startswith(PREFIX) for key in meters)


def emas_by_label(model: nn.Module) -> Dict[str, MultiHeadEMA]:
    """The EMAs by ``e`` or ``d``, for encoder and decoder, and the number of the layer."""
    found = {}
    for name, module in model.named_modules():
        number = re.search(r"\.(\d+)\.mega_layer\.move$", name)
        if number and isinstance(module, MultiHeadEMA):
            found[f"{'d' if name.startswith('decoder.') else 'e'}{number[1]}"] = module
    return found


@torch.no_grad()
def _span(ema: weakref.ref, statistic: str, _meters) -> Optional[float]:
    """The longest or the median half-life, to three digits; None where the model is gone."""
    module: Optional[MultiHeadEMA] = ema()
    if module is None:
        return None
    spans = torch.cat([half_lives(each.log_decay).flatten() for each in module.directions()])
    value = spans.max() if statistic == "longest" else spans.median()
    return float(f"{value.item():.3g}")
