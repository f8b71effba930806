"""Mega and fairseq's Transformer of equal size on 24,000 natural sentences: curves and tests.

python examples/experiments/small_data.py                     English–German, 3 seeds
python examples/experiments/small_data.py --target-lang fr    English–French
python examples/experiments/small_data.py --mega='--dropout 0.3'   and so for --transformer
"""

import math
import sys
from pathlib import Path
from typing import List, Optional, Sequence

from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from examples.experiments.comparison import (  # noqa: E402
    Column,
    Trial,
    curves,
    find_data,
    make_parser,
    run_trials,
    write_results,
)
from examples.quickstart.demo import lines, table, translations  # noqa: E402
from examples.translation import prepare  # noqa: E402

# fairseq logs bits, the tables have nats.
CURVES = {"loss": Column("nll_loss", ".3f", math.log(2)), "BLEU": Column("bleu", ".1f")}
RESAMPLES = 1000

TRAIN = """
    --task translation --share-all-embeddings --max-tokens 1850
    --criterion label_smoothed_cross_entropy --label-smoothing 0.1
    --dropout 0.15 --attention-dropout 0.1 --activation-dropout 0.1
"""
VALIDATE = """--eval-bleu --eval-bleu-args '{"beam": 1}' --eval-bleu-remove-bpe sentencepiece"""
MODELS = {
    "transformer": f"""{TRAIN}
        --arch transformer --encoder-layers 3 --decoder-layers 3
        --encoder-embed-dim 256 --encoder-ffn-embed-dim 1024 --decoder-ffn-embed-dim 1024
        --encoder-attention-heads 4 --decoder-attention-heads 4
        --encoder-normalize-before --decoder-normalize-before
    """,
    "mega": f"""{TRAIN}
        --arch mega_iwslt_de_en --encoder-layers 3 --decoder-layers 3
        --encoder-embed-dim 256 --encoder-hidden-dim 512 --encoder-ffn-embed-dim 512
        --encoder-z-dim 64 --encoder-n-dim 16 --hidden-dropout 0.1
    """,
}
RATES = {
    "transformer": "2e-3",
    "mega": "4e-3",
}  # the best of docs/experiments/2026-11-small-data.md
TEST = (
    "fairseq-generate --beam 5 --batch-size 64 --required-batch-size-multiple 1 "
    "--post-process sentencepiece"
)


def tests(trials: Sequence[Trial], references: List[str]) -> str:
    """Table of test scores with intervals, and SacreBLEU's signature; ``p`` is of the difference to
    the first model."""
    rows = [("seed", "model", "parameters", "SacreBLEU (95% interval)", "p")]
    for seed in dict.fromkeys(trial.seed for trial in trials):
        same = {trial.model: trial for trial in trials if trial.seed == seed}
        systems = [(model, translations(each.tests["test"].log)) for model, each in same.items()]
        paired = PairedTest(systems, {"BLEU": BLEU()}, [references], "bs", RESAMPLES)
        signatures, results = paired()
        for model, score in zip(results["System"], results["BLEU"]):
            interval = f"{score.score:.1f} ({score.mean:.1f} ± {score.ci:.1f})"
            p = "" if score.p_value is None else f"{score.p_value:.3f}"
            rows.append((str(seed), model, same[model].parameters, interval, p))
    return f"{table(rows)}\n\nSacreBLEU {signatures['BLEU']}"


def main(words: Optional[List[str]] = None) -> None:
    parser = make_parser(__doc__, updates=600, rates=RATES)
    parser.add_argument("--target-lang", default="de", help="(de)")
    parser.add_argument("--workdir", type=Path, help="where all goes: data/small-data-LANGUAGE")
    args = parser.parse_args(words)
    args.workdir = args.workdir or Path("data", f"small-data-{args.target_lang}")
    data = find_data(args, prepare, "help", "--target-lang", args.target_lang)
    models = {model: f"{options} {VALIDATE}" for model, options in MODELS.items()}
    trials = run_trials(args, data, models, RATES, args.updates // 3, lambda model: {"test": TEST})
    references = lines(data / f"text/test.{args.target_lang}")
    write_results(
        args.workdir,
        f"Validation, means of seeds {' '.join(map(str, args.seeds))}; loss in nats per token, "
        f"greedy BLEU:\n\n{curves(trials, CURVES)}\n\n"
        f"{len(references):,} test sentences, beam 5, paired bootstrap of {RESAMPLES:,} samples:"
        f"\n\n{tests(trials, references)}",
    )


if __name__ == "__main__":
    main()
