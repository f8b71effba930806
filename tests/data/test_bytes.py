"""The bytes of tokens add up to the size of the tokenised file."""

import pytest
import torch
from tokenised import TEXT, dictionary_of, lines_of

from fairseq_mega.data.bytes import ByteCounter

UNITS = ("sentencepiece", "sentencepiece-fallback", "subword_nmt", "words", "characters", "bytes")


@pytest.mark.parametrize("unit", [*UNITS, "numbers"])
def test_the_bytes_of_a_text_are_those_of_its_file(unit):
    lines = lines_of(unit)
    dictionary = dictionary_of(lines)
    count = ByteCounter({"numbers": "bytes"}.get(unit, unit.split("-")[0]), dictionary)
    ids = [dictionary.encode_line(" ".join(line), add_if_not_exist=False) for line in lines]
    text = torch.cat([torch.tensor([dictionary.eos()]), *ids])
    source, target = text[:-1], text[1:]
    assert count(source, target) == len(TEXT.encode())
    assert sum(map(count, source.split(5), target.split(5))) == len(TEXT.encode())


@pytest.mark.parametrize(
    "unit, given", [("words", "bytes"), ("words", "sentencepiece"), ("subword_nmt", "words")]
)
def test_a_dictionary_of_something_else_is_refused(unit, given):
    with pytest.raises(ValueError, match=f"--bits-per-byte is {given}, but .*: give one of"):
        ByteCounter(given, dictionary_of(lines_of(unit)))


def test_unknown_tokens_are_refused():
    dictionary = dictionary_of(lines_of("words"))
    tokens = torch.tensor([dictionary.eos(), dictionary.unk()])
    with pytest.raises(ValueError, match="<unk> .* undefined.* byte fallback"):
        ByteCounter("words", dictionary)(tokens.flip(0), tokens)
