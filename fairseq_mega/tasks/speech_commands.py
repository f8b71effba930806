"""The task ``speech_commands``: classification of raw audio, in the published layout."""

from dataclasses import dataclass, field
from typing import List, Optional

import numpy as np
from fairseq.tasks import register_task
from torch import Tensor

from ..data.arrays import Numbers, as_numbers
from ..data.audio import WORDS, read_clip_labels, read_clips, scale_clip
from .classification import IGNORED, ClassificationTask, ClassificationTaskConfig, Samples, existing


@dataclass
class SpeechCommandsConfig(ClassificationTaskConfig):
    sc_all_classes: bool = field(
        default=False, metadata={"help": "use all 35 words, the tensors in raw_all_classes"}
    )
    sc_dropped_rate: float = field(
        default=0.0, metadata={"help": "must be 0; dropped-sample clips are not supported"}
    )
    mfcc: bool = field(default=False, metadata={"help": "not supported"})
    cache_dir: Optional[str] = field(default=None, metadata=IGNORED)


@register_task("speech_commands", dataclass=SpeechCommandsConfig)
class SpeechCommandsTask(ClassificationTask):
    """Reads ``processed_data/raw/{train,val,test}_{X,y}.pt``: tensors ``(clips, 1, samples)`` of
    floats or integers, and ``(clips,)`` of classes. The set ``valid`` is read from ``val``."""

    @classmethod
    def setup_task(cls, cfg, **kwargs):
        if cfg.sc_dropped_rate != 0:
            raise ValueError(
                f"--sc-dropped-rate is {cfg.sc_dropped_rate}, but dropped-sample clips, which have "
                "two channels, are not supported: leave it out"
            )
        if cfg.mfcc:
            raise ValueError("--mfcc is set, but the model reads raw audio: leave it out")
        return super().setup_task(cfg, **kwargs)

    def read(self, split: str) -> Samples:
        folder = "raw_all_classes" if self.cfg.sc_all_classes else "raw"
        stem = "val" if split == "valid" else split
        clips, labels = (
            existing(self.data / "processed_data" / folder / f"{stem}_{part}.pt", what)
            for part, what in (("X", "clips"), ("y", "classes"))
        )
        numbers = Numbers(clips, read_clips, scale_clip)
        return Samples([numbers], read_clip_labels(labels), labels, clips)

    def encode(self, document) -> Tensor:
        """Converts the samples of a clip, in the training data's type, to the model's input."""
        clip = as_numbers(document, "a clip")
        if clip.dtype == np.int64:  # lists of Python integers
            raise ValueError("a clip of integers must be an array of int16, not int64: convert it")
        return scale_clip(clip)

    def class_names(self) -> List[str]:
        if not self.cfg.sc_all_classes and self.class_count == len(WORDS):
            return list(WORDS)
        return super().class_names()
