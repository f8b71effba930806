"""The utilisation of the device in the lines of a training's log, with ``--peak-tflops``.

``tflops`` is how many of the model's floating-point operations (FLOPs) the device of the first
process makes in a second, in 10^12. ``mfu``, the model FLOPs utilisation, is its percentage of the
device's peak. FLOPs are counted as in appendix B of PaLM (Chowdhery et al., 2022,
arXiv:2204.02311): forward and backward pass take 6 FLOPs for each position and parameter, and
``6 T (Z + H)`` for each position and layer that attends to ``T`` positions, with queries of ``Z``
and values of ``H`` features. Recomputed activations do not count, nor does the causal mask; neither
do embeddings, the tails of an adaptive softmax, and the FFT. Positions of padding do count.
"""

from functools import partial
from typing import List, NamedTuple, Optional

from fairseq.logging import metrics
from torch import nn

from ..modules.chunks import chunks_in_window
from .options import Options, cutoffs

PRIORITY = 110  # in a line, after fairseq's ups
INPUTS = ("src_tokens", "src_lengths", "prev_output_tokens")


class Stack(NamedTuple):
    """The layers of an encoder or decoder, with the output projection."""

    parameters: int
    features: int  # of queries and values in all layers
    cross_features: int  # of those in the cross attention
    window: int  # keys of a position in chunks; negative for full attention

    def flops(self, batch: int, length: int, source: int) -> int:
        """FLOPs of forward and backward pass on ``(B, L)`` with sources ``(B, S)``."""
        reach = min(length, self.window) if self.window > 0 else length
        attention = self.features * reach + self.cross_features * source
        return 6 * batch * length * (self.parameters + attention)


def log_utilisation(model, o: Options) -> None:
    """Adds the metrics to those that fairseq collects in training, with ``--peak-tflops``."""
    if o.peak_tflops is None:
        return
    stacks: List[Stack] = []
    for side in [side for side in ("encoder", "decoder") if hasattr(model, side)]:
        layers, dim = getattr(model, side).layers, o[f"{side}_embed_dim"]
        parameters, cross = sum(layer.size for layer in layers), 0
        if side == "decoder":
            words = cutoffs(o.adaptive_softmax_cutoff) or [len(model.decoder.dictionary)]
            parameters += words[0] * dim
            cross = o.decoder_z_dim + dim if stacks else 0
        features = o[f"{side}_z_dim"] + o[f"{side}_hidden_dim"]
        sizes = len(layers) * features, len(layers) * cross
        window = chunks_in_window(o[f"{side}_chunks_before"], causal=side == "decoder")
        stacks.append(Stack(parameters, *sizes, window * o[f"{side}_chunk_size"]))
    model.register_forward_pre_hook(partial(_count, stacks, o.peak_tflops), with_kwargs=True)


def _count(stacks: List[Stack], peak: float, model: nn.Module, args, kwargs) -> None:
    if not model.training:
        return
    inputs = {**dict(zip(INPUTS, args)), **kwargs}
    tokens = [inputs[name] for name in INPUTS[::2] if name in inputs]  # one for each stack
    flops = [
        stack.flops(each.size(0), each.size(1), tokens[0].size(1))
        for stack, each in zip(stacks, tokens)
    ]
    metrics.log_scalar("_flops", sum(flops))
    # Derived: computed when fairseq writes a line.
    metrics.log_derived("tflops", _tflops, PRIORITY)
    metrics.log_derived("mfu", partial(_tflops, percent_of=peak), PRIORITY)


def _tflops(meters, percent_of: float = 100.0) -> Optional[float]:
    """FLOPs per update times updates per second, to three digits; None where none was made."""
    if "ups" not in meters:
        return None
    per_update = meters["_flops"].sum / meters["gnorm"].count / 1e12
    return float(f"{per_update * meters['ups'].avg * 100 / percent_of:.3g}")
