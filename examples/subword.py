"""Splits text into the pieces of a SentencePiece model, or into bytes or characters.

python examples/subword.py learn MODEL --vocab-size 2000 FILE...
python examples/subword.py encode MODEL.model OUT FILE...
python examples/subword.py encode bytes OUT FILE...          or characters
"""

import argparse
import sys
from pathlib import Path
from typing import Callable

import sentencepiece

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from examples.steps import PreparationError, plain_ends  # noqa: E402


def learn(model: Path, vocab_size: int, files: list[Path]) -> None:
    """Writes MODEL.model and MODEL.vocab, a unigram model of all the files together."""
    model.parent.mkdir(parents=True, exist_ok=True)
    try:
        sentencepiece.SentencePieceTrainer.train(
            input=[str(file) for file in files],
            model_prefix=str(model),
            vocab_size=vocab_size,
            character_coverage=1.0,
            split_digits=True,
            normalization_rule_name="identity",
            minloglevel=1,
        )
    except RuntimeError as error:
        if "vocab" not in str(error).lower():
            raise
        raise PreparationError(
            f"--vocab-size {vocab_size}: SentencePiece cannot learn so many pieces ({error})"
        ) from error


def encoder(name: str) -> Callable[[str], str]:
    """A function from a line to its symbols with blanks between them.

    `name` is the path of a SentencePiece model, or bytes or characters, as fairseq splits them.
    """
    if name == "bytes":
        from fairseq.data.encoders.bytes import Bytes  # imports fairseq: seconds

        return Bytes.encode
    if name == "characters":
        from fairseq.data.encoders.characters import Characters

        return Characters.encode
    if not Path(name).is_file():
        raise PreparationError(f"no model at {name}: run `subword.py learn` first")
    pieces = sentencepiece.SentencePieceProcessor(model_file=name)
    return lambda line: " ".join(pieces.encode(line, out_type=str))


def encode(name: str, out: Path, files: list[Path]) -> None:
    """Writes each file's symbols to a file of the same name in OUT."""
    split = encoder(name)
    out.mkdir(parents=True, exist_ok=True)
    for file in files:
        count = [0, 0]
        # Only \n ends a line here: other separators may stand inside a sentence. fairseq, which
        # reads the result, also ends lines at \r.
        with (
            file.open(encoding="utf-8", newline="\n") as source,
            (out / file.name).open("w", encoding="utf-8", newline="\n") as target,
        ):
            for line in source:
                symbols = split(line.rstrip("\r\n").replace("\r", " "))
                target.write(f"{symbols}\n")
                count[0] += 1
                count[1] += len(symbols.split(" ")) if symbols else 0
        print(f"{out / file.name}: {count[0]:,} lines, {count[1]:,} symbols", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    actions = parser.add_subparsers(dest="action", required=True)
    learner = actions.add_parser("learn", help="learn a model from text files")
    learner.add_argument("model", type=Path, help="path of the model without .model")
    learner.add_argument("files", type=Path, nargs="+")
    learner.add_argument("--vocab-size", type=int, default=2000)
    splitter = actions.add_parser("encode", help="split text files")
    splitter.add_argument("model", help="path of the model, or bytes, or characters")
    splitter.add_argument("out", type=Path, help="folder to write to")
    splitter.add_argument("files", type=Path, nargs="+")
    args = parser.parse_args()
    with plain_ends():
        if args.action == "learn":
            learn(args.model, args.vocab_size, args.files)
        else:
            encode(args.model, args.out, args.files)


if __name__ == "__main__":
    main()
