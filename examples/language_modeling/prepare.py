"""Prepares language modeling data, from the download to what fairseq-train reads.

    python examples/language_modeling/prepare.py wikitext103    words, as published
    python examples/language_modeling/prepare.py enwik8         bytes, as published
    python examples/language_modeling/prepare.py manual         the manual of a Debian package

Each step makes a folder in --workdir: downloads, text, symbols (for a manual) and data-bin, which
is for fairseq. A run that was interrupted goes on with the step that it was in.
"""

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Callable, List, NamedTuple, Optional

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from examples import subword  # noqa: E402
from examples.download import Remote, extract, fetch, listed  # noqa: E402
from examples.language_modeling import manuals  # noqa: E402
from examples.steps import (  # noqa: E402
    PreparationError,
    add_common_options,
    alone,
    binarise,
    keep_settings,
    learn_pieces,
    once,
    plain_ends,
)

SPLITS = ("train", "valid", "test")
WIKITEXT103 = Remote("WIKITEXT103", "https://wikitext.smerity.com/wikitext-103-v1.zip")
ENWIK8 = Remote("ENWIK8", "http://mattmahoney.net/dc/enwik8.zip")


def wikitext103(downloads: Path, out: Path) -> None:
    """wiki.{train,valid,test}.tokens as they are: words, rare ones replaced by <unk>."""
    names = [f"wiki.{split}.tokens" for split in SPLITS]
    for split, file in zip(SPLITS, extract(fetch(WIKITEXT103, downloads), names, out)):
        file.rename(out / split)


def enwik8(downloads: Path, out: Path) -> None:
    """The first 90% of the bytes to train on, 5% each to validate and test, written as numbers.

    A line of the text is a line here, whose end is fairseq's </s>. So each byte is one symbol, and
    the 204 values beside the newline are, with fairseq's four, the 208 of the published models.
    """
    with TemporaryDirectory(dir=out) as upstream:
        (file,) = extract(fetch(ENWIK8, downloads), ["enwik8"], Path(upstream))
        data = file.read_bytes()
    part = len(data) // 20
    if not part:
        raise PreparationError(f"enwik8 has {len(data)} bytes, which is too few to split")
    splits = data[: -2 * part], data[-2 * part : -part], data[-part:]
    for split, text in zip(SPLITS, splits):
        with (out / split).open("w", encoding="ascii") as target:
            target.writelines(f"{line}\n" for line in numbered_lines(text))
        print(f"{split}: {len(text):,} bytes", flush=True)


def numbered_lines(text: bytes) -> Iterator[str]:
    numbers = [str(byte) for byte in range(256)]
    for line in text.removesuffix(b"\n").split(b"\n"):
        yield " ".join(map(numbers.__getitem__, line))


class DataSet(NamedTuple):
    title: str
    remote: Remote
    write_text: Callable[[Path, Path], None]


PUBLISHED = {
    "wikitext103": DataSet("WikiText-103, words", WIKITEXT103, wikitext103),
    "enwik8": DataSet("enwik8, bytes", ENWIK8, enwik8),
}


def prepare_published(args: argparse.Namespace) -> None:
    data, work = PUBLISHED[args.data], args.workdir
    keep_settings(work, {"data": data.title})
    text = once(work / "text", partial(data.write_text, work / "downloads"))
    finish(work, text, args.workers)


def prepare_manual(args: argparse.Namespace) -> None:
    """Text of whole pages, split into subwords or bytes."""
    work, names = args.workdir, ("package", "symbols", "vocab_size")
    keep_settings(work, {name: getattr(args, name) for name in names})
    text = once(work / "text", partial(manuals.write_text, args.package, work / "downloads"))
    files = [text / split for split in SPLITS]

    def encode(out: Path) -> None:
        if args.symbols == "bytes":
            from examples.language_modeling import symbols  # imports fairseq: seconds

            symbols.split("bytes", out, files)
            return
        learn_pieces(out / "subword", args.vocab_size, files[:1])
        subword.encode(out / "subword.model", out, files)

    finish(work, once(work / "symbols", encode), args.workers)


def finish(work: Path, text: Path, workers: int) -> None:
    """Binarises the splits in `text`, symbols separated by spaces."""
    options = ["--only-source"]
    for split in SPLITS:
        options += [f"--{split}pref", str(text / split)]
    binarised = once(work / "data-bin", partial(binarise, options, workers))
    print(f"\nfairseq-train {binarised} and the options in examples/language_modeling/README.md")


def parse(words: Optional[List[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="data", required=True)
    for name, data in PUBLISHED.items():
        action = actions.add_parser(
            name,
            help=data.title,
            epilog=listed([data.remote]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_common_options(action, name)
        action.set_defaults(prepare=prepare_published)
    manual = actions.add_parser("manual", help="the manual that a Debian package carries")
    manual.add_argument(
        "--package",
        default="python3.11-doc",
        help="its name (python3.11-doc), see manuals.py; another Debian has another Python",
    )
    manual.add_argument("--symbols", choices=["subwords", "bytes"], default="subwords")
    manual.add_argument(
        "--vocab-size", type=int, default=4000, help="SentencePiece pieces, for subwords (4000)"
    )
    add_common_options(manual, "manual")
    manual.set_defaults(prepare=prepare_manual)
    return parser.parse_args(words)


def main(words: Optional[List[str]] = None) -> None:
    args = parse(words)
    with plain_ends(), alone(args.workdir):
        args.prepare(args)


if __name__ == "__main__":
    main()
