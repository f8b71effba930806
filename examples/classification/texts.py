"""Texts with labels: movie reviews, generated ListOps, and tables."""

import argparse
import csv
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Tuple

from examples.classification import listops
from examples.classification.layouts import (
    class_folders,
    files_in,
    stratified,
    write_samples,
)
from examples.download import Remote, fetch, unpack
from examples.steps import SPLITS, PreparationError

IMDB = Remote("LRA_IMDB", "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz")
IMDB_FILES = r"(?:.*/)?aclImdb/((?:train|test)/(?:pos|neg)/\d+_\d+\.txt)"
WIDEST_FIELD = 1 << 24  # characters of one field of a table


def bytes_of(text: bytes, longest: int) -> str:
    """The first `longest` bytes as numbers, with blanks between them."""
    return " ".join(map(str, text.strip()[:longest]))


def write_listops(args: argparse.Namespace, out: Path) -> None:
    """Generated ListOps."""
    source = listops.generate(args)
    for split, size in zip(SPLITS, args.sizes):
        write_samples(out, split, islice(source, size))


def imdb(args: argparse.Namespace, out: Path) -> None:
    """Movie reviews {train,test}/{pos,neg}/*.txt as bytes. The test set also is the set to validate
    with, as in the published data: --held-out of the task gives another one."""
    with TemporaryDirectory(dir=out) as upstream:
        folder = args.source or Path(upstream)
        if not args.source:
            archive = fetch(IMDB, args.workdir / "downloads")
            unpack(archive, IMDB_FILES, folder, needed=())
        for split, name in zip(SPLITS, ("train", "test", "test")):
            samples = (
                (label, bytes_of(path.read_bytes(), args.longest))
                for label, each in enumerate(class_folders(folder / name, ["neg", "pos"]))
                for path in files_in(each, ".txt")
            )
            write_samples(out, split, samples)


def table(args: argparse.Namespace, out: Path) -> None:
    """A .csv or .tsv with a header, whose columns of text and label have names."""
    labels, texts = [], []
    for where, text, label in rows_of(args.source, args.text_column, args.label_column):
        words = " ".join(text.split()[: args.longest])
        line = words if args.symbols == "words" else bytes_of(text.encode(), args.longest)
        if not line or len(label.split()) != 1:
            raise PreparationError(
                f"{where} has the text {text[:20]!r} and the label {label!r}, but must have a "
                "text, and a label of one word: correct the line, or leave it out"
            )
        labels.append(label)
        texts.append(line)
    names = [f"{i:012}" for i in range(len(texts))]
    classes = [sorted(set(labels)).index(label) for label in labels]
    for split, rows in stratified(names, classes, args.held_out, seed=1).items():
        write_samples(out, split, ((labels[i], texts[i]) for i in rows))


def rows_of(path: Path, *columns: str) -> Iterator[Tuple[str, ...]]:
    """Place of each row of a table, and its fields in these columns, without outer blanks."""
    if not path.is_file():
        raise PreparationError(f"{path} is not there: --from must be the file of the table")
    csv.field_size_limit(min(WIDEST_FIELD, sys.maxsize))
    tabs = path.suffix.lower() == ".tsv"
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t" if tabs else ",", strict=not tabs)
        try:
            names = rows.fieldnames or ["nothing"]
            missing = [name for name in columns if name not in names]
            if missing:
                raise PreparationError(
                    f"{path} has no column {', '.join(missing)}, but {', '.join(names)}: name the "
                    "columns by --text-column and --label-column"
                )
            for row in rows:
                where = f"{path}, line {rows.line_num}"
                if None in row or None in row.values():
                    raise PreparationError(
                        f"{where} must have {len(names)} columns, as many as the header: correct "
                        "the line; in a .csv, put texts with commas in quotes"
                    )
                yield where, *(row[name].strip() for name in columns)
        except (UnicodeDecodeError, csv.Error) as error:
            raise PreparationError(f"{path} cannot be read as a table ({error})") from error
