"""Mega, Mega-chunk and a Transformer of equal size on long sequences, in minutes on two CPU cores.

    python examples/classification/demo.py

ListOps of up to 500 symbols and clips of 8,000 samples, both generated. Each step prints the
commands it runs, and is skipped where an earlier run finished it with the same commands.
"""

import argparse
import json
import os
import platform
import sys
import time
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Dict, List, Sequence

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from examples.quickstart import demo  # noqa: E402
from examples.quickstart.demo import Step, Trial, command, found, run_steps, table  # noqa: E402

HERE = Path("examples/classification")
BASELINE = f"--user-dir {HERE}/baseline"
PLUGIN = "--user-dir fairseq_mega"
CPU = "--cpu --distributed-world-size 1"  # also where there are GPUs: memory is the process's
PROBE = "--batch-size 1 --max-update 1"  # what one clip costs
HEAD = ("data", "model", "parameters", "updates", "accuracy, % (95% interval)", "seconds", "memory")

# --- settings -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """Data, and the models that are trained on it."""

    name: str
    title: str
    data: List[str]  # commands that make {}/data, where {} stands for the step's folder
    train: str
    models: Dict[str, str]  # model: its options
    probed: Sequence[str] = ()  # models that only make one update


TRAIN = """
    --criterion lra_cross_entropy --sentence-avg --optimizer adam --adam-betas '(0.9, 0.98)'
    --clip-norm 1.0 --lr-scheduler linear_decay --warmup-updates 40 --dropout 0
    --disable-validation --no-epoch-checkpoints --seed 1 --num-workers 0
    --log-format simple --log-interval 20 --sentence-class-num 10
"""
MEGA = "--encoder-layers 2"
SMALL = (
    "--encoder-embed-dim 48 --encoder-hidden-dim 96 --z-dim 24 --n-dim 8 --classifier-out-dim 96"
)
TRANSFORMER = f"{BASELINE} --arch transformer_classifier --encoder-layers 2"

TASKS = [
    Task(
        name="listops",
        title="ListOps, 10 to 500 symbols, most below 100",
        data=[
            f"python {HERE}/prepare.py listops --workdir {{}}/data --min-length 10 "
            "--max-length 500 --max-depth 5 --max-arguments 6 --operator-rate 0.3 "
            "--sizes 20000 100 2000 --workers 1"
        ],
        train="--task lra-text --max-positions 500 --batch-size 16 --max-update 1200 "
        "--lr 4e-3 --total-num-update 1200",
        models={
            "mega": f"{PLUGIN} -a mega_listops {MEGA} --encoder-embed-dim 48 "
            "--encoder-hidden-dim 96 --z-dim 24 --classifier-out-dim 96 --truncation-length 0",
            "mega-chunk": "--chunk-size 64",
            "transformer": f"{TRANSFORMER} --encoder-embed-dim 48 --encoder-ffn-embed-dim 248 "
            "--classifier-out-dim 96",
        },
    ),
    Task(
        name="tones",
        title="Tones of ten pitches, 8,000 samples",
        data=[
            f"python {HERE}/demo_data.py {{}}/wavs --count 60",
            f"python {HERE}/prepare.py audio --from {{}}/wavs --workdir {{}}/data --samples 8000 "
            "--standardise all",
        ],
        train="--task speech_commands --max-positions 8000 --batch-size 4 --max-update 250 "
        "--lr 1e-2 --total-num-update 250",
        models={
            "mega": f"{PLUGIN} -a mega_speech {MEGA} --encoder-embed-dim 32 "
            "--encoder-hidden-dim 64 --z-dim 16 --chunk-size -1",
            "mega-chunk": "--chunk-size 200",
            "transformer": f"{TRANSFORMER} --encoder-embed-dim 32 --encoder-ffn-embed-dim 176 "
            "--classifier-out-dim 64 --encoder-attention-heads 2",
        },
        probed=["mega", "transformer"],
    ),
]

# --- steps --------------------------------------------------------------------------------------


def data_step(task: Task, work: Path) -> Step:
    folder = work / task.name / "data"
    commands = [command(words.replace("{}", str(folder))) for words in task.data]
    return Step(f"Data: {task.title}", folder, commands)


def trial(task: Task, model: str, work: Path, data: Step) -> Trial:
    folder, prepared = work / task.name / model, data.folder / "data"
    # Mega-chunk has Mega's options and a chunk size.
    own = f"{task.models['mega'] if model == 'mega-chunk' else ''} {task.models[model]}"
    probe = PROBE if model in task.probed else ""
    options = f"{TRAIN} {task.train} {own} {CPU} {probe} --save-dir"
    words = command("fairseq-train", prepared, options, folder)
    training = Step(f"Training: {task.title}, {model}", folder, [words], (data,))
    if probe:
        return Trial(task, model, data, training, None)
    tested = work / task.name / f"{model}-test"
    kind = task.train.split()[1]
    words = command(
        "fairseq-validate",
        prepared,
        f"{BASELINE if model == 'transformer' else PLUGIN} --task {kind} --cpu --num-workers 0 "
        "--valid-subset test --batch-size 16 --required-batch-size-multiple 1 --log-format simple",
        *("--path", folder / "checkpoint_last.pt", "--results-path", tested),
    )
    test = Step(f"Test: {task.title}, {model}", tested, [words], (training,))
    return Trial(task, model, data, training, test)


def plan(work: Path) -> List[Trial]:
    trials = []
    for task in TASKS:
        data = data_step(task, work)
        trials += [trial(task, model, work, data) for model in task.models]
    return trials


def run(trials: List[Trial], work: Path) -> None:
    steps = chain(*((each.data, each.training, each.test) for each in trials))
    run_steps(dict.fromkeys(filter(None, steps)), work)


# --- results ------------------------------------------------------------------------------------


def summary_of(trial: Trial) -> Dict:
    return json.loads((trial.test.folder / "summary-test.json").read_text(encoding="utf-8"))


def row_of(trial: Trial) -> tuple[str, ...]:
    score, log = "not trained: one clip", trial.training.log
    if trial.test:
        summary = summary_of(trial)
        low, high = summary["interval_95"]
        score = f"{summary['accuracy']:.1f} ({low:.1f} to {high:.1f})"
    return (
        trial.task.title,
        trial.model,
        found(r"num\. shared model params: ([\d,]+)", log),
        found(r"num_updates[ =](\d+)", log),
        score,
        found(r"^took (\d+) seconds", log),
        f"{int(found(r'at most ([0-9]+) MB$', log)):,} MB",
    )


def report(work: Path, trials: List[Trial], threads: int) -> None:
    """Prints the table with notes, and writes both to table.md."""
    parts = [table([HEAD, *map(row_of, trials)])]
    for name, some in {trial.task.name: trial for trial in trials if trial.test}.items():
        summary = summary_of(some)
        commonest = 100 * max(map(sum, summary["confusion"])) / summary["samples"]
        parts.append(f"- {name}: always the commonest class would have {commonest:.1f}%.")
    parts.append(
        f"Measured with {threads} threads on {platform.system()}, {platform.machine()}. Seconds "
        "are those of fairseq-train with its start; memory is the largest of its process."
    )
    text = "\n\n".join(parts)
    (work / "table.md").write_text(f"{text}\n", encoding="utf-8")
    print(f"\n=== Results\n\n{text}\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", default=ROOT / "demo/long", help="where all goes: demo/long")
    parser.add_argument("--threads", type=int, default=demo.THREADS, help="of each command (2)")
    args = parser.parse_args()
    work = Path(os.path.relpath(args.workdir, ROOT))
    os.chdir(ROOT)
    demo.ENVIRONMENT["OMP_NUM_THREADS"] = str(args.threads)
    start, trials = time.time(), plan(work)
    run(trials, work)
    report(work, trials, args.threads)
    print(f"\nAll of it took {time.time() - start:.0f} seconds.")


if __name__ == "__main__":
    main()
