"""Pictures of the logs of trainings, and the sections of the page of ``curves``."""

import re
from typing import TYPE_CHECKING, List, Tuple

from .logs import SETS, Run, Series
from .page import Picture, Section, Table
from .style import COLOURS, MARKERS, grid, line_style, number, shared_legend, some_markers, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = (
    ("loss", "loss (bits)"),
    ("lr", "learning rate"),
    ("gnorm", "gradient norm"),
    ("wps", "speed (tokens/s)"),
)
LEGEND_ROWS = 12
CURVES = """Loss, learning rate, norm of the gradient before clipping, and target tokens a second,
by the number of updates. Lines are means since the line of the log before; large markers without a
line are losses on the validation set. fairseq gives losses in base 2: bits for each target token
(for each sample, in classification)."""
MEMORY = """Half-lives of the EMAs of each layer, e for the encoder's and d for the decoder's: the
longest (solid line) and the median (dotted), of all channels and dimensions."""


def curve_sections(runs: List[Run], prefix: str = "") -> List[Section]:
    """Tables and pictures of these trainings."""
    parts: List = [
        Table("runs", "Runs", _run_table(runs)),
        Picture("curves", "Training", CURVES, curve_figure(runs), curve_rows(runs)),
    ]
    with_memory = [run for run in runs if memory_layers(run)]
    text = [_remark(run) for run in runs if run.unread]
    if with_memory:
        rows = memory_rows(with_memory)
        figure = memory_figure(with_memory)
        parts.append(Picture("memory-spans", "Memory spans in training", MEMORY, figure, rows))
    else:
        text.append("The logs have no memory spans (memory_e0_longest, ...).")
    return [Section("Training", text, parts, prefix)]


def _remark(run: Run) -> str:
    lines = ", ".join(map(str, run.unread[:5])) + (", ..." if len(run.unread) > 5 else "")
    return f"{run.path}: left out, as they are cut: lines {lines}."


def _run_table(runs: List[Run]) -> List[Tuple]:
    rows: List[Tuple] = [("run", "log", "updates", "last training loss", "best validation loss")]
    for run in runs:
        loss, valid = within_epochs(run, "loss"), run.series("valid", "loss")
        last = list(loss.values())[-1] if loss else ""
        best = min(valid.values()) if valid else ""
        rows.append((run.name, str(run.path), max([*loss, *valid], default=0), last, best))
    return rows


def within_epochs(run: Run, metric: str) -> Series:
    """By the lines within epochs, or where there are none by the means of epochs."""
    return run.series("train_inner", metric) or run.series("train", metric)


# --- curves -------------------------------------------------------------------------------------


def curve_rows(runs: List[Run]) -> List[Tuple]:
    """All that the logs have of the metrics that are drawn."""
    return [
        ("run", "set", "metric", "updates", "value"),
        *(
            (run.name, part, metric, updates, value)
            for run in runs
            for part in SETS
            for metric, _ in PANELS
            for updates, value in run.series(part, metric).items()
        ),
    ]


def curve_figure(runs: List[Run]) -> "Figure":
    """A panel for each metric, a line for each run."""
    with styled():
        figure, panels = grid(len(PANELS), 2, (4.8, 2.7))
        for axes, (metric, label) in zip(panels, PANELS):
            for i, run in enumerate(runs):
                series = within_epochs(run, metric)
                markers = some_markers(len(series), i)
                style = line_style(i)
                axes.plot([*series], [*series.values()], markevery=markers, label=run.name, **style)
                valid = run.series("valid", metric) if metric == "loss" else {}
                if valid:
                    axes.plot([*valid], [*valid.values()], linestyle="", marker=style["marker"],
                              color=style["color"], markersize=9, markerfacecolor="none",
                              markeredgewidth=1.5, label=f"{run.name}, validation")  # fmt: skip
            axes.set_xlabel("updates")
            axes.set_ylabel(label)
            if not any(run.values.get(part, {}).get(metric) for run in runs for part in SETS):
                axes.text(0.5, 0.5, "not in the logs", transform=axes.transAxes, ha="center")
        shared_legend(figure, panels, 3)
    return figure


# --- memory -------------------------------------------------------------------------------------


def memory_layers(run: Run) -> List[str]:
    """``e0``, ``d1``, ...: the layers of which the log has memory spans, the encoder's first."""
    metrics = {metric for part in SETS for metric in run.values.get(part, {})}
    names = {m[1] for m in (re.fullmatch(r"memory_([ed]\d+)_longest", x) for x in metrics) if m}
    return sorted(names, key=lambda name: (name[0] != "e", int(name[1:])))


def memory_rows(runs: List[Run]) -> List[Tuple]:
    rows: List[Tuple] = [("run", "layer", "statistic", "updates", "half_life_tokens")]
    for run in runs:
        for layer in memory_layers(run):
            for statistic in ("longest", "median"):
                series = within_epochs(run, f"memory_{layer}_{statistic}")
                rows += [(run.name, layer, statistic, *pair) for pair in series.items()]
    return rows


def memory_figure(runs: List[Run]) -> "Figure":
    """A panel for each run: the longest and the median half-life of each layer."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    with styled():
        most = max(len(memory_layers(run)) for run in runs)
        columns = -(-most // LEGEND_ROWS)
        figure, panels = grid(len(runs), 2, (4.2 + 0.7 * columns, 3.4 if columns > 1 else 3.0))
        for axes, run in zip(panels, runs):
            for i, layer in enumerate(memory_layers(run)):
                _spans(axes, run, layer, i)
            axes.set_yscale("log")
            low, high = axes.get_ylim()
            if high / low < 30:
                axes.set_yticks([t for t in _round_numbers() if low <= t <= high])
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.set_title(run.name)
            axes.set_xlabel("updates")
            axes.set_ylabel("half-life (tokens)")
            axes.legend(
                loc="upper left", bbox_to_anchor=(1.0, 1.0), ncols=columns, frameon=False,
                columnspacing=0.8,
            )  # fmt: skip
    return figure


def _round_numbers() -> List[float]:
    return [digit * 10.0**power for power in range(-3, 6) for digit in (1, 1.5, 2, 3, 4, 5, 7)]


def _spans(axes: "Axes", run: Run, layer: str, i: int) -> None:
    for statistic, line in (("longest", "-"), ("median", ":")):
        series = within_epochs(run, f"memory_{layer}_{statistic}")
        axes.plot(
            [*series],
            [*series.values()],
            linestyle=line,
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[i % len(MARKERS)],
            markersize=4,
            markevery=some_markers(len(series), i),
            linewidth=1.2,
            label=layer if statistic == "longest" else None,
        )
