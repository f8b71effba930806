"""Scores what fairseq-generate printed: tokenised BLEU and SacreBLEU.

    fairseq-generate ... --remove-bpe > generated.txt
    python examples/translation/score.py generated.txt --tokens de --reference test.de

Tokenised BLEU is fairseq-score's, of the translations and references in the output, with compounds
split at hyphens (`rot-weiß` becomes `rot ##AT##-##AT## weiß`) as published for WMT. SacreBLEU is of
the translations as plain text, against the test set's plain sentences in --reference.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Dict, List, Optional

from fairseq.data import Dictionary
from fairseq.scoring import bleu
from sacrebleu.metrics import BLEU


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
    """What fairseq-score prints for files of these lines with their compounds split."""
    words = Dictionary()
    config = bleu.BleuConfig(pad=words.pad(), eos=words.eos(), unk=words.unk())
    scorer = bleu.Scorer(config)
    for translation, reference in zip(translations, references):
        hypothesis = words.encode_line(split_compounds(translation))
        scorer.add(words.encode_line(split_compounds(reference)), hypothesis)
    return scorer.result_string()


def detokenise(language: str, texts: List[str]) -> List[str]:
    from sacremoses import MosesDetokenizer  # needed for Moses's tokens only

    moses = MosesDetokenizer(language)
    return [moses.detokenize(text.split()) for text in texts]


def sacre_bleu(translations: List[str], references: List[str]) -> str:
    metric = BLEU()
    score = metric.corpus_score(translations, [references])
    return f"{score}\n{metric.get_signature()}"


def main(words: Optional[List[str]] = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, help="what fairseq-generate printed")
    parser.add_argument("--reference", type=Path, help="the test set's target side as plain text")
    parser.add_argument(
        "--tokens", metavar="LANG", help="the translations are Moses's tokens of this language"
    )
    args = parser.parse_args(words)

    translations, references = read(args.output, "H"), read(args.output, "T")
    if not translations or translations.keys() != references.keys():
        sys.exit(
            f"{args.output} has {len(translations)} translations (H-...) and {len(references)} "
            f"references (T-...): it must be all that fairseq-generate printed."
        )
    numbers = sorted(translations)
    texts = [translations[i] for i in numbers]
    print(f"Tokenised, compounds split: {tokenised_bleu(texts, [references[i] for i in numbers])}")
    if args.reference:
        with args.reference.open(encoding="utf-8", newline="\n") as lines:
            plain = [line.rstrip("\n") for line in lines]
        if numbers != list(range(len(plain))):
            sys.exit(
                f"{args.reference} has {len(plain)} lines, {args.output} {len(texts)} translations "
                f"up to number {numbers[-1]}. To leave no sentence out, fairseq-generate needs "
                f"--required-batch-size-multiple 1 and no --skip-invalid-size-inputs-valid-test."
            )
        if args.tokens:
            texts = detokenise(args.tokens, texts)
        print(f"Sacre{sacre_bleu(texts, plain)}")


if __name__ == "__main__":
    main()
