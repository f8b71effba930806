"""The tasks ``lra-text`` and ``lra-image``: the Long Range Arena in its published layout."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import List, Optional

from fairseq.data import Dictionary, ListDataset, PrependTokenDataset, TruncateDataset, data_utils
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.tasks import register_task
from omegaconf import II
from torch import Tensor

from ..data.arrays import as_numbers
from ..data.labels import read_labels, symbol_classes
from ..data.pixels import map_pixels, scale_pixels
from .classification import IGNORED, ClassificationTask, ClassificationTaskConfig, Samples, existing

CLS = "<CLS>"


@dataclass
class LRATextConfig(ClassificationTaskConfig):
    init_token: Optional[int] = field(default=None, metadata=IGNORED)
    separator_token: Optional[int] = field(default=None, metadata=IGNORED)
    dataset_impl: Optional[str] = II("dataset.dataset_impl")


@register_task("lra-text", dataclass=LRATextConfig)
class LRATextTask(ClassificationTask):
    """Classes of texts, or of pairs of texts.

    The data are folders of ``fairseq-preprocess --only-source``: ``src-bin`` and ``label-bin``, and
    ``src1-bin`` with the second text of each pair. The number of a class is its place in
    ``label-bin/dict.txt``, most frequent first.
    """

    source_dictionary: Dictionary

    def __init__(self, cfg, **kwargs):
        super().__init__(cfg, **kwargs)
        self.documents = 2 if (self.data / "src1-bin").is_dir() else 1
        self.source_dictionary = self._dictionary("src-bin")
        self.source_dictionary.add_symbol(CLS)  # published vocabularies have it, used or not
        self.label_dictionary = self._dictionary("label-bin")
        self.pad = self.source_dictionary.pad()

    def _dictionary(self, folder: str) -> Dictionary:
        path = existing(self.data / folder / "dict.txt", "dictionary")
        return Dictionary.load(str(path))

    def read(self, split: str) -> Samples:
        folders = ["src-bin", "src1-bin"][: self.documents]
        texts = [self._lines(folder, split, self.source_dictionary) for folder in folders]
        labels = self._lines("label-bin", split, self.label_dictionary)
        paths = self.data / "label-bin" / split, self.data / "src-bin" / split
        classes = symbol_classes(labels, self.label_dictionary, paths[0])
        return Samples([self._as_read(each) for each in texts], classes, *paths)

    def _lines(self, folder: str, split: str, dictionary: Dictionary):
        path = self.data / folder / split
        lines = data_utils.load_indexed_dataset(str(path), dictionary, self.cfg.dataset_impl)
        if lines is None:
            existing(Path(f"{path}.bin"), "binarised set")
            raise ValueError(f"{path}.bin has no {path}.idx that fits: copy both again")
        return lines

    def _as_read(self, lines):
        """The symbols of each line that the model reads, ``(L,)``."""
        if self.pooling == "cls":
            lines = PrependTokenDataset(lines, self.source_dictionary.index(CLS))
        return lines if self.longest is None else TruncateDataset(lines, self.longest)

    def encode(self, document: str) -> Tensor:
        """A text as the lines that ``fairseq-preprocess`` reads: symbols with blanks between."""
        if not isinstance(document, str):
            raise ValueError(f"a text must be a string of symbols, but is {document!r:.80}")
        line = self.source_dictionary.encode_line(document, add_if_not_exist=False).long()
        return self._as_read(ListDataset([line], [len(line)]))[0]

    def class_names(self) -> List[str]:
        start = self.label_dictionary.nspecial
        names = self.label_dictionary.symbols[start : start + self.class_count]
        return names + [f"{i} (unnamed)" for i in range(len(names), self.class_count)]


@dataclass
class LRAImageConfig(ClassificationTaskConfig):
    pixel_normalization: List[float] = field(
        default_factory=lambda: [0.5, 0.5],
        metadata={"help": "mean and standard deviation of the pixels, from 0 to 1"},
    )
    cache_dir: Optional[str] = field(
        default=None,
        metadata={
            "help": "folder for copies of the images that can be read without loading all of them, "
            "made once (default: beside the data)"
        },
    )


@register_task("lra-image", dataclass=LRAImageConfig)
class LRAImageTask(ClassificationTask):
    """Classes of images in grey, each a line of ``input/SET.src``: numbers from 0 to 255, row by
    row. ``label/SET.label`` has the number of a class a line."""

    @classmethod
    def add_args(cls, parser) -> None:
        # Of two words, as published; fairseq would make one of a list.
        option = LRAImageConfig.__dataclass_fields__["pixel_normalization"]
        parser.add_argument(
            "--pixel-normalization",
            nargs=2,
            type=float,
            default=[0.5, 0.5],
            metavar=("MEAN", "STD"),
            help=option.metadata["help"],
        )
        gen_parser_from_dataclass(parser, LRAImageConfig())

    @classmethod
    def setup_task(cls, cfg, **kwargs):
        if len(cfg.pixel_normalization) != 2 or cfg.pixel_normalization[1] <= 0:
            raise ValueError(
                f"--pixel-normalization is {list(cfg.pixel_normalization)}, but must be a mean and "
                "a positive standard deviation"
            )
        return super().setup_task(cfg, **kwargs)

    def read(self, split: str) -> Samples:
        images = existing(self.data / "input" / f"{split}.src", "images")
        labels = existing(self.data / "label" / f"{split}.label", "labels")
        pixels = map_pixels(images, self.cfg.cache_dir, *self.cfg.pixel_normalization)
        return Samples([pixels], read_labels(labels), labels, images)

    def encode(self, document) -> Tensor:
        """The pixels of an image, of any shape, from 0 to 255, row by row."""
        return scale_pixels(as_numbers(document, "an image"), *self.cfg.pixel_normalization)
