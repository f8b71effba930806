"""Figures of training logs, and the page of ``curves``."""

import re
from typing import List, Tuple

import numpy as np
from matplotlib.figure import Figure

from .logs import SETS, Run, Series
from .page import Part
from .style import COLOURS, LINES, add_legend, grouped, panels, plain_numbers, styled

PANELS = {
    "loss": "loss (bits)",
    "lr": "learning rate",
    "gnorm": "gradient norm",
    "wps": "speed (tokens/s)",
}
CURVES = """Loss, learning rate, gradient norm before clipping, and target tokens per second, by
updates. Lines are means since the previous line of the log; circles are losses on the validation
set. Losses are in bits per target token (in classification, per sample)."""
MEMORY = """The longest half-life of the EMAs (solid line) and the median (dotted line), in the
model or in each layer of the encoder (e) and the decoder (d)."""


def curve_parts(runs: List[Run]) -> List[Part]:
    """Returns the parts of the trainings' page."""
    curves, spans = curve_rows(runs), memory_rows(runs)
    parts = [
        Part("curves", "Training", CURVES, curves, curve_figure(curves)),
        Part("runs", "Runs", "", run_rows(runs)),
    ]
    if len(spans) > 1:
        title = "Memory spans in training"
        parts.append(Part("memory-spans", title, MEMORY, spans, memory_figure(spans)))
    return parts


def run_rows(runs: List[Run]) -> List[Tuple]:
    rows: List[Tuple] = [("run", "log", "updates", "last training loss", "best validation loss")]
    for run in runs:
        loss, valid = within_epochs(run, "loss"), run.series("valid", "loss")
        last = list(loss.values())[-1] if loss else ""
        best = min(valid.values()) if valid else ""
        rows.append((run.name, run.path, max([*loss, *valid]), last, best))
    return rows


def within_epochs(run: Run, metric: str) -> Series:
    """Returns the values of the lines within epochs, or else the means of epochs."""
    return run.series("train_inner", metric) or run.series("train", metric)


def curve_rows(runs: List[Run]) -> List[Tuple]:
    rows: List[Tuple] = [("metric", "run", "set", "updates", "value")]
    for metric in PANELS:
        for run in runs:
            for name, series in (
                ("training", within_epochs(run, metric)),
                ("validation", run.series("valid", "loss") if metric == "loss" else {}),
            ):
                rows += [(metric, run.name, name, *pair) for pair in series.items()]
    return rows


@styled()
def curve_figure(rows: List[Tuple]) -> Figure:
    """Plots each metric in a panel, with a line for each run and circles for validation losses."""
    series = grouped(rows[1:], 3)
    runs = list(dict.fromkeys(run for _, run, _ in series))
    figure, axes = panels(len(PANELS), 2, (4.8, 2.7))
    for panel, (metric, label) in zip(axes, PANELS.items()):
        panel.set(xlabel="updates", ylabel=label)
        for i, run in enumerate(runs):
            colour, line = COLOURS[i % len(COLOURS)], LINES[i % len(LINES)]
            train, valid = (
                np.reshape(series.get((metric, run, name), []), (-1, 2)).T
                for name in ("training", "validation")
            )
            panel.plot(*train, color=colour, linestyle=line, label=run)
            panel.plot(*valid, "o", color=colour, markerfacecolor="none")
    add_legend(figure)
    return figure


def memory_rows(runs: List[Run]) -> List[Tuple]:
    """Returns the memory spans in the logs: the model's, or those of layers ``e0``, ``d0``, ..."""
    rows: List[Tuple] = [("run", "layer", "statistic", "updates", "half_life_tokens")]
    for run in runs:
        metrics = {metric for part in SETS for metric in run.values.get(part, {})}
        names = [re.fullmatch(r"memory_(?:([ed])(\d+)_)?(longest|median)", x) for x in metrics]
        found = [(name[1] == "d", int(name[2] or 0), name[3], name) for name in names if name]
        for *_, statistic, name in sorted(found, key=lambda each: each[:3]):
            layer = f"{name[1]}{name[2]}" if name[1] else "model"
            pairs = within_epochs(run, name[0]).items()
            rows += [(run.name, layer, statistic, *pair) for pair in pairs]
    return rows


@styled()
def memory_figure(rows: List[Tuple]) -> Figure:
    """Plots the longest and the median half-lives of each run in a panel."""
    runs = grouped(rows[1:], 1)
    figure, axes = panels(len(runs), 2, (5.0, 3.2))
    for panel, ((run,), group) in zip(axes, runs.items()):
        for i, ((layer, statistic), points) in enumerate(grouped(group, 2).items()):
            longest = statistic == "longest"
            panel.plot(
                *zip(*points),
                color=COLOURS[i // 2 % len(COLOURS)],
                linestyle="-" if longest else ":",
                label=layer if longest else None,
            )
        panel.set_yscale("log")
        plain_numbers(panel.yaxis)
        panel.set(title=run, xlabel="updates", ylabel="half-life (tokens)")
        panel.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), ncols=1 + len(panel.lines) // 26)
    return figure
