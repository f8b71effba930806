"""The memory of the EMAs in the lines of a training's log.

``memory_longest`` and ``memory_median`` are the longest half-life of the model's EMAs, in
positions, and the median over all layers, channels and dimensions. ``--log-memory-per-layer`` adds
those of each layer, such as ``memory_e0_longest``: ``e0`` is the encoder's layer 0, ``d0`` the
decoder's. A memory of ``m`` positions, as ``--ema-longest`` defines it, is a half-life of
``0.69 m``.
"""

import weakref
from functools import partial
from typing import Dict, List, Optional

import torch
from fairseq.distributed import FullyShardedDataParallel
from fairseq.logging import metrics
from torch import nn

from ..modules import MultiHeadEMA
from ..ops.ema import half_lives
from .layers import Layer

LAST = 100_000  # a priority: after all of fairseq's metrics in a line


def log_memory_spans(model: nn.Module) -> None:
    """Adds the metrics to those that fairseq collects in an update. fairseq computes them when it
    writes a line, so that updates need no host-device synchronisation. Fully sharded models have
    none: no process holds complete parameters."""
    if all("memory_longest" in meters for meters in metrics.get_active_aggregators()):
        return
    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        return
    for label, emas in emas_by_label(model).items():
        # fairseq keeps its metrics for as long as the process lives.
        references = [weakref.ref(ema) for ema in emas]
        for statistic in ("longest", "median"):
            value = partial(_span, references, statistic)
            metrics.log_derived(f"memory_{label}{statistic}", value, LAST)


def emas_by_label(model: nn.Module) -> Dict[str, List[MultiHeadEMA]]:
    """All EMAs of the model, labelled ``""``; with ``--log-memory-per-layer`` also those of
    each layer, labelled ``e0_`` and so on."""
    found: Dict[str, List[MultiHeadEMA]] = {"": []}
    for name, layer in model.named_modules():
        if isinstance(layer, Layer):
            emas = [module for module in layer.modules() if isinstance(module, MultiHeadEMA)]
            found[""] += emas
            if layer.logs_memory:
                side = "d" if name.startswith("decoder.") else "e"
                found[f"{side}{name.rpartition('.')[2]}_"] = emas
    return found


@torch.no_grad()
def _span(references: List[weakref.ref], statistic: str, _meters) -> Optional[float]:
    """The longest or the median half-life, to three digits; None if the model is gone."""
    emas = [ema for reference in references if (ema := reference()) is not None]
    if len(emas) < len(references):
        return None
    logs = [each.log_decay for ema in emas for each in ema.directions()]
    spans = torch.cat([half_lives(log_decay).flatten() for log_decay in logs])
    value = spans.max() if statistic == "longest" else spans.median()
    return float(f"{value.item():.3g}")
