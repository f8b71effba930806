"""The quickstart's data, and its steps: finished steps are skipped, changed ones redone."""

import random
import subprocess

import pytest
from fairseq.options import get_training_parser, parse_args_and_arch

from examples.quickstart import corpus, demo
from examples.steps import SPLITS


def test_phrases_are_different_clean_lines_of_all_kinds():
    phrases = corpus.parallel_text(pairs=2000, seed=1)
    assert corpus.parallel_text(pairs=2000, seed=1) == phrases
    assert [len(phrases[split]) for split in SPLITS] == [2000, 50, 100]
    for texts in zip(*sum(phrases.values(), [])):
        assert len(set(texts)) == len(texts)
        assert all(text == " ".join(text.split()) != "" and "{" not in text for text in texts)
    with pytest.raises(SystemExit, match="fewer than 2 phrases"):
        corpus.draw(lambda rng: ("always", "immer"), 2, corpus.Distinct(), random.Random(1))


def test_prose_is_split_by_document_and_repeats_no_paragraph(monkeypatch):
    monkeypatch.setattr(corpus, "MODULES", "argparse ast asyncio collections email json unittest")
    prose = corpus.running_text(seed=1)
    total = sum(corpus.count_words(lines) for lines in prose.values())
    assert 50_000 < total < 500_000
    for split in ("valid", "test"):
        assert 0.04 < corpus.count_words(prose[split]) / total < 0.15
    long = {split: {line for line in prose[split] if len(line) > 120} for split in SPLITS}
    assert len(long["train"] & long["test"]) < 0.01 * len(long["test"])


APPEND = "import sys; open(sys.argv[1], 'a').write(sys.argv[2])"


def step(folder, text, runs, after=()):
    """A step that leaves `text` in its folder and a mark in the file `runs`."""
    commands = [["python", "-c", APPEND, str(folder / "out"), text]]
    commands += [["python", "-c", APPEND, str(runs), "x"]]
    return demo.Step(f"write {text}", folder, commands, after)


def test_a_change_redoes_the_step_and_those_after_it(tmp_path):
    runs, script = tmp_path / "runs", tmp_path / "script.py"
    script.write_text("")
    for text in ("one", "one", "two"):
        first = step(tmp_path / "a", text, runs)
        first.commands.append(["python", str(script)])
        for each in (first, step(tmp_path / "b", "same", runs, after=(first,))):
            each.run()
    assert runs.read_text() == "xxxx"
    assert (tmp_path / "a/out").read_text() == "two"
    script.write_text("print('changed')")
    first.run()
    assert "changed\ntook 0 seconds and at most " in (tmp_path / "a/log.txt").read_text()


def test_a_failed_step_says_where_its_log_is_and_is_redone(tmp_path):
    runs, present = tmp_path / "runs", tmp_path / "present"
    fail = f"print('so far'); open({str(present)!r})"
    commands = [*step(tmp_path / "a", "one", runs).commands, ["python", "-c", fail]]
    with pytest.raises(SystemExit, match=str(tmp_path / "a/log.txt")):
        demo.Step("fail", tmp_path / "a", commands).run()
    assert "so far" in (tmp_path / "a/log.txt").read_text()
    present.touch()
    demo.Step("fail", tmp_path / "a", commands).run()
    assert runs.read_text() == "xx" and (tmp_path / "a/out").read_text() == "one"


def test_a_printed_command_can_be_typed(tmp_path):
    words = demo.command("python -c", tmp_path / "a file", "--betas '(0.9, 0.98)'")
    assert words == ["python", "-c", str(tmp_path / "a file"), "--betas", "(0.9, 0.98)"]
    text = demo.printable([*words[:2], APPEND, words[2], "x" * 99, *words[3:]])
    assert "\\\n" in text and "--betas '(0.9, 0.98)'" in text
    subprocess.run(text, shell=True, check=True)
    assert (tmp_path / "a file").read_text() == "x" * 99


def test_the_trainings_have_options_of_fairseq(tmp_path):
    steps, trials = demo.plan(tmp_path, ["mega", "transformer"])
    assert len({each.folder for each in steps}) == len(steps) == 12
    for trial in trials:
        (words,) = trial.training.commands
        parse_args_and_arch(get_training_parser(), words[1:])


def test_translations_are_read_in_the_order_of_the_test_set(tmp_path):
    log = tmp_path / "log.txt"
    log.write_text("H-10\t-0.1\tzehn\nS-2\tx\nH-2\t-0.3\tzwei und\nD-2\t-0.3\tzwei\n")
    assert demo.translations(log) == ["zwei und", "zehn"]
