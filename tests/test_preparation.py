"""The preparations of translation and language modeling data, from the download to the binarised
data, on small archives."""

import re
import shlex
import sys
from functools import partial
from pathlib import Path

import archives
import pytest
from commands import readme_commands, run_warm
from fairseq.data import Dictionary
from fairseq.data.data_utils import load_indexed_dataset
from fairseq.data.encoders.bytes import Bytes
from fairseq.options import get_generation_parser, get_training_parser, parse_args_and_arch
from sacremoses import MosesTokenizer
from sentencepiece import SentencePieceProcessor
from server import running_server

from examples import subword
from examples.language_modeling import prepare as language_modeling
from examples.steps import SPLITS
from examples.translation import average_checkpoints, corpora, score
from examples.translation import prepare as translation
from examples.translation.subwords import is_clean


@pytest.fixture(scope="module")
def server():
    with running_server() as server:
        yield server


def texts(folder, language):
    """The lines of each split that the folder has."""
    files = {split: folder / f"{split}.{language}" for split in SPLITS}
    return {
        split: file.read_text().split("\n")[:-1] for split, file in files.items() if file.exists()
    }


def binarised(data, name, language=""):
    """The lines of a split, read as fairseq reads it, with spaces between the symbols."""
    dictionary = Dictionary.load(str(data / f"dict.{language}txt"))
    dataset = load_indexed_dataset(str(data / name), dictionary)
    return [dictionary.string(row) for row in dataset]


# --- WMT'16 -------------------------------------------------------------------------------------

LONG = "word " * 81
ODD = 'A well-known\u2028 "quote"\x85 isn\'t & <b>'  # separators that do not end a line


@pytest.fixture(scope="module")
def wmt16_text():
    """Three corpora, the second with pairs that are left out, then valid and test."""
    en, de = archives.sentences(600)
    noise_en = [LONG, "short", "", ODD, "nine " * 10]
    noise_de = ["kurz", LONG, "leer", "Ein wohl-bekanntes 'Zitat'.", "zehn"]
    middle = en[200:300] + noise_en, de[200:300] + noise_de
    train = [(en[:200], de[:200]), middle, (en[300:400], de[300:400])]
    return train, (en[400:450], de[400:450]), (en[450:], de[450:])


@pytest.fixture(scope="module")
def wmt16(server, wmt16_text, tmp_path_factory):
    """The prepared data, after a run that failed and before one that had nothing left to do."""
    work = tmp_path_factory.mktemp("data") / "wmt16"
    words = ["wmt16", "--workdir", str(work), "--workers", "2"]
    files = archives.wmt16(*wmt16_text)
    server.files = {**files, "WMT16_DEV": archives.tgz({"dev/newstest2013.en": "one\n"})}
    with pytest.raises(SystemExit, match="dev.tgz has no newstest2013.de, newstest2014-deen-ref.e"):
        translation.main(words)
    assert not (work / "text").exists()
    server.files = files
    (work / "downloads/dev.tgz").unlink()
    server.requests.clear()
    for _ in range(2):
        translation.main(words)
    assert [name for name, _ in server.requests] == ["WMT16_DEV"]
    with pytest.raises(SystemExit, match="begun with data wmt16, not multi30k"):
        translation.main(["multi30k", "--workdir", str(work)])
    return work


def test_wmt16_is_tokenised_as_moses_does_and_train_is_cleaned(wmt16, wmt16_text):
    train, valid, test = wmt16_text
    for i, language in enumerate(("en", "de")):
        text = texts(wmt16 / "text", language)
        assert text["train"] == [" ".join(x.split()) for pair in train for x in pair[i]]
        assert text["valid"] == valid[i] and text["test"] == test[i]
    tokens = {language: texts(wmt16 / "tokens", language) for language in ("en", "de")}
    assert {split: len(lines) for split, lines in tokens["en"].items()} == {
        "train": 401, "valid": 50, "test": 150,
    }  # fmt: skip
    assert "A well-known &quot; quote &quot; isn &apos;t &amp; &lt; b &gt;" in tokens["en"]["train"]
    assert "Ein wohl-bekanntes &apos; Zitat &apos; ." in tokens["de"]["train"]
    moses = MosesTokenizer("de")
    assert tokens["de"]["test"] == [moses.tokenize(x, return_str=True) for x in test[1]]
    for language in ("en", "de"):
        rows = binarised(wmt16 / "data-bin", f"train.en-de.{language}", f"{language}.")
        assert [row.replace("@@ ", "") for row in rows] == tokens[language]["train"]
        assert any("@@ " in row for row in rows)


TINY = (
    "--encoder-layers 1 --decoder-layers 1 --encoder-embed-dim 16 --encoder-hidden-dim 16 "
    "--encoder-ffn-embed-dim 16 --encoder-z-dim 8 --encoder-n-dim 2 --num-workers 0 "
    "--max-epoch 10 --eval-bleu-args '{\"max_len_b\": 5}'"
)


def test_from_training_to_score_as_the_readme_says(wmt16, tmp_path, capsys):
    prepare, train, average, generate, score_command = (
        line.replace("data/wmt16", str(wmt16)).replace("checkpoints/wmt16", str(tmp_path))
        for line in readme_commands("translation", "WMT'16 English–German")
    )
    assert prepare == "python examples/translation/prepare.py wmt16"
    run_warm("train", train.removeprefix("fairseq-train "), TINY)
    average_checkpoints.main(shlex.split(average)[2:])
    generate, output = generate.removeprefix("fairseq-generate ").split(" > ")
    Path(output.strip()).write_text(run_warm("generate", generate, "--max-len-b 5"))
    capsys.readouterr()
    score.main(shlex.split(score_command)[2:])
    tokenised, sacre, signature, chrf, _ = capsys.readouterr().out.splitlines()
    assert re.match(r"Tokenised, compounds split: BLEU4 = \d+\.\d\d", tokenised)
    assert re.match(r"SacreBLEU = \d+\.\d\d", sacre) and "tok:13a" in signature
    assert chrf.startswith("chrF2 = ")


@pytest.mark.parametrize("section", ["IWSLT'14 German–English", "Multi30k English–German"])
def test_the_readmes_other_options_exist(section):
    commands = dict(command.split(" ", 1) for command in readme_commands("translation", section))
    train = shlex.split(commands["fairseq-train"])
    parse_args_and_arch(get_training_parser(), train)
    generate = shlex.split(commands["fairseq-generate"].split(" > ")[0])
    parse_args_and_arch(get_generation_parser(), generate)


# --- IWSLT'14 -----------------------------------------------------------------------------------


def test_iwslt14(server, tmp_path):
    """Lower case; every 23rd clean pair validates; five sets of talks are the test."""

    def tagged(texts, title):
        head = ["<url>http://www.ted.com/1</url>", "<keywords>talks, <b></keywords>"]
        head += ["<speaker>A B</speaker>", "<talkid>1</talkid>", f"<title>{title}</title>"]
        return [*head, f"<description> {title}, Too </description>", *texts]

    en, de = archives.sentences(400, seed=2)
    tests = {
        name: (en[300 + 20 * i : 320 + 20 * i], de[300 + 20 * i : 320 + 20 * i])
        for i, name in enumerate(corpora.IWSLT14_TESTS)
    }
    tests["TED.dev2010"][0][0] = "It’s Here"
    train = tagged(en[:300], "The Title"), tagged(de[:300], "Der Titel")
    server.files = archives.iwslt14(train, tests)
    translation.main(["iwslt14", "--workdir", str(tmp_path), "--workers", "1"])

    text = {x: texts(tmp_path / "text", x) for x in ("en", "de")}
    assert text["en"]["train"] == ["The Title", "The Title, Too", *en[:300]]
    assert text["de"]["train"] == ["Der Titel", "Der Titel, Too", *de[:300]]
    assert text["de"]["test"] == [line.replace("’", "'") for line in de[300:]]
    tokens = {x: texts(tmp_path / "tokens", x) for x in ("en", "de")}
    assert len(tokens["en"]["test"]) == 100 and tokens["en"]["test"][0] == "it &apos;s here"
    moses = [MosesTokenizer(x).tokenize for x in ("de", "en")]
    pairs = [
        tuple(f(x, return_str=True).lower() for f, x in zip(moses, pair))
        for pair in zip(text["de"]["train"], text["en"]["train"])
    ]
    clean = list(filter(partial(is_clean, translation.PUBLISHED["iwslt14"].moses), pairs))
    valid = list(zip(tokens["de"]["valid"], tokens["en"]["valid"]))
    assert valid == clean[22::23] and len(valid) > 5
    train = list(zip(tokens["de"]["train"], tokens["en"]["train"]))
    assert train == [pair for i, pair in enumerate(clean, 1) if i % 23]


# --- SentencePiece: Multi30k, and users' own files ------------------------------------------------


def assert_pieces_are_of(text, work, names, language):
    """The binarised pieces are the text when put together."""
    model = SentencePieceProcessor(model_file=str(work / "subwords/subword.model"))
    for split in SPLITS:
        rows = binarised(work / "data-bin", f"{split}.{names}.{language}", f"{language}.")
        if split == "train":
            assert [model.decode(row.split()) for row in rows] == text[split]
        assert len(rows) == len(text[split]) > 0


def test_multi30k(server, tmp_path):
    en, de = archives.sentences(500, seed=3)
    splits = [(en[a:b], de[a:b]) for a, b in [(0, 400), (400, 450), (450, 500)]]
    server.files = archives.multi30k(**dict(zip(SPLITS, splits)))
    words = ["multi30k", "--workdir", str(tmp_path), "--workers", "1", "--vocab-size"]
    with pytest.raises(SystemExit, match="--vocab-size 8000: SentencePiece cannot"):
        translation.main([*words, "8000"])
    assert not (tmp_path / "subwords").exists()
    (tmp_path / "settings.json").unlink()
    translation.main([*words, "300"])
    for i, language in enumerate(("en", "de")):
        text = texts(tmp_path / "text", language)
        assert list(text.values()) == [pair[i] for pair in splits]
        assert_pieces_are_of(text, tmp_path, "en-de", language)


OWN = "files --source-file a.de --target-file a.en --source-lang de --target-lang en"


def test_own_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    en, de = archives.sentences(500, seed=4)
    en, de = [*en, en[0], "", "\u2028x"], [*de, de[0], "leer", "y"]
    Path("a.en").write_text(archives.lines(en))
    Path("a.de").write_text(archives.lines(de))
    translation.main(f"{OWN} --held-out 50 --vocab-size 300 --workdir work --workers 1".split())
    work = tmp_path / "work"
    text = {x: texts(work / "text", x) for x in ("en", "de")}
    splits = [list(zip(text["en"][split], text["de"][split])) for split in SPLITS]
    assert [len(pairs) for pairs in splits] == [401, 50, 50]
    together = sum(splits, [])
    assert set(together) == {*zip(en[:500], de), ("x", "y")} and len(together) == 501
    for language in ("en", "de"):
        assert_pieces_are_of(text[language], work, "de-en", language)


@pytest.mark.parametrize(
    "words, message",
    [
        ("--source-file no.de", "no.de is not there: give --source-file"),
        ("--source-file b.de", "b.de is not in UTF-8 .*: convert it"),
        ("--source-file c.de", "c.de, a.en: the languages have different numbers of lines"),
        ("--target-lang de", "--source-lang and --target-lang are both de"),
        ("--held-out 4", "--held-out 4: .* at most a third of the 10 different pairs"),
        ("--held-out 0", "--held-out 0: must be at least 1"),
    ],
)
def test_own_files_that_cannot_be_prepared(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    for name in ("a.de", "a.en"):
        Path(name).write_text(archives.lines(range(10)))
    Path("b.de").write_bytes("Fluß\n".encode("latin-1") * 10)
    Path("c.de").write_text("Fluss\n")
    with pytest.raises(SystemExit, match=message):
        translation.main([*OWN.split(), *words.split()])


def test_a_missing_tokeniser_is_said_before_any_download(server, tmp_path, monkeypatch):
    server.requests.clear()
    monkeypatch.setitem(sys.modules, "subword_nmt", None)
    with pytest.raises(SystemExit, match=r"subword_nmt not installed: pip install '.\[translation"):
        translation.main(["wmt16", "--workdir", str(tmp_path)])
    assert server.requests == []


# --- language modeling --------------------------------------------------------------------------


def test_wikitext103(server, tmp_path):
    data = {
        split: f" \n = {split} = \n \n The <unk> of {split} , 1 @,@ 000 . \n" for split in SPLITS
    }
    data["valid"] += " Unheard \n"
    members = {f"wikitext-103/wiki.{split}.tokens": text for split, text in data.items()}
    server.files = {"WIKITEXT103": archives.zipped(members)}
    language_modeling.main(["wikitext103", "--workdir", str(tmp_path), "--workers", "1"])
    train, valid = (binarised(tmp_path / "data-bin", split) for split in ("train", "valid"))
    assert train == ["", "= train =", "", "The <unk> of train , 1 @,@ 000 ."]
    assert valid == ["", "= <unk> =", "", "The <unk> of <unk> , 1 @,@ 000 .", "<unk>"]


def test_enwik8_is_binarised_byte_by_byte(server, tmp_path):
    lines = ["<page>", "", "Grüße\u2028 an\ralle\x00 …", '    "x"  \t']
    data = ("\n".join(lines * 50) + "\n").encode()
    server.files = {"ENWIK8": archives.zipped({"enwik8": data})}
    language_modeling.main(["enwik8", "--workdir", str(tmp_path), "--workers", "1"])
    part = len(data) // 20
    parts = {"train": data[: -2 * part], "valid": data[-2 * part : -part], "test": data[-part:]}
    for split, expected in parts.items():
        rows = binarised(tmp_path / "data-bin", split)
        text = b"".join(bytes(map(int, row.split())) + b"\n" for row in rows)
        assert text.removesuffix(b"\n") == expected.removesuffix(b"\n")


SEPARATORS = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"


@pytest.mark.parametrize("kind", ["bytes", "characters", "model"])
def test_only_newlines_end_the_lines_of_symbols(tmp_path, kind):
    text, lines = tmp_path / "text", ["a b", f"c{SEPARATORS}d", "", "e\rf", "g a b c d e f"]
    text.write_bytes("\n".join(lines).encode() + b"\r\n")
    if kind == "model":
        subword.learn(tmp_path / "model", 20, [text])
        kind = str(tmp_path / "model.model")
    subword.encode(kind, tmp_path / "out", [text])
    with open(tmp_path / "out/text", encoding="utf-8") as written:  # as fairseq opens it
        rows = [row.removesuffix("\n") for row in written]
    assert len(rows) == len(lines) and rows[2] == ""
    if kind == "bytes":
        assert [Bytes.decode(rows[i]) for i in (0, 3, 4)] == ["a b", "e f", "g a b c d e f"]
