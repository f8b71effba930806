"""The commands and the Python of README.md, as a user gives them, on texts of some words."""

import contextlib
import io
import random
import re
import shlex

import pytest
import torch
import warm
from commands import PLUGIN, ROOT, readme_commands, run_warm

from fairseq_mega import MegaLanguageModel, MegaModel
from fairseq_mega.__main__ import main

SIZES = "--{0}-layers 1 --{0}-embed-dim 16 --{0}-hidden-dim 16 --{0}-ffn-embed-dim 16 --{0}-z-dim 8"
SHORT = "--max-update 4 --warmup-updates 2 --total-num-update 4 --num-workers 0 "


@pytest.fixture
def folder(tmp_path):
    """A folder in which README's commands can be given, as in the cloned one."""
    (tmp_path / "fairseq_mega").symlink_to(PLUGIN)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    return tmp_path


def write_text(file, count):
    generator = random.Random(file.name)
    rows = [generator.choices("abcdefgh", k=generator.randint(2, 9)) for _ in range(count)]
    file.write_text("".join(" ".join(row) + "\n" for row in rows))


def run_section(section, folder, **more):
    """Runs the commands of a section, with `more` options for each; returns what they print."""
    outputs = {}
    for command in readme_commands("..", section):
        prompt, _, command = command.rpartition(" | ")
        command, _, file = command.partition(" > ")
        program, options = command.split(maxsplit=1)
        if program == "python":
            script, *words = shlex.split(options)
            action = words[0]  # of subword.py and prepare.py
            name = action if action.isalpha() else script.split("/")[-1].removesuffix(".py")
            words += shlex.split(more.get(name, ""))
            status, output = warm.run([str(ROOT / script), *words], folder, "")
            assert status == 0, output[-1500:]
        else:
            name = program.removeprefix("fairseq-")
            stdin = "".join(f"{word}\n" for word in shlex.split(prompt)[1:])
            output = run_warm(name, options, more.get(name, ""), cwd=folder, stdin=stdin)
        if file:
            (folder / file).write_text(output)
        outputs[name] = output
    return outputs


def exported(folder, checkpoints, data):
    """The folder that README's `export` makes of the trained model."""
    (words,) = re.findall(r"`python -m fairseq_mega (export checkpoints/lm/.*?)`", readme())
    words = words.replace("checkpoints/lm", f"{folder}/checkpoints/{checkpoints}")
    words = words.replace("data/lm/data-bin", str(data)).replace("my-lm", f"{folder}/exported")
    main(shlex.split(words))
    return folder / "exported"


def readme():
    return (ROOT / "README.md").read_text()


def hypotheses(output):
    return re.findall(r"^H-\d+\t.*", output, re.MULTILINE)


def test_a_layer_in_python_prints_what_the_readme_says():
    ((code, expected),) = re.findall(r"```python\n(.*?)```\n\n```\n(.*?)```", readme(), re.DOTALL)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    assert printed.getvalue() == expected


def test_options(capsys):
    (command,) = readme_commands("..", "Options")
    main(shlex.split(command.removeprefix("python -m fairseq_mega")))
    assert "--decoder-chunk-size" in capsys.readouterr().out


def test_translation(folder):
    """From two files to a score and translations. The model, whose languages fairseq infers, can
    be exported and imported, and its attention plotted."""
    for language in ("en", "de"):
        write_text(folder / f"corpus.{language}", 56)
    outputs = run_section(
        "Translation",
        folder,
        files="--vocab-size 16 --held-out 8",
        train=SHORT + SIZES.format("encoder"),
    )
    assert len(hypotheses(outputs["generate"])) == 8
    assert "SacreBLEU" in outputs["score"] and "chrF" in outputs["score"]
    assert len(hypotheses(outputs["interactive"])) == 1

    data, trained_in = folder / "data/files/data-bin", folder / "checkpoints/translation"
    out = exported(folder, "translation", data)
    main(["import", str(out), str(folder / "imported.pt"), "--dictionaries", str(folder / "dicts")])
    generate = next(c for c in readme_commands("..", "Translation") if "fairseq-generate" in c)
    generate = generate.partition(" ")[2].partition(" > ")[0]
    generate = generate.replace("checkpoints/translation/checkpoint_best.pt", "imported.pt")
    assert hypotheses(run_warm("generate", generate, cwd=folder)) == hypotheses(outputs["generate"])

    trained = MegaModel.from_pretrained(str(trained_in), "checkpoint_best.pt", str(data))
    assert MegaModel.from_pretrained(str(out)).translate("a b") == trained.translate("a b")
    checkpoint = trained_in / "checkpoint_best.pt"
    main(["attend", str(checkpoint), str(data), "--index", "1", "--out", str(folder / "maps")])
    assert (folder / "maps" / "index.html").exists()

    out.rename(folder / "done")
    with pytest.raises(SystemExit, match="names no languages.* folder of the training's data"):
        exported(folder, "translation", folder / "dicts")


def test_language_modeling(folder):
    """From three files to a perplexity and a continued text."""
    for split, count in {"train": 200, "valid": 20, "test": 20}.items():
        write_text(folder / f"{split}.txt", count)
    outputs = run_section(
        "Language modeling",
        folder,
        learn="--vocab-size 16",
        train=SHORT + SIZES.format("decoder") + " --decoder-chunk-size 8",
    )
    assert re.search(r"Perplexity: \d", outputs["eval-lm"])
    assert len(hypotheses(outputs["interactive"])) == 1

    data, trained_in = folder / "data/lm/data-bin", folder / "checkpoints/lm"
    out = exported(folder, "lm", data)
    trained = MegaLanguageModel.from_pretrained(str(trained_in), "checkpoint_best.pt", str(data))
    scores = [
        each.score("a b c") for each in (trained, MegaLanguageModel.from_pretrained(str(out)))
    ]
    assert torch.equal(*(score["positional_scores"] for score in scores))
