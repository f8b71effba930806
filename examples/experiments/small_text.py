"""Mega beside fairseq's Transformer of equal size on the ten million characters of a manual.

    python examples/experiments/small_text.py                    subwords, 3 seeds
    python examples/experiments/small_text.py --symbols bytes
    python examples/experiments/small_text.py --only mega        or mega-normal, transformer

Curves of the trainings, and the test set read in blocks of one chunk, two, four, ... that know
nothing of each other: what a text further back is good for. Each step prints its command, and is
skipped where an earlier run finished it with the same command.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from examples.experiments.comparison import (  # noqa: E402
    Column,
    add_options,
    check_gpu,
    curves,
    fairseq_options,
    find_data,
    further_options,
    schedule,
    write_results,
)
from examples.language_modeling import prepare  # noqa: E402
from examples.quickstart.demo import Step, command, found, table  # noqa: E402
from examples.steps import alone  # noqa: E402

CURVES = {"bits": Column("loss", ".3f")}
CHUNK = 128
CHUNKS = (1, 2, 4, 8, 16, 32)  # of a block of the test
SAMPLE = 2048  # tokens that Mega reads at once in training
WINDOW = 512  # and the Transformer


class Sizes(NamedTuple):
    """Tokens of an update, and the dimensions of the models."""

    max_tokens: int
    mega: str
    transformer: str


SIZES = {
    "subwords": Sizes(
        2048,
        """--decoder-layers 3 --decoder-embed-dim 256 --decoder-hidden-dim 512
        --decoder-ffn-embed-dim 512 --decoder-z-dim 64 --decoder-n-dim 8""",
        """--decoder-layers 3 --decoder-embed-dim 256 --decoder-input-dim 256
        --decoder-output-dim 256 --decoder-attention-heads 4 --decoder-ffn-embed-dim 1088""",
    ),
    "bytes": Sizes(
        4096,
        """--decoder-layers 3 --decoder-embed-dim 192 --decoder-hidden-dim 384
        --decoder-ffn-embed-dim 384 --decoder-z-dim 48 --decoder-n-dim 8""",
        """--decoder-layers 3 --decoder-embed-dim 192 --decoder-input-dim 192
        --decoder-output-dim 192 --decoder-attention-heads 4 --decoder-ffn-embed-dim 816""",
    ),
}
TRAIN = """
    --sample-break-mode none --share-decoder-input-output-embed
    --criterion cross_entropy --dropout 0.1
    --optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 1.0 --lr-scheduler linear_decay
    --validate-interval 1000000 --no-epoch-checkpoints --num-workers 0 --log-format json
"""
MEGA = f"""
    --task mega_language_modeling --tokens-per-sample {SAMPLE} --valid-block size:{SAMPLE}
    --variant-block-multiple-min {SAMPLE // CHUNK} --variant-block-multiple-max {SAMPLE // CHUNK}
    --arch mega_lm_long --decoder-chunk-size {CHUNK}
"""
MODELS = {
    "mega": f"{MEGA} --ema-longest {SAMPLE}",
    "mega-normal": f"{MEGA} --ema-init normal",
    "transformer": f"""
        --task language_modeling --tokens-per-sample {WINDOW}
        --arch transformer_lm --decoder-normalize-before
    """,
}
RATES = dict.fromkeys(MODELS, "4e-3")


@dataclass(frozen=True)
class Trial:
    """One training and its tests, by how the test set is read."""

    model: str
    seed: int
    training: Step
    tests: Dict[str, Step]


def trials_of(args: argparse.Namespace) -> List[Trial]:
    data, sizes = args.data / "data-bin", SIZES[args.symbols]
    common = fairseq_options(args)
    trials = []
    for seed in args.seeds:
        for model in args.only:
            folder = args.workdir / f"{model}-{seed}"
            dims = sizes.transformer if model == "transformer" else sizes.mega
            options = TRAIN, f"--max-tokens {sizes.max_tokens}", MODELS[model], dims
            lr = args.lr or RATES[model]
            options += schedule(args, seed, args.updates // 8, lr), further_options(args, model)
            options += "--save-dir", folder
            title = f"{model}, seed {seed}"
            words = command("fairseq-train", data, common, *options)
            training = Step(f"Training: {title}", folder, [words])
            tests = {}
            for name, reading in readings(model).items():
                path = "--path", folder / "checkpoint_last.pt"
                tests[name] = Step(
                    f"Test: {title}, {name}",
                    args.workdir / f"{model}-{seed}-test" / name.replace(" ", "-"),
                    [command(f"fairseq-{reading}", data, common, *path)],
                    (training,),
                )
            trials.append(Trial(model, seed, training, tests))
    return trials


def readings(model: str) -> Dict[str, str]:
    """How a model reads the test set: each the program, and its options."""
    if model == "transformer":
        evaluate = f"eval-lm --tokens-per-sample {WINDOW} --sample-break-mode none"
        evaluate += " --max-tokens 4096 --required-batch-size-multiple 1"
        before = 3 * WINDOW // 4
        return {
            f"blocks of {WINDOW}": evaluate,
            f"blocks of {WINDOW - before}, up to {before} read before": (
                f"{evaluate} --context-window {before}"  # of the WINDOW
            ),
        }
    evaluate = "eval-lm --task mega_language_modeling --sample-break-mode none --max-tokens 4096"
    blocks = {
        f"blocks of {n * CHUNK}": f"{evaluate} --valid-block size:{n * CHUNK}" for n in CHUNKS
    }
    return {**blocks, "one stream": f"{evaluate} --valid-block splits:1"}


# --- results ------------------------------------------------------------------------------------


def tests(trials: Sequence[Trial]) -> str:
    """A table of bits per symbol of the test set, by how it is read."""
    rows = [
        ("seed", "model", "parameters", "the test set is read in", "bits per symbol", "perplexity")
    ]
    for trial in trials:
        size = found(r"num\. shared model params: ([\d,]+)", trial.training.log)
        for name, step in trial.tests.items():
            bits = float(found(r"Loss \(base 2\): ([\d.]+)", step.log))
            rows.append((str(trial.seed), trial.model, size, name, f"{bits:.4f}", f"{2**bits:.3f}"))
    return table(rows)


def report(args: argparse.Namespace, trials: Sequence[Trial]) -> None:
    write_results(
        args.workdir,
        f"Validation, bits per symbol, means of seeds {' '.join(map(str, args.seeds))}:\n\n"
        f"{curves(trials, CURVES)}\n\nTest:\n\n{tests(trials)}",
    )


def parse(words: Optional[List[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--symbols", choices=list(SIZES), default="subwords")
    parser.add_argument("--only", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument(
        "--data", type=Path, help="a --workdir of prepare.py manual; Python's if not given"
    )
    add_options(parser, updates=1200, rates=RATES)
    parser.add_argument("--workdir", type=Path, help="where trainings go: data/small-text-SYMBOLS")
    args = parser.parse_args(words)
    if args.data is not None and args.workdir is None:
        parser.error("--data needs a --workdir: trainings on other data are in the usual one")
    args.workdir = args.workdir or Path("data", f"small-text-{args.symbols}")
    return args


def main(words: Optional[List[str]] = None) -> None:
    args = parse(words)
    check_gpu(args)
    find_data(args, prepare, "manual", "--symbols", args.symbols)
    check_symbols(args)
    trials = trials_of(args)
    with alone(args.workdir):
        for trial in trials:
            for step in (trial.training, *trial.tests.values()):
                step.run()
    report(args, trials)


def check_symbols(args: argparse.Namespace) -> None:
    settings = args.data / "settings.json"
    if not settings.exists():
        return
    symbols = json.loads(settings.read_text(encoding="utf-8")).get("symbols", args.symbols)
    if symbols != args.symbols:
        sys.exit(
            f"--symbols is {args.symbols}, but {args.data} has {symbols}: give --symbols {symbols}"
        )


if __name__ == "__main__":
    main()
