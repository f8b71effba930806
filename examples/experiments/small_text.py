"""Mega and fairseq's Transformer of equal size on the ten million characters of a manual.

    python examples/experiments/small_text.py                    subwords, 3 seeds
    python examples/experiments/small_text.py --symbols bytes
    python examples/experiments/small_text.py --only mega        or another model of MODELS

Prints curves of the trainings, and the test set read in blocks of one chunk, two, four, ... that
know nothing of each other: what text further back is good for.
"""

import sys
from pathlib import Path
from typing import Dict, List, Optional

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from examples.experiments.comparison import (  # noqa: E402
    Column,
    curves,
    find_data,
    make_parser,
    run_trials,
    write_results,
)
from examples.language_modeling import prepare  # noqa: E402
from examples.quickstart.demo import found, table  # noqa: E402

CHUNK = 128
CHUNKS = (1, 2, 4, 8, 16, 32)  # of a block of the test
SAMPLE = 2048  # tokens that Mega reads at once in training
WINDOW = 512  # and the Transformer


# Tokens of an update, and the dimension of the models.
SIZES = {"subwords": (2048, 256), "bytes": (4096, 192)}
TRAIN = """
    --sample-break-mode none --share-decoder-input-output-embed
    --criterion cross_entropy --dropout 0.1
"""


def mega(chunk: int) -> str:
    """The options of a Mega in chunks."""
    return f"""
    --task mega_language_modeling --tokens-per-sample {SAMPLE} --valid-block size:{SAMPLE}
    --variant-block-multiple-min {SAMPLE // chunk} --variant-block-multiple-max {SAMPLE // chunk}
    --arch mega_lm_long --decoder-chunk-size {chunk} --decoder-n-dim 8
"""


MODELS = {
    "mega": f"{mega(CHUNK)} --ema-longest {SAMPLE}",
    "mega-normal": f"{mega(CHUNK)} --ema-init normal",
    # As many attention weights as whole chunks.
    "mega-before": f"{mega(CHUNK // 2)} --decoder-chunks-before 1 --ema-longest {SAMPLE}",
    "transformer": f"""
        --task language_modeling --tokens-per-sample {WINDOW}
        --arch transformer_lm --decoder-normalize-before --decoder-attention-heads 4
    """,
}
RATES = dict.fromkeys(MODELS, "4e-3")


def options_of(model: str, symbols: str) -> str:
    max_tokens, d = SIZES[symbols]
    sizes = f"--max-tokens {max_tokens} --decoder-layers 3 --decoder-embed-dim {d} "
    if model == "transformer":
        sizes += f"--decoder-input-dim {d} --decoder-output-dim {d} "
        sizes += f"--decoder-ffn-embed-dim {17 * d // 4}"
    else:
        sizes += f"--decoder-hidden-dim {2 * d} --decoder-ffn-embed-dim {2 * d} "
        sizes += f"--decoder-z-dim {d // 4}"
    return f"{TRAIN} {MODELS[model]} {sizes}"


def readings(model: str) -> Dict[str, str]:
    """Evaluations of a model: each a program with its options."""
    evaluate = "fairseq-eval-lm --sample-break-mode none --max-tokens 4096"
    if model == "transformer":
        evaluate += f" --tokens-per-sample {WINDOW} --required-batch-size-multiple 1"
        before = 3 * WINDOW // 4  # of the WINDOW
        return {
            f"blocks of {WINDOW}": evaluate,
            f"blocks of {WINDOW - before}, up to {before} read before": (
                f"{evaluate} --context-window {before}"
            ),
        }
    evaluate += " --task mega_language_modeling --valid-block"
    blocks = {f"blocks of {n * CHUNK}": f"{evaluate} size:{n * CHUNK}" for n in CHUNKS}
    return {**blocks, "one stream": f"{evaluate} splits:1"}


def main(words: Optional[List[str]] = None) -> None:
    parser = make_parser(__doc__, updates=1200, rates=RATES)
    parser.add_argument("--symbols", choices=list(SIZES), default="subwords")
    parser.add_argument("--workdir", type=Path, help="where all goes: data/small-text-SYMBOLS")
    args = parser.parse_args(words)
    args.workdir = args.workdir or Path("data", f"small-text-{args.symbols}")
    data = find_data(args, prepare, "manual", "--symbols", args.symbols)
    options = {model: options_of(model, args.symbols) for model in MODELS}
    trials = run_trials(args, data, options, RATES, args.updates // 8, readings)

    rows = [("seed", "model", "parameters", "test set read in", "bits per symbol", "perplexity")]
    for trial in trials:
        for name, step in trial.tests.items():
            bits = float(found(r"Loss \(base 2\): ([\d.]+)", step.log))
            what = str(trial.seed), trial.model, trial.parameters, name
            rows.append((*what, f"{bits:.4f}", f"{2**bits:.3f}"))
    write_results(
        args.workdir,
        f"Validation, bits per symbol, means of seeds {' '.join(map(str, args.seeds))}:\n\n"
        f"{curves(trials, {'bits': Column('loss', '.3f')})}\n\nTest:\n\n{table(rows)}",
    )


if __name__ == "__main__":
    main()
