"""Mega, Mega-chunk and a Transformer of equal size on long sequences, in minutes on two CPU cores.

    python examples/classification/demo.py          three kinds of data; a table, and pictures
    python examples/classification/demo.py --tiny   the same with hardly any training, as a check

ListOps of up to 500 symbols (generated), scikit-learn's digits as 64 pixels in a row, and spoken
digits of 8,000 samples. Each step prints the commands it runs, and is skipped where an earlier run
finished it with the same commands.
"""

import argparse
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Sequence

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from examples.classification.demo_report import report  # noqa: E402
from examples.quickstart import demo  # noqa: E402
from examples.quickstart.demo import Step, command  # noqa: E402
from examples.steps import alone  # noqa: E402

HERE = Path("examples/classification")
BASELINE = f"--user-dir {HERE}/baseline"
PLUGIN = "--user-dir fairseq_mega"
PROBE = "--batch-size 1 --max-update 1"  # what one clip costs

# --- settings -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """What is trained on which data. `{}` stands for the step's folder."""

    name: str
    title: str
    data: List[str]  # commands that make the folder {}/data
    tiny: Dict[str, str]  # what --tiny replaces in these and in `train`
    train: str
    models: Dict[str, str]  # model: its options
    probed: List[str]  # models that only make one update


TRAIN = """
    --criterion lra_cross_entropy --sentence-avg --optimizer adam --adam-betas '(0.9, 0.98)'
    --clip-norm 1.0 --lr-scheduler linear_decay --warmup-updates 40 --dropout 0
    --disable-validation --no-epoch-checkpoints --seed 1 --num-workers 0
    --log-format simple --log-interval 20 --sentence-class-num 10
"""
MEGA = "--encoder-layers 2"
TRANSFORMER = f"{BASELINE} --arch transformer_classifier --encoder-layers 2"

LISTOPS = Task(
    name="listops",
    title="ListOps, 10 to 500 symbols, most below 100",
    data=[
        f"python {HERE}/prepare.py listops --workdir {{}}/data --min-length 10 --max-length 500 "
        "--max-depth 5 --max-arguments 6 --operator-rate 0.3 --sizes 20000 100 2000 --workers 1"
    ],
    tiny={"20000 100 2000": "80 10 20", "--max-update 1200": "--max-update 2"},
    train=f"{TRAIN} --task lra-text --max-positions 500 --batch-size 16 --max-update 1200 "
    "--lr 4e-3 --total-num-update 1200",
    models={
        "mega": f"{PLUGIN} -a mega_listops {MEGA} --encoder-embed-dim 48 --encoder-hidden-dim 96 "
        "--z-dim 24 --n-dim 8 --classifier-out-dim 96 --truncation-length 0",
        "mega-chunk": "--chunk-size 64",
        "transformer": f"{TRANSFORMER} --encoder-embed-dim 48 --encoder-ffn-embed-dim 248 "
        "--classifier-out-dim 96",
    },
    probed=[],
)
DIGITS = Task(
    name="digits",
    title="Digits, 64 pixels in a row",
    data=[
        f"python {HERE}/demo_data.py digits {{}}/pictures",
        f"python {HERE}/prepare.py pictures --from {{}}/pictures --workdir {{}}/data "
        "--held-out 0.2",
    ],
    tiny={"--max-update 400": "--max-update 2"},
    train=f"{TRAIN} --task lra-image --max-positions 64 --batch-size 32 --max-update 400 "
    "--lr 4e-3 --total-num-update 400",
    models={
        "mega": f"{PLUGIN} -a mega_image {MEGA} --encoder-embed-dim 48 --encoder-hidden-dim 96 "
        "--z-dim 24 --n-dim 8 --classifier-out-dim 96",
        "mega-chunk": "--chunk-size 16",
        "transformer": f"{TRANSFORMER} --encoder-embed-dim 48 --encoder-ffn-embed-dim 240 "
        "--classifier-out-dim 96",
    },
    probed=[],
)
SPOKEN = Task(
    name="spoken",
    title="Spoken digits, 8,000 samples",
    data=[
        f"python {HERE}/demo_data.py spoken {{}}/wavs --count 60",
        f"python {HERE}/prepare.py audio --from {{}}/wavs --workdir {{}}/data --samples 8000 "
        "--standardise all",
    ],
    tiny={"--count 60": "--count 8", "--max-update 250": "--max-update 2",
          "--batch-size 4": "--batch-size 2"},
    train=f"{TRAIN} --task speech_commands --max-positions 8000 --batch-size 4 --max-update 250 "
    "--lr 1e-2 --total-num-update 250",
    models={
        "mega": f"{PLUGIN} -a mega_speech {MEGA} --encoder-embed-dim 32 --encoder-hidden-dim 64 "
        "--z-dim 16 --n-dim 8 --chunk-size -1",
        "mega-chunk": "--chunk-size 200",
        "transformer": f"{TRANSFORMER} --encoder-embed-dim 32 --encoder-ffn-embed-dim 176 "
        "--classifier-out-dim 64 --encoder-attention-heads 2",
    },
    probed=["mega", "transformer"],
)  # fmt: skip
TASKS = LISTOPS, DIGITS, SPOKEN

# --- steps --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """One model on one kind of data."""

    task: Task
    model: str
    data: Step
    training: Step
    test: Step | None  # of a trained model


def fairseq(program: str) -> str:
    return demo.located([program])[0]


def shrunk(task: Task, text: str, tiny: bool) -> str:
    for large, small in task.tiny.items() if tiny else ():
        text = text.replace(large, small)
    return text


def data_step(task: Task, work: Path, tiny: bool) -> Step:
    folder = work / task.name / "data"
    commands = [command(shrunk(task, words.format(*[folder] * 4), tiny)) for words in task.data]
    return Step(f"Data: {task.title}", folder, commands)


def options_of(task: Task, model: str) -> str:
    """Mega-chunk has Mega's options and a chunk size."""
    return f"{task.models['mega'] if model == 'mega-chunk' else ''} {task.models[model]}"


def trial(task: Task, model: str, work: Path, data: Step, tiny: bool) -> Trial:
    folder, prepared = work / task.name / model, data.folder / "data"
    options = f"{shrunk(task, task.train, tiny)} {options_of(task, model)} --cpu"
    probe = PROBE if model in task.probed else ""
    measured = command("python", HERE / "measured.py", folder / "cost.json")
    words = [*measured, fairseq("fairseq-train"), *command(prepared, options, probe, "--save-dir")]
    training = Step(f"Training: {task.title}, {model}", folder, [[*words, str(folder)]], (data,))
    if probe:
        return Trial(task, model, data, training, None)
    user_dir = BASELINE if model == "transformer" else PLUGIN
    kind = task.train.split("--task ")[1].split()[0]
    tested = work / task.name / f"{model}-test"
    options = f"{user_dir} --task {kind} --cpu --valid-subset test --batch-size 16 --num-workers 0"
    paths = "--path", folder / "checkpoint_last.pt", "--results-path", tested
    alike = "--required-batch-size-multiple 1 --log-format simple --log-interval 100"
    words = command("fairseq-validate", prepared, options, alike, *paths)
    test = Step(f"Test: {task.title}, {model}", tested, [words], (training,))
    return Trial(task, model, data, training, test)


def plan(work: Path, tiny: bool, only: Sequence[str] = ()) -> List[Trial]:
    """The trials, or `only` those of these names, TASK/MODEL."""
    trials = []
    for task in TASKS:
        data = data_step(task, work, tiny)
        models = [each for each in task.models if not only or f"{task.name}/{each}" in only]
        trials += [trial(task, model, work, data, tiny) for model in models]
    return trials


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", default=ROOT / "demo/long", help="where all goes: demo/long")
    parser.add_argument("--threads", type=int, default=2, help="of each command (2)")
    parser.add_argument("--tiny", action="store_true", help="two updates on little data")
    names = [f"{task.name}/{model}" for task in TASKS for model in task.models]
    parser.add_argument("--only", nargs="+", choices=names, default=[], help="these (all)")
    args = parser.parse_args()
    work = Path(os.path.relpath(args.workdir, ROOT))
    os.chdir(ROOT)
    demo.ENVIRONMENT["OMP_NUM_THREADS"] = str(args.threads)

    start, trials = time.time(), plan(work, args.tiny, args.only)
    steps = (step for each in trials for step in (each.data, each.training, each.test) if step)
    try:
        with alone(work):
            for step in dict.fromkeys(steps):
                step.run()
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. Another run goes on with this step.")
    report(work, trials, args.threads)
    print(f"\nAll of it took {time.time() - start:.0f} seconds.")


if __name__ == "__main__":
    main()
