"""Counts of the package's code: how much there is, and how much of it knows of decoding.

python tests/counts.py            this repository
python tests/counts.py FOLDER     another checkout, to compare with
"""

import ast
import sys
from pathlib import Path

# What a file must say to be counted as one that knows of a layer's decoding.
DECODING = ("incremental_state", "LayerState", "DecodingState")


def functions(tree):
    kinds = ast.FunctionDef, ast.AsyncFunctionDef
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def main(root: Path) -> None:
    files = {path: path.read_text() for path in sorted((root / "fairseq_mega").rglob("*.py"))}
    lines = {path: text.splitlines() for path, text in files.items()}
    longest = max(
        (node.end_lineno - node.lineno + 1, f"{path.relative_to(root)}:{node.name}")
        for path, text in files.items()
        for node in functions(ast.parse(text))
    )
    decoding = [path for path, text in files.items() if any(name in text for name in DECODING)]
    layers = [path for path in decoding if "modules" in path.parts]
    print(f"lines of fairseq_mega/:             {sum(map(len, lines.values()))}")
    code = sum(bool(line.strip()) for each in lines.values() for line in each)
    print(f"  that are not blank:               {code}")
    entries = sum("incremental_state" in line for each in lines.values() for line in each)
    print(f"lines with incremental_state:       {entries}")
    print(f"longest function:                   {longest[0]} lines, {longest[1]}")
    print(f"files that know of decoding:        {len(decoding)}")
    print(f"  of them in modules/:              {len(layers)}")
    for path in decoding:
        print(f"    {path.relative_to(root)}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1]).resolve())
