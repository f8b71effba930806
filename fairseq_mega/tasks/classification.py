"""What the tasks of classification share: options, training and held-out sets, predictions."""

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
            "help": "put training samples together in batches in the order of the file; by default "
            "anew in every epoch"
        },
    )
    # Batches made anew make new processes in every epoch. fairseq's default, to keep the old ones,
    # then waits for each up to 5 s when Python collects it.
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


@dataclass
class MappedTaskConfig(ClassificationTaskConfig):
    cache_dir: Optional[str] = field(
        default=None,
        metadata={
            "help": "folder for copies of the data that can be read without loading all of it, "
            "made once (default: beside the data)"
        },
    )


class Samples(NamedTuple):
    """A set as it is on disk."""

    documents: Sequence  # Texts or Numbers, one or two
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
        """
        Raises:
            ValueError: at an option out of range; names the option, its value and what to do.
            FileNotFoundError: where there is no data.
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
        """What the model reads ``(L,)`` of one sequence as people have it: a text, an image, or a
        clip.

        Raises:
            ValueError: where it is something else.
        """
        raise NotImplementedError

    def class_names(self) -> List[str]:
        """The names of the model's classes, in their order."""
        raise NotImplementedError

    def load_dataset(self, split: str, epoch=1, combine=False, **kwargs):
        """
        Raises:
            FileNotFoundError: where a file of the set is missing.
            ValueError: where the set does not fit the model, or is damaged; names the file.
        """
        training = split == self.cfg.train_subset
        if split == HELD_OUT and self.cfg.held_out == 0:
            raise ValueError(
                f"--valid-subset {HELD_OUT} asks for the samples that --held-out keeps out of "
                "training, but --held-out is 0: give a fraction, such as 0.1"
            )
        samples = self.read(self.cfg.train_subset if split == HELD_OUT else split)
        names = self.class_names()
        for document in samples.documents:
            check_labels(
                samples.classes, len(document), names, samples.labels_path, samples.samples_path
            )
            self._check_lengths(int(document.sizes.max()), samples.samples_path)
        rows = np.arange(len(samples.classes))
        if split == HELD_OUT or training:
            rows = self._training_rows(samples, held_out=split == HELD_OUT)
        if training:
            check_all_present(samples.classes[rows], names, samples.labels_path)
        self.datasets[split] = ClassificationDataset(
            samples.documents,
            samples.classes,
            rows,
            order="by_length" if not training else "by_row" if self.cfg.no_shuffle else "anew",
            pad=self.pad,
        )
        if self.cfg.results_path is not None:
            self.predictions = Predictions(Path(self.cfg.results_path), split, names)

    def _training_rows(self, samples: Samples, held_out: bool) -> np.ndarray:
        """The rows of the training set that are held out, or the others."""
        chosen = held_out_rows(samples.classes, self.cfg.held_out) == held_out
        if not chosen.any():
            raise ValueError(
                f"--held-out is {self.cfg.held_out}, which is not one sample of a class in "
                f"{samples.samples_path}: raise it"
            )
        return np.flatnonzero(chosen)

    def _check_lengths(self, longest: int, path: Path) -> None:
        if longest > self.max_input:
            raise ValueError(
                f"{path} has samples of {longest} numbers, but --max-positions is "
                f"{self.max_input}, up to which --rel-pos-bias simple has learned: raise it before "
                "training, or use chunks (--chunk-size) or the rotary bias"
            )

    def valid_step(self, sample: Dict, model, criterion):
        """As fairseq's; with ``--results-path``, the predictions are kept too."""
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
        """As fairseq's; ``fairseq-validate`` calls it at the end of a set, which writes the
        predictions."""
        super().reduce_metrics(logging_outputs, criterion)
        if self.predictions is not None:
            self.predictions.write()


def existing(path: Path, what: str) -> Path:
    """
    Raises:
        FileNotFoundError: where there is no such file; says what it should hold, and what there is.
    """
    if path.exists():
        return path
    there = sorted({each.name for each in path.parent.glob("*")})[:8]
    raise FileNotFoundError(
        f"no {what} at {path}"
        + (f"; the folder has {', '.join(there)}" if there else ", nor such a folder")
        + ": check the folder of the data, and the names that --train-subset and --valid-subset "
        "give to its sets"
    )
