"""Figures of a checkpoint's weights, and the page of ``inspect``."""

from statistics import median
from typing import Dict, List

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import SymmetricalLogLocator

from .memory import LONGEST_BIAS, Rows, bias_rows, kernel_rows, memory_rows
from .page import Part
from .style import add_legend, grouped, panels, plain_numbers, styled
from .weights import SIDES, Inspected

MEMORY = """An EMA dimension forgets half of what it has read in a half-life, ln 2 / −ln q tokens.
Boxes show the middle half of a layer's dimensions and their median; whiskers reach from the
shortest to the longest half-life. Backward EMAs, which only encoders have, are hatched. A long
half-life matters only if its weight in the kernel (see the CSV) is large."""
KERNELS = """The weight of a token in the average, by its offset: earlier tokens on the left
(forward EMA), later tokens on the right (backward EMA), as a root mean square over the channels."""
BIAS = f"""The relative bias of the attention scores, by the offset of the key from the query, up
to the chunk size and at most {LONGEST_BIAS}. With softmax, only differences matter."""


def inspect_parts(found: Inspected) -> List[Part]:
    """Returns the parts of a checkpoint's page."""
    layers = found.layers
    memory, kernels, biases = memory_rows(layers), kernel_rows(layers), bias_rows(layers)
    chunks = {layer.name.split()[0]: layer.chunk_size for layer in layers if layer.chunk_size > 0}
    text = f"{found.parameters:,} parameters, {len(layers)} Mega layers."
    training = [("training", "value"), *found.training.items()]
    model = [("option", "value"), ("architecture", found.architecture), *found.options.items()]
    parts = [
        Part("training", found.path, text, training),
        Part("memory", "Memory spans", MEMORY, memory, memory_figure(memory, chunks)),
        Part("spans", "Half-lives of each layer", "In tokens.", span_rows(memory)),
        Part("kernels", "Kernels", KERNELS, kernels, kernel_figure(kernels)),
        Part("options", "Options", "", model),
    ]
    if len(biases) > 1:
        parts.insert(4, Part("bias", "Relative bias", BIAS, biases, bias_figure(biases)))
    return parts


def span_rows(rows: Rows) -> Rows:
    """Returns the median and the longest half-life of each layer."""
    found = [(*key, median(values), max(values)) for key, values in _spans(rows).items()]
    return [("layer", "direction", "median", "longest"), *found]


def _spans(rows: Rows) -> Dict[tuple, List[float]]:
    """Returns the half-lives by layer and direction."""
    return {key: [row[2] for row in group] for key, group in grouped(rows[1:], 2).items()}


@styled()
def memory_figure(rows: Rows, chunks: Dict[str, int]) -> Figure:
    """Plots boxes of the half-lives of each layer, and each side's chunk size in ``chunks``."""
    spans = _spans(rows)
    sides = [side for side in SIDES if any(layer.startswith(side) for layer, _ in spans)]
    figure, axes = panels(len(sides), 2, (4.6, 3.2))
    for panel, side in zip(axes, sides):
        layers = list(dict.fromkeys(layer for layer, _ in spans if layer.startswith(side)))
        for direction, shift in (("forward", -0.2), ("backward", 0.2)):
            if (layers[0], direction) in spans:
                _boxes(panel, direction, [spans[layer, direction] for layer in layers], shift)
        if side in chunks:
            panel.axhline(chunks[side], color="black", linestyle=":", label="chunk size")
        panel.set_xticks(range(len(layers)), [layer.split()[1] for layer in layers])
        panel.set_yscale("log")
        plain_numbers(panel.yaxis)
        panel.set(title=side, xlabel="layer", ylabel="half-life (tokens)")
    add_legend(figure)
    return figure


def _boxes(panel: Axes, direction: str, values: List[List[float]], shift: float) -> None:
    colour, hatch = {"forward": ("#56B4E9", ""), "backward": ("#E69F00", "//")}[direction]
    drawn = panel.boxplot(
        values,
        positions=[i + shift for i in range(len(values))],
        whis=(0, 100),
        widths=0.3,
        patch_artist=True,
        boxprops=dict(facecolor=colour, hatch=hatch),
        medianprops=dict(color="black", linewidth=2, linestyle="-"),
    )
    drawn["boxes"][0].set_label(f"{direction} EMA")


@styled()
def kernel_figure(rows: Rows) -> Figure:
    """Plots the weight of a token by its offset in a panel for each layer."""
    figure, axes = _by_offset(rows, "EMA")
    for panel in axes:
        panel.set_xscale("symlog", linthresh=1)
        ticks = SymmetricalLogLocator(base=10, linthresh=1)
        ticks.set_params(numticks=6)
        panel.xaxis.set_major_locator(ticks)
        panel.xaxis.set_major_formatter("{x:g}")
        panel.set(xlabel="offset (tokens)", ylabel="weight")
    return figure


@styled()
def bias_figure(rows: Rows) -> Figure:
    """Plots the bias by the offset of the key from the query in a panel for each layer."""
    figure, axes = _by_offset(rows, "attention")
    for panel in axes:
        panel.set(xlabel="offset of the key (tokens)", ylabel="bias (logits)")
    return figure


def _by_offset(rows: Rows, what: str) -> tuple[Figure, List[Axes]]:
    """Plots a line for each value of the second column in a panel for each layer."""
    layers = grouped(rows[1:], 1)
    figure, axes = panels(len(layers), 4, (3.0, 2.2))
    for panel, ((layer,), group) in zip(axes, layers.items()):
        panel.set_title(layer)
        for (kind,), points in grouped(group, 1).items():
            panel.plot(*zip(*points), label=f"{kind} {what}")
    add_legend(figure)
    return figure, axes
