"""The commands of README.md, one after the other as a user gives them, on texts of some words."""

import random
import re
import shlex

import pytest
import torch
from commands import PLUGIN, ROOT, readme_commands, run_warm

from fairseq_mega import MegaLanguageModel, MegaModel
from fairseq_mega.__main__ import main

ROWS = {"train": 40, "valid": 8, "test": 8}
SIZES = "--{0}-layers 1 --{0}-embed-dim 16 --{0}-hidden-dim 16 --{0}-ffn-embed-dim 16 --{0}-z-dim 8"
SHORT = "--max-update 4 --warmup-updates 2 --total-num-update 4 --num-workers 0 "


@pytest.fixture
def folder(tmp_path):
    """One in which README's commands can be given."""
    (tmp_path / "fairseq_mega").symlink_to(PLUGIN)
    return tmp_path


def write_texts(folder, *suffixes):
    generator = random.Random(1)
    for split, count in ROWS.items():
        for suffix in suffixes:
            rows = [generator.choices("abcdefgh", k=generator.randint(2, 9)) for _ in range(count)]
            text = "".join(" ".join(row) + "\n" for row in rows)
            (folder / f"{split}.{suffix}").write_text(text)


def run_section(section, folder, **more):
    """Runs the commands of a section, with `more` options for each; returns what they print."""
    outputs = {}
    for command in readme_commands("..", section):
        name, _, options = command.removeprefix("fairseq-").partition(" ")
        outputs[name] = run_warm(name, options, more.get(name, ""), cwd=folder)
    return outputs


def exported(folder, data):
    """The folder that README's `export` makes of the trained model."""
    (words,) = re.findall(r"`python -m fairseq_mega (export CHECKPOINT .*?)`", readme())
    given = {"CHECKPOINT": "checkpoints/checkpoint_best.pt", "OUT": "exported", "DATA": data}
    main([str(folder / given[w]) if w in given else w for w in shlex.split(words)])
    return folder / "exported"


def readme():
    return (ROOT / "README.md").read_text()


def hypotheses(output):
    return re.findall(r"^H-\d+\t.*", output, re.MULTILINE)


def test_translation(folder):
    """Trained without --source-lang and --target-lang, which fairseq infers, the model exports,
    imports, translates and draws its attention."""
    write_texts(folder, "en", "de")
    outputs = run_section("Translation", folder, train=SHORT + SIZES.format("encoder"))
    assert len(hypotheses(outputs["generate"])) == ROWS["test"]

    out = exported(folder, "data-bin")
    main(["import", str(out), str(folder / "imported.pt"), "--dictionaries", str(folder / "dicts")])
    generate = readme_commands("..", "Translation")[-1].partition(" ")[2]
    generate = generate.replace("checkpoints/checkpoint_best.pt", "imported.pt")
    assert hypotheses(run_warm("generate", generate, cwd=folder)) == hypotheses(outputs["generate"])

    trained = MegaModel.from_pretrained(
        str(folder / "checkpoints"), "checkpoint_best.pt", str(folder / "data-bin")
    )
    assert MegaModel.from_pretrained(str(out)).translate("a b") == trained.translate("a b")
    checkpoint, data = folder / "checkpoints/checkpoint_best.pt", folder / "data-bin"
    main(["attend", str(checkpoint), str(data), "--index", "1", "--out", str(folder / "maps")])
    assert (folder / "maps" / "index.html").exists()

    out.rename(folder / "done")
    with pytest.raises(SystemExit, match="names no languages.* folder of the training's data"):
        exported(folder, "dicts")


def test_language_modeling(folder):
    write_texts(folder, "txt")
    small = SIZES.format("decoder") + " --decoder-chunk-size 8 "
    outputs = run_section("Language modeling", folder, train=SHORT + small)
    assert "Loss (base 2)" in outputs["eval-lm"]
    out = exported(folder, "data-bin")
    trained = MegaLanguageModel.from_pretrained(
        str(folder / "checkpoints"), "checkpoint_best.pt", str(folder / "data-bin")
    )
    scores = [
        each.score("a b c") for each in (trained, MegaLanguageModel.from_pretrained(str(out)))
    ]
    assert torch.equal(*(score["positional_scores"] for score in scores))
