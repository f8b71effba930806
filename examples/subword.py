"""SentencePiece models: learn one, and split text into its pieces.

python examples/subword.py learn MODEL --vocab-size 2000 FILE...
python examples/subword.py encode MODEL.model OUT FILE...
"""

import argparse
from itertools import islice
from pathlib import Path

import sentencepiece

BATCH = 100_000  # lines that are held at once


def learn(model: Path, vocab_size: int, files: list[Path]) -> None:
    """Write MODEL.model and MODEL.vocab, a unigram model of all the files together."""
    model.parent.mkdir(parents=True, exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        input=[str(file) for file in files],
        model_prefix=str(model),
        vocab_size=vocab_size,
        character_coverage=1.0,
        split_digits=True,
        normalization_rule_name="identity",
        minloglevel=1,
    )


def encode(model: Path, out: Path, files: list[Path]) -> None:
    """Write each file's pieces, separated by spaces, to a file of the same name in OUT."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model))
    out.mkdir(parents=True, exist_ok=True)
    for file in files:
        lines = count = 0
        # Only \n ends a line here: other separators may stand inside a sentence. fairseq, which
        # reads what is written, also ends lines at \r.
        with (
            file.open(encoding="utf-8", newline="\n") as source,
            (out / file.name).open("w", encoding="utf-8", newline="\n") as target,
        ):
            while batch := [
                line.rstrip("\r\n").replace("\r", " ") for line in islice(source, BATCH)
            ]:
                encoded = pieces.encode(batch, out_type=str)
                target.writelines(" ".join(line) + "\n" for line in encoded)
                lines += len(batch)
                count += sum(map(len, encoded))
        print(f"{out / file.name}: {lines:,} lines, {count:,} pieces", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    actions = parser.add_subparsers(dest="action", required=True)
    learner = actions.add_parser("learn", help="learn a model from text files")
    learner.add_argument("model", type=Path, help="path of the model without .model")
    learner.add_argument("files", type=Path, nargs="+")
    learner.add_argument("--vocab-size", type=int, default=2000)
    encoder = actions.add_parser("encode", help="split text files into pieces")
    encoder.add_argument("model", type=Path, help="path of the model")
    encoder.add_argument("out", type=Path, help="folder to write to")
    encoder.add_argument("files", type=Path, nargs="+")
    args = parser.parse_args()

    if args.action == "learn":
        learn(args.model, args.vocab_size, args.files)
    else:
        encode(args.model, args.out, args.files)


if __name__ == "__main__":
    main()
