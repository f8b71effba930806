"""The published data sets, and users' own files, as plain parallel text.

Each data set's function fills a folder with {train,valid,test}.{en,de}, one sentence a line, as
upstream has them. A data set without one of these splits gets it later, or from its train.
"""

import random
import re
from collections.abc import Iterable, Iterator
from itertools import chain, starmap, zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory

from examples.download import Remote, extract, fetch
from examples.steps import SPLITS, PreparationError, write_lines

Pair = tuple[str, str]  # a sentence in the source and in the target language
ENGLISH_GERMAN, GERMAN_ENGLISH = ("en", "de"), ("de", "en")

STATMT = "https://www.statmt.org"
WMT16 = "https://data.statmt.org/wmt16/translation-task"
EUROPARL = Remote("WMT16_EUROPARL", f"{STATMT}/europarl/v7/de-en.tgz")
COMMON_CRAWL = Remote("WMT16_COMMONCRAWL", f"{STATMT}/wmt13/training-parallel-commoncrawl.tgz")
NEWS_COMMENTARY = Remote("WMT16_NEWS_COMMENTARY", f"{WMT16}/training-parallel-nc-v11.tgz")
WMT16_DEV = Remote("WMT16_DEV", f"{WMT16}/dev.tgz")
WMT16_TRAIN = {
    EUROPARL: ("europarl-v7.de-en.en", "europarl-v7.de-en.de"),
    COMMON_CRAWL: ("commoncrawl.de-en.en", "commoncrawl.de-en.de"),
    NEWS_COMMENTARY: ("news-commentary-v11.de-en.en", "news-commentary-v11.de-en.de"),
}
WMT16_VALID = ("newstest2013.en", "newstest2013.de")
WMT16_TEST = ("newstest2014-deen-ref.en.sgm", "newstest2014-deen-src.de.sgm")

TALKS = "https://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz"
IWSLT14 = Remote("IWSLT14_DE_EN", TALKS)
IWSLT14_TESTS = ("TED.dev2010", "TED.tst2010", "TED.tst2011", "TED.tst2012", "TEDX.dev2012")
NOT_SAID = "url|keywords|speaker|talkid|reviewer|translator"  # tags of lines in train.tags

CAPTIONS = "https://github.com/multi30k/dataset/raw/master/data/task1/raw"
MULTI30K = {
    split: [
        Remote(f"MULTI30K_{split.upper()}_{x.upper()}", f"{CAPTIONS}/{name}.{x}.gz")
        for x in ENGLISH_GERMAN
    ]
    for split, name in [("train", "train"), ("valid", "val"), ("test", "test_2016_flickr")]
}


# --- the data sets ------------------------------------------------------------------------------


def wmt16(downloads: Path, out: Path) -> None:
    """WMT'16 English–German: three corpora to train on, newstest2013 and newstest2014."""
    with TemporaryDirectory(dir=out) as upstream:
        train = [
            extract(fetch(remote, downloads), names, Path(upstream))
            for remote, names in WMT16_TRAIN.items()
        ]
        news = extract(fetch(WMT16_DEV, downloads), WMT16_VALID + WMT16_TEST, Path(upstream))
        valid, test = news[:2], news[2:]
        write_lines(out, "train", ENGLISH_GERMAN, chain.from_iterable(starmap(pairs_of, train)))
        write_lines(out, "valid", ENGLISH_GERMAN, pairs_of(*valid))
        write_lines(out, "test", ENGLISH_GERMAN, paired(test, *map(segments, test)))


def iwslt14(downloads: Path, out: Path) -> None:
    """IWSLT'14 German–English. Its valid is held out of train after that has been cleaned."""
    names = [f"train.tags.de-en.{x}" for x in GERMAN_ENGLISH]
    names += [f"IWSLT14.{test}.de-en.{x}.xml" for test in IWSLT14_TESTS for x in GERMAN_ENGLISH]
    with TemporaryDirectory(dir=out) as upstream:
        files = extract(fetch(IWSLT14, downloads), names, Path(upstream))
        train, tests = files[:2], files[2:]
        write_lines(out, "train", GERMAN_ENGLISH, paired(train, *map(talk_lines, train)))
        # The usual preparation writes the apostrophes of the tests, and only these, this way.
        test = (
            [line.replace("’", "'") for file in tests[i::2] for line in segments(file)]
            for i in range(2)
        )
        write_lines(out, "test", GERMAN_ENGLISH, paired(tests, *test))


def multi30k(downloads: Path, out: Path) -> None:
    """Multi30k, task 1: captions of pictures, English–German."""
    with TemporaryDirectory(dir=out) as upstream:
        for split, remotes in MULTI30K.items():
            archives = [fetch(remote, downloads) for remote in remotes]
            files = [extract(gz, [gz.stem], Path(upstream))[0] for gz in archives]
            write_lines(out, split, ENGLISH_GERMAN, pairs_of(*files))


def own_files(
    files: tuple[Path, Path], languages: Pair, held_out: int, downloads: Path, out: Path
) -> None:
    """Two files of parallel text; `held_out` random pairs each become valid and test.

    A pair that comes more than once is kept once, so that none is in two splits.
    """
    count = sum(1 for _ in distinct(pairs_of(*files)))
    if not 0 < 3 * held_out <= count:
        raise PreparationError(
            f"--held-out {held_out}: must be at least 1, and at most a third of the {count:,} "
            f"different pairs in {files[0]} and {files[1]}"
        )
    drawn = random.Random(1).sample(range(count), 2 * held_out)
    splits = {**dict.fromkeys(drawn[:held_out], "valid"), **dict.fromkeys(drawn[held_out:], "test")}
    for split in SPLITS:
        numbered = enumerate(distinct(pairs_of(*files)))
        chosen = (pair for i, pair in numbered if splits.get(i, "train") == split)
        write_lines(out, split, languages, chosen)


# --- reading ------------------------------------------------------------------------------------


def lines_of(file: Path) -> Iterator[str]:
    """The lines, with plain single spaces. Only \\n ends one: other separators stand inside.

    Raises:
        PreparationError: where the file is not in UTF-8.
    """
    with file.open(encoding="utf-8", newline="\n") as opened:
        try:
            for line in opened:
                yield " ".join(line.split())
        except UnicodeDecodeError as error:
            raise PreparationError(f"{file} is not in UTF-8 ({error}): convert it") from error


def segments(file: Path) -> list[str]:
    """The sentences of one of WMT's SGM or IWSLT's XML files, their entities left as they are."""
    text = file.read_text(encoding="utf-8")
    return [" ".join(x.split()) for x in re.findall(r"<seg\b[^>]*>(.*?)</seg>", text, re.DOTALL)]


def talk_lines(file: Path) -> Iterator[str]:
    """The transcript in one of IWSLT's train.tags files, titles and descriptions included."""
    for line in lines_of(file):
        if not re.match(rf"<({NOT_SAID})\b", line):
            yield re.sub("</?(title|description)>", "", line).strip()


def pairs_of(source: Path, target: Path) -> Iterator[Pair]:
    return paired([source, target], lines_of(source), lines_of(target))


def paired(files: list[Path], source: Iterable[str], target: Iterable[str]) -> Iterator[Pair]:
    """The pairs of two texts, which were read from these files."""
    for pair in zip_longest(source, target):
        if None in pair:
            names = ", ".join(file.name for file in files)
            raise PreparationError(f"{names}: the languages have different numbers of lines")
        yield pair


def distinct(pairs: Iterable[Pair]) -> Iterator[Pair]:
    """The pairs that have not come by before and have no empty side; kept in mind as hashes."""
    seen = set()
    for pair in pairs:
        if all(pair) and hash(pair) not in seen:
            seen.add(hash(pair))
            yield pair
