"""The commands of examples/experiments start and finish at tiny sizes."""

from dataclasses import replace

import pytest
import warm
from commands import ROOT, run_warm
from fairseq.options import get_eval_lm_parser, get_training_parser, parse_args_and_arch
from test_debian import make_help_packages, needs_dpkg

from examples.experiments import comparison, long_translation, small_data, small_text
from examples.quickstart.demo import Step, command
from examples.translation import prepare


def script(name, *words):
    path = ROOT / f"examples/experiments/{name}.py"
    status, output = warm.run([str(path), *map(str, words)], ROOT, "")
    assert status == 0, output[-1500:]
    return output


def cells(text):
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in text.split("\n")]


def test_recall(tmp_path):
    output = script("recall", "--quick", "--out", tmp_path)
    text = (tmp_path / "results.md").read_text()
    assert text in output
    rows = cells(text)
    assert rows[0] == ["distance", "mega", "mega-spread", "mega-cut", "transformer"]
    assert [row[0] for row in rows if len(row) == 5][2:] == [
        "4", "8", "16", "16 from place 0", "16 from place 4", "16 from place 7",
    ]  # fmt: skip


def test_needle(tmp_path):
    script("needle", "data", tmp_path, "--longest", 16, "--first", 9, "--lines", 200)
    prefixes = f"--trainpref {tmp_path}/train.txt --validpref {tmp_path}/valid.txt"
    run_warm("preprocess", f"--only-source {prefixes} --destdir {tmp_path}/bin")
    run_warm(
        "train",
        tmp_path / "bin",
        "--task mega_language_modeling --sample-break-mode eos --max-tokens 512 "
        "--arch mega_lm_long --decoder-layers 1 --decoder-embed-dim 16 --decoder-hidden-dim 16 "
        "--decoder-ffn-embed-dim 16 --decoder-z-dim 8 --decoder-n-dim 4 --decoder-chunk-size 8 "
        "--criterion cross_entropy --optimizer adam --lr 1e-2 --max-update 5 "
        f"--disable-validation --save-dir {tmp_path}",
    )
    options = "--distances", 2, 30, "--lengths", 5000, "--tests", 16
    output = script(
        "needle", "score", tmp_path / "checkpoint_last.pt", "--data", f"{tmp_path}/bin", *options
    )
    for line in "distance 2 tokens", "distance 30 tokens", "a text of 5,000 tokens":
        assert f"{line}: " in output


@needs_dpkg
def test_small_data(tmp_path, capsys):
    """One model is trained; the table of two has it twice."""
    make_help_packages(tmp_path / "data/downloads")
    words = f"help --held-out 20 --vocab-size 120 --workers 1 --workdir {tmp_path / 'data'}"
    prepare.main(words.split())
    tiny = "--encoder-layers 1 --decoder-layers 1 --encoder-embed-dim 16"
    out = tmp_path / "out"
    small_data.main(
        ["--data", str(tmp_path / "data"), "--workdir", str(out), "--updates", "2"]
        + ["--seeds", "1", "--only", "mega", f"--mega={tiny}"]
    )
    text = (out / "results.md").read_text()
    assert text in capsys.readouterr().out
    rows = cells(text)
    assert rows[2][0] == "updates" and rows[5][0] == "2"
    assert [row[:2] for row in rows if len(row) == 5][2:] == [["1", "mega"]]
    steps = Step("", out / "mega-1", []), {"test": Step("", out / "mega-1-test/test", [])}
    mega = comparison.Trial("mega", 1, *steps)
    references = (tmp_path / "data/text/test.de").read_text().splitlines()
    *_, row = cells(small_data.tests([replace(mega, model="other"), mega], references))[:4]
    assert row[1] == "mega" and 0 <= float(row[4]) <= 1


def test_long_translation(tmp_path):
    """Texts of all lengths hold the same sentences, and the commands have options of fairseq;
    `test_small_data` runs such a comparison."""
    (tmp_path / "subwords").mkdir()
    (tmp_path / "out").mkdir()
    for split in "train", "valid", "test":
        for language in "en", "de":
            text = "".join(f"▁{split} {language} {i}\n" for i in range(43))
            (tmp_path / f"subwords/{split}.{language}").write_text(text)
    long_translation.write_joined(tmp_path, ("en", "de"), tmp_path / "out")
    sentences = (tmp_path / "subwords/test.de").read_text().splitlines()
    for count, name in long_translation.TESTED.items():
        texts = (tmp_path / f"out/{name}.de").read_text().splitlines()
        assert len(texts) == -(-43 // count) and " ".join(texts) == " ".join(sentences)
    assert len((tmp_path / "out/train.en").read_text().splitlines()) == 9 + 5
    for options in long_translation.MODELS.values():
        parse_args_and_arch(get_training_parser(), command("data", options))


def test_scores_of_long_translations(tmp_path):
    """Each length is scored with references of its own."""
    references = [f"Das ist der Satz Nummer {i} von zehn." for i in range(10)]
    training, *tested = (Step("", tmp_path / name, []) for name in ("mega", "1", "5"))
    for step in training, *tested:
        step.folder.mkdir()
    training.log.write_text("num. shared model params: 1,234\n")
    for step, count in zip(tested, (1, 5)):
        texts = long_translation.joined(references, count)
        found = "".join(f"H-{i}\t-0.1\t{text}\n" for i, text in enumerate(texts))
        step.log.write_text(f"{found}took {count} seconds and at most {count}00 MB\n")
    trial = comparison.Trial("mega", 1, training, dict(zip(("1", "5"), tested)))
    *_, one, five = cells(long_translation.tests([trial], references))
    assert one == ["1", "mega", "1,234", "1", "100.0", "100.0", "1.00", "1", "100"]
    assert five == ["1", "mega", "1,234", "5", "100.0", "100.0", "1.00", "5", "500"]


@pytest.mark.parametrize("model", small_text.MODELS)
def test_small_text(model):
    """The commands have options of fairseq; `test_small_data` runs such a comparison."""
    for symbols in small_text.SIZES:
        words = command("data", small_text.options_of(model, symbols), "--max-update 1")
        parse_args_and_arch(get_training_parser(), words)
    for reading in small_text.readings(model).values():
        program, *words = command(reading)
        assert program == "fairseq-eval-lm"
        parse_args_and_arch(get_eval_lm_parser(), ["data", *words, "--path", "x.pt"])
