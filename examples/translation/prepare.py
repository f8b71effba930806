"""Prepares translation data, from the download to what fairseq-train reads.

    python examples/translation/prepare.py wmt16       WMT'16 English–German, both directions
    python examples/translation/prepare.py iwslt14     IWSLT'14 German–English
    python examples/translation/prepare.py multi30k    Multi30k English–German
    python examples/translation/prepare.py help        LibreOffice's help, English to a language
    python examples/translation/prepare.py files ...   two files of your own, one sentence a line

Each step makes a folder in --workdir: downloads, text (plain sentences), tokens (Moses's; for wmt16
and iwslt14), subwords, and data-bin, which is for fairseq. After an interruption, the same command
continues with the step that it was in.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Callable, List, NamedTuple, Optional

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.download import Remote, listed  # noqa: E402
from examples.steps import (  # noqa: E402
    PreparationError,
    add_common_options,
    binarise,
    once,
    preparing,
    require,
)
from examples.translation import corpora, help_pages  # noqa: E402
from examples.translation.corpora import ENGLISH_GERMAN, GERMAN_ENGLISH, Pair  # noqa: E402
from examples.translation.subwords import (  # noqa: E402
    Moses,
    split_with_bpe,
    split_with_sentencepiece,
    tokenise,
)


class DataSet(NamedTuple):
    """A published data set; without `moses`, SentencePiece splits the plain text."""

    title: str
    languages: Pair
    remotes: List[Remote]
    write_text: Callable[[Path, Path], None]
    moses: Optional[Moses] = None
    preprocess: str = ""  # more options of fairseq-preprocess


PUBLISHED = {
    "wmt16": DataSet(
        "WMT'16 English–German, newstest2013 and newstest2014",
        ENGLISH_GERMAN,
        [*corpora.WMT16_TRAIN, corpora.WMT16_DEV],
        corpora.wmt16,
        Moses(longest=80, ratio=9, merges=32_000),
        "--nwordssrc 32768 --nwordstgt 32768",
    ),
    "iwslt14": DataSet(
        "IWSLT'14 German–English, talks, in lower case",
        GERMAN_ENGLISH,
        [corpora.IWSLT14],
        corpora.iwslt14,
        Moses(longest=175, ratio=1.5, merges=10_000, lowercase=True, held_out=23),
    ),
    "multi30k": DataSet(
        "Multi30k English–German, captions of pictures",
        ENGLISH_GERMAN,
        [remote for pair in corpora.MULTI30K.values() for remote in pair],
        corpora.multi30k,
    ),
}


def data_set_of(args: argparse.Namespace) -> DataSet:
    """The published data set, or the user's, that the command line asks for."""
    if args.data in PUBLISHED:
        return PUBLISHED[args.data]
    if args.data == "help":
        write_pages = partial(help_pages.write_text, args.target_lang, args.held_out)
        return DataSet("", ("en", args.target_lang), [], write_pages)
    files, languages = (args.source_file, args.target_file), (args.source_lang, args.target_lang)
    for file in files:
        if not file.is_file():
            raise PreparationError(f"{file} is not there: give --source-file and --target-file")
    if languages[0] == languages[1]:
        raise PreparationError(f"--source-lang and --target-lang are both {languages[0]}")
    return DataSet("", languages, [], partial(corpora.own_files, files, languages, args.held_out))


def prepare(args: argparse.Namespace) -> None:
    data, work = data_set_of(args), args.workdir
    source, target = languages = data.languages
    if data.moses:
        require("translation", "sacremoses", "subword_nmt")
    text = once(work / "text", partial(data.write_text, work / "downloads"))
    if data.moses:
        make = partial(tokenise, data.moses, languages, text, args.workers)
        tokens = once(work / "tokens", make)
        split = partial(split_with_bpe, data.moses.merges, languages, tokens, args.workers)
    else:
        split = partial(split_with_sentencepiece, args.vocab_size, languages, text)
    subwords = once(work / "subwords", split)
    options = ["--source-lang", source, "--target-lang", target, "--joined-dictionary"]
    options += data.preprocess.split()
    make = partial(binarise, options, f"{subwords}/{{}}", args.workers)
    binarised = once(work / "data-bin", make)
    readmes = "README.md or examples/translation/README.md"
    print(f"\nfairseq-train {binarised} and the options in {readmes}")


def parse(words: Optional[List[str]]) -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    actions = parser.add_subparsers(dest="data", required=True)

    def add(name: str, text: str, pieces: int, epilog: str = "") -> argparse.ArgumentParser:
        action = actions.add_parser(name, help=text, epilog=epilog, formatter_class=raw)
        add_common_options(action, name)
        if pieces:
            about = f"SentencePiece pieces ({pieces})"
            action.add_argument("--vocab-size", type=int, default=pieces, help=about)
        return action

    for name, data in PUBLISHED.items():
        add(name, data.title, 0 if data.moses else 8000, listed(data.remotes))
    pages = add("help", "LibreOffice's help pages, from Debian's packages", 4000)
    pages.add_argument(
        "--target-lang", default="de", help="of libreoffice-help-...: fr, es, ... (de)"
    )
    files = add("files", "two files of your own", 8000)
    for side in ("source", "target"):
        files.add_argument(f"--{side}-file", type=Path, required=True, help="a sentence a line")
        files.add_argument(f"--{side}-lang", required=True, help="its language, such as de")
    for action in (pages, files):
        about = "pairs to validate with, and to test with (1000)"
        action.add_argument("--held-out", type=int, default=1000, help=about)
    return parser.parse_args(words)


def main(words: Optional[List[str]] = None) -> None:
    args = parse(words)
    with preparing(args):
        prepare(args)


if __name__ == "__main__":
    main()
