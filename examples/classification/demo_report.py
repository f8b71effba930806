"""The demo's table and pictures."""

import csv
import json
import platform
from collections import Counter
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional

import numpy as np

from examples.quickstart.demo import found, table

HEAD = ("data", "model", "parameters", "updates", "accuracy, % (95% interval)", "seconds", "memory")


class Outcome(NamedTuple):
    """What the commands wrote of one trial."""

    parameters: str
    updates: int
    seconds: float  # of fairseq-train, its start included
    peak: float  # bytes
    summary: Optional[Dict]  # of the test, where there is one
    rows: List[Dict[str, str]]  # predictions


def outcome_of(trial) -> Outcome:
    cost = json.loads((trial.training.folder / "cost.json").read_text())
    log, summary, rows = trial.training.log, None, []
    if trial.test is not None:
        summary = json.loads((trial.test.folder / "summary-test.json").read_text())
        with (trial.test.folder / "predictions-test.tsv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    return Outcome(
        found(r"num\. shared model params: ([\d,]+)", log),
        int(found(r"num_updates[ =](\d+)", log)),
        cost["seconds"],
        cost["peak_bytes"],
        summary,
        rows,
    )


def report(work: Path, trials: List, threads: int) -> None:
    """Prints the table and writes it to table.md, and pictures beside it."""
    outcomes = {(trial.task.name, trial.model): outcome_of(trial) for trial in trials}
    rows = [HEAD, *(row_of(trial, outcomes[trial.task.name, trial.model]) for trial in trials)]
    parts = [table(rows), remarks(outcomes)]
    for folder in {trial.data.folder for trial in trials if trial.task.name == "spoken"}:
        source = (folder / "wavs/SOURCE.txt").read_text(encoding="utf-8").strip()
        parts.append(f"The spoken digits are {source}.")
    parts.append(
        f"Measured with {threads} threads on {platform.system()}, {platform.machine()}. Seconds "
        "are those of fairseq-train with its start; memory is the largest of its process."
    )
    text = "\n\n".join(parts)
    (work / "table.md").write_text(f"{text}\n", encoding="utf-8")
    print(f"\n=== Results\n\n{text}\n")
    for path in pictures(work, trials, outcomes):
        print(f"    {path}")


def row_of(trial, outcome: Outcome) -> tuple[str, ...]:
    score = "not trained: one clip"
    if outcome.summary is not None:
        low, high = outcome.summary["interval_95"]
        score = f"{outcome.summary['accuracy']:.1f} ({low:.1f} to {high:.1f})"
    return (
        trial.task.title,
        trial.model,
        outcome.parameters,
        str(outcome.updates),
        score,
        f"{outcome.seconds:.0f}",
        f"{outcome.peak / 1e6:,.0f} MB",
    )


def remarks(outcomes: Dict) -> str:
    """What guessing comes to, and where Mega is not above the Transformer."""
    said = []
    for task in dict.fromkeys(name for name, _ in outcomes):
        scores = {
            model: each.summary for (name, model), each in outcomes.items()
            if name == task and each.summary
        }  # fmt: skip
        if not scores:
            continue
        some = next(iter(scores.values()))
        commonest = 100 * max(map(sum, some["confusion"])) / some["samples"]
        said.append(f"- {task}: always the commonest class would have {commonest:.1f}%.")
        transformer = scores.get("transformer")
        for model in [each for each in scores if each != "transformer" and transformer]:
            mine, other = scores[model]["accuracy"], transformer["accuracy"]
            if mine <= other:
                said[-1] += f" {model} is not above the Transformer ({mine:.1f} and {other:.1f})."
            elif scores[model]["interval_95"][0] <= transformer["interval_95"][1]:
                said[-1] += f" The intervals of {model} and the Transformer overlap."
        if not transformer:
            said[-1] += " The Transformer was not trained: only its cost is measured."
    return "\n".join(said)


# --- pictures -----------------------------------------------------------------------------------


def pictures(work: Path, trials: List, outcomes: Dict) -> List[Path]:
    import matplotlib

    matplotlib.use("Agg")
    data = {trial.task.name: trial.data.folder / "data" for trial in trials}
    drawn = []
    if ("digits", "mega") in outcomes:
        path, outcome = work / "digits.png", outcomes["digits", "mega"]
        drawn.append(digits_picture(path, data["digits"], outcome))
    if "listops" in data:
        models = {model: each for (name, model), each in outcomes.items() if name == "listops"}
        drawn.append(lengths_picture(work / "listops.png", data["listops"], models))
    if ("spoken", "mega-chunk") in outcomes:
        path, outcome = work / "spoken.png", outcomes["spoken", "mega-chunk"]
        drawn.append(clips_picture(path, data["spoken"], outcome))
    return drawn


def right(row: Dict[str, str]) -> bool:
    return row["class"] == row["predicted"]


def some_of_both(outcome: Outcome, count: int) -> List[Dict[str, str]]:
    """Up to `count` rows that are wrong, then as many right ones as fill it up to twice that."""
    wrong = [row for row in outcome.rows if not right(row)][:count]
    good, room = [row for row in outcome.rows if right(row)], 2 * count - len(wrong)
    return wrong + good[:: max(1, len(good) // room)][:room]  # of all parts of the set


def painted(axes, row: Dict[str, str]) -> None:
    axes.set_title(
        f"{row['class']}: {row['predicted']}", color="green" if right(row) else "red", fontsize=8
    )
    axes.set_xticks([])
    axes.set_yticks([])


def digits_picture(path: Path, data: Path, outcome: Outcome) -> Path:
    """Test images with class and prediction, wrong ones first, in red."""
    from matplotlib import pyplot

    images = np.loadtxt(data / "input/test.src", dtype=int).reshape(-1, 8, 8)
    figure, grid = pyplot.subplots(4, 10, figsize=(10, 5))
    for axes in grid.flat:
        axes.axis("off")
    for axes, row in zip(grid.flat, some_of_both(outcome, 20)):
        axes.axis("on")
        axes.imshow(images[int(row["sample"])], cmap="gray_r")
        painted(axes, row)
    figure.suptitle("mega, digits: class and prediction, wrong ones (red) first")
    return saved(figure, path)


def lengths_picture(path: Path, data: Path, outcomes: Dict[str, Outcome]) -> Path:
    """How many sequences of each length were got right and wrong, by model."""
    from matplotlib import pyplot

    lengths = [len(line.split()) for line in (data / "text/test.src").read_text().splitlines()]
    edges = np.array([0, 50, 100, 200, 300, 501])
    figure, grid = pyplot.subplots(1, len(outcomes), figsize=(12, 3.5), sharey=True, squeeze=False)
    grid = grid[0]
    for axes, (model, outcome) in zip(grid, outcomes.items()):
        bins = np.digitize([lengths[int(row["sample"])] for row in outcome.rows], edges) - 1
        count = Counter((each, right(row)) for each, row in zip(bins.tolist(), outcome.rows))
        places = np.arange(len(edges) - 1)
        good, bad = ([count[place, kind] for place in places.tolist()] for kind in (True, False))
        axes.bar(places, good, color="green", label="right")
        axes.bar(places, bad, bottom=good, color="red", label="wrong")
        axes.set_xticks(places, [f"{a} to {b - 1}" for a, b in zip(edges, edges[1:])], fontsize=8)
        axes.set_title(f"{model}, ListOps")
        axes.set_xlabel("symbols")
    grid[0].legend()
    return saved(figure, path)


def clips_picture(path: Path, data: Path, outcome: Outcome) -> Path:
    """Test clips with class and prediction, wrong ones first, in red."""
    import torch
    from matplotlib import pyplot

    clips = torch.load(data / "processed_data/raw/test_X.pt", mmap=True)
    names = (data / "processed_data/classes.txt").read_text().splitlines()
    figure, grid = pyplot.subplots(4, 4, figsize=(10, 6))
    for axes in grid.flat:
        axes.axis("off")
    for axes, row in zip(grid.flat, some_of_both(outcome, 8)):
        axes.axis("on")
        axes.plot(clips[int(row["sample"]), 0].numpy(), linewidth=0.3)
        # The task names the classes of ten words after the published words, in their order.
        classes = outcome.summary["classes"]
        words = {key: names[classes.index(row[key])] for key in ("class", "predicted")}
        painted(axes, words)
    figure.suptitle("mega-chunk, spoken digits: class and prediction, wrong ones (red) first")
    return saved(figure, path)


def saved(figure, path: Path) -> Path:
    from matplotlib import pyplot

    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
    return path
