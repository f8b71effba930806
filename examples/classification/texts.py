"""Texts with labels: of the Long Range Arena's own sources, generated ListOps, and tables."""

import csv
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import List, Tuple

from examples.classification import listops
from examples.classification.layouts import (
    SPLITS,
    Text,
    class_folders,
    files_in,
    stratified,
    write_texts,
)
from examples.classification.unpacking import matching
from examples.download import Remote, fetch, unpack
from examples.steps import PreparationError

IMDB = Remote("LRA_IMDB", "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz")
IMDB_FILES = matching(r"(?:.*/)?(aclImdb/(?:train|test)/(?:pos|neg)/\d+_\d+\.txt)")
REVIEWS = {"neg": "0", "pos": "1"}
LISTOPS_FILES = dict(zip(SPLITS, ("basic_train.tsv", "basic_val.tsv", "basic_test.tsv")))
LISTOPS_SYMBOLS = {*listops.OPERATORS, listops.CLOSE, *map(str, range(10))}
PAIR_FILES = dict(
    zip(SPLITS, ("new_aan_pairs.train.tsv", "new_aan_pairs.eval.tsv", "new_aan_pairs.test.tsv"))
)
PAIR_COLUMNS = ("label", "id1", "id2", "text1", "text2")
NUMBERS = [str(byte) for byte in range(256)]
WIDEST_FIELD = 1 << 24  # characters of one field of a table


def bytes_of(text: bytes, longest: int) -> str:
    """The first `longest` bytes as numbers, with blanks between them."""
    return " ".join(map(NUMBERS.__getitem__, text.strip()[:longest]))


# --- ListOps ------------------------------------------------------------------------------------


def generated_listops(
    limits: listops.Limits, sizes: Tuple[int, int, int], seed: int, out: Path
) -> None:
    """Sets of so many different sequences."""
    source = listops.generate(limits, seed)
    for split, size in zip(SPLITS, sizes):
        samples = ((str(each.value), (" ".join(each.symbols),)) for each in islice(source, size))
        write_texts(out, split, samples)


def listops_tables(folder: Path, out: Path) -> None:
    """The arena's files: a header, then lines of a sequence and its value, a tab between."""
    for split, name in LISTOPS_FILES.items():
        write_texts(out, split, listops_rows(existing(folder / name)))


def listops_rows(path: Path) -> Iterator[Text]:
    for where, row in rows_of(path, 2, header="Source"):
        # The brackets that only show the tree are left out, as in the published data.
        symbols = row[0].replace("(", " ").replace(")", " ").split()
        unknown = sorted(set(symbols) - LISTOPS_SYMBOLS)
        if unknown or not row[1].isdecimal() or int(row[1]) > 9:
            raise PreparationError(
                f"{where}: {(unknown or [row[1]])[0]!r} is not of ListOps: give the arena's files, "
                "of a sequence and a digit a line"
            )
        yield row[1], (" ".join(symbols),)


# --- text and retrieval -------------------------------------------------------------------------


def downloaded_imdb(downloads: Path, longest: int, out: Path) -> None:
    """Movie reviews from their own archive."""
    archive = fetch(IMDB, downloads)
    upstream = out / "upstream"
    if not unpack(archive, IMDB_FILES, upstream):
        raise PreparationError(
            f"{archive} has no aclImdb/train/pos/0_9.txt or the like: it is not the file that it "
            "should be; delete it, and check where it comes from"
        )
    imdb(upstream / "aclImdb", longest, out)
    for path in sorted(upstream.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    upstream.rmdir()


def imdb(folder: Path, longest: int, out: Path) -> None:
    """Reviews {train,test}/{pos,neg}/*.txt as bytes. The test set also is the set to validate with,
    as in the published data: --held-out of the task gives another one."""
    for split, name in zip(SPLITS, ("train", "test", "test")):
        classes = class_folders(folder / name, list(REVIEWS))
        samples = (
            (REVIEWS[each.name], (bytes_of(path.read_bytes(), longest),))
            for each in classes
            for path in files_in(each, [".txt"])
        )
        write_texts(out, split, samples)


def pair_tables(folder: Path, longest: int, out: Path) -> None:
    """Pairs of papers as the arena has them: label, two numbers and two texts a line, with tabs."""
    for split, name in PAIR_FILES.items():
        write_texts(out, split, pair_rows(existing(folder / name), longest))


def pair_rows(path: Path, longest: int) -> Iterator[Text]:
    for where, row in rows_of(path, len(PAIR_COLUMNS)):
        if row[0] not in ("0", "1", "0.0", "1.0"):
            raise PreparationError(f"{where}: the label is {row[0]!r}, but must be 0 or 1")
        first, second = (bytes_of(text.encode(), longest) for text in row[3:])
        yield row[0][0], (first, second)


def existing(path: Path) -> Path:
    if not path.is_file():
        raise PreparationError(f"{path} is not there: --from must be the folder of the files")
    return path


def rows_of(path: Path, columns: int, header: str = "") -> Iterator[Tuple[str, List[str]]]:
    """Where each line is, and its fields between tabs; quotes have no meaning.

    Raises:
        PreparationError: at a line of another number of fields, or not in UTF-8.
    """
    with path.open(encoding="utf-8", newline="\n") as lines:
        try:
            for number, line in enumerate(lines, start=1):
                row = [field.strip() for field in line.rstrip("\r\n").split("\t")]
                where = f"{path}, line {number}"
                if len(row) != columns:
                    raise PreparationError(
                        f"{where} has {len(row)} columns, but must have {columns} with a tab "
                        "between: correct the line, or get the file again"
                    )
                if not (header and number == 1 and row[0] == header):
                    yield where, row
        except UnicodeDecodeError as error:
            raise PreparationError(f"{path} is not in UTF-8 ({error}): convert it") from error


# --- people's own -------------------------------------------------------------------------------


def table(
    path: Path, columns: Tuple[str, str], symbols: str, longest: int, held_out: float, out: Path
) -> None:
    """A .csv or .tsv with a header: the names of the columns of text and label.

    Args:
        symbols: bytes, or words (between blanks).
        held_out: the fraction of each label for each of the two other sets.
    """
    labels, texts = [], []
    for where, label, text in table_rows(existing(path), columns):
        words = text.split()
        line = " ".join(words[:longest]) if symbols == "words" else bytes_of(text.encode(), longest)
        if not line or len(label.split()) != 1:
            raise PreparationError(
                f"{where}: the {'label' if line else 'text'} is {(label if line else text)!r}, but "
                "there must be a text, and a label of one word: correct the line, or leave it out"
            )
        labels.append(label)
        texts.append(line)
    names = [f"{i:012}" for i in range(len(texts))]
    classes = [sorted(set(labels)).index(label) for label in labels]
    for split, rows in stratified(names, classes, held_out, seed=1).items():
        write_texts(out, split, ((labels[i], (texts[i],)) for i in rows))


def table_rows(path: Path, columns: Tuple[str, str]) -> Iterator[Tuple[str, str, str]]:
    """Where it is, the label and the text, of each line of a table."""
    csv.field_size_limit(min(WIDEST_FIELD, sys.maxsize))
    tabs = path.suffix.lower() == ".tsv"
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t" if tabs else ",", strict=not tabs)
        try:
            missing = [name for name in columns if name not in (rows.fieldnames or [])]
            if missing:
                raise PreparationError(
                    f"{path} has no column {', '.join(missing)}, but "
                    f"{', '.join(rows.fieldnames or ['nothing'])}: name the columns by "
                    "--text-column and --label-column"
                )
            for row in rows:
                where = f"{path}, line {rows.line_num}"
                if None in row or None in row.values():
                    raise PreparationError(
                        f"{where} has not as many columns as the header ({len(rows.fieldnames)}): "
                        "correct the line; in a .csv, put texts with commas in quotes"
                    )
                text, label = (row[name] for name in columns)
                yield where, label.strip(), text
        except (UnicodeDecodeError, csv.Error) as error:
            raise PreparationError(f"{path} cannot be read as a table ({error})") from error
