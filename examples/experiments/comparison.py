"""Trainings of several models with several seeds, side by side: the options that all of them have,
and tables of what they logged."""

import argparse
import sys
from pathlib import Path
from statistics import mean
from types import ModuleType
from typing import Dict, NamedTuple, Protocol, Sequence

from examples.quickstart.demo import FAIRSEQ, ROOT, USER_DIR, Step, table

POINTS = 6  # of a curve


class Trial(Protocol):
    """What a comparison has of each training."""

    model: str
    training: Step


class Column(NamedTuple):
    """A metric of the validation, as a table has it."""

    metric: str
    form: str
    factor: float = 1.0


def add_options(parser: argparse.ArgumentParser, updates: int, rates: Dict[str, str]) -> None:
    """``rates`` are the models' own highest learning rates."""
    own = ", ".join(f"{model} {lr}" for model, lr in rates.items())
    parser.add_argument(
        "--updates", type=int, default=updates, help=f"of each training ({updates})"
    )
    parser.add_argument("--lr", help=f"highest learning rate, of all models (each its own: {own})")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="(1 2 3)")
    for model in rates:
        parser.add_argument(
            f"--{model}",
            default="",
            metavar="OPTIONS",
            help=f"further ones of fairseq-train, of this model: --{model}='--dropout 0.3'",
        )
    parser.add_argument("--gpu", action="store_true", help="train and test on one GPU, not the CPU")


def fairseq_options(args: argparse.Namespace) -> str:
    """Options of all commands. (By themselves they take all GPUs that they see, or the CPU.)"""
    return f"{USER_DIR} --distributed-world-size 1" if args.gpu else FAIRSEQ


def further_options(args: argparse.Namespace, model: str) -> str:
    """Those of ``fairseq-train`` that were given for one model: after ours, which they replace."""
    return getattr(args, model.replace("-", "_"))


def check_gpu(args: argparse.Namespace) -> None:
    """Ends the program where there is no GPU, and one was asked for."""
    if not args.gpu:
        return
    import torch  # takes seconds

    if not torch.cuda.is_available():
        sys.exit(f"--gpu: torch {torch.__version__} sees no GPU: leave --gpu out to use the CPU")


def find_data(args: argparse.Namespace, prepare: ModuleType, *words: str) -> None:
    """Sets `args.data`, where none are given, to what `prepare` makes of these words; ends the
    program where there are none."""
    if args.data is None:
        args.data = args.workdir / words[0]
        prepare.main([*words, "--workdir", str(args.data)])
    if not (args.data / "data-bin").is_dir():
        script = Path(prepare.__file__).relative_to(ROOT)
        sys.exit(f"{args.data}: no data-bin is there: make it with {script}")


def schedule(args: argparse.Namespace, seed: int, warmup: int, lr: str) -> str:
    """Options of a training: its learning rates up to `lr`, and validations for the points of a
    curve."""
    pace = max(1, args.updates // POINTS)
    return (
        f"--lr {lr} --warmup-updates {max(1, warmup)} --seed {seed} "
        f"--total-num-update {args.updates} --max-update {args.updates} "
        f"--validate-interval-updates {pace} --log-interval {pace}"
    )


def curves(trials: Sequence[Trial], columns: Dict[str, Column]) -> str:
    """A table of validations: seconds of training until then, and these columns, each the mean of
    a model's trials."""
    from fairseq_mega.inspection.logs import read_log  # imports fairseq: seconds

    runs: Dict[str, list] = {}
    for trial in trials:
        runs.setdefault(trial.model, []).append(read_log(trial.training.log, trial.model))
    rows = [("updates", *(f"{model}: {x}" for model in runs for x in ("s", *columns)))]
    validated = [run.series("valid", "num_updates") for each in runs.values() for run in each]
    for updates in sorted(set.intersection(*map(set, validated))):
        cells = [str(updates)]
        for each in runs.values():
            cells.append(f"{mean(_seconds(run, updates) for run in each):.0f}")
            for metric, form, factor in columns.values():
                value = mean(run.series("valid", metric)[updates] for run in each)
                cells.append(f"{factor * value:{form}}")
        rows.append(tuple(cells))
    return table(rows)


def _seconds(run, updates: int) -> float:
    """Of training, up to so many updates; each line has those since the one before."""
    return sum(s for n, s in run.series("train_inner", "train_wall").items() if n <= updates)


def write_results(workdir: Path, text: str) -> None:
    """Prints the tables, and writes them to results.md in the working folder."""
    file = workdir / "results.md"
    file.write_text(f"{text}\n", encoding="utf-8")
    print(f"\n=== Results, also in {file}\n\n{text}")
