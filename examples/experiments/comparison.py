"""Compares trainings of several models with several seeds: their commands, curves and results."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from types import ModuleType
from typing import Callable, Dict, List, NamedTuple, Sequence

from examples.quickstart.demo import USER_DIR, Step, command, found, table
from examples.steps import alone
from fairseq_mega.inspection.logs import read_log

POINTS = 6  # of a curve
SCHEDULE = (
    "--optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 1.0 --lr-scheduler linear_decay "
    "--validate-interval 1000000 --no-epoch-checkpoints --num-workers 0 --log-format json "
)


@dataclass(frozen=True)
class Trial:
    """One training, and its tests by name."""

    model: str
    seed: int
    training: Step
    tests: Dict[str, Step]

    @property
    def parameters(self) -> str:
        return found(r"num\. shared model params: ([\d,]+)", self.training.log)


class Column(NamedTuple):
    """A metric of the validation, as a table shows it."""

    metric: str
    form: str
    factor: float = 1.0


def make_parser(description: str, updates: int, rates: Dict[str, str]) -> argparse.ArgumentParser:
    """``rates`` are the models' own highest learning rates."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    own = ", ".join(f"{model} {lr}" for model, lr in rates.items())
    parser.add_argument("--updates", type=int, default=updates, help=f"of a training ({updates})")
    parser.add_argument("--lr", help=f"highest learning rate of all models (each its own: {own})")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="(1 2 3)")
    parser.add_argument("--only", nargs="+", choices=list(rates), default=list(rates))
    for model in rates:
        words = f"further ones of fairseq-train, for this model: --{model}='--dropout 0.3'"
        parser.add_argument(f"--{model}", default="", metavar="OPTIONS", help=words)
    parser.add_argument("--data", type=Path, help="a --workdir of prepare.py (made if not given)")
    parser.add_argument("--gpu", action="store_true", help="train and test on one GPU, not the CPU")
    return parser


def find_data(args: argparse.Namespace, prepare: ModuleType, *words: str) -> Path:
    """Folder given by ``--data``, or else prepared with these words."""
    if args.data is None:
        args.data = args.workdir / words[0]
        prepare.main([*words, "--workdir", str(args.data)])
    return args.data


def run_trials(
    args: argparse.Namespace,
    data: Path,
    models: Dict[str, str],
    rates: Dict[str, str],
    warmup: int,
    tests_of: Callable[[str], Dict[str, str]],
) -> List[Trial]:
    """Trains and tests; ``tests_of`` gives a model's tests, each a program with its options.

    A step is skipped where an earlier run finished it with the same command.
    """
    common = f"{USER_DIR}{'' if args.gpu else ' --cpu'} --distributed-world-size 1"
    pace = max(1, args.updates // POINTS)
    trials = []
    for seed in args.seeds:
        for model in args.only:
            folder, title = args.workdir / f"{model}-{seed}", f"{model}, seed {seed}"
            options = (
                f"{SCHEDULE} {models[model]} --lr {args.lr or rates[model]} --seed {seed} "
                f"--warmup-updates {max(1, warmup)} --total-num-update {args.updates} "
                f"--max-update {args.updates} --validate-interval-updates {pace} "
                f"--log-interval {pace} {getattr(args, model.replace('-', '_'))} --save-dir"
            )
            words = command("fairseq-train", data / "data-bin", common, options, folder)
            training = Step(f"Training: {title}", folder, [words])
            tests = {}
            for name, test in tests_of(model).items():
                program, options = test.split(maxsplit=1)
                words = command(program, data / "data-bin", common, options, "--path")
                words.append(str(folder / "checkpoint_last.pt"))
                place = args.workdir / f"{model}-{seed}-test" / name.replace(" ", "-")
                tests[name] = Step(f"Test: {title}, {name}", place, [words], (training,))
            trials.append(Trial(model, seed, training, tests))
    with alone(args.workdir):
        for trial in trials:
            for step in (trial.training, *trial.tests.values()):
                step.run()
    return trials


def curves(trials: Sequence[Trial], columns: Dict[str, Column]) -> str:
    """Table of validations: the seconds of training until then and the columns, each the mean over
    the trials of a model."""
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
    """Training time up to an update; each line of a log has that since the line before."""
    return sum(s for n, s in run.series("train_inner", "train_wall").items() if n <= updates)


def write_results(workdir: Path, text: str) -> None:
    """Prints the tables, and writes them to results.md in the working folder."""
    file = workdir / "results.md"
    file.write_text(f"{text}\n", encoding="utf-8")
    print(f"\n=== Results, also in {file}\n\n{text}")
