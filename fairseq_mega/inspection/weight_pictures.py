"""Pictures of what ``memory`` finds in the weights of a checkpoint."""

import math
from typing import TYPE_CHECKING, Any, Dict, List, Sequence, Tuple

import numpy as np

from .memory import Gate, Kernel, Spans, quantiles
from .style import BACKWARD, COLOURS, FORWARD, grid, number, shared_legend, styled
from .weights import SIDES, Layer, relative_bias

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LONGEST_BIAS = 128  # offsets either way that are drawn
BINS = 60
DIRECTIONS = {"forward": (1, FORWARD, ""), "backward": (-1, BACKWARD, "////")}


def sides_of(layers: Sequence[str]) -> List[str]:
    """The sides that have any of these layers."""
    return [side for side in SIDES if any(layer.startswith(side) for layer in layers)]


def number_of(layer: str) -> int:
    return int(layer.split()[1])


# --- memory spans -------------------------------------------------------------------------------


def memory_rows(spans: List[Spans]) -> List[Tuple]:
    """The half-life of each dimension of each channel."""
    rows: List[Tuple] = [
        ("layer", "direction", "channel", "dimension", "half_life_tokens", "weight_in_kernel")
    ]
    for each in spans:
        values = each.half_lives.tolist(), each.weights.tolist()
        for channel, (half_lives, weights) in enumerate(zip(*values)):
            for n, pair in enumerate(zip(half_lives, weights)):
                rows.append((each.layer, each.direction, channel, n, *pair))
    return rows


def memory_figure(spans: List[Spans], chunks: Dict[str, int]) -> "Figure":
    """A row for each layer: how many of its EMA dimensions have which half-life.

    Args:
        chunks: the chunk size of each side that has one.
    """
    sides = sides_of([each.layer for each in spans])
    most = max(sum(each.layer.startswith(side) for each in spans) for side in sides)
    with styled():
        figure, panels = grid(len(sides), 2, (7.0 if len(sides) == 1 else 4.6, 1.2 + 0.35 * most))
        for axes, side in zip(panels, sides):
            _span_rows(axes, [each for each in spans if each.layer.startswith(side)])
            axes.set_title(side)
            if side in chunks:
                axes.axvline(chunks[side], color="black", linestyle=":", label="chunk size")
        shared_legend(figure, panels)
    return figure


def _span_rows(axes: "Axes", spans: List[Spans]) -> None:
    values = np.concatenate([each.half_lives.flatten().numpy() for each in spans])
    edges = np.geomspace(values.min() * 0.95, values.max() * 1.05, BINS + 1)
    centres = np.sqrt(edges[1:] * edges[:-1])
    layers = sorted({number_of(each.layer) for each in spans})
    both = any(each.direction == "backward" for each in spans)
    for each in spans:
        row, (sign, colour, hatch) = number_of(each.layer), DIRECTIONS[each.direction]
        counts, _ = np.histogram(each.half_lives.flatten().numpy(), edges)
        height = (0.42 if both else 0.8) * counts / counts.max()
        label = f"{each.direction} EMA" if row == layers[0] else None
        axes.fill_between(
            centres, row, row + sign * height, step="mid", color=colour, alpha=0.55,
            hatch=hatch, edgecolor="black", linewidth=0.4, label=label,
        )  # fmt: skip
        marks = (("median", each.median, "|", 9), ("longest", each.longest, "D", 5))
        for name, value, marker, size in marks:
            y = row + sign * (0.2 if both else 0.3)
            shown = name if row == layers[0] and sign > 0 else None
            axes.plot(
                [value], [y], marker=marker, markersize=size, linestyle="", color="black",
                markerfacecolor="white", markeredgewidth=1.3, label=shown,
            )  # fmt: skip
    axes.set_xscale("log")
    _plain_logarithmic(axes)
    axes.set_xlabel("half-life (tokens)")
    axes.set_ylabel("layer")
    axes.set_yticks(layers)
    axes.set_ylim(layers[0] - 0.6, layers[-1] + 0.9)


def _plain_logarithmic(axes: "Axes") -> None:
    """Numbers such as 0.5, 20 and 1000 where powers of ten alone would be too few."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_xlim()
    decades = math.log10(high / low)
    subs = [1.0, 2.0, 5.0] if decades < 3 else [1.0]
    if decades < 1:
        subs = [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0]
    axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())


# --- kernels ------------------------------------------------------------------------------------


def kernel_rows(kernels: List[Kernel]) -> List[Tuple]:
    rows: List[Tuple] = [("layer", "direction", "which", "channel", "lag_tokens", "weight")]
    for each in kernels:
        for lag, tap in zip(each.lags.tolist(), each.taps.tolist()):
            rows.append((each.layer, each.direction, each.which, each.channel, int(lag), tap))
    return rows


def kernel_figure(kernels: List[Kernel]) -> "Figure":
    """A panel for each layer: the weight of a token by its offset, tokens before on the left."""
    layers = list(dict.fromkeys(each.layer for each in kernels))
    with styled():
        figure, panels = grid(len(layers), 4, (3.0, 2.3))
        for axes, layer in zip(panels, layers):
            mine = [each for each in kernels if each.layer == layer]
            for each in mine:
                _kernel_line(axes, each)
            both = any(each.direction == "backward" for each in mine)
            _offset_axis(axes, max(each.lags.max().item() for each in mine), both)
            axes.set_title(layer)
            axes.set_ylabel("weight")
            axes.axhline(0, color="black", linewidth=0.6)
        shared_legend(figure, panels)
    return figure


def _kernel_line(axes: "Axes", kernel: Kernel) -> None:
    sign = -1 if kernel.direction == "forward" else 1
    strongest = kernel.which == "strongest"
    axes.plot(
        (sign * kernel.lags).numpy(),
        kernel.taps.numpy(),
        color=COLOURS[0] if strongest else COLOURS[1],
        linestyle="-" if strongest else "--",
        marker="o" if strongest else "s",
        markevery=max(len(kernel.lags) // 6, 1),
        markersize=3.5,
        label=f"{kernel.which} channel" if kernel.direction == "forward" else None,
    )


def _offset_axis(axes: "Axes", reach: float, both: bool) -> None:
    """Logarithmic but for 0 to 1, the same way as far after as before."""
    axes.set_xscale("symlog", linthresh=1)
    powers = range(int(math.log10(max(reach, 1))) + 1)
    powers = powers[:: 2 if both and len(powers) > 2 else 1]
    ticks = [-(10.0**power) for power in reversed(powers)] + [0.0]
    if both:
        ticks += [10.0**power for power in powers]
    axes.set_xticks(ticks, [f"{tick:g}".replace("-", "−") for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(-1.3 * reach, 1.3 * reach if both else 0.5)
    axes.set_xlabel("offset (tokens)")


# --- gates --------------------------------------------------------------------------------------


def gate_rows(gates: List[Gate]) -> List[Tuple]:
    rows: List[Tuple] = [("layer", "gate", "channel", "value_at_zero_input", "norm_of_weights")]
    for each in gates:
        pairs = zip(each.at_zero.tolist(), each.reach.tolist())
        rows += [(each.layer, each.gate, channel, *pair) for channel, pair in enumerate(pairs)]
    return rows


def gate_figure(gates: List[Gate]) -> "Figure":
    """For each kind of gate, boxes of the channels of each layer: values at a zero input, and the
    norms of the weights."""
    kinds = list(dict.fromkeys(each.gate for each in gates))
    with styled():
        figure, panels = grid(2 * len(kinds), 2, (4.4, 2.4))
        for i, kind in enumerate(kinds):
            mine = [each for each in gates if each.gate == kind]
            labels = [each.layer for each in mine]
            value, reach = panels[2 * i : 2 * i + 2]
            _boxes(value, labels, [quantiles(each.at_zero) for each in mine])
            _boxes(reach, labels, [quantiles(each.reach) for each in mine])
            value.set_title(kind)
            reach.set_title(kind)
            value.set_ylabel("value at a zero input")
            reach.set_ylabel("norm of weights")
            if kind.endswith(" u"):
                value.set_ylim(0, 1)
    return figure


def _boxes(axes: "Axes", labels: List[str], boxes: List[Dict[str, float]]) -> None:
    stats: List[Dict[str, Any]] = [
        dict(
            whislo=box["p5"], q1=box["p25"], med=box["p50"], q3=box["p75"], whishi=box["p95"],
            fliers=[],
        )
        for box in boxes
    ]  # fmt: skip
    axes.bxp(stats, showfliers=False, medianprops=dict(color=COLOURS[1], linewidth=2))
    many = len(labels) > 6
    short = [f"{label[0]}{number_of(label)}" if many else label for label in labels]
    step = -(-len(labels) // 12)  # more would overlap
    axes.set_xticks(range(1, len(labels) + 1, step), short[::step])
    axes.set_xlabel("layer (e encoder, d decoder)" if many else "layer")


# --- relative bias ------------------------------------------------------------------------------


def bias_rows(layers: List[Layer]) -> List[Tuple]:
    rows: List[Tuple] = [("layer", "attention", "offset_tokens", "bias")]
    for layer in layers:
        for attention, first, values in biases_of(layer):
            rows += [(layer.name, attention, first + i, v) for i, v in enumerate(values)]
    return rows


def biases_of(layer: Layer) -> List[Tuple[str, int, List[float]]]:
    """Of self and cross attention: the first offset that is drawn and the biases from there on."""
    reach = min(layer.chunk_size - 1 if layer.chunk_size > 0 else LONGEST_BIAS, LONGEST_BIAS)
    found = []
    for attention, weights in (("self", layer.weights), ("cross", layer.cross)):
        bias = relative_bias(weights, max(reach, 1))
        if bias is None:
            continue
        first, values = bias
        if attention == "self" and not layer.bidirectional:  # no key comes after the query
            values = values[: 1 - first]
        found.append((attention, first, values.tolist()))
    return found


def bias_figure(layers: List[Layer]) -> "Figure":
    """A panel for each layer: the bias by the offset of the key from the query."""
    with styled():
        figure, panels = grid(len(layers), 4, (3.0, 2.2))
        for axes, layer in zip(panels, layers):
            for attention, first, values in biases_of(layer):
                cross = attention == "cross"
                axes.plot(
                    range(first, first + len(values)),
                    values,
                    color=COLOURS[1] if cross else COLOURS[0],
                    linestyle="--" if cross else "-",
                    linewidth=1.1,
                    label=f"{attention} attention",
                )
            axes.set_title(layer.name)
            axes.set_xlabel("offset of the key (tokens)")
            axes.set_ylabel("bias (logits)")
        shared_legend(figure, panels)
    return figure
