"""Text files of pre-trained word embeddings."""

import math
from typing import Iterator, List, Tuple


def read_embedding_file(path: str, dim: int) -> Iterator[Tuple[str, List[float]]]:
    """Yields each word of a file with its row of ``dim`` numbers.

    word2vec, fastText and fairseq write a first line of two integers, the number of words and the
    dimension; GloVe writes none. Words may hold blanks, as some of GloVe's do.

    Raises:
        ValueError: at a row that is not a word and ``dim`` numbers; if there are no rows.
    """
    rows = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                pieces = line.decode("utf-8").rstrip().split(" ")
                header = number == 1 and len(pieces) == 2 and all(map(str.isdecimal, pieces))
                if header or pieces == [""]:
                    continue
                yield _word_and_row(pieces, dim)
                rows += 1
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
    if not rows:
        raise ValueError("it holds no embeddings")


def _word_and_row(pieces: List[str], dim: int) -> Tuple[str, List[float]]:
    if len(pieces) <= dim or (len(pieces) > dim + 1 and _is_number(pieces[-dim - 1])):
        raise ValueError(
            f"{len(pieces) - 1} numbers after {pieces[0]!r:.80}, but the embedding has {dim} "
            "dimensions"
        )
    row = [float(piece) for piece in pieces[-dim:]]
    if not math.isfinite(sum(row)):
        raise ValueError(f"a NaN or an infinite number after {pieces[0]!r:.80}")
    return " ".join(pieces[:-dim]), row


def _is_number(piece: str) -> bool:
    try:
        float(piece)
    except ValueError:
        return False
    return True
