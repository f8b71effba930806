"""The options, sets and predictions that the tasks of classification share."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence

import numpy as np
from fairseq.data import Dictionary
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.tasks import FairseqTask
from omegaconf import II
from torch import Tensor

from ..data.classification import ClassificationDataset, held_out_rows
from ..data.labels import check_all_present, check_labels
from .predictions import Predictions

HELD_OUT = "heldout"
IGNORED = {"help": "accepted, as published commands may have it; it has no effect"}


@dataclass
class ClassificationTaskConfig(FairseqDataclass):
    data: str = field(default="", metadata={"help": "folder of the data"})
    held_out: float = field(
        default=0.0,
        metadata={
            "help": "this fraction of each class is kept out of the training set, always the same: "
            f"--valid-subset {HELD_OUT} validates on it"
        },
    )
    no_shuffle: bool = field(
        default=False,
        metadata={
            "help": "put training samples together in batches in the order of the file, not in "
            "another way in every epoch"
        },
    )
    # Each epoch's batches need new processes. By default fairseq would keep the old ones, and wait
    # up to 5 s for each when Python collects it.
    persistent_workers: bool = field(
        default=False,
        metadata={"help": "keep the --num-workers processes for the next epoch, where fairseq can"},
    )
    num_classes: int = field(default=-1, metadata=IGNORED)
    regression_target: bool = field(default=False, metadata=IGNORED)
    shorten_method: ChoiceEnum(["none", "truncate", "random_crop"]) = field(
        default="none", metadata=IGNORED
    )
    shorten_data_split_list: str = field(default="", metadata=IGNORED)
    train_subset: str = II("dataset.train_subset")
    results_path: Optional[str] = II("common_eval.results_path")


class Samples(NamedTuple):
    """A set as it is on disk."""

    documents: Sequence  # of the data sets that ClassificationDataset takes, one or two
    classes: np.ndarray  # (n,)
    labels_path: Path
    samples_path: Path


class ClassificationTask(FairseqTask):
    """A task of samples with a class each.

    The model must be built before data is loaded, as fairseq's commands do: it decides the number
    of classes, and how much of a text is read.
    """

    pad = 0
    source_dictionary: Optional[Dictionary] = None
    target_dictionary: Optional[Dictionary] = None
    documents = 1  # sequences of a sample

    @classmethod
    def setup_task(cls, cfg, **kwargs):
        """Checks the options of the task.

        Raises:
            ValueError: at an option out of range; names the option, its value and what to do.
            FileNotFoundError: if there is no data.
        """
        if not 0 <= cfg.held_out < 1:
            raise ValueError(f"--held-out is {cfg.held_out}, but must be at least 0 and below 1")
        if not Path(cfg.data).is_dir():
            raise FileNotFoundError(f"no folder of data at {cfg.data!r}: give the folder first")
        return cls(cfg, **kwargs)

    def __init__(self, cfg, **kwargs):
        super().__init__(cfg, **kwargs)
        self.data = Path(cfg.data)
        self.predictions: Optional[Predictions] = None

    def build_model(self, cfg, from_checkpoint=False):
        model = super().build_model(cfg, from_checkpoint)
        self.class_count = model.sentence_projection_layer.out_features
        self.longest = cfg.max_positions
        self.pooling = str(cfg.sen_rep_type)
        self.max_input = model.max_positions()
        return model

    def read(self, split: str) -> Samples:
        """The set of this name."""
        raise NotImplementedError

    def encode(self, document) -> Tensor:
        """What the model reads ``(L,)`` of a text, an image or a clip of a user.

        Raises:
            ValueError: if it is something else.
        """
        raise NotImplementedError

    def class_names(self) -> List[str]:
        """The names of the model's classes, in their order."""
        return [str(i) for i in range(self.class_count)]

    def load_dataset(self, split: str, epoch=1, combine=False, **kwargs):
        """Loads a set.

        Raises:
            FileNotFoundError: if a file of the set is missing.
            ValueError: if the set does not fit the model, or is damaged; names the file.
        """
        training, held_out = split == self.cfg.train_subset, split == HELD_OUT
        samples = self.read(self.cfg.train_subset if held_out else split)
        names = self.class_names()
        paths = samples.labels_path, samples.samples_path
        for document in samples.documents:
            check_labels(samples.classes, len(document), names, *paths)
            longest = int(document.sizes.max())
            if longest > self.max_input:
                raise ValueError(
                    f"{samples.samples_path} has samples of {longest} numbers, but --max-positions "
                    f"is {self.max_input}, the limit of --rel-pos-bias simple: raise it before "
                    "training, or use chunks (--chunk-size) or the rotary bias"
                )
        rows = np.arange(len(samples.classes))
        if training or held_out:
            chosen = held_out_rows(samples.classes, self.cfg.held_out)
            rows = np.flatnonzero(chosen == held_out)
        if training:
            check_all_present(samples.classes[rows], names, samples.labels_path)
        if not rows.size:
            raise ValueError(
                f"--valid-subset {HELD_OUT} asks for the samples that --held-out keeps out of "
                f"training, but --held-out is {self.cfg.held_out}, which is not one sample of a "
                f"class in {samples.samples_path}: raise it, for example to 0.1"
            )
        self.datasets[split] = ClassificationDataset(
            samples.documents,
            samples.classes,
            rows,
            order="by_length" if not training else "by_row" if self.cfg.no_shuffle else "random",
            pad=self.pad,
        )
        if self.cfg.results_path is not None:
            self.predictions = Predictions(Path(self.cfg.results_path), split, names)

    def valid_step(self, sample: Dict, model, criterion):
        """Does what fairseq's does; with ``--results-path``, keeps the predictions too."""
        if self.predictions is None:
            return super().valid_step(sample, model, criterion)
        scores = []
        hook = model.register_forward_hook(lambda _, inputs, output: scores.append(output))
        step = super().valid_step(sample, model, criterion)
        hook.remove()
        lprobs = model.get_normalized_probs(scores[0], log_probs=True)
        self.predictions.add(sample["id"], sample["target"], lprobs)
        return step

    def reduce_metrics(self, logging_outputs, criterion) -> None:
        """Does what fairseq's does, and writes the predictions: ``fairseq-validate`` calls it at
        the end of a set."""
        super().reduce_metrics(logging_outputs, criterion)
        if self.predictions is not None:
            self.predictions.write()


def existing(path: Path, what: str) -> Path:
    """Returns ``path``; raises a FileNotFoundError that says ``what`` it is if it is not there."""
    if path.exists():
        return path
    there = ", ".join(sorted(each.name for each in path.parent.glob("*"))[:8])
    raise FileNotFoundError(
        f"no {what} at {path}; the folder has {there or 'nothing'}: check the folder of the data, "
        "and the names that --train-subset and --valid-subset give to its sets"
    )
