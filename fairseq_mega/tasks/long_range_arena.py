"""The tasks ``lra-text`` and ``lra-image``: Long Range Arena in the published layout."""

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
    """Reads texts or pairs of texts from folders that ``fairseq-preprocess --only-source`` wrote:
    ``src-bin``, ``label-bin``, and ``src1-bin`` with the second texts. A class's number is its
    place in ``label-bin/dict.txt``."""

    source_dictionary: Dictionary

    def __init__(self, cfg, **kwargs):
        super().__init__(cfg, **kwargs)
        self.documents = 2 if (self.data / "src1-bin").is_dir() else 1
        self.source_dictionary = self._dictionary("src-bin")
        self.source_dictionary.add_symbol(CLS)  # published vocabularies always have it
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
            raise ValueError(f"{path}.bin has no matching {path}.idx: copy both again")
        return lines

    def _as_read(self, lines):
        """Keeps the symbols ``(L,)`` of each line that the model reads."""
        if self.pooling == "cls":
            lines = PrependTokenDataset(lines, self.source_dictionary.index(CLS))
        return lines if self.longest is None else TruncateDataset(lines, self.longest)

    def encode(self, document: str) -> Tensor:
        """Encodes a text of symbols with spaces between them."""
        if not isinstance(document, str):
            raise ValueError(f"a text must be a string, but is {document!r:.80}: convert it")
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
        metadata={"help": "mean and standard deviation of the pixels, on a scale from 0 to 1"},
    )
    cache_dir: Optional[str] = field(
        default=None,
        metadata={
            "help": "folder for binary copies of the images, which are made once and can be read "
            "without loading all images (default: the data's folder)"
        },
    )


@register_task("lra-image", dataclass=LRAImageConfig)
class LRAImageTask(ClassificationTask):
    """Reads greyscale images from the lines of ``input/SET.src``, numbers from 0 to 255, row by
    row, and class numbers from the lines of ``label/SET.label``."""

    @classmethod
    def add_args(cls, parser) -> None:
        # The published option takes two values; fairseq's parser takes a list as one.
        kind = dict(nargs=2, type=float, default=[0.5, 0.5], metavar=("MEAN", "STD"))
        option = LRAImageConfig.__dataclass_fields__["pixel_normalization"]
        parser.add_argument("--pixel-normalization", **kind, **option.metadata)
        gen_parser_from_dataclass(parser, LRAImageConfig())

    @classmethod
    def setup_task(cls, cfg, **kwargs):
        if len(cfg.pixel_normalization) != 2 or cfg.pixel_normalization[1] <= 0:
            raise ValueError(
                f"--pixel-normalization is {list(cfg.pixel_normalization)}, but must be two "
                "numbers: a mean and a positive standard deviation"
            )
        return super().setup_task(cfg, **kwargs)

    def read(self, split: str) -> Samples:
        images = existing(self.data / "input" / f"{split}.src", "images")
        labels = existing(self.data / "label" / f"{split}.label", "labels")
        pixels = map_pixels(images, self.cfg.cache_dir, *self.cfg.pixel_normalization)
        return Samples([pixels], read_labels(labels), labels, images)

    def encode(self, document) -> Tensor:
        """Converts the pixels of an image, from 0 to 255 and of any shape, row by row."""
        return scale_pixels(as_numbers(document, "an image"), *self.cfg.pixel_normalization)
