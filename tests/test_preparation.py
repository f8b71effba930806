"""The preparations, from the download to the binarised data, on small archives."""

import os
import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import archives
import pytest
from commands import BIN, ROOT, readme_commands
from fairseq.data import Dictionary
from fairseq.data.data_utils import load_indexed_dataset
from fairseq.options import get_generation_parser, get_training_parser, parse_args_and_arch
from sacremoses import MosesTokenizer
from sentencepiece import SentencePieceProcessor
from server import running_server

from examples import subword
from examples.language_modeling import prepare as language_modeling
from examples.language_modeling import symbols
from examples.quickstart import demo
from examples.steps import alone
from examples.translation import corpora
from examples.translation import prepare as translation

SPLITS = ("train", "valid", "test")


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def server(monkeypatch_module):
    with running_server() as server:
        remotes = [remote for data in translation.PUBLISHED.values() for remote in data.remotes]
        for remote in [*remotes, *(data.remote for data in language_modeling.PUBLISHED.values())]:
            path = remote.published_url.split("/", 3)[3].replace("translation-task/", "")
            monkeypatch_module.setenv(f"{remote.name}_URL", server.address(path.split("/raw/")[-1]))
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


def assert_no_leftovers(work):
    assert not [path for path in work.rglob("*") if ".part" in path.name]


# --- WMT'16 -------------------------------------------------------------------------------------

LONG = "word " * 81
ODD = 'A well-known\u2028 "quote"\x85 isn\'t & <b>'  # separators that are no end of a line


@pytest.fixture(scope="module")
def wmt16_text():
    """Three corpora, of which the middle one has pairs to be left out, then valid and test."""
    en, de = archives.sentences(600)
    noise_en = [LONG, "short", "", ODD, "nine " * 10]
    noise_de = ["kurz", LONG, "leer", "Ein wohl-bekanntes 'Zitat'.", "zehn"]
    train = [
        (en[:200], de[:200]),
        (en[200:300] + noise_en, de[200:300] + noise_de),
        (en[300:400], de[300:400]),
    ]
    return train, (en[400:450], de[400:450]), (en[450:], de[450:])


@pytest.fixture(scope="module")
def wmt16(server, wmt16_text, tmp_path_factory):
    """The prepared data, after two runs that failed."""
    work = tmp_path_factory.mktemp("data") / "wmt16"
    words = ["wmt16", "--workdir", str(work), "--workers", "2"]
    whole = archives.wmt16(*wmt16_text)
    dev = {"dev/newstest2013.en": "one\n", "dev/newstest2013.de": "eins\n"}
    missing = {path: data for path, data in whole.items() if "nc-v11" not in path}

    server.files = missing
    with pytest.raises(SystemExit, match="nc-v11.tgz.*404.*WMT16_NEWS_COMMENTARY_URL"):
        translation.main(words)
    server.files = {**whole, "wmt16/dev.tgz": archives.tgz(dev)}
    with pytest.raises(SystemExit, match="dev.tgz has no newstest2014-deen-ref.en.sgm, newst"):
        translation.main(words)
    assert sorted(path.name for path in work.iterdir()) == [
        "downloads", "settings.json", "text.part",
    ]  # fmt: skip
    server.files = whole
    (work / "downloads/dev.tgz").unlink()
    server.requests.clear()
    translation.main(words)
    assert [path for path, _ in server.requests] == ["wmt16/dev.tgz"]
    return work


def test_wmt16_has_the_corpora_in_order_and_the_news_tests(wmt16, wmt16_text):
    train, valid, test = wmt16_text
    for i, language in enumerate(("en", "de")):
        text = texts(wmt16 / "text", language)
        assert text["train"] == [" ".join(x.split()) for pair in train for x in pair[i]]
        assert text["valid"] == valid[i] and text["test"] == test[i]
    assert_no_leftovers(wmt16)


def test_wmt16_is_tokenised_as_moses_does_and_train_is_cleaned(wmt16, wmt16_text):
    tokens = {language: texts(wmt16 / "tokens", language) for language in ("en", "de")}
    assert {split: len(lines) for split, lines in tokens["en"].items()} == {
        "train": 401, "valid": 50, "test": 150,
    }  # fmt: skip
    assert "A well-known &quot; quote &quot; isn &apos;t &amp; &lt; b &gt;" in tokens["en"]["train"]
    assert "Ein wohl-bekanntes &apos; Zitat &apos; ." in tokens["de"]["train"]
    moses = MosesTokenizer("de")
    assert tokens["de"]["test"] == [moses.tokenize(x, return_str=True) for x in wmt16_text[2][1]]


def test_wmt16_is_binarised_with_a_joined_dictionary(wmt16):
    data = wmt16 / "data-bin"
    assert (data / "dict.en.txt").read_text() == (data / "dict.de.txt").read_text()
    for language in ("en", "de"):
        tokens = texts(wmt16 / "tokens", language)
        for split in SPLITS:
            rows = binarised(data, f"{split}.en-de.{language}", f"{language}.")
            if split == "train":
                assert any("@@ " in row for row in rows)
                assert [row.replace("@@ ", "") for row in rows] == tokens[split]
            assert len(rows) == len(tokens[split])


def test_a_second_run_does_nothing(wmt16, server, capsys):
    server.requests.clear()
    translation.main(["wmt16", "--workdir", str(wmt16)])
    assert capsys.readouterr().out.count("done before") == 4
    assert server.requests == []


def test_a_folder_is_of_one_data_set(wmt16):
    with pytest.raises(SystemExit, match="begun with data wmt16, not multi30k"):
        translation.main(["multi30k", "--workdir", str(wmt16)])


def test_texts_that_do_not_pair_up_are_refused(wmt16_text, server, tmp_path):
    train, valid, (en, de) = wmt16_text
    server.files = archives.wmt16(train, valid, (en[:-1], de))
    with pytest.raises(SystemExit, match="newstest2014.*different numbers of lines"):
        translation.main(["wmt16", "--workdir", str(tmp_path)])
    assert not (tmp_path / "text").exists()


# --- the commands in the README -----------------------------------------------------------------

TINY = (
    "--encoder-layers 1 --decoder-layers 1 --encoder-embed-dim 16 --encoder-hidden-dim 16 "
    "--encoder-ffn-embed-dim 16 --encoder-z-dim 8 --encoder-n-dim 2 --cpu --num-workers 0 "
    "--max-epoch 10 --required-batch-size-multiple 1 --eval-bleu-args '{\"max_len_b\": 5}'"
)


def test_from_training_to_score_as_the_readme_says(wmt16, tmp_path):
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    prepare, *commands = readme_commands("translation", "WMT'16 English–German")
    assert prepare == "python examples/translation/prepare.py wmt16"
    for command in commands:
        if command.startswith("fairseq-train"):
            command += f" {TINY}"
        if command.startswith("fairseq-generate"):
            command = command.replace(" > ", " --cpu --max-len-b 5 > ")
        command = command.replace("data/wmt16", str(wmt16))
        command = command.replace("checkpoints/wmt16", str(tmp_path))
        done = subprocess.run(
            command, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-1500:]
    tokenised, sacre, signature = done.stdout.splitlines()
    assert re.match(r"Tokenised, compounds split: BLEU4 = \d+\.\d\d", tokenised)
    assert re.match(r"SacreBLEU = \d+\.\d\d", sacre) and "tok:13a" in signature


@pytest.mark.parametrize("section", ["IWSLT'14 German–English", "Multi30k English–German"])
def test_the_readmes_other_options_exist(section):
    commands = dict(command.split(" ", 1) for command in readme_commands("translation", section))
    train = shlex.split(commands["fairseq-train"])
    parse_args_and_arch(get_training_parser(), train)
    generate = shlex.split(commands["fairseq-generate"].split(" > ")[0])
    parse_args_and_arch(get_generation_parser(), generate)


# --- IWSLT'14 -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def talks():
    en, de = archives.sentences(400, seed=2)
    return en[:300], de[:300], en[300:], de[300:]


@pytest.fixture(scope="module")
def iwslt14(server, talks, tmp_path_factory):
    def tagged(texts, title):
        head = ["<url>http://www.ted.com/1</url>", "<keywords>talks, <b></keywords>"]
        head += ["<speaker>A B</speaker>", "<talkid>1</talkid>", f"<title>{title}</title>"]
        return [*head, f"<description> {title}, Too </description>", *texts]

    work = tmp_path_factory.mktemp("data") / "iwslt14"
    en, de, *test = talks
    tests = {
        name: tuple(side[20 * i : 20 * (i + 1)] for side in test)
        for i, name in enumerate(corpora.IWSLT14_TESTS)
    }
    tests["TED.dev2010"] = (["It’s Here", *test[0][1:20]], test[1][:20])
    train = tagged(en, "The Title"), tagged(de, "Der Titel")
    server.files["fairseq/data/iwslt14/de-en.tgz"] = archives.iwslt14(train, tests)
    translation.main(["iwslt14", "--workdir", str(work), "--workers", "1"])
    return work


def test_iwslt14_keeps_what_is_said_in_lower_case(iwslt14, talks):
    english, german = (texts(iwslt14 / "text", language)["train"] for language in ("en", "de"))
    assert english == ["The Title", "The Title, Too", *talks[0]]
    assert german == ["Der Titel", "Der Titel, Too", *talks[1]]
    tokens = texts(iwslt14 / "tokens", "en")
    assert tokens["train"][:2] == ["the title", "the title , too"]
    assert all(line == line.lower() for lines in tokens.values() for line in lines)


def test_every_23rd_cleaned_pair_of_iwslt14_is_for_validation(iwslt14):
    sides = [texts(iwslt14 / "tokens", language) for language in ("de", "en")]
    train, valid = (list(zip(*(side[split] for side in sides))) for split in ("train", "valid"))
    assert len(valid) == len(train) // 22 > 5
    together = list(train)
    for i, pair in enumerate(valid):
        together.insert(23 * i + 22, pair)
    originals = zip(*(texts(iwslt14 / "text", language)["train"] for language in ("de", "en")))
    german, english = MosesTokenizer("de").tokenize, MosesTokenizer("en").tokenize
    places = {
        (german(de, return_str=True).lower(), english(en, return_str=True).lower()): place
        for place, (de, en) in enumerate(originals)
    }
    order = [places[pair] for pair in together]
    assert order == sorted(order)


def test_iwslt14_is_tested_on_five_sets_of_talks(iwslt14, talks):
    rows = binarised(iwslt14 / "data-bin", "test.de-en.en", "en.")
    assert len(rows) == 100
    assert texts(iwslt14 / "tokens", "en")["test"][0] == "it &apos;s here"
    assert texts(iwslt14 / "text", "de")["test"] == [line.replace("’", "'") for line in talks[3]]


# --- SentencePiece: Multi30k, and files of one's own ---------------------------------------------


def assert_pieces_are_of(text, work, names, language):
    """What fairseq reads is made of pieces that are the text when put together."""
    model = SentencePieceProcessor(model_file=str(work / "subwords/subword.model"))
    for split in SPLITS:
        rows = binarised(work / "data-bin", f"{split}.{names}.{language}", f"{language}.")
        if split == "train":
            assert [model.decode(row.split()) for row in rows] == text[split]
        assert len(rows) == len(text[split]) > 0


def test_multi30k(server, tmp_path):
    en, de = archives.sentences(500, seed=3)
    splits = [(en[a:b], de[a:b]) for a, b in [(0, 400), (400, 450), (450, 500)]]
    server.files.update(archives.multi30k(*splits))
    words = ["multi30k", "--workdir", str(tmp_path / "work"), "--workers", "1", "--vocab-size"]
    with pytest.raises(SystemExit, match="--vocab-size 8000: SentencePiece cannot"):
        translation.main([*words, "8000"])
    assert not (tmp_path / "work/subwords").exists()
    (tmp_path / "work/settings.json").unlink()
    translation.main([*words, "300"])
    for i, language in enumerate(("en", "de")):
        text = texts(tmp_path / "work/text", language)
        assert list(text.values()) == [pair[i] for pair in splits]
        assert_pieces_are_of(text, tmp_path / "work", "en-de", language)


KILLED = """
import os, subprocess, sys
from pathlib import Path
from examples.steps import alone
late = "import sys, time; time.sleep(1); open(sys.argv[1], 'w')"
with alone(Path(sys.argv[1])):
    subprocess.Popen([sys.executable, "-c", late, f"{sys.argv[1]}/late"], close_fds=False)
    os.kill(os.getpid(), 9)
"""


def test_a_run_waits_for_what_a_killed_one_has_left(tmp_path, capsys):
    """Its processes go on for a while, and would write into what the next run makes."""
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT)
    assert killed.returncode == -9 and not (tmp_path / "late").exists()
    with alone(tmp_path):
        assert (tmp_path / "late").exists()
    assert "waiting for another run, or what is left of one" in capsys.readouterr().out
    with alone(tmp_path):  # and for nothing else
        assert not capsys.readouterr().out


def limit_file_size():
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))


def test_own_files_on_a_full_disk_then_on_one_with_room(tmp_path):
    en, de = archives.sentences(500, seed=4)
    en, de = [*en, en[0], "", "\u2028x"], [*de, de[0], "leer", "y"]
    for name, side in [("a.en", en), ("a.de", de)]:
        (tmp_path / name).write_text(archives.lines(side))
    command = [sys.executable, "examples/translation/prepare.py", "files"]
    command += ["--source-file", tmp_path / "a.de", "--target-file", tmp_path / "a.en"]
    command += ["--source-lang", "de", "--target-lang", "en", "--held-out", "50"]
    command += ["--vocab-size", "300", "--workdir", tmp_path / "work", "--workers", "1"]
    options = dict(cwd=ROOT, capture_output=True, text=True, timeout=120)

    full = subprocess.run(command, preexec_fn=limit_file_size, **options)
    assert full.returncode == 1 and "Traceback" not in full.stderr
    assert "No space left" in full.stderr and "goes on" in full.stderr
    assert not (tmp_path / "work/text").exists()
    done = subprocess.run(command, **options)
    assert done.returncode == 0, done.stderr
    assert_no_leftovers(tmp_path / "work")

    text = {x: texts(tmp_path / "work/text", x) for x in ("en", "de")}
    splits = {split: list(zip(text["en"][split], text["de"][split])) for split in SPLITS}
    assert {split: len(pairs) for split, pairs in splits.items()} == {
        "train": 401, "valid": 50, "test": 50,
    }  # fmt: skip
    together = [pair for pairs in splits.values() for pair in pairs]
    assert set(together) == {*zip(en[:500], de), ("x", "y")} and len(together) == 501
    for language in ("en", "de"):
        assert_pieces_are_of(text[language], tmp_path / "work", "de-en", language)


@pytest.mark.parametrize(
    "words, message",
    [
        ("--source-file no.de", "no.de is not there: give --source-file"),
        ("--target-lang de", "--source-lang and --target-lang are both de"),
        ("--held-out 4", "--held-out 4: .* at most a third of the 10 different pairs"),
        ("--held-out 0", "--held-out 0: must be at least 1"),
    ],
)
def test_own_files_that_cannot_be_prepared(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    for name in ("a.de", "a.en"):
        Path(name).write_text(archives.lines(range(10)))
    given = "files --source-file a.de --target-file a.en --source-lang de --target-lang en"
    with pytest.raises(SystemExit, match=message):
        translation.main([*given.split(), *words.split()])


def test_own_files_in_another_encoding_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.de").write_bytes("Fluß\n".encode("latin-1") * 9)
    Path("a.en").write_text("river\n" * 9)
    given = "files --source-file a.de --target-file a.en --source-lang de --target-lang en"
    with pytest.raises(SystemExit, match="a.de is not in UTF-8 .*: convert it"):
        translation.main(given.split())


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
    server.files["wikitext-103-v1.zip"] = archives.zipped(members)
    language_modeling.main(["wikitext103", "--workdir", str(tmp_path), "--workers", "1"])
    train, valid = (binarised(tmp_path / "data-bin", split) for split in ("train", "valid"))
    assert train == ["", "= train =", "", "The <unk> of train , 1 @,@ 000 ."]
    assert valid == ["", "= <unk> =", "", "The <unk> of <unk> , 1 @,@ 000 .", "<unk>"]
    assert_no_leftovers(tmp_path)


def test_enwik8_is_binarised_byte_by_byte(server, tmp_path):
    lines = ["<page>", "", "Grüße\u2028 an\ralle\x00 …", '    "x"  \t']
    data = ("\n".join(lines * 50) + "\n").encode()
    server.files["dc/enwik8.zip"] = archives.zipped({"enwik8": data})
    language_modeling.main(["enwik8", "--workdir", str(tmp_path), "--workers", "1"])
    part = len(data) // 20
    parts = {"train": data[: -2 * part], "valid": data[-2 * part : -part], "test": data[-part:]}
    for split, expected in parts.items():
        rows = binarised(tmp_path / "data-bin", split)
        text = b"".join(bytes(map(int, row.split())) + b"\n" for row in rows)
        assert text.removesuffix(b"\n") == expected.removesuffix(b"\n")
    symbols = (tmp_path / "data-bin/dict.txt").read_text().split("\n")
    counts = {line.split()[0]: int(line.split()[1]) for line in symbols if line}
    numbers = {name: n for name, n in counts.items() if not name.startswith("madeupword")}
    assert numbers == {str(x): parts["train"].count(x) for x in {*parts["train"]} - {10}}
    assert (len(counts) + 4) % 8 == 0


def test_a_zip_without_the_test_set_is_refused(server, tmp_path):
    members = {f"wikitext-103/wiki.{split}.tokens": "a\n" for split in ("train", "valid")}
    server.files["wikitext-103-v1.zip"] = archives.zipped(members)
    with pytest.raises(SystemExit, match="wikitext-103-v1.zip has no wiki.test.tokens"):
        language_modeling.main(["wikitext103", "--workdir", str(tmp_path)])
    assert not (tmp_path / "text").exists()


SEPARATORS = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"


@pytest.mark.parametrize("kind", symbols.ENCODERS)
def test_only_newlines_end_the_lines_of_symbols(tmp_path, kind):
    lines = ["a b", f"c{SEPARATORS}d", "", "e\rf", "g"]
    (tmp_path / "text").write_bytes("\n".join(lines).encode() + b"\r\n")
    symbols.split(kind, tmp_path / "out", [tmp_path / "text"])
    with open(tmp_path / "out/text", encoding="utf-8") as written:  # as fairseq opens it
        rows = [row.removesuffix("\n") for row in written]
    assert len(rows) == len(lines)
    decode = symbols.ENCODERS[kind].decode
    assert [decode(rows[i]) for i in (0, 2, 3, 4)] == ["a b", "", "e f", "g"]
    assert decode(rows[1])[0] == "c" and decode(rows[1])[-1] == "d"


def test_only_newlines_end_the_lines_of_subwords(tmp_path):
    text, lines = tmp_path / "text", [f"a b{SEPARATORS}c", "", "d\re", "f a b c d e"]
    text.write_bytes("\n".join(lines).encode() + b"\r\n")
    subword.learn(tmp_path / "model", 20, [text])
    subword.encode(tmp_path / "model.model", tmp_path / "out", [text])
    with open(tmp_path / "out/text", encoding="utf-8") as written:  # as fairseq opens it
        assert len(list(written)) == len(lines)


def test_only_newlines_end_the_lines_of_the_demo(tmp_path):
    (tmp_path / "text").write_text(f"a{SEPARATORS}b\n\nc\n", encoding="utf-8")
    assert demo.lines(tmp_path / "text") == [f"a{SEPARATORS}b", "", "c"]
