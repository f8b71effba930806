"""The recipes in the examples' READMEs, and their YAML files, which say the same.

A recipe is read from the README, and run at sizes that are reduced by further options.
"""

import copy
import random
import re
import shlex
from typing import NamedTuple

import pytest
from classification import make_data
from commands import PLUGIN, ROOT, losses, made_once, readme_commands, run_warm, valid_loss
from fairseq.dataclass.configs import FairseqConfig
from fairseq.dataclass.initialize import add_defaults
from helpers import parse
from omegaconf import OmegaConf

from examples.steps import binarise


class Recipe(NamedTuple):
    folder: str  # of examples/
    section: str  # of its README
    sizes: dict  # what makes it small: options, as the YAML file has them

    def command(self, program):
        """The folder of data and the options that the README gives to a program."""
        commands = dict(line.split(" ", 1) for line in readme_commands(self.folder, self.section))
        return commands[f"fairseq-{program}"].split(" ", 1)

    def yaml(self, name):
        return OmegaConf.load(ROOT / "examples" / self.folder / "config" / f"{name}.yaml")


def sizes(**model):
    """Options of a training of six updates with a small model."""
    small = {"embed_dim": 16, "hidden_dim": 24, "ffn_embed_dim": 24, "z_dim": 8, "n_dim": 4}
    side = "decoder" if "decoder_layers" in model else "encoder"
    return {
        "model": {**{f"{side}_{name}": size for name, size in small.items()}, **model},
        "common": {"cpu": True, "log_interval": 1, "log_format": "json"},
        "dataset": {"num_workers": 0, "required_batch_size_multiple": 1},
        "lr_scheduler": {"warmup_updates": 2},
        "optimization": {"max_update": 6},
    }


WMT16 = sizes(encoder_layers=1)
WMT16["task"] = {"source_lang": "de", "target_lang": "en", "eval_bleu_args": '{"max_len_b": 5}'}
CUTOFFS = {"adaptive_input_cutoff": "6,10", "adaptive_softmax_cutoff": "6,10"}
RECIPES = {
    "wmt16": Recipe("translation", "WMT'16 English–German", WMT16),
    "iwslt14": Recipe("translation", "IWSLT'14 German–English", {}),
    "multi30k": Recipe("translation", "Multi30k English–German", {}),
    "wikitext103": Recipe(
        "language_modeling",
        "WikiText-103",
        sizes(decoder_layers=2, decoder_chunk_size=4, **CUTOFFS),
    ),
    "enwik8": Recipe("language_modeling", "enwik8", sizes(decoder_layers=2, decoder_chunk_size=4)),
}
LANGUAGE_MODELS = ["wikitext103", "enwik8"]
# Recipes of classification: section of the README, kind of data, classes.
CLASSIFIERS = {
    "listops": ("ListOps", "text", 10),
    "text": ("Text", "text", 2),
    "retrieval": ("Retrieval", "pair", 2),
    "image": ("Image", "image", 10),
    "pathfinder": ("Pathfinder", "image", 2),
    "pathx": ("Path-X", "image", 2),
    "speech": ("Speech Commands", "speech", 10),
    "speech_big": ("Speech Commands, big", "speech", 10),
}
RECIPES |= {name: Recipe("classification", row[0], {}) for name, row in CLASSIFIERS.items()}


def options(sizes):
    """The sizes as options of a command."""
    flags = {f"--{k.replace('_', '-')}": v for part in sizes.values() for k, v in part.items()}
    return [
        flag if value is True else f"{flag} {shlex.quote(str(value))}"
        for flag, value in flags.items()
    ]


# --- what is asked for --------------------------------------------------------------------------

PARTS = (
    "common", "checkpoint", "dataset", "distributed_training", "optimization",
    "optimizer", "lr_scheduler", "criterion", "task", "model",
)  # fmt: skip


def complete(yaml):
    """fairseq's configuration for a YAML file, with all defaults, as a training has it."""
    del yaml["hydra"]
    cfg = OmegaConf.merge(OmegaConf.structured(FairseqConfig()), yaml)
    add_defaults(cfg)
    return OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)


@pytest.mark.parametrize("name", RECIPES)
def test_the_yaml_file_says_what_the_readme_says(name):
    """Every option is equal, except for the name of a classifier's architecture."""
    recipe = RECIPES[name]
    data, options = recipe.command("train")
    command = copy.deepcopy(parse(options))
    command.task.data = data
    expected = OmegaConf.to_container(command, resolve=True, enum_to_str=True)
    ours = complete(recipe.yaml(name))
    if name in CLASSIFIERS:
        assert ours["model"].pop("_name").startswith("mega_")
        assert expected["model"].pop("_name").startswith(("mega_lra_", "mega_sc_"))
    for part in PARTS:
        assert ours[part] == expected[part], part


# --- what is done -------------------------------------------------------------------------------


def replace(options, replacements):
    """The options with each pattern, which is there once, replaced."""
    for pattern, text in replacements.items():
        options, found = re.subn(pattern, str(text), options)
        assert found == 1, pattern
    return options


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Binarised sentences in two languages, and a text."""

    def make(folder):
        generator = random.Random(1)
        words = [f"w{i}@@" if i % 3 == 0 else f"w{i}" for i in range(12)]
        for split in ("train", "valid", "test"):
            count = 300 if split == "test" else 60
            rows = [generator.choices(words, k=generator.randint(2, 9)) for _ in range(count)]
            for language in ("de", "en"):
                text = "".join(
                    " ".join(row[:: 1 if language == "de" else -1]) + "\n" for row in rows
                )
                (folder / f"{split}.{language}").write_text(text)
        pairs = ["--source-lang", "de", "--target-lang", "en", "--joined-dictionary"]
        binarise(pairs, f"{folder}/{{}}", 1, folder / "translation")
        binarise(["--only-source"], f"{folder}/{{}}.de", 1, folder / "language_modeling")

    return made_once(tmp_path_factory, "recipes", make)


@pytest.fixture(scope="session")
def trained(tmp_path_factory, data):
    """The folder of a recipe's training by its README's command, and its log."""

    def trained(name):
        recipe = RECIPES[name]

        def make(folder):
            output = run_warm(
                "train",
                data / recipe.folder,
                recipe.command("train")[1],
                *options(recipe.sizes),
                f"--save-dir {folder}",
            )
            (folder / "log").write_text(output)

        return made_once(tmp_path_factory, f"recipe_{name}", make)

    return trained


@pytest.mark.parametrize("name", ["wmt16", *LANGUAGE_MODELS])
def test_training_from_the_yaml_file_is_that_of_the_readme(name, trained, data, tmp_path):
    """Losses are equal. WMT'16 is German to English here, and the reverse in test_preparation."""
    recipe = RECIPES[name]
    (tmp_path / "fairseq_mega").symlink_to(PLUGIN)
    paths = {"task": {"data": str(data / recipe.folder)}, "checkpoint": {"save_dir": "."}}
    yaml = OmegaConf.merge(recipe.yaml(name), recipe.sizes, paths)
    OmegaConf.save(yaml, tmp_path / f"{name}.yaml")
    output = run_warm("hydra-train", f"--config-dir {tmp_path} --config-name {name}", cwd=tmp_path)
    log = (trained(name) / "log").read_text()
    assert len(losses(output)) == 6 and losses(output) == losses(log)
    assert valid_loss(output) == valid_loss(log)


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_the_readmes_evaluation(name, trained, data):
    recipe, path = RECIPES[name], trained(name) / "checkpoint_last.pt"
    tiny = {f"checkpoints/{name}/checkpoint_best.pt": path, r"(?<='decoder_chunk_size': )\d+": 8}
    output = run_warm("eval-lm", data / recipe.folder, replace(recipe.command("eval-lm")[1], tiny))
    (tokens,) = re.findall(r"Evaluated ([\d,]+) tokens", output)
    assert int(tokens.replace(",", "")) == len((data / "test.de").read_text().split()) + 300
    assert 2 < float(re.findall(r"Loss \(base 2\): ([\d.]+)", output)[0]) < 9


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_commands_of_classification(name, tmp_path):
    """Models have their full size; there are three updates on little data."""
    _, kind, classes = CLASSIFIERS[name]
    data = make_data(kind, tmp_path / "data", classes)
    few = {r"(?<=--max-update )\d+": 3, r"(?<=--total-num-update )\d+": 3}
    few |= {r"(?<=--warmup-updates )\d+": 1, f"checkpoints/{name}": tmp_path / "checkpoints"}
    options = replace(RECIPES[name].command("train")[1], few)
    output = run_warm("train", data, options.replace("--user-dir fairseq_mega", ""))
    assert re.search(r"\| valid \|.*\| loss [\d.]+ \| accuracy [\d.]+", output), output[-1500:]
    folders = {f"checkpoints/{name}": tmp_path / "checkpoints", f"results/{name}": tmp_path / "out"}
    options = replace(RECIPES[name].command("validate")[1], folders)
    output = run_warm("validate", data, options.replace("--user-dir fairseq_mega", ""))
    assert "of 20 samples; predictions in" in output
    assert (tmp_path / "out" / "predictions-test.tsv").read_text().count("\n") == 21


def test_training_a_classifier_from_a_yaml_file(tmp_path):
    (tmp_path / "fairseq_mega").symlink_to(PLUGIN)
    small = {
        "common": {"cpu": True},
        "task": {"data": str(make_data("image", tmp_path / "data", 2))},
        "optimization": {"max_update": 2},
        "lr_scheduler": {"warmup_updates": 1, "total_num_update": 2},
        "dataset": {"batch_size": 20},
        "checkpoint": {"save_dir": "."},
    }
    yaml = OmegaConf.merge(RECIPES["pathfinder"].yaml("pathfinder"), small)
    OmegaConf.save(yaml, tmp_path / "small.yaml")
    output = run_warm("hydra-train", f"--config-dir {tmp_path} --config-name small", cwd=tmp_path)
    assert (tmp_path / "checkpoint_best.pt").exists(), output[-1500:]
