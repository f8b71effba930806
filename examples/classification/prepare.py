"""Prepares sequences with classes, from the download or from nothing to what fairseq-train reads.

    python examples/classification/prepare.py lra               the published Long Range Arena
    python examples/classification/prepare.py speech-commands   the published Speech Commands
    python examples/classification/prepare.py listops           ListOps, generated
    python examples/classification/prepare.py text              movie reviews (IMDB)
    python examples/classification/prepare.py image             CIFAR-10 in grey
    python examples/classification/prepare.py audio --from FOLDER        .wav files by class
    python examples/classification/prepare.py pictures --from FOLDER     pictures by class
    python examples/classification/prepare.py table --from FILE          a .csv or .tsv of texts

Everything goes to --workdir, which then is the folder to give to fairseq-train. After an
interruption, the same command continues with the step that it was in.
"""

import argparse
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Callable, List, Optional

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.classification import images, published, speech, texts  # noqa: E402
from examples.download import Remote, listed  # noqa: E402
from examples.steps import (  # noqa: E402
    SPLITS,
    binarise,
    once,
    preparing,
    usable_cores,
)

# --- steps --------------------------------------------------------------------------------------


def lra(args: argparse.Namespace) -> None:
    for task in args.tasks:
        once(args.workdir / task, partial(published.arena, task, args.workdir / "downloads"))


def speech_commands(args: argparse.Namespace) -> None:
    make = partial(published.speech_commands, args.workdir / "downloads")
    once(args.workdir / "processed_data", make)


def audio(args: argparse.Namespace) -> None:
    once(args.workdir / "processed_data", partial(speech.write_clips, args))


def prepare_texts(write: Callable, args: argparse.Namespace) -> None:
    """The step `text`, with symbols and labels; then folders of fairseq-preprocess of each."""
    text = once(args.workdir / "text", partial(write, args))
    for part in ("src", "label"):
        make = partial(binarise, ["--only-source"], f"{text}/{{}}.{part}", args.workers)
        once(args.workdir / f"{part}-bin", make)


def prepare_images(write: Callable, args: argparse.Namespace) -> None:
    """The folder `input` of images and labels; then `label`, with the labels again."""
    written = once(args.workdir / "input", partial(write, args))

    def copy_labels(out: Path) -> None:
        for split in SPLITS:
            shutil.copyfile(written / f"{split}.label", out / f"{split}.label")

    once(args.workdir / "label", copy_labels)


# --- the command line ---------------------------------------------------------------------------


def positive(text: str) -> int:
    """A whole number above 0."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is below 1")
    return number


def parse(words: Optional[List[str]]) -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    actions = parser.add_subparsers(dest="data", required=True)

    def add(
        name: str,
        work: str,
        prepare: Callable,
        source: Optional[bool] = None,
        remote: Optional[Remote] = None,
    ) -> Callable:
        """Adds an action; --from is required where `source` is True, and missing where it is None.
        Returns a function that adds an option with its help, which names the default."""
        epilog = listed([remote]) if remote else None
        action = actions.add_parser(name, epilog=epilog, formatter_class=raw)
        action.add_argument(
            "--workdir", type=Path, default=Path("data", work), help=f"(data/{work})"
        )
        action.set_defaults(prepare=prepare)
        if source is not None:
            help = "where the files are"
            action.add_argument("--from", dest="source", type=Path, required=source, help=help)

        def option(name: str, default, help: str, **more) -> None:
            if default is False:
                more["action"] = "store_true"
            else:
                more = {"default": default, "type": type(default), **more}
            action.add_argument(name, help=f"{help} ({default})", **more)

        return option

    option = add("lra", "lra", lra, remote=published.LRA)
    tasks = list(published.NEEDED)
    option("--tasks", tasks, "some of them", type=str, nargs="+", choices=tasks)
    add("speech-commands", "speech_commands", speech_commands, remote=published.SPEECH)

    option = add("listops", "lra/listops", partial(prepare_texts, texts.write_listops))
    option("--max-depth", 10, "operators within operators")
    option("--max-arguments", 10, "arguments of an operator")
    option("--min-length", 500, "symbols of a sequence, at least")
    option("--max-length", 2000, "symbols of a sequence, at most")
    option("--operator-rate", 0.25, "probability that an argument is an operation")
    option("--seed", 1, "of what is generated")
    sizes, names = [96_000, 2_000, 2_000], ("TRAIN", "VALID", "TEST")
    option("--sizes", sizes, "samples to generate", type=positive, nargs=3, metavar=names)
    option("--workers", usable_cores(), "processes at once")

    text = add("text", "lra/imdb-4000", partial(prepare_texts, texts.imdb), False, texts.IMDB)
    table = add("table", "own", partial(prepare_texts, texts.table), True)
    for option in (text, table):
        option("--longest", 4000, "symbols kept of a text", type=positive)
        option("--workers", usable_cores(), "processes at once")
    table("--text-column", "text", "its name in the header")
    table("--label-column", "label", "its name in the header")
    table("--symbols", "bytes", "of a text", choices=["bytes", "words"])

    cifar = partial(prepare_images, images.cifar)
    option = add("image", "lra/cifar10", cifar, False, images.CIFAR10)
    option("--held-out", 5000, "images that validate")

    pictures = add("pictures", "own", partial(prepare_images, images.folders), True)
    size = ("WIDTH", "HEIGHT")
    pictures("--size", None, "scale pictures to this", type=positive, nargs=2, metavar=size)
    clips = add("audio", "audio", audio, True)
    clips("--samples", 16_000, "of a clip", type=positive)
    clips("--fit", False, "pad and cut clips of other lengths")
    clips(
        "--standardise",
        "step",
        "by the statistics of each sample's place (step, as published), or of all samples",
        choices=["step", "all"],
    )
    for option, held_out in ((clips, 0.15), (pictures, 0.1), (table, 0.1)):
        option("--held-out", held_out, "fraction of each class to validate with, and to test with")
    for option in (clips, pictures):
        option("--classes", [], "folders, in the order of the classes", type=str, nargs="+")
    return parser.parse_args(words)


def main(words: Optional[List[str]] = None) -> None:
    args = parse(words)
    with preparing(args):
        args.prepare(args)
        print(f"\nIn {args.workdir}; how to train on it is in examples/classification/README.md")


if __name__ == "__main__":
    main()
