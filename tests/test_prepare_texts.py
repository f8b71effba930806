"""Preparing texts with classes: ListOps, reviews, pairs of papers, tables."""

import re

import archives
import numpy as np
import pytest
from preparing import SPLITS, lines, make, refused, serving_all, train

from examples.classification import listops, prepare


@pytest.fixture(scope="module")
def server():
    with serving_all() as server:
        yield server


# --- ListOps ----------------------------------------------------------------------------------


def value_of(symbols):
    """By rewriting innermost brackets until one digit is left: another way than the generator's."""
    text, inner = " ".join(symbols), re.compile(r"\[(MAX|MIN|MED|SM)((?: \d)+) \]")

    def reduce(found):
        values = np.array(found[2].split(), dtype=int)
        operation = {"MAX": np.max, "MIN": np.min, "MED": np.median, "SM": np.sum}[found[1]]
        return str(int(operation(values)) % 10)

    while " " in text:
        text, count = inner.subn(reduce, text)
        assert count
    return int(text)


def depth_of(symbols):
    steps = np.cumsum([(s[0] == "[") - (s == "]") for s in symbols])
    assert steps[-1] == 0 and (steps[:-1] > 0).all()
    return steps.max()


def test_generated_listops_are_right_and_within_their_limits():
    limits = listops.Limits(max_depth=4, max_arguments=5, min_length=10, max_length=60)
    source = listops.generate(limits, seed=3)
    samples = [next(source) for _ in range(300)]
    assert [value_of(each.symbols) for each in samples] == [each.value for each in samples]
    assert all(10 <= len(each.symbols) <= 60 for each in samples)
    assert max(depth_of(each.symbols) for each in samples) == 4
    assert len({tuple(each.symbols) for each in samples}) == 300
    assert {each.value for each in samples} == set(range(10))
    assert {s for each in samples for s in each.symbols if s[0] == "["} == set(listops.OPERATORS)
    again = listops.generate(limits, seed=3)
    assert [next(again) for _ in range(300)] == samples


def test_listops_are_generated_in_the_published_layout(tmp_path):
    options = ["--workers", 1, "--min-length", 5, "--sizes", 60, 9, 9, "--max-length"]
    make("listops", *options, 90, "--workdir", tmp_path / "data")
    texts = [line for split in SPLITS for line in lines(tmp_path / f"data/text/{split}.src")]
    assert len(set(texts)) == 78
    assert len(lines(tmp_path / "data/src-bin/dict.txt")) + 4 + 1 == 25  # the published vocabulary
    make("listops", *options, 90, "--workdir", tmp_path / "data")  # nothing is left to do
    refused("begun with max_length 90, not 80", "listops", *options, 80, "--workdir",
            tmp_path / "data")  # fmt: skip


@pytest.mark.parametrize(
    "options, message",
    [
        ("--max-arguments 1", "--max-arguments is 1, but must be from 2"),
        ("--operator-rate 2", "--operator-rate is 2.0, but must be from 0 to 1"),
        ("--min-length 90 --max-length 60", "--min-length is 90, but must be from 4 to 60"),
        ("--max-depth 1 --min-length 500", "hardly another one of depth 1.*raise --max-depth"),
    ],
)
def test_impossible_listops(options, message, tmp_path):
    refused(message, "listops", *options.split(), "--workdir", tmp_path)


@pytest.mark.parametrize(
    "words, says",
    [
        (["table", "--from", "a.csv", "--longest", "0"], "argument --longest: 0 is below 1"),
        (["listops", "--sizes", "3", "-1", "2"], "argument --sizes: -1 is below 1"),
    ],
)
def test_numbers_below_1(words, says, capsys):
    with pytest.raises(SystemExit):
        prepare.main(words)
    assert says in capsys.readouterr().err


def write_arena_listops(folder, row="( ( ( ( [MAX 1 ) 2 ) 7 ) ] )\t7"):
    folder.mkdir(exist_ok=True)
    for part in ("train", "val", "test"):
        (folder / f"basic_{part}.tsv").write_text(f"Source\tTarget\n{row}\n[MIN 3 4 ]\t3\n")


def test_listops_of_the_arena(tmp_path):
    write_arena_listops(tmp_path / "arena")
    make("listops", "--from", tmp_path / "arena", "--workers", 1, "--workdir", tmp_path / "data")
    assert lines(tmp_path / "data/text/valid.src") == ["[MAX 1 2 7 ]", "[MIN 3 4 ]"]
    assert lines(tmp_path / "data/text/valid.label") == ["7", "3"]
    write_arena_listops(tmp_path / "arena", "[MAX 1 2 ]\t2\t2")
    words = ["listops", "--from", tmp_path / "arena", "--workdir"]
    refused("basic_train.tsv, line 2 has 3 columns, but must have 2", *words, tmp_path / "a")
    write_arena_listops(tmp_path / "arena", "[AVG 1 2 ]\t2")
    refused(r"basic_train.tsv, line 2: '\[AVG' is not of ListOps", *words, tmp_path / "b")
    refused("basic_train.tsv is not there: --from", "listops", "--from", tmp_path, "--workdir",
            tmp_path / "c")  # fmt: skip


# --- text, retrieval, tables ------------------------------------------------------------------


def reviews(top="aclImdb"):
    return {
        f"{top}/{split}/{kind}/{i}_{i % 10}.txt": f"{kind} {split}\x85 no {i}, élan\n"
        for split in ("train", "test")
        for kind in ("pos", "neg")
        for i in range(6)
    }


def test_movie_reviews_from_their_archive(server, tmp_path):
    members = {**reviews(), "aclImdb/train/unsup/0_0.txt": "no label", "aclImdb/README": "read"}
    server.files = {"LRA_IMDB": archives.tgz(members)}
    make("text", "--longest", 20, "--workers", 1, "--workdir", tmp_path)
    assert sorted(path.name for path in (tmp_path / "text").iterdir()) == sorted(
        f"{split}.{part}" for split in SPLITS for part in ("src", "label")
    )
    assert sorted(lines(tmp_path / "text/train.label")) == ["0"] * 6 + ["1"] * 6
    first = lines(tmp_path / "text/train.src")[0]
    assert bytes(map(int, first.split())) == "neg train\x85 no 0, élan".encode()[:20]
    assert lines(tmp_path / "text/valid.src") == lines(tmp_path / "text/test.src")


def test_movie_reviews_without_a_class(tmp_path):
    for path, content in reviews().items():
        if "test/pos" not in path:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(content)
    words = ["text", "--from", tmp_path / "aclImdb", "--workdir"]
    refused("aclImdb/test has no folder pos", *words, tmp_path / "a")
    (tmp_path / "aclImdb/test/pos").mkdir()
    refused(r"aclImdb/test/pos has no samples \(.txt\)", *words, tmp_path / "b")


def test_pairs_of_papers(tmp_path):
    for part in ("train", "eval", "test"):
        rows = [f'{i % 2}.0\tA{i}\tB{i}\tfirst "{i}\tsecond {i} zq' for i in range(8)]
        (tmp_path / f"new_aan_pairs.{part}.tsv").write_text("\n".join(rows) + "\n")
    words = ["retrieval", "--from", tmp_path, "--workers", 1, "--workdir"]
    make(*words, tmp_path / "data")
    dictionaries = [lines(tmp_path / f"data/{part}-bin/dict.txt") for part in ("src", "src1")]
    assert dictionaries[0] == dictionaries[1]
    assert {str(ord(letter)) for letter in 'z"'} <= {row.split()[0] for row in dictionaries[0]}
    train(tmp_path / "data", "lra-text -a mega_retrieval", "--max-positions 20")
    bad = tmp_path / "new_aan_pairs.eval.tsv"
    bad.write_text("1.0\tA\tB\tonly one text\n")
    refused("new_aan_pairs.eval.tsv, line 1 has 4 columns, but must have 5", *words, tmp_path / "a")
    bad.write_text("yes\tA\tB\tone\ttwo\n")
    refused("line 1: the label is 'yes', but must be 0 or 1", *words, tmp_path / "b")


def test_tables_of_ones_own(tmp_path):
    rows = [f'"{"good" if i % 2 else "bad"}, number {i}",{"up" if i % 2 else "down"}\n'
            for i in range(20)]  # fmt: skip
    path = tmp_path / "own.csv"
    path.write_text("review,mark\n" + "".join(rows))
    words = ["table", "--from", path, "--workers", 1, "--workdir"]
    columns = ["--text-column", "review", "--label-column", "mark"]
    make(*words, tmp_path / "data", *columns, "--symbols", "words")
    for split, count in (("train", 16), ("valid", 2), ("test", 2)):
        texts = lines(tmp_path / f"data/text/{split}.src")
        labels = lines(tmp_path / f"data/text/{split}.label")
        assert (
            len(texts) == count
            and sorted(labels) == ["down", "up"] * (count // 2)
            or (sorted(set(labels)) == ["down", "up"])
        )
        assert all(t.startswith({"up": "good,", "down": "bad,"}[k]) for t, k in zip(texts, labels))
    refused("own.csv has no column text, label, but review, mark", *words, tmp_path / "a")
    path.write_text("review,mark\none,two,three\n")
    refused("own.csv, line 2 has not as many columns", *words, tmp_path / "b", *columns)
    path.write_text("review,mark\na,up\nb,up\nc,up\nd,down\n")
    refused("class 0 has 1 samples.*needs 3", *words, tmp_path / "c", *columns)
