"""The recipes of classification: the README's commands, and the YAML files that say the same."""

import copy
import re
import shlex

import pytest
from classification import make_data
from commands import ROOT, readme_commands, run_warm
from fairseq.dataclass.configs import FairseqConfig
from fairseq.dataclass.initialize import add_defaults
from helpers import parse
from omegaconf import OmegaConf

# YAML file: section of the README, kind of data, classes.
RECIPES = {
    "listops": ("ListOps", "text", 10),
    "text": ("Text", "text", 2),
    "retrieval": ("Retrieval", "pair", 2),
    "image": ("Image", "image", 10),
    "pathfinder": ("Pathfinder", "image", 2),
    "pathx": ("Path-X", "image", 2),
    "speech": ("Speech Commands", "speech", 10),
    "speech_big": ("Speech Commands, big", "speech", 10),
}
FOLDER = ROOT / "examples" / "classification"
recipes = pytest.mark.parametrize("name", RECIPES)


def command(name, program):
    """The folder of data and the options that the README gives to a program."""
    lines = readme_commands("classification", RECIPES[name][0])
    return dict(line.split(" ", 1) for line in lines)[f"fairseq-{program}"].split(" ", 1)


def test_there_is_no_other_file():
    assert {path.stem for path in (FOLDER / "config").iterdir()} == set(RECIPES)


@recipes
def test_the_yaml_file_says_what_the_readme_says(name):
    """At full size; but for the name of the architecture, which has the options of the recipe."""
    data, options = command(name, "train")
    expected = copy.deepcopy(parse(options))
    expected.task.data = data
    expected = OmegaConf.to_container(expected, resolve=True, enum_to_str=True)
    yaml = OmegaConf.load(FOLDER / "config" / f"{name}.yaml")
    del yaml["hydra"]
    ours = OmegaConf.merge(OmegaConf.structured(FairseqConfig()), yaml)
    add_defaults(ours)
    ours = OmegaConf.to_container(ours, resolve=True, enum_to_str=True)
    assert ours["model"].pop("_name").startswith("mega_")
    assert expected["model"].pop("_name").startswith(("mega_lra_", "mega_sc_"))
    for part in (
        "common", "checkpoint", "dataset", "distributed_training", "optimization",
        "optimizer", "lr_scheduler", "criterion", "task", "model",
    ):  # fmt: skip
        assert ours[part] == expected[part], part


@recipes
def test_the_readmes_commands(name, tmp_path):
    """Of full size, but for two updates, on little data."""
    _, kind, classes = RECIPES[name]
    data = make_data(kind, tmp_path / "data", classes)
    options = command(name, "train")[1]
    for pattern in (r"(?<=--max-update )\d+", r"(?<=--total-num-update )\d+"):
        options, found = re.subn(pattern, "3", options)
        assert found == 1
    options, found = re.subn(r"(?<=--warmup-updates )\d+", "1", options)
    assert found == 1
    options = options.replace(f"checkpoints/{name}", str(tmp_path / "checkpoints"))
    output = run_warm("train", data, options.replace("--user-dir fairseq_mega", ""))
    assert re.search(r"\| valid \|.*\| loss [\d.]+ \| accuracy [\d.]+", output), output[-1500:]
    assert "num_updates 3" in output

    options = command(name, "validate")[1].replace("--user-dir fairseq_mega", "")
    options = options.replace(f"checkpoints/{name}", str(tmp_path / "checkpoints"))
    options = options.replace(f"results/{name}", str(tmp_path / "results"))
    output = run_warm("validate", data, options)
    assert "of 20 samples; predictions in" in output
    assert (tmp_path / "results" / "predictions-test.tsv").read_text().count("\n") == 21


def test_training_from_a_yaml_file(tmp_path):
    (tmp_path / "fairseq_mega").symlink_to(ROOT / "fairseq_mega")
    data = make_data("image", tmp_path / "data", 2)
    overrides = {
        "common.cpu": "true",
        "task.data": data,
        "optimization.max_update": 2,
        "lr_scheduler.warmup_updates": 1,
        "lr_scheduler.total_num_update": 2,
        "dataset.batch_size": 20,
        "checkpoint.save_dir": tmp_path,
    }
    output = run_warm(
        "hydra-train",
        f"--config-dir {FOLDER / 'config'} --config-name pathfinder",
        *(shlex.quote(f"{key}={value}") for key, value in overrides.items()),
        cwd=tmp_path,
    )
    assert (tmp_path / "checkpoint_best.pt").exists(), output[-1500:]
