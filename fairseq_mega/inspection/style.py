"""How pictures look: for grey prints and colour-blind readers, lines differ in style and marker,
areas in hatching, and maps of colours grow lighter evenly."""

from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Tuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOUR_MAP = "cividis"  # perceptually uniform, and made for colour-blind readers
# Of the palette of Okabe and Ito, those that differ in brightness, too.
COLOURS = ("#000000", "#D55E00", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
FORWARD, BACKWARD = "#0072B2", "#E69F00"
SETTINGS: Any = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "grid.alpha": 0.35,
    "legend.fontsize": 8,
    "savefig.facecolor": "white",
    "svg.fonttype": "none",  # letters stay letters
    "svg.hashsalt": "fairseq-mega",
    "text.parse_math": False,  # a token may be a dollar sign
}


def require_matplotlib() -> None:
    """
    Raises:
        ValueError: says how to install it.
    """
    try:
        found = find_spec("matplotlib") is not None
    except ValueError:  # a module without a specification
        found = False
    if not found:
        raise ValueError("pictures need matplotlib: pip install 'fairseq-mega[inspect]'")


@contextmanager
def styled() -> Iterator[None]:
    """Settings of matplotlib for drawing and saving; the caller's are as before afterwards."""
    import matplotlib

    with matplotlib.rc_context(SETTINGS):
        yield


def number(value: float) -> str:
    """As it stands at an axis: ``0.5``, ``2000``, ``1e6``."""
    return f"{value:g}".replace("e+0", "e").replace("e+", "e")


def line_style(i: int) -> Dict[str, Any]:
    """The ``i``-th line of a picture, unlike the others in colour, style and marker."""
    return dict(
        color=COLOURS[i % len(COLOURS)],
        linestyle=LINES[i % len(LINES)],
        marker=MARKERS[i % len(MARKERS)],
        markersize=4,
        linewidth=1.3,
    )


def some_markers(points: int, i: int) -> Tuple[int, int]:
    """matplotlib's ``markevery``: about eight on a line, at other points than other lines have."""
    step = max(points // 8, 1)
    return (i * max(step // 4, 1)) % step, step


def grid(count: int, columns: int, size: Tuple[float, float]) -> "Tuple[Figure, List[Axes]]":
    """A figure of so many panels, of ``size`` inches each."""
    from matplotlib.figure import Figure

    columns = max(min(columns, count), 1)
    rows = -(-count // columns)
    figure = Figure(figsize=(columns * size[0] + 0.5, rows * size[1] + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for unused in axes[count:]:
        unused.set_axis_off()
    return figure, list(axes[:count])


def shared_legend(figure: "Figure", axes: "List[Axes]", columns: int = 5) -> None:
    """One legend above all panels, of what any of them shows."""
    shown: Dict[str, Any] = {}
    for each in axes:
        for handle, label in zip(*each.get_legend_handles_labels()):
            shown.setdefault(label, handle)
    if shown:
        figure.legend(
            list(shown.values()),
            list(shown),
            loc="outside upper center",
            ncols=columns,
            frameon=False,
        )
