"""Splits text into bytes or characters, with the encoders of these names that fairseq has.

python examples/language_modeling/symbols.py bytes OUT FILE...
"""

import argparse
from pathlib import Path
from typing import List

from fairseq.data.encoders.bytes import Bytes
from fairseq.data.encoders.characters import Characters

ENCODERS = {"bytes": Bytes, "characters": Characters}


def split(kind: str, out: Path, files: List[Path]) -> None:
    """Write each file's symbols, separated by spaces, to a file of the same name in OUT."""
    out.mkdir(parents=True, exist_ok=True)
    for file in files:
        lines = file.read_text(encoding="utf-8").splitlines()
        text = "".join(f"{ENCODERS[kind].encode(line)}\n" for line in lines)
        (out / file.name).write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=list(ENCODERS))
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("files", type=Path, nargs="+")
    args = parser.parse_args()
    split(args.kind, args.out, args.files)


if __name__ == "__main__":
    main()
