"""The options, data sets and predictions that the classification tasks share."""

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
IGNORED = {"help": "accepted because published commands may have it, but has no effect"}


@dataclass
class ClassificationTaskConfig(FairseqDataclass):
    data: str = field(default="", metadata={"help": "folder with the data"})
    held_out: float = field(
        default=0.0,
        metadata={
            "help": "hold out this fraction of each class of the training set, always the same "
            f"samples; --valid-subset {HELD_OUT} validates on them"
        },
    )
    no_shuffle: bool = field(
        default=False,
        metadata={
            "help": "form training batches in the order of the file instead of redrawing them for "
            "each epoch"
        },
    )
    # Each epoch's batches need new processes; fairseq's default keeps the old ones, and waits up to
    # 5 s for each when Python collects it.
    persistent_workers: bool = field(
        default=False,
        metadata={"help": "keep the --num-workers processes for the next epoch, if possible"},
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
    """A data set as it is on disk."""

    documents: Sequence  # see ClassificationDataset
    classes: np.ndarray  # (n,)
    labels_path: Path
    samples_path: Path


class ClassificationTask(FairseqTask):
    """A task whose samples each have a class.

    Build the model before loading data, as fairseq's commands do: its options set the number of
    classes and how much of a text is read.
    """

    pad = 0
    source_dictionary: Optional[Dictionary] = None
    target_dictionary: Optional[Dictionary] = None
    documents = 1  # number of sequences in a sample

    @classmethod
    def setup_task(cls, cfg, **kwargs):
        if not 0 <= cfg.held_out < 1:
            raise ValueError(f"--held-out is {cfg.held_out}, but must be at least 0 and below 1")
        if not Path(cfg.data).is_dir():
            raise FileNotFoundError(f"no folder of data at {cfg.data!r}: give another folder")
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
        """Reads the data set ``split``."""
        raise NotImplementedError

    def encode(self, document) -> Tensor:
        """Converts a user's text, image or clip to the model's input ``(L,)``."""
        raise NotImplementedError

    def class_names(self) -> List[str]:
        """Returns the names of the model's classes in order."""
        return [str(i) for i in range(self.class_count)]

    def load_dataset(self, split: str, epoch=1, combine=False, **kwargs):
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
                    "training, or use --chunk-size or --rel-pos-bias rotary"
                )
        rows = np.arange(len(samples.classes))
        if training or held_out:
            chosen = held_out_rows(samples.classes, self.cfg.held_out)
            rows = np.flatnonzero(chosen == held_out)
        if training:
            check_all_present(samples.classes[rows], names, samples.labels_path)
        if not rows.size:
            raise ValueError(
                f"--valid-subset is {HELD_OUT}, but --held-out is {self.cfg.held_out}, which is "
                f"not one sample of a class in {samples.samples_path}: raise it, for example to 0.1"
            )
        order = "by_length" if not training else "by_row" if self.cfg.no_shuffle else "random"
        self.datasets[split] = ClassificationDataset(
            samples.documents, samples.classes, rows, order, self.pad
        )
        if self.cfg.results_path is not None:
            self.predictions = Predictions(Path(self.cfg.results_path), split, names)

    def valid_step(self, sample: Dict, model, criterion):
        """Extends fairseq's method: ``--results-path`` collects the predictions."""
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
        """Extends fairseq's method, which ``fairseq-validate`` calls at the end of a set: writes
        the predictions."""
        super().reduce_metrics(logging_outputs, criterion)
        if self.predictions is not None:
            self.predictions.write()


def existing(path: Path, what: str) -> Path:
    """Returns ``path`` if it exists; the error calls it ``what``."""
    if path.exists():
        return path
    there = ", ".join(sorted(each.name for each in path.parent.glob("*"))[:8])
    raise FileNotFoundError(
        f"no {what} at {path}; the folder has {there or 'no files'}: check the data folder, and "
        "the names in --train-subset and --valid-subset"
    )
