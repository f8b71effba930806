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
    encode = ENCODERS[kind].encode
    out.mkdir(parents=True, exist_ok=True)
    for file in files:
        # Only \n ends a line here: other separators stand inside. fairseq, which reads what is
        # written, also ends lines at \r.
        with (
            file.open(encoding="utf-8", newline="\n") as source,
            (out / file.name).open("w", encoding="utf-8", newline="\n") as target,
        ):
            for line in source:
                target.write(encode(line.rstrip("\r\n").replace("\r", " ")) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=list(ENCODERS))
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("files", type=Path, nargs="+")
    args = parser.parse_args()
    split(args.kind, args.out, args.files)


if __name__ == "__main__":
    main()
