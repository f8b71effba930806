"""Prepares language modeling data, from the download to what fairseq-train reads.

    python examples/language_modeling/prepare.py wikitext103    words, as published
    python examples/language_modeling/prepare.py enwik8         bytes, as published
    python examples/language_modeling/prepare.py manual         the manual of a Debian package

Each step makes a folder in --workdir: downloads, text, symbols (for a manual) and data-bin, which
is for fairseq. After an interruption, the same command continues with the step that it was in.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import List, Optional

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples import subword  # noqa: E402
from examples.download import Remote, extract, fetch, listed  # noqa: E402
from examples.language_modeling import manuals  # noqa: E402
from examples.steps import (  # noqa: E402
    SPLITS,
    add_common_options,
    binarise,
    once,
    preparing,
)

REMOTES = {
    "wikitext103": Remote("WIKITEXT103", "https://wikitext.smerity.com/wikitext-103-v1.zip"),
    "enwik8": Remote("ENWIK8", "http://mattmahoney.net/dc/enwik8.zip"),
}


def wikitext103(args: argparse.Namespace, out: Path) -> None:
    """wiki.{train,valid,test}.tokens as they are: words, rare ones replaced by <unk>."""
    archive = fetch(REMOTES["wikitext103"], args.workdir / "downloads")
    names = [f"wiki.{split}.tokens" for split in SPLITS]
    for split, file in zip(SPLITS, extract(archive, names, out)):
        file.rename(out / split)


def enwik8(args: argparse.Namespace, out: Path) -> None:
    """The first 90% of the bytes to train on, 5% each to validate and test, written as numbers.

    A line of the text is a line here, whose end is fairseq's </s>. So each byte is one symbol, and
    the 204 values beside the newline are, with fairseq's four, the 208 of the published models.
    """
    archive = fetch(REMOTES["enwik8"], args.workdir / "downloads")
    with TemporaryDirectory(dir=out) as upstream:
        data = extract(archive, ["enwik8"], Path(upstream))[0].read_bytes()
    part = len(data) // 20
    for split, text in zip(SPLITS, (data[: -2 * part], data[-2 * part : -part], data[-part:])):
        with (out / split).open("w", encoding="ascii") as target:
            for line in text.removesuffix(b"\n").split(b"\n"):
                target.write(f"{' '.join(map(str, line))}\n")
        print(f"{split}: {len(text):,} bytes", flush=True)


def manual(args: argparse.Namespace, out: Path) -> None:
    manuals.write_text(args.package, args.workdir / "downloads", out)


def prepare(args: argparse.Namespace) -> None:
    write_text = {"wikitext103": wikitext103, "enwik8": enwik8, "manual": manual}[args.data]
    text = once(args.workdir / "text", partial(write_text, args))

    def encode(out: Path) -> None:
        files = [text / split for split in SPLITS]
        name = args.symbols
        if name == "subwords":
            subword.learn(out / "subword", args.vocab_size, files[:1])
            name = str(out / "subword.model")
        subword.encode(name, out, files)

    if args.data == "manual":
        text = once(args.workdir / "symbols", encode)
    make = partial(binarise, ["--only-source"], f"{text}/{{}}", args.workers)
    binarised = once(args.workdir / "data-bin", make)
    print(f"\nfairseq-train {binarised} and the options in examples/language_modeling/README.md")


def parse(words: Optional[List[str]]) -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    actions = parser.add_subparsers(dest="data", required=True)
    for name, remote in REMOTES.items():
        action = actions.add_parser(name, epilog=listed([remote]), formatter_class=raw)
        add_common_options(action, name)
    action = actions.add_parser("manual")
    action.add_argument(
        "--package",
        default="python3.11-doc",
        help="its name (python3.11-doc), see manuals.py; another Debian has another Python",
    )
    action.add_argument("--symbols", choices=["subwords", "bytes"], default="subwords")
    action.add_argument(
        "--vocab-size", type=int, default=4000, help="SentencePiece pieces, for subwords (4000)"
    )
    add_common_options(action, "manual")
    return parser.parse_args(words)


def main(words: Optional[List[str]] = None) -> None:
    args = parse(words)
    with preparing(args):
        prepare(args)


if __name__ == "__main__":
    main()
