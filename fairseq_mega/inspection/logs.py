"""Reads the logs of trainings: what fairseq prints with ``--log-format json`` or ``simple``, with
the words of its logger before it or not (``--log-file``)."""

import json
import math
import re
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Tuple

# In a folder of checkpoints, in this order.
LOGS = ("train.log", "log.txt", "hydra_train.log")
SETS = {"train_inner": "since the last line", "train": "epoch", "valid": "validation set"}
Series = Dict[int, float]  # values by the number of updates


class Run(NamedTuple):
    """A training: ``values[set][metric]``, with the sets ``train_inner`` (lines within an epoch),
    ``train`` (means of epochs) and ``valid``."""

    name: str
    path: Path
    values: Dict[str, Dict[str, Series]]
    unread: List[int]  # numbers of lines that were cut

    def series(self, part: str, metric: str) -> Series:
        return dict(sorted(self.values.get(part, {}).get(metric, {}).items()))


def read_runs(paths: List[Path]) -> List[Run]:
    """The trainings in these logs, or in the logs in these folders.

    Raises:
        FileNotFoundError: where there is no log.
        ValueError: where one holds nothing of a training.
    """
    logs = [find_log(path) for path in paths]
    return [read_log(log, name) for log, name in zip(logs, _names(logs))]


def find_log(path: Path) -> Path:
    """
    Raises:
        FileNotFoundError: where there is none.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"no log or folder at {path}")
    others = sorted(path.glob("*.log"))
    for log in [*(path / name for name in LOGS), *others]:
        if log.is_file():
            return log
    raise FileNotFoundError(
        f"no log in {path}: it has none of {', '.join(LOGS)}. Train with --log-file "
        f"{path / 'train.log'}, or name the file"
    )


def _names(logs: List[Path]) -> List[str]:
    """What tells the logs apart: the last parts of their paths; of one in a folder of checkpoints,
    the folder's."""
    paths = [log.resolve() for log in logs]
    if len(set(paths)) < len(paths):
        raise ValueError(f"one of {', '.join(map(str, logs))} is given twice")
    told = [path.parent if path.name in LOGS else path.with_suffix("") for path in paths]
    if len(set(told)) < len(told):
        told = paths
    longest = max(len(path.parts) for path in told)
    for parts in range(1, longest):
        names = ["/".join(path.parts[-parts:]) for path in told]
        if len(set(names)) == len(names):
            break
    return names


def read_log(path: Path, name: str) -> Run:
    """
    Raises:
        ValueError: where it holds no line of a training, or cannot be read.
    """
    run, validation = Run(name, path, {}, []), None
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            found = _read_line(line.rstrip("\n"))
            if found is None:
                continue
            part, numbers = found
            updates = numbers.get("num_updates")
            if updates is None or not updates.is_integer():
                run.unread.append(number)
                continue
            if part not in ("train_inner", "train"):
                validation = validation or part  # of several, the first, as fairseq does
                if part != validation:
                    continue
                part = "valid"
            for metric, value in numbers.items():
                # Of a training that went on from an earlier checkpoint, the later line.
                run.values.setdefault(part, {}).setdefault(metric, {})[int(updates)] = value
    if not any("loss" in metrics for metrics in run.values.values()):
        cut = f" (of lines {run.unread[:3]}, the end is missing)" if run.unread else ""
        raise ValueError(
            f"{path} holds no line of a training with a loss{cut}: give a log of fairseq-train "
            "with --log-format json or simple"
        )
    return run


def _read_line(line: str) -> Optional[Tuple[str, Dict[str, float]]]:
    """The set and the numbers of a line; None for lines of other kinds. A line that was cut has no
    number of updates."""
    start = re.search(r'\{"epoch": ', line)
    if start:
        try:
            return _from_json(json.loads(line[start.start() :]))
        except ValueError:
            return "train_inner", {}
    inner = re.search(r"epoch \d+:\s+\d+ / \d+(.*)", line)
    if inner:
        pairs = [entry.strip().partition("=")[::2] for entry in inner[1].split(", ")]
        return "train_inner", _numbers(dict(pairs))
    ended = re.search(r"epoch \d+ (\|.*)", line)
    if ended:
        subset = re.search(r"valid on '(.+?)' subset", line)
        parts = [part.strip() for part in ended[1].split("|") if part.strip()]
        numbers = _numbers(dict(part.rpartition(" ")[::2] for part in parts))
        return (subset[1] if subset else "train"), numbers
    return None


def _from_json(entries: Dict) -> Optional[Tuple[str, Dict[str, float]]]:
    """Names of sums over a set begin with the set: ``valid_loss``."""
    if "num_updates" in entries:
        return "train_inner", _numbers(entries)
    counts = [name for name in entries if name.endswith("_num_updates")]
    if not counts:
        return None
    prefix = counts[0].removesuffix("num_updates")
    own = {
        name.removeprefix(prefix): value
        for name, value in entries.items()
        if name.startswith(prefix)
    }
    return prefix.removesuffix("_"), _numbers(own)


def _numbers(entries: Dict) -> Dict[str, float]:
    """What is a finite number."""
    numbers = {}
    for name, value in entries.items():
        try:
            number = float(value)
        except (TypeError, ValueError):
            continue
        if math.isfinite(number):
            numbers[name] = number
    return numbers
