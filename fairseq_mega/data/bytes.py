"""How many bytes of text tokens stand for, to compare models of different vocabularies."""

import re
from typing import List, Tuple

import torch
from torch import Tensor

UNITS = ("sentencepiece", "subword_nmt", "words", "characters", "bytes")
SPACE = "▁"


class ByteCounter:
    """Counts the bytes, in UTF-8, of the detokenised text.

    A token has bytes of its own, and a space stands between two tokens where the first may end a
    word and the second starts one. ``</s>`` is a newline; fairseq's other symbols are empty.

    Args:
        unit: what the dictionary's entries are, one of ``UNITS``.

    Raises:
        ValueError: if the entries are something else.
    """

    def __init__(self, unit: str, dictionary):
        entries = [dictionary[i] for i in range(dictionary.nspecial, len(dictionary))]
        text = [each for each in entries if not each.startswith("madeupword")]  # fairseq's padding
        if not _fits(unit, text):
            raise ValueError(
                f"--bits-per-byte is {unit}, but the dictionary's entries, such as "
                f"{', '.join(text[:5])}, are something else: give one of {', '.join(UNITS)}"
            )
        rows = [(0, False, False)] * dictionary.nspecial
        rows += [_size(unit, each) for each in entries]
        rows[dictionary.eos()] = 1, False, False
        self.sizes, self.starts, self.ends = (torch.tensor(column) for column in zip(*rows))
        self.unk = dictionary.unk()

    def __call__(self, source: Tensor, target: Tensor) -> int:
        """The bytes of ``target``, any shape, each of whose tokens comes after that in ``source``.

        Raises:
            ValueError: at an unknown token.
        """
        source, target = source.cpu(), target.cpu()
        if (target == self.unk).any():
            raise ValueError(
                "the text has <unk> tokens, whose bytes are unknown, so its bits per byte are "
                "undefined: use a vocabulary that covers it, such as bytes or SentencePiece with "
                "byte fallback, or leave --bits-per-byte out"
            )
        spaces = self.ends[source] & self.starts[target]
        return int(self.sizes[target].sum() + spaces.sum())


def _fits(unit: str, entries: List[str]) -> bool:
    if unit in ("characters", "bytes"):
        return all(len(each) == 1 or unit == "bytes" and each.isdigit() for each in entries)
    pieces = any(each.startswith(SPACE) for each in entries)
    subwords = any(each.endswith("@@") for each in entries)
    if unit == "words":
        return not pieces and not subwords
    return pieces if unit == "sentencepiece" else subwords


def _size(unit: str, entry: str) -> Tuple[int, bool, bool]:
    """The bytes of an entry, whether it starts a word, and whether a word may end with it."""
    if unit == "bytes" or unit == "sentencepiece" and re.fullmatch("<0x[0-9A-F]{2}>", entry):
        return 1, False, unit == "sentencepiece"
    if unit == "characters":
        return len(entry.replace(SPACE, " ").encode()), False, False
    if unit == "sentencepiece":
        piece = entry.removeprefix(SPACE).replace(SPACE, " ")
        return len(piece.encode()), entry.startswith(SPACE), True
    continues = unit == "subword_nmt" and entry.endswith("@@")
    word = entry.removesuffix("@@") if continues else entry
    return len(word.encode()), True, not continues
