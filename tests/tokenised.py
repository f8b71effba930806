"""A text of known bytes, split into the tokens of each kind that ``--bits-per-byte`` knows."""

import io

import sentencepiece
from fairseq.data import Dictionary

from examples import subword

# One space between words; an empty line, and letters of two to four bytes.
TEXT = "naïve: a → b\n\n1 😀 x x\nb\n" + "how now brown cow\nnow or never\n" * 9


def pieces(text, fallback):
    """SentencePiece's, with bytes for the character that it has not seen if there is a fallback."""
    model = io.BytesIO()
    kept = text.replace("😀", "") if fallback else text
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(kept.splitlines()),
        model_writer=model,
        vocab_size=300 if fallback else 45,
        character_coverage=1.0,
        byte_fallback=fallback,
        normalization_rule_name="identity",
        hard_vocab_limit=False,
        minloglevel=2,
    )
    encode = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).encode
    return encode(text.splitlines(), out_type=str)


def lines_of(unit):
    """The lines of the text, split into tokens."""
    lines = TEXT.splitlines()
    if unit.startswith("sentencepiece"):
        return pieces(TEXT, fallback=unit.endswith("fallback"))
    if unit == "numbers":  # of bytes, as the recipe for enwik8 writes them
        return [[str(byte) for byte in line.encode()] for line in lines]
    if unit in ("characters", "bytes"):
        return [subword.encoder(unit)(line).split() for line in lines]
    cut = {"now": "no@@ w", "never": "ne@@ ver"} if unit == "subword_nmt" else {}
    return [" ".join(cut.get(word, word) for word in line.split()).split() for line in lines]


def dictionary_of(lines):
    dictionary = Dictionary()
    for token in sorted({token for line in lines for token in line}):
        dictionary.add_symbol(token)
    dictionary.pad_to_multiple_(8)
    return dictionary
