"""Small checkpoints with nothing wrong, as fairseq-train writes them, to be tampered with."""

import argparse
import copy
from functools import cache

import fairseq.options
import torch
from helpers import TINY, build, make_dictionary, parse
from omegaconf import OmegaConf

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
    """What fairseq-train saves of an untrained model; ``extra`` are more of its options."""
    options = f"{OPTIONS[kind]} {extra}"
    cfg = with_data(parse(options), data)
    torch.manual_seed(1)
    return state_of(cfg, build(options, words=WORDS))


def state_of(cfg, model):
    """What fairseq-train saves of a model that was built for ``cfg``."""
    return {
        "args": None,
        "cfg": OmegaConf.to_container(cfg, resolve=True),
        "model": model.state_dict(),
        "criterion": {},
        "optimizer_history": [
            {
                "criterion_name": "CrossEntropyCriterion",
                "optimizer_name": "FairseqAdam",
                "lr_scheduler_state": {"best": None},
                "num_updates": 3,
            }
        ],
        "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
        "last_optimizer_state": None,
    }


def with_args(kind, state, data):
    """The same as fairseq 0.9 and the published code save it."""
    args = argparse.Namespace(**{**copy.deepcopy(parse_args(kind)), "data": str(data)})
    return {**state, "args": args, "cfg": None}


@cache
def parse_args(kind):
    parser = fairseq.options.get_training_parser()
    return vars(fairseq.options.parse_args_and_arch(parser, ["data", *OPTIONS[kind].split()]))
