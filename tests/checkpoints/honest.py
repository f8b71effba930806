"""Small checkpoints with nothing wrong, as fairseq-train writes them, to be tampered with."""

import argparse
import copy

import torch
from helpers import TINY, arguments, build, make_dictionary, parse
from omegaconf import OmegaConf

from fairseq_mega.checkpoints.building import new_checkpoint

WORDS = 20
TRAINING = "--optimizer adam --lr-scheduler linear_decay --total-num-update 9 --lr 1e-3"
OPTIONS = {
    "translation": f"{TINY['mega']} {TRAINING} --source-lang src --target-lang tgt",
    "language_model": f"{TINY['mega_lm']} {TRAINING}",
}
OPTIONS["mega_language_modeling"] = OPTIONS["language_model"].replace(
    "language_modeling", "mega_language_modeling"
)


def make_data(folder):
    """The dictionaries of both tasks."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("dict.src.txt", "dict.tgt.txt", "dict.txt"):
        make_dictionary(WORDS).save(str(folder / name))
    return folder


def with_data(cfg, data):
    cfg = copy.deepcopy(cfg)
    cfg.task.data = str(data)
    return cfg


def make_state(kind, data, extra=""):
    """A checkpoint of an untrained model as fairseq-train saves it; ``extra`` are more options."""
    options = f"{OPTIONS[kind]} {extra}"
    torch.manual_seed(1)
    return state_of(with_data(parse(options), data), build(options, words=WORDS))


def state_of(cfg, model):
    """A checkpoint of a model that was built for ``cfg``, as fairseq-train saves it."""
    state = new_checkpoint(cfg, model.state_dict())
    return {**state, "cfg": OmegaConf.to_container(cfg, resolve=True)}


def with_args(kind, state, data):
    """The same checkpoint in the layout of fairseq 0.9 and the published code."""
    args = arguments(OPTIONS[kind])
    return {**state, "args": argparse.Namespace(**{**vars(args), "data": str(data)}), "cfg": None}
