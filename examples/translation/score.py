"""Scores what fairseq-generate printed: tokenised BLEU, and SacreBLEU, chrF or COMET of plain text.

    fairseq-generate ... --remove-bpe > generated.txt
    python examples/translation/score.py generated.txt --tokens de --reference test.de

Tokenised BLEU is fairseq-score's, of the translations and references in the output, with compounds
split at hyphens (`rot-weiß` becomes `rot ##AT##-##AT## weiß`) as published for WMT. The --metrics
compare the translations as plain text with the test set's plain sentences in --reference; COMET
also reads its --source, and needs `pip install unbabel-comet`.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Dict, List, Optional

import torch
from fairseq.data import Dictionary
from fairseq.scoring import bleu
from sacrebleu.metrics import BLEU, CHRF

try:
    import comet
except ImportError:  # an optional package
    comet = None

SACREBLEU = {"bleu": BLEU, "chrf": CHRF}
COMET = "Unbabel/wmt22-comet-da"


def read(output: Path, kind: str) -> Dict[int, str]:
    """The texts on an output's lines of one kind by their numbers in the test set.

    T is a reference and H a translation, of which the first, the best, is taken.
    """
    pattern = re.compile(r"T-(\d+)\t(.*)" if kind == "T" else r"H-(\d+)\t[^\t]*\t(.*)")
    texts: Dict[int, str] = {}
    with output.open(encoding="utf-8", newline="\n") as lines:
        for match in filter(None, map(pattern.match, lines)):
            texts.setdefault(int(match[1]), match[2])
    return texts


def split_compounds(text: str) -> str:
    return re.sub(r"(\S)-(\S)", r"\1 ##AT##-##AT## \2", text)


def tokenised_bleu(translations: List[str], references: List[str]) -> str:
    """Output of fairseq-score for files of these lines with their compounds split."""
    words = Dictionary()
    scorer = bleu.Scorer(bleu.BleuConfig(pad=words.pad(), eos=words.eos(), unk=words.unk()))
    for translation, reference in zip(translations, references):
        hypothesis = words.encode_line(split_compounds(translation))
        scorer.add(words.encode_line(split_compounds(reference)), hypothesis)
    return scorer.result_string()


def detokenise(language: str, texts: List[str]) -> List[str]:
    from sacremoses import MosesDetokenizer  # needed for Moses's tokens only

    moses = MosesDetokenizer(language)
    return [moses.detokenize(text.split()) for text in texts]


def plain_lines(file: Path, numbers: List[int], output: Path) -> List[str]:
    """The lines of a side of the test set, of which every one must have been translated."""
    with file.open(encoding="utf-8", newline="\n") as opened:
        lines = [line.rstrip("\n") for line in opened]
    if numbers != list(range(len(lines))):
        sys.exit(
            f"{file} has {len(lines)} lines, {output} {len(numbers)} translations up to number "
            f"{numbers[-1]}. To leave no sentence out, fairseq-generate needs "
            f"--required-batch-size-multiple 1 and no --skip-invalid-size-inputs-valid-test."
        )
    return lines


def comet_score(sources: List[str], translations: List[str], references: List[str]) -> float:
    model = comet.load_from_checkpoint(comet.download_model(COMET))
    rows = [{"src": s, "mt": t, "ref": r} for s, t, r in zip(sources, translations, references)]
    return model.predict(rows, gpus=int(torch.cuda.is_available())).system_score


def main(words: Optional[List[str]] = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, help="what fairseq-generate printed")
    parser.add_argument("--reference", type=Path, help="the test set's target side as plain text")
    parser.add_argument("--source", type=Path, help="its source side as plain text, for COMET")
    parser.add_argument(
        "--tokens", metavar="LANG", help="the translations are Moses's tokens of this language"
    )
    metrics = [*SACREBLEU, "comet"]
    parser.add_argument(
        "--metrics", nargs="+", choices=metrics, help="with --reference (bleu chrf)"
    )
    args = parser.parse_args(words)
    if args.metrics and not args.reference:
        parser.error(f"--metrics {' '.join(args.metrics)} needs --reference")
    metrics = args.metrics or list(SACREBLEU)
    if "comet" in metrics and comet is None:
        parser.error("--metrics comet needs a package: pip install unbabel-comet")
    if "comet" in metrics and not args.source:
        parser.error("--metrics comet needs --source")

    translations, references = read(args.output, "H"), read(args.output, "T")
    if not translations or translations.keys() != references.keys():
        sys.exit(
            f"{args.output} has {len(translations)} translations (H-...) and {len(references)} "
            f"references (T-...): it must be all that fairseq-generate printed."
        )
    numbers = sorted(translations)
    texts = [translations[i] for i in numbers]
    print(f"Tokenised, compounds split: {tokenised_bleu(texts, [references[i] for i in numbers])}")
    if not args.reference:
        return
    plain = plain_lines(args.reference, numbers, args.output)
    if args.tokens:
        texts = detokenise(args.tokens, texts)
    for name in metrics:
        if name == "comet":
            sources = plain_lines(args.source, numbers, args.output)
            print(f"COMET = {comet_score(sources, texts, plain):.4f}\n{COMET}")
        else:
            metric = SACREBLEU[name]()
            score = metric.corpus_score(texts, [plain])
            print(f"{'Sacre' if name == 'bleu' else ''}{score}\n{metric.get_signature()}")


if __name__ == "__main__":
    main()
