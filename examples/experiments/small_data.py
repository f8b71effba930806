"""Mega beside fairseq's Transformer of equal size on 24,000 natural sentences: curves and tests.

    python examples/experiments/small_data.py                     English–German, 3 seeds
    python examples/experiments/small_data.py --target-lang fr    English–French
    python examples/experiments/small_data.py --data FOLDER       what prepare.py has made
    python examples/experiments/small_data.py --mega='--dropout 0.3'   and so for --transformer

Each training step prints its command, and is skipped where an earlier run finished it with the same
command.
"""

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Sequence

from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest

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
from examples.quickstart.demo import (  # noqa: E402
    Step,
    command,
    found,
    lines,
    table,
    translations,
)
from examples.translation import prepare  # noqa: E402

# fairseq logs bits, the tables have nats.
CURVES = {"loss": Column("nll_loss", ".3f", math.log(2)), "BLEU": Column("bleu", ".1f")}
RESAMPLES = 1000

TRAIN = """
    --task translation --share-all-embeddings --max-tokens 1850
    --criterion label_smoothed_cross_entropy --label-smoothing 0.1
    --optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 1.0 --lr-scheduler linear_decay
    --dropout 0.15 --attention-dropout 0.1 --activation-dropout 0.1
    --validate-interval 1000000 --no-epoch-checkpoints --num-workers 0
    --eval-bleu --eval-bleu-args '{"beam": 1}' --eval-bleu-remove-bpe sentencepiece
    --log-format json
"""
MODELS = {
    "mega": """
        --arch mega_iwslt_de_en --encoder-layers 3 --decoder-layers 3
        --encoder-embed-dim 256 --encoder-hidden-dim 512 --encoder-ffn-embed-dim 512
        --encoder-z-dim 64 --encoder-n-dim 16 --hidden-dropout 0.1
    """,
    "transformer": """
        --arch transformer --encoder-layers 3 --decoder-layers 3
        --encoder-embed-dim 256 --encoder-ffn-embed-dim 1024 --decoder-ffn-embed-dim 1024
        --encoder-attention-heads 4 --decoder-attention-heads 4
        --encoder-normalize-before --decoder-normalize-before
    """,
}
# The best that was tried for each, in docs/small-data.md.
RATES = {"mega": "4e-3", "transformer": "2e-3"}
TEST = "--beam 5 --batch-size 64 --required-batch-size-multiple 1 --post-process sentencepiece"


@dataclass(frozen=True)
class Trial:
    """One training and its test."""

    model: str
    seed: int
    training: Step
    test: Step


def trials_of(args: argparse.Namespace) -> List[Trial]:
    data, common = args.data / "data-bin", fairseq_options(args)
    trials = []
    for seed in args.seeds:
        for model in MODELS:
            folder = args.workdir / f"{model}-{seed}"
            lr = args.lr or RATES[model]
            options = TRAIN, MODELS[model], schedule(args, seed, args.updates // 3, lr)
            options += further_options(args, model), "--save-dir", folder
            words = command("fairseq-train", data, common, *options)
            training = Step(f"Training: {model}, seed {seed}", folder, [words])
            path = "--path", folder / "checkpoint_last.pt"
            test = Step(
                f"Test: {model}, seed {seed}",
                args.workdir / f"{model}-{seed}-test",
                [command("fairseq-generate", data, common, TEST, *path)],
                (training,),
            )
            trials.append(Trial(model, seed, training, test))
    return trials


# --- results ------------------------------------------------------------------------------------


def tests(trials: Sequence[Trial], references: List[str]) -> str:
    """A table of test scores with intervals; `p` is of the difference to the Transformer. And how
    they are computed."""
    rows = [("seed", "model", "parameters", "SacreBLEU (95% interval)", "p")]
    for seed in dict.fromkeys(trial.seed for trial in trials):
        same = {trial.model: trial for trial in trials if trial.seed == seed}
        systems = [(model, translations(same[model].test.log)) for model in reversed(MODELS)]
        paired = PairedTest(systems, {"BLEU": BLEU()}, [references], "bs", RESAMPLES)
        signatures, results = paired()
        for model, score in zip(results["System"], results["BLEU"]):
            size = found(r"num\. shared model params: ([\d,]+)", same[model].training.log)
            interval = f"{score.score:.1f} ({score.mean:.1f} ± {score.ci:.1f})"
            p = "" if score.p_value is None else f"{score.p_value:.3f}"
            rows.append((str(seed), model, size, interval, p))
    return f"{table(rows)}\n\nSacreBLEU {signatures['BLEU']}"


def report(args: argparse.Namespace, trials: Sequence[Trial]) -> None:
    target = next((args.data / "data-bin").glob("test.*.idx")).name.split(".")[1].split("-")[1]
    references = lines(args.data / f"text/test.{target}")
    write_results(
        args.workdir,
        f"Validation, means of seeds {' '.join(map(str, args.seeds))}; loss in nats per token, "
        f"greedy BLEU:\n\n{curves(trials, CURVES)}\n\n"
        f"{len(references):,} test sentences, beam 5, paired bootstrap of {RESAMPLES:,} samples:"
        f"\n\n{tests(trials, references)}",
    )


def parse(words: Optional[List[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target-lang", default="de", help="of the help pages (de)")
    parser.add_argument(
        "--data", type=Path, help="a --workdir of prepare.py; help pages if not given"
    )
    add_options(parser, updates=600, rates=RATES)
    parser.add_argument("--workdir", type=Path, help="where trainings go: data/small-data-LANGUAGE")
    args = parser.parse_args(words)
    args.workdir = args.workdir or Path("data", f"small-data-{args.target_lang}")
    return args


def main(words: Optional[List[str]] = None) -> None:
    args = parse(words)
    check_gpu(args)
    find_data(args, prepare, "help", "--target-lang", args.target_lang)
    trials = trials_of(args)
    for trial in trials:
        trial.training.run()
        trial.test.run()
    report(args, trials)


if __name__ == "__main__":
    main()
