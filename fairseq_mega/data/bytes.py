"""Counts the bytes of text that tokens represent, to compare models with different vocabularies."""

import re
from typing import List, Tuple

import torch
from torch import Tensor

UNITS = ("sentencepiece", "subword_nmt", "words", "characters", "bytes")
SPACE = "▁"


class ByteCounter:
    """Counts the bytes, in UTF-8, of the detokenised text.

    Each token has its own bytes, and a space separates two tokens if the first may end a word and
    the second starts one. ``</s>`` is a newline; fairseq's other symbols are empty.

    Args:
        unit: the kind of the dictionary's entries, one of ``UNITS``.
    """

    def __init__(self, unit: str, dictionary):
        entries = [dictionary[i] for i in range(dictionary.nspecial, len(dictionary))]
        text = [each for each in entries if not each.startswith("madeupword")]  # fairseq's padding
        if not _fits(unit, text):
            raise ValueError(
                f"--bits-per-byte is {unit}, but the dictionary has other entries, such as "
                f"{', '.join(text[:5])}: give one of {', '.join(UNITS)}"
            )
        rows = [(0, False, False)] * dictionary.nspecial
        rows += [_size(unit, each) for each in entries]
        rows[dictionary.eos()] = 1, False, False
        self.sizes, self.starts, self.ends = (torch.tensor(column) for column in zip(*rows))
        self.unk = dictionary.unk()

    def __call__(self, source: Tensor, target: Tensor) -> int:
        """Counts the bytes of ``target``, whose tokens follow those in ``source``, of any shape."""
        source, target = source.cpu(), target.cpu()
        if (target == self.unk).any():
            raise ValueError(
                "the text has <unk> tokens of unknown length, so its bits per byte are undefined: "
                "use a vocabulary that covers the text, such as bytes or SentencePiece with byte "
                "fallback, or leave --bits-per-byte out"
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
    """Returns an entry's bytes, whether it starts a word, and whether it may end one."""
    if unit == "bytes" or unit == "sentencepiece" and re.fullmatch("<0x[0-9A-F]{2}>", entry):
        return 1, False, unit == "sentencepiece"
    if unit == "characters":
        return len(entry.replace(SPACE, " ").encode()), False, False
    if unit == "sentencepiece":
        piece = entry.removeprefix(SPACE).replace(SPACE, " ")
        return len(piece.encode()), entry.startswith(SPACE), True
    word = entry.removesuffix("@@")  # subword_nmt's mark that the word continues
    return len(word.encode()), True, word == entry
