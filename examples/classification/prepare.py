"""Prepares sequences with classes, from the download or from nothing to what fairseq-train reads.

    python examples/classification/prepare.py lra               the published Long Range Arena
    python examples/classification/prepare.py speech-commands   the published Speech Commands
    python examples/classification/prepare.py listops           ListOps, generated (or --from)
    python examples/classification/prepare.py text              movie reviews (IMDB)
    python examples/classification/prepare.py retrieval --from FOLDER    pairs of papers (AAN)
    python examples/classification/prepare.py image             CIFAR-10 in grey
    python examples/classification/prepare.py pathfinder        images, generated (or --from)
    python examples/classification/prepare.py audio --from FOLDER        .wav files by class
    python examples/classification/prepare.py pictures --from FOLDER     pictures by class
    python examples/classification/prepare.py table --from FILE          a .csv or .tsv of texts

Everything goes to --workdir, which then is the folder to give to fairseq-train. A run that was
interrupted goes on with the step that it was in.
"""

import argparse
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Callable, List, Optional

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from examples.classification import commands  # noqa: E402
from examples.classification.layouts import SPLITS  # noqa: E402
from examples.steps import (  # noqa: E402
    PreparationError,
    alone,
    binarise,
    keep_settings,
    once,
    plain_ends,
    require,
)


def lra(args: argparse.Namespace) -> None:
    from examples.classification import published

    for task in args.tasks:
        once(args.workdir / task, partial(published.arena, task, args.workdir / "downloads"))


def speech_commands(args: argparse.Namespace) -> None:
    from examples.classification import published

    make = partial(published.speech_commands, args.workdir / "downloads")
    once(args.workdir / "processed_data", make)


# --- texts --------------------------------------------------------------------------------------


def listops(args: argparse.Namespace) -> None:
    from examples.classification import texts
    from examples.classification.listops import Limits

    if args.source:
        prepare_texts(args, partial(texts.listops_tables, args.source))
    else:
        limits = Limits(
            args.max_depth, args.max_arguments, args.min_length, args.max_length, args.operator_rate
        )
        prepare_texts(args, partial(texts.generated_listops, limits, args.sizes, args.seed))


def text(args: argparse.Namespace) -> None:
    from examples.classification import texts

    if args.source:
        prepare_texts(args, partial(texts.imdb, args.source, args.longest))
    else:
        downloads = args.workdir / "downloads"
        prepare_texts(args, partial(texts.downloaded_imdb, downloads, args.longest))


def retrieval(args: argparse.Namespace) -> None:
    from examples.classification import texts

    prepare_texts(args, partial(texts.pair_tables, args.source, args.longest))


def table(args: argparse.Namespace) -> None:
    from examples.classification import texts

    columns = args.text_column, args.label_column
    prepare_texts(
        args,
        partial(texts.table, args.source, columns, args.symbols, args.longest, args.held_out),
    )


def prepare_texts(args: argparse.Namespace, write: Callable[[Path], None]) -> None:
    """The step `text`, with symbols and labels; then folders of fairseq-preprocess of each."""
    work = args.workdir
    plain = once(work / "text", write)
    pairs = (plain / "train.src1").exists()
    parts = ["src", "src1", "label"] if pairs else ["src", "label"]
    for part in parts:
        options = ["--only-source"]
        for split in SPLITS:
            options += [f"--{split}pref", str(plain / f"{split}.{part}")]
        if pairs and part != "label":
            options += ["--srcdict", str(joined_dictionary(work / "dictionary", plain))]
        once(work / f"{part}-bin", partial(binarise, options, args.workers))


def joined_dictionary(folder: Path, plain: Path) -> Path:
    """A dictionary of both texts of the pairs to train on."""
    from fairseq.data import Dictionary  # takes seconds

    def make(out: Path) -> None:
        dictionary = Dictionary()
        for name in ("train.src", "train.src1"):
            Dictionary.add_file_to_dictionary(str(plain / name), dictionary, str.split, 1)
        dictionary.finalize(padding_factor=8)
        dictionary.save(str(out / "dict.txt"))

    return once(folder, make) / "dict.txt"


# --- images and audio ---------------------------------------------------------------------------


def image(args: argparse.Namespace) -> None:
    require("classification", "PIL")
    from examples.classification import images

    if args.source:
        prepare_images(args, partial(images.cifar, args.source, args.held_out))
    else:
        downloads = args.workdir / "downloads"
        prepare_images(args, partial(images.downloaded_cifar, downloads, args.held_out))


def pathfinder(args: argparse.Namespace) -> None:
    require("classification", "PIL")
    from examples.classification import images

    if args.source:
        prepare_images(args, partial(images.arena_pathfinder, args.source))
    else:
        generate = partial(images.generated_pathfinder, args.size, args.sizes, args.seed)
        prepare_images(args, generate)


def pictures(args: argparse.Namespace) -> None:
    require("classification", "PIL")
    from examples.classification import images

    if args.size and min(args.size) < 1:
        raise PreparationError(f"--size is {args.size[0]} x {args.size[1]}, but must be positive")
    size = tuple(args.size) if args.size else None
    prepare_images(args, partial(images.folders, args.source, args.classes, size, args.held_out))


def prepare_images(args: argparse.Namespace, write: Callable[[Path], None]) -> None:
    """The folder `input` of images and labels; then `label`, with the labels again."""
    written = once(args.workdir / "input", write)

    def copy_labels(out: Path) -> None:
        for split in SPLITS:
            shutil.copyfile(written / f"{split}.label", out / f"{split}.label")

    once(args.workdir / "label", copy_labels)


def audio(args: argparse.Namespace) -> None:
    from examples.classification import speech

    if args.samples < 1:
        raise PreparationError(f"--samples is {args.samples}, but must be positive")
    make = partial(
        speech.write_clips,
        args.source,
        args.classes,
        args.samples,
        args.fit,
        args.standardise,
        args.held_out,
    )
    once(args.workdir / "processed_data", make)


PREPARATIONS = {
    "lra": lra,
    "speech-commands": speech_commands,
    "listops": listops,
    "text": text,
    "retrieval": retrieval,
    "image": image,
    "pathfinder": pathfinder,
    "audio": audio,
    "pictures": pictures,
    "table": table,
}


def main(words: Optional[List[str]] = None) -> None:
    args = commands.parse(words, __doc__)
    with plain_ends(), alone(args.workdir):
        left_out = ("workdir", "workers", "tasks")
        keep_settings(args.workdir, {k: str(v) for k, v in vars(args).items() if k not in left_out})
        PREPARATIONS[args.data](args)
        print(f"\nIn {args.workdir}; how to train on it is in examples/classification/README.md")


if __name__ == "__main__":
    main()
