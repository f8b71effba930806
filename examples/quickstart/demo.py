"""Trains, tests and tries out two small Mega models, in a few minutes on two CPU cores or a GPU.

    python examples/quickstart/demo.py               Mega: a translation and a language model
    python examples/quickstart/demo.py --baselines   and fairseq's Transformers of equal size

Each step prints the commands it runs. A step that an earlier run of this script finished with the
same commands is skipped.
"""

import argparse
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Optional

import torch
from sacrebleu.metrics import BLEU

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from examples.steps import SPLITS, alone, plain_ends  # noqa: E402

HERE = Path(__file__).resolve().parent.relative_to(ROOT)
PYTHON = Path(sys.executable)
THREADS = os.environ.get("OMP_NUM_THREADS", "2")
ENVIRONMENT = {"OMP_NUM_THREADS": THREADS, "PYTHONWARNINGS": "ignore"}
WIDTH = 100

# --- settings -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """Options of each step. `{}` stands for a split: train, valid or test."""

    name: str
    texts: tuple[str, ...]  # the corpus's files
    prefix: str  # how fairseq-preprocess is told of them
    subword: str
    preprocess: str
    train: str
    models: dict[str, str]  # model: its options
    test: str  # the program and its options


CORPUS = "--pairs 20000 --seed 1"
USER_DIR = "--user-dir fairseq_mega"
# fairseq trains on all GPUs that it finds; one is enough, and batches would be larger on several.
DEVICE = "--distributed-world-size 1" if torch.cuda.is_available() else "--cpu"
FAIRSEQ = f"{USER_DIR} {DEVICE}"
TRAIN = """
    --optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 1.0 --lr-scheduler polynomial_decay
    --no-epoch-checkpoints --seed 1 --log-format simple --log-interval 20
"""

TRANSLATION = Task(
    name="translation",
    texts=("{}.en", "{}.de"),
    prefix="{}",
    subword="--vocab-size 2000",
    preprocess="--source-lang en --target-lang de --joined-dictionary",
    train="""
        --task translation --source-lang en --target-lang de --max-tokens 1024
        --criterion label_smoothed_cross_entropy --label-smoothing 0.1 --dropout 0
        --lr 3e-3 --warmup-updates 100 --total-num-update 800 --max-update 800
    """,
    models={
        "mega": """
            --arch mega_iwslt_de_en --share-all-embeddings
            --encoder-layers 2 --decoder-layers 2 --encoder-embed-dim 128 --encoder-hidden-dim 256
            --encoder-ffn-embed-dim 256 --encoder-z-dim 32 --encoder-n-dim 8
        """,
        "transformer": """
            --arch transformer --share-all-embeddings
            --encoder-layers 2 --decoder-layers 2 --encoder-embed-dim 128 --decoder-embed-dim 128
            --encoder-attention-heads 4 --decoder-attention-heads 4
            --encoder-ffn-embed-dim 576 --decoder-ffn-embed-dim 576
        """,
    },
    test="""
        fairseq-generate --beam 4 --batch-size 128 --required-batch-size-multiple 1
        --post-process sentencepiece
    """,
)

LANGUAGE_MODEL = Task(
    name="lm",
    texts=("{}.txt",),
    prefix="{}.txt",
    subword="--vocab-size 4000",
    preprocess="--only-source",
    train="""
        --task language_modeling --sample-break-mode none --tokens-per-sample 512 --max-tokens 1024
        --criterion cross_entropy --dropout 0
        --lr 6e-3 --warmup-updates 60 --total-num-update 400 --max-update 400
    """,
    models={
        "mega": """
            --arch mega_lm --share-decoder-input-output-embed
            --decoder-layers 2 --decoder-embed-dim 128 --decoder-hidden-dim 256
            --decoder-ffn-embed-dim 256 --decoder-z-dim 32 --decoder-n-dim 8
            --decoder-chunk-size 128 --rel-pos-bias rotary --normalize-before
            --weight-init xavier --truncation-length 0
        """,
        "transformer": """
            --arch transformer_lm --share-decoder-input-output-embed
            --decoder-layers 2 --decoder-embed-dim 128 --decoder-input-dim 128
            --decoder-output-dim 128 --decoder-attention-heads 4 --decoder-ffn-embed-dim 544
            --decoder-normalize-before
        """,
    },
    test="""
        fairseq-eval-lm --sample-break-mode none --tokens-per-sample 512 --max-tokens 2048
        --required-batch-size-multiple 1
    """,
)

TASKS = TRANSLATION, LANGUAGE_MODEL
TRY = {
    "translation": "--beam 4",
    "lm": "--task language_modeling --beam 1 --sampling --sampling-topk 20 --max-len-b 40",
}

# --- steps --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Step:
    """Commands that fill a folder of their own, and the steps whose folders they read."""

    title: str
    folder: Path
    commands: list[list[str]]
    after: tuple["Step", ...] = ()

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    def fingerprint(self) -> str:
        """Changes with the commands, the scripts they run, and the steps before."""
        digest = hashlib.sha256(repr(self.commands).encode())
        for script in (word for word in chain(*self.commands) if word.endswith(".py")):
            digest.update(Path(script).read_bytes())
        for step in self.after:
            digest.update(step.fingerprint().encode())
        return digest.hexdigest()

    def run(self) -> None:
        """Does the step, unless it is done. A stamp, written last, marks a finished folder."""
        print(f"\n=== {self.title}", flush=True)
        stamp, fingerprint, start = self.folder / "done", self.fingerprint(), time.time()
        if stamp.exists() and stamp.read_text() == fingerprint:
            print(f"    done before, in {self.folder}", flush=True)
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for words in self.commands:
            run(words, self.log)
        stamp.write_text(fingerprint)
        print(f"\n    {time.time() - start:.0f} seconds", flush=True)


def command(*parts: str | Path) -> list[str]:
    """A command's words: texts are split as a shell splits them, paths are one word each."""
    split = (shlex.split(part) if isinstance(part, str) else [str(part)] for part in parts)
    return list(chain(*split))


def located(words: list[str]) -> list[str]:
    """The command with the path of its program: the one installed beside this Python."""
    program = PYTHON if words[0] == "python" else PYTHON.parent / words[0]
    return [os.path.relpath(program) if ROOT in program.parents else str(program), *words[1:]]


def printable(words: list[str]) -> str:
    """The command as one types it, on several lines if it is long."""
    units = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
    units += map(shlex.quote, located(words))
    # Lines break between words, not at the spaces inside quotes.
    line = " ".join(unit.replace(" ", "\0") for unit in units)
    rows = textwrap.wrap(line, WIDTH - 6, break_long_words=False, break_on_hyphens=False)
    return " \\\n    ".join(rows).replace("\0", " ")


def run(words: list[str], log: Path) -> None:
    """Runs a command. Its output goes to its log and, except for translations, to the screen; the
    log ends with what it cost."""
    print(f"\n{printable(words)}\n", flush=True)
    start = time.time()
    process = subprocess.Popen(
        located(words),
        env={**os.environ, **ENVIRONMENT, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with log.open("a", encoding="utf-8") as file:
        for line in process.stdout:
            file.write(line)
            if not re.match(r"[STHDP]-\d+\t", line):
                print(line.rstrip()[: 2 * WIDTH], flush=True)
        # Linux counts from the memory of this process, which is less than a training takes.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        megabytes = usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e6 / 1024)
        file.write(f"took {time.time() - start:.0f} seconds and at most {megabytes:.0f} MB\n")
    if process.returncode:
        sys.exit(f"\nThe last command failed with status {process.returncode}. Its log: {log}")


@dataclass(frozen=True)
class Trial:
    """One model for one task, from the data to the test of the trained model, if there is one."""

    task: Any
    model: str
    data: Step
    training: Step
    test: Optional[Step]


def data_step(task: Task, work: Path, corpus: Step) -> Step:
    """Splits the text into the pieces of a SentencePiece model, and numbers them for fairseq."""
    folder, script = work / task.name / "data", HERE.parent / "subword.py"
    pieces, model = folder / "pieces", folder / "subword"
    texts = [
        corpus.folder / task.name / text.format(split) for split in SPLITS for text in task.texts
    ]
    prefixes = [(f"--{split}pref", pieces / task.prefix.format(split)) for split in SPLITS]
    learnt = texts[: len(task.texts)]
    commands = [
        command("python", script, "learn", model, *learnt, task.subword),
        command("python", script, "encode", model.with_suffix(".model"), pieces, *texts),
        command("fairseq-preprocess", task.preprocess, *chain(*prefixes), "--destdir", folder),
    ]
    return Step(f"Data for {task.name}", folder, commands, (corpus,))


def trial(task: Task, model: str, work: Path, data: Step) -> Trial:
    folder = work / task.name / model
    options = f"{FAIRSEQ} {task.train} {TRAIN} {task.models[model]} --save-dir"
    words = command("fairseq-train", data.folder, options, folder)
    training = Step(f"Training: {task.name}, {model}", folder, [words], (data,))
    program, options = task.test.split(maxsplit=1)
    words = command(program, data.folder, FAIRSEQ, options, "--path", checkpoint(training))
    test = Step(f"Test: {task.name}, {model}", Path(f"{folder}-test"), [words], (training,))
    return Trial(task, model, data, training, test)


def pictures_step(trials: list[Trial], work: Path) -> Step:
    """Pages of pictures: the curves of all trainings, and what the Mega models remember."""
    folder, program = work / "pictures", "python -m fairseq_mega"
    logs = [trial.training.log for trial in trials]
    commands = [command(program, "curves", *logs, "--out", folder / "trainings")]
    for trial in trials:
        if trial.model == "mega":
            out = folder / trial.task.name
            commands.append(command(program, "inspect", checkpoint(trial.training), "--out", out))
    return Step("Pictures", folder, commands, tuple(trial.training for trial in trials))


def checkpoint(training: Step) -> Path:
    return training.folder / "checkpoint_best.pt"


def plan(work: Path, models: list[str]) -> tuple[list[Step], list[Trial]]:
    """All steps in order, and the trials that they make up."""
    folder = work / "corpus"
    corpus = Step("Corpus", folder, [command("python", HERE / "corpus.py", folder, CORPUS)])
    trials = []
    for task in TASKS:
        data = data_step(task, work, corpus)
        trials += [trial(task, model, work, data) for model in models]
    phases = zip(*((each.data, each.training, each.test) for each in trials))
    return list(dict.fromkeys([corpus, *chain(*phases), pictures_step(trials, work)])), trials


def run_steps(steps: Iterable[Step], work: Path) -> None:
    with plain_ends(), alone(work):
        for step in steps:
            step.run()


# --- results ------------------------------------------------------------------------------------


def found(pattern: str, log: Path) -> str:
    """The last text in a log that the pattern's group matches."""
    return re.findall(pattern, log.read_text(encoding="utf-8"), re.MULTILINE)[-1]


def lines(path: Path) -> list[str]:
    """The file's lines, which only \\n ends."""
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def translations(log: Path) -> list[str]:
    """The translations in fairseq-generate's log, in the order of the test set."""
    pattern = r"^H-(\d+)\t\S+\t(.*)$"
    numbered = re.findall(pattern, log.read_text(encoding="utf-8"), re.MULTILINE)
    return [text for _, text in sorted(numbered, key=lambda found: int(found[0]))]


def table(rows: list[tuple[str, ...]]) -> str:
    """Markdown; the first row is the head."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    rows = [rows[0], tuple("-" * width for width in widths), *rows[1:]]
    cells = ([cell.ljust(width) for cell, width in zip(row, widths)] for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def cost(trial: Trial) -> tuple[str, ...]:
    """Parameters, updates and seconds of a training."""
    log = trial.training.log
    return (
        found(r"num\. shared model params: ([\d,]+)", log),
        found(r"num_updates[ =](\d+)", log),
        found(r"done training in (\d+)", log),
    )


def report(work: Path, trials: list[Trial]) -> None:
    """Tables of results, five translations, and what to type next."""
    corpus = work / "corpus"
    translation = [trial for trial in trials if trial.task is TRANSLATION]
    language = [trial for trial in trials if trial.task is LANGUAGE_MODEL]
    sources, references = (lines(corpus / f"translation/test.{side}") for side in ("en", "de"))
    costs = "parameters", "updates", "training seconds"

    print(f"\n=== Translation, English to German: {len(sources):,} test phrases\n")
    bleu, rows = BLEU(), [("model", *costs, "SacreBLEU")]
    for trial in translation:
        score = bleu.corpus_score(translations(trial.test.log), [references]).score
        rows.append((trial.model, *cost(trial), f"{score:.1f}"))
    print(f"{table(rows)}\n\nSacreBLEU {bleu.get_signature()}")
    mega = translations(translation[0].test.log)
    for i in range(0, len(sources), len(sources) // 5):
        print(f"\nsource     {sources[i]}\nreference  {references[i]}\nmega       {mega[i]}")

    print("\n=== Language model\n")
    rows = [("model", *costs, "test perplexity per token")]
    for trial in language:
        bits = float(found(r"Loss \(base 2\): ([\d.]+)", trial.test.log))
        rows.append((trial.model, *cost(trial), f"{2**bits:.1f}"))
    print(table(rows))

    print("\n=== Checkpoints\n")
    print(*(checkpoint(trial.training) for trial in trials), sep="\n")
    print("\n=== Pictures: what the models remember, and how they were trained\n")
    print(*sorted(work.glob("pictures/*/index.html")), sep="\n")

    print(f"\n=== What to type next, in {ROOT}\n")
    print("Translate, one line at a time:\n")
    print(f"echo 'in 12 days' | \\\n{printable(interactive(translation[0]))}\n")
    print("Let the language model continue a beginning:\n")
    print(f"echo 'Return the' | \\\n{printable(interactive(language[0]))}\n")
    print("README.md tells how to train on your own text.")


def interactive(trial: Trial) -> list[str]:
    subword = "--bpe sentencepiece --sentencepiece-model", trial.data.folder / "subword.model"
    options = FAIRSEQ, TRY[trial.task.name], "--path", checkpoint(trial.training)
    return command("fairseq-interactive", trial.data.folder, *options, *subword)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", default=ROOT / "demo", help="where all files go: demo/")
    parser.add_argument("--baselines", action="store_true", help="train fairseq's Transformers too")
    args = parser.parse_args()
    work = Path(os.path.relpath(args.workdir, ROOT))
    os.chdir(ROOT)

    start = time.time()
    steps, trials = plan(work, ["mega", "transformer"] if args.baselines else ["mega"])
    run_steps(steps, work)
    report(work, trials)
    print(f"\nAll of it took {time.time() - start:.0f} seconds.")


if __name__ == "__main__":
    main()
