"""Mega, Mega in chunks and a Transformer on long texts: sentences joined by five and by ten.

python examples/experiments/long_translation.py                     English–German, 3 seeds
python examples/experiments/long_translation.py --target-lang fr    English–French

Trains on the sentences of LibreOffice's help, joined with their neighbours, and translates the test
set in texts of 1, 5, 10 and 20 sentences. Prints the scores of the texts, and what they cost.
"""

import math
import sys
from functools import partial
from pathlib import Path
from typing import List, Sequence

from sacrebleu.metrics import BLEU, CHRF

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from examples.experiments import small_data  # noqa: E402
from examples.experiments.comparison import (  # noqa: E402
    Column,
    Trial,
    curves,
    find_data,
    make_parser,
    run_trials,
    write_results,
)
from examples.quickstart.demo import found, lines, table, translations  # noqa: E402
from examples.steps import binarise, once, write_lines  # noqa: E402
from examples.translation import prepare  # noqa: E402

TRAINED = (5, 10)  # sentences of a text; each sentence is in one of each
TESTED = {1: "test", 5: "test1", 10: "test2", 20: "test3"}  # and fairseq's name of the set

MEGA = small_data.MODELS["mega"]
# A sentence has 20 tokens on average. A decoder's query sees two chunks of mega-before and an
# encoder's three, so these are half as large.
MODELS = {
    "transformer": small_data.MODELS["transformer"],
    "mega": MEGA,
    "mega-chunk": f"{MEGA} --encoder-chunk-size 64",
    "mega-before": f"{MEGA} --encoder-chunk-size 32 --encoder-chunks-before 1",
}
RATES = {model: small_data.RATES[model.split("-")[0]] for model in MODELS}
# Columns, and what they are in the last line of a log.
COSTS = {
    "seconds": r"(\d+) seconds and at most \d+ MB",
    "memory, MB": r"\d+ seconds and at most (\d+) MB",
}
# Translations may be twice as long as their source; fairseq's own limit is 200 tokens.
TEST = f"{small_data.TEST} --max-len-a 2 --max-len-b 10 --gen-subset"


def joined(sentences: Sequence[str], count: int) -> List[str]:
    """Texts of so many sentences each; the last may have fewer."""
    return [" ".join(sentences[i : i + count]) for i in range(0, len(sentences), count)]


def write_joined(data: Path, languages: Sequence[str], out: Path) -> None:
    """Writes train, valid, and a test set for each length."""
    for split in ("train", "valid", "test"):
        sides = [lines(data / f"subwords/{split}.{language}") for language in languages]
        texts = {n: list(zip(*(joined(side, n) for side in sides))) for n in (*TRAINED, *TESTED)}
        if split == "test":
            for count, name in TESTED.items():
                write_lines(out, name, languages, texts[count])
        else:
            write_lines(out, split, languages, sum((texts[n] for n in TRAINED), []))


def tests(trials: Sequence[Trial], references: Sequence[str]) -> str:
    """Table of test scores of whole texts, with the length of the translations as a share of the
    references', and the time and the memory of fairseq-generate."""
    rows = [("seed", "model", "parameters", "sentences", "SacreBLEU", "chrF", "length", *COSTS)]
    for trial in trials:
        for name, step in trial.tests.items():
            texts, right = translations(step.log), [joined(references, int(name))]
            bleu, chrf = BLEU().corpus_score(texts, right), CHRF().corpus_score(texts, right)
            scores = f"{bleu.score:.1f}", f"{chrf.score:.1f}", f"{bleu.sys_len / bleu.ref_len:.2f}"
            costs = [found(rf"^took {cost}$", step.log) for cost in COSTS.values()]
            rows.append((str(trial.seed), trial.model, trial.parameters, name, *scores, *costs))
    return table(rows)


def main() -> None:
    parser = make_parser(__doc__, updates=600, rates=RATES)
    parser.add_argument("--target-lang", default="de", help="(de)")
    parser.add_argument("--workdir", type=Path, help="where all goes: data/long-LANGUAGE")
    args = parser.parse_args()
    language = args.target_lang
    args.workdir = args.workdir or Path("data", f"long-{language}")
    data = find_data(args, prepare, "help", "--target-lang", language)
    texts = once(args.workdir / "joined", partial(write_joined, data, ("en", language)))
    options = f"--source-lang en --target-lang {language} --joined-dictionary --srcdict".split()
    options.append(str(data / "data-bin/dict.en.txt"))
    make = partial(binarise, options, f"{texts}/{{}}", 1, tests=[*TESTED.values()])
    once(args.workdir / "data-bin", make)
    readings = {str(count): f"{TEST} {name}" for count, name in TESTED.items()}
    trials = run_trials(args, args.workdir, MODELS, RATES, args.updates // 3, lambda _: readings)
    column = {"loss": Column("nll_loss", ".3f", math.log(2))}
    write_results(
        args.workdir,
        f"Validation, means of seeds {' '.join(map(str, args.seeds))}; loss in nats per token:\n\n"
        f"{curves(trials, column)}\n\nTest, beam 5:\n\n"
        f"{tests(trials, lines(data / f'text/test.{language}'))}",
    )


if __name__ == "__main__":
    main()
