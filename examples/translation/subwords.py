"""Splits plain parallel text into subwords: the published way, and with SentencePiece."""

import multiprocessing
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain, islice
from pathlib import Path
from typing import Callable, Optional

from tqdm import tqdm

from examples import subword
from examples.steps import SPLITS, write_lines
from examples.translation.corpora import Pair, lines_of, pairs_of

BATCH = 100_000  # lines that are held at once


@dataclass(frozen=True)
class Moses:
    """Tokenisation, cleaning and subwords of a published data set."""

    longest: int  # training sentences with more tokens are left out,
    ratio: float  # and those with more than so many times the tokens of their translation
    merges: int  # of the joint BPE
    lowercase: bool = False
    held_out: Optional[int] = None  # every n-th pair of the cleaned train becomes valid


# --- Moses tokens -------------------------------------------------------------------------------


def tokenise(moses: Moses, languages: Pair, text: Path, workers: int, out: Path) -> None:
    """Tokenises all splits of `text` as the Moses scripts do, and cleans the one to train on."""
    function = partial(tokenise_pair, languages, moses.lowercase)
    splits = {}
    for split in SPLITS:
        files = [text / f"{split}.{language}" for language in languages]
        if files[0].exists():
            splits[split] = in_parallel(function, pairs_of(*files), workers, f"tokens of {split}")
    splits["train"] = filter(partial(is_clean, moses), splits["train"])
    if moses.held_out:
        splits["train"] = train = list(splits["train"])
        nth = slice(moses.held_out - 1, None, moses.held_out)
        splits["valid"] = train[nth]
        del train[nth]
    for split, pairs in splits.items():
        write_lines(out, split, languages, pairs)


def tokenise_pair(languages: Pair, lowercase: bool, pair: Pair) -> Pair:
    source, target = (
        tokeniser(language).tokenize(sentence, return_str=True)
        for language, sentence in zip(languages, pair)
    )
    return (source.lower(), target.lower()) if lowercase else (source, target)


@cache
def tokeniser(language: str):
    from sacremoses import MosesTokenizer  # needed for published data only

    return MosesTokenizer(language)


def is_clean(moses: Moses, pair: Pair) -> bool:
    """Neither side is empty or too long, or too long for the other: as clean-corpus-n.perl."""
    shorter, longer = sorted(len(sentence.split()) for sentence in pair)
    return shorter > 0 and longer <= min(moses.longest, moses.ratio * shorter)


def in_parallel(function: Callable, items: Iterable, workers: int, title: str) -> Iterator:
    """The function of each item, in order, computed by several processes."""
    items = iter(items)
    quietly = dict(initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))
    with multiprocessing.Pool(workers, **quietly) as pool, tqdm(desc=title, disable=None) as bar:
        while batch := list(islice(items, BATCH)):
            yield from pool.map(function, batch)
            bar.update(len(batch))


# --- subwords -----------------------------------------------------------------------------------


def split_with_bpe(merges: int, languages: Pair, tokens: Path, workers: int, out: Path) -> None:
    """Learns a joint BPE of both languages of train, and splits all files of tokens with it."""
    from subword_nmt.learn_bpe import learn_bpe  # needed for published data only

    files, codes = files_of(tokens, languages), out / "codes"
    with codes.open("w", encoding="utf-8") as file:
        learn_bpe(chain(*map(lines_of, files[:2])), file, merges)
    function = partial(bpe_line, codes)
    for file in files:
        with (out / file.name).open("w", encoding="utf-8", newline="\n") as target:
            lines = in_parallel(function, lines_of(file), workers, f"subwords of {file.name}")
            target.writelines(f"{line}\n" for line in lines)


def bpe_line(codes: Path, line: str) -> str:
    return bpe(codes).segment(line)


@cache
def bpe(codes: Path):
    from subword_nmt.apply_bpe import BPE

    with codes.open(encoding="utf-8") as file:
        return BPE(file)


def split_with_sentencepiece(vocab_size: int, languages: Pair, text: Path, out: Path) -> None:
    """Learns a SentencePiece model of both languages of train, and splits all files of text."""
    files = files_of(text, languages)
    subword.learn(out / "subword", vocab_size, files[:2])
    subword.encode(str(out / "subword.model"), out, files)


def files_of(folder: Path, languages: Pair) -> list[Path]:
    return [folder / f"{split}.{language}" for split in SPLITS for language in languages]
