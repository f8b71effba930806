"""The style of all figures: lines differ in style and areas in hatching, not in colour alone."""

from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Sequence, Tuple

import matplotlib
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

# The palette of Okabe and Ito for colour-blind readers.
COLOURS = ("#000000", "#D55E00", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 3)))
SETTINGS: Any = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.prop_cycle": cycler(color=COLOURS) + cycler(linestyle=LINES),
    "font.size": 9,
    "grid.alpha": 0.35,
    "svg.fonttype": "none",  # text, not outlines
}


@contextmanager
def styled() -> Iterator[None]:
    """Sets matplotlib's parameters while a figure is plotted or saved."""
    with matplotlib.rc_context(SETTINGS):
        yield


def panels(count: int, columns: int, size: Tuple[float, float]) -> Tuple[Figure, List[Axes]]:
    """Returns a figure with ``count`` panels, each of ``size`` inches."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(columns * size[0] + 0.5, rows * size[1] + 0.6), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flatten())
    for unused in axes[count:]:
        unused.set_axis_off()
    return figure, axes[:count]


def add_legend(figure: Figure) -> None:
    """Adds one legend above all panels, with each label once."""
    labels: Dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels()):
            labels.setdefault(label, handle)
    if labels:
        figure.legend([*labels.values()], [*labels], loc="outside upper center", ncols=4)


def plain_numbers(axis: Axis) -> None:
    """Labels a logarithmic axis with 2, 5, 100 instead of powers of ten."""
    axis.set_major_formatter(LogFormatter())
    axis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))


def grouped(rows: Sequence[Tuple], columns: int) -> Dict[Tuple, List[Tuple]]:
    """Groups rows by their first ``columns`` values, as lists of their other values."""
    groups: Dict[Tuple, List[Tuple]] = {}
    for row in rows:
        groups.setdefault(row[:columns], []).append(row[columns:])
    return groups
