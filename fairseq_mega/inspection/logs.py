"""Reads training logs in fairseq's ``--log-format json`` or ``simple``, from ``--log-file`` or as
printed, with the logger's prefix before each line."""

import json
import os
import re
from pathlib import Path
from typing import Any, Dict, Iterable, List, NamedTuple, Tuple

LOGS = ("train.log", "log.txt", "hydra_train.log")  # in a folder of checkpoints, in this order
SETS = ("train_inner", "train", "valid")
Series = Dict[int, float]  # values by the number of updates


class Run(NamedTuple):
    """A training: ``values[set][metric]``, with the sets ``train_inner`` (lines within an epoch),
    ``train`` (means of epochs) and ``valid``."""

    name: str
    path: Path
    values: Dict[str, Dict[str, Series]]

    def series(self, part: str, metric: str) -> Series:
        return dict(sorted(self.values.get(part, {}).get(metric, {}).items()))


def read_runs(paths: List[Path]) -> List[Run]:
    """Reads these logs, or the logs in these folders."""
    logs = [find_log(path).resolve() for path in paths]
    names = [log.parent.name if log.name in LOGS else log.stem for log in logs]
    if len(set(names)) < len(names):
        names = [os.path.relpath(log, os.path.commonpath(logs)) for log in logs]
    return [read_log(log, name) for log, name in zip(logs, names)]


def find_log(path: Path) -> Path:
    for log in [path, *(path / name for name in LOGS), *sorted(path.glob("*.log"))]:
        if log.is_file():
            return log
    raise FileNotFoundError(
        f"no log at {path}, and no {', '.join(LOGS)} in it: train with --log-file "
        f"{path / 'train.log'}, or give the log's path"
    )


def read_log(path: Path, name: str) -> Run:
    """Reads a log, without truncated lines, such as the last line of a running training."""
    run, validation = Run(name, path, {}), None
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            part, values = _read_line(line.rstrip("\n"))
            updates = values.get("num_updates")
            if updates is None:
                continue
            if part not in SETS[:2]:
                validation = validation or part  # the first of several, as fairseq does
                if part != validation:
                    continue
                part = "valid"
            for metric, value in values.items():
                # The later line counts if a training resumed from an earlier checkpoint.
                run.values.setdefault(part, {}).setdefault(metric, {})[int(updates)] = value
    if not any("loss" in metrics for metrics in run.values.values()):
        raise ValueError(
            f"{path} holds no complete line of a training with a loss: give a log of fairseq-train "
            "with --log-format json or simple"
        )
    return run


def _read_line(line: str) -> Tuple[str, Dict[str, float]]:
    """Returns the set and the values of a line; truncated and other lines have no updates."""
    start = line.find('{"epoch": ')
    if start >= 0:
        return _read_json(line[start:])
    inner = re.search(r"epoch \d+:\s+\d+ / \d+(.*)", line)
    if inner:
        return "train_inner", _numbers(each.strip().partition("=") for each in inner[1].split(", "))
    ended = re.search(r"epoch \d+ (\|.*)", line)
    if ended:
        subset = re.search(r"valid on '(.+?)' subset", line)
        numbers = _numbers(each.strip().rpartition(" ") for each in ended[1].split("|"))
        return (subset[1] if subset else "train"), numbers
    return "", {}


def _read_json(line: str) -> Tuple[str, Dict[str, float]]:
    """Reads a line; the names of a set's means begin with the set, as in ``valid_loss``."""
    try:
        entries = json.loads(line)
    except json.JSONDecodeError:
        return "", {}
    if "num_updates" in entries:
        return "train_inner", _numbers((name, "", value) for name, value in entries.items())
    prefix = next((n.removesuffix("num_updates") for n in entries if n.endswith("num_updates")), "")
    own = [(n.removeprefix(prefix), "", entries[n]) for n in entries if n.startswith(prefix)]
    return prefix.removesuffix("_"), _numbers(own)


def _numbers(entries: Iterable[Tuple[str, str, Any]]) -> Dict[str, float]:
    """Keeps the entries ``(name, _, value)`` whose values are finite numbers."""
    form = re.compile(r"-?\d+(\.\d*)?(e[+-]?\d+)?")
    return {name: float(value) for name, _, value in entries if form.fullmatch(str(value))}
