"""What a description holds of each task whose models can be exchanged."""

from argparse import ArgumentParser
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Tuple

from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY


@dataclass(frozen=True)
class TaskForm:
    """
    Args:
        options: those of the task that a model's use depends on; others say where data is, or how
            to train.
        dictionaries: the name of each in a description, and its file below the folder of the data,
            in which an option's name in braces stands for its value.
        optional: the names of dictionaries that not all data has.
        criterion: the loss in a new checkpoint, which fairseq's commands build.
    """

    options: Tuple[str, ...] = ()
    dictionaries: Mapping[str, str] = field(default_factory=dict)
    optional: Tuple[str, ...] = ()
    criterion: str = "cross_entropy"

    def file(self, name: str, options: Mapping[str, Any]) -> str:
        """The file of the dictionary of this name, relative to the folder of the data."""
        return self.dictionaries[name].format_map(options)

    def required(self) -> List[str]:
        return [name for name in self.dictionaries if name not in self.optional]


# Options of older tasks that they read without declaring them.
UNDECLARED = ("criterion", "dataset_impl", "max_positions", "seed")


def form_of(description: Mapping[str, Any]) -> TaskForm:
    """The form of a description's task; of one that the caller has named, any dictionaries."""
    form = TASKS.get(description["task"]["name"])
    return form or TaskForm(dictionaries={file: file for file in description["dictionaries"]})


def declared_options(name: str) -> List[str]:
    """The names of the options that a task of fairseq's reads, but for the data's folder."""
    if name in TASK_DATACLASS_REGISTRY:
        names = list(TASK_DATACLASS_REGISTRY[name].__dataclass_fields__)
    else:
        parser = ArgumentParser(add_help=False)
        TASK_REGISTRY[name].add_args(parser)
        names = [*vars(parser.parse_known_args(["data"])[0]), *UNDECLARED]
    return [each for each in names if each != "data" and not each.startswith("_")]


_BLOCKS = ("max_target_positions", "sample_break_mode", "tokens_per_sample")
_LANGUAGE_MODELING = (*_BLOCKS, "add_bos_token", "output_dictionary_size")
_WORDS = {"words": "dict.txt"}

TASKS: Dict[str, TaskForm] = {
    "translation": TaskForm(
        options=(
            "left_pad_source",
            "left_pad_target",
            "max_source_positions",
            "max_target_positions",
            "source_lang",
            "target_lang",
            "truncate_source",
        ),
        dictionaries={"source": "dict.{source_lang}.txt", "target": "dict.{target_lang}.txt"},
    ),
    "language_modeling": TaskForm(_LANGUAGE_MODELING, _WORDS),
    "mega_language_modeling": TaskForm(
        (
            *_LANGUAGE_MODELING,
            "variant_block_multiple_min",
            "variant_block_multiple_max",
            "valid_block",
        ),
        _WORDS,
    ),
    "masked_lm": TaskForm(("sample_break_mode", "tokens_per_sample"), _WORDS, (), "masked_lm"),
    "lra-text": TaskForm(
        dictionaries={
            "source": "src-bin/dict.txt",
            "source1": "src1-bin/dict.txt",  # which says that samples are pairs
            "label": "label-bin/dict.txt",
        },
        optional=("source1",),
        criterion="lra_cross_entropy",
    ),
    "lra-image": TaskForm(("pixel_normalization",), criterion="lra_cross_entropy"),
    "speech_commands": TaskForm(("sc_all_classes",), criterion="lra_cross_entropy"),
}
