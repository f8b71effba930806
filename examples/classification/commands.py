"""The command line of prepare.py."""

import argparse
from pathlib import Path
from typing import List, Optional

from examples.classification.cifar import CIFAR10
from examples.classification.published import LRA, NEEDED, SPEECH
from examples.classification.texts import IMDB
from examples.download import listed
from examples.steps import usable_cores

FORMATTER = argparse.RawDescriptionHelpFormatter


class Commands:
    """Adds an action for each kind of data.

    Args:
        parser: what they are actions of.
    """

    def __init__(self, parser: argparse.ArgumentParser):
        self.actions = parser.add_subparsers(dest="data", required=True)

    def add(
        self, name: str, help: str, work: str, epilog: str = "", source: Optional[bool] = None
    ) -> argparse.ArgumentParser:
        """An action that writes to data/`work`; with --from, required if `source` is true."""
        action = self.actions.add_parser(
            name, help=help, description=help, epilog=epilog, formatter_class=FORMATTER
        )
        folder = Path("data", work)
        action.add_argument("--workdir", type=Path, default=folder, help=f"({folder})")
        if source is not None:
            action.add_argument(
                "--from", dest="source", type=Path, required=source, help="where the files are"
            )
        return action

    def text(
        self, name: str, help: str, work: str, epilog: str = "", source: bool = False
    ) -> argparse.ArgumentParser:
        action = self.add(name, help, work, epilog, source)
        cores = usable_cores()
        action.add_argument("--workers", type=positive, default=cores, help="processes (all cores)")
        if name != "listops":
            action.add_argument(
                "--longest", type=positive, default=4000, help="symbols kept of a text (4000)"
            )
        return action


def positive(text: str) -> int:
    """A whole number above 0."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is below 1")
    return number


def parse(words: Optional[List[str]], description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=FORMATTER)
    commands = Commands(parser)
    lra = commands.add("lra", "the published Long Range Arena", "lra", listed([LRA]))
    lra.add_argument("--tasks", nargs="+", choices=list(NEEDED), default=list(NEEDED), help="(all)")
    commands.add(
        "speech-commands", "the published Speech Commands", "speech_commands", listed([SPEECH])
    )
    add_listops(commands)
    commands.text("text", "movie reviews, IMDB", "lra/imdb-4000", listed([IMDB]))
    commands.text("retrieval", "pairs of papers, AAN's .tsv files", "lra/aan", source=True)
    image = commands.add("image", "CIFAR-10 in grey", "lra/cifar10", listed([CIFAR10]), False)
    image.add_argument("--held-out", type=int, default=5000, help="images that validate (5000)")
    pathfinder = commands.add(
        "pathfinder", "are two dots on one contour?", "lra/pathfinder", source=False
    )
    pathfinder.add_argument("--size", type=positive, default=32, help="pixels on a side (32)")
    add_generated(pathfinder, [160_000, 20_000, 20_000])
    add_own(commands)
    return parser.parse_args(words)


def add_listops(commands: Commands) -> None:
    listops = commands.text("listops", "nested operations on digits", "lra/listops")
    for option, kind, default, help in [
        ("--max-depth", int, 10, "operators within operators"),
        ("--max-arguments", int, 10, "arguments of an operator"),
        ("--min-length", int, 500, "symbols of a sequence, at least"),
        ("--max-length", int, 2000, "symbols of a sequence, at most"),
        ("--operator-rate", float, 0.25, "probability that an argument is an operation"),
    ]:
        listops.add_argument(option, type=kind, default=default, help=f"{help} ({default})")
    add_generated(listops, [96_000, 2_000, 2_000])


def add_generated(action: argparse.ArgumentParser, sizes: List[int]) -> None:
    """Options of what is generated where there is no --from."""
    action.add_argument("--seed", type=int, default=1, help="of what is generated (1)")
    action.add_argument(
        "--sizes",
        type=positive,
        nargs=3,
        default=sizes,
        metavar=("TRAIN", "VALID", "TEST"),
        help=f"samples to generate ({' '.join(map(str, sizes))})",
    )


def add_own(commands: Commands) -> None:
    """People's own data."""
    audio = commands.add("audio", "a folder of .wav files for each class", "audio", source=True)
    audio.add_argument("--samples", type=positive, default=16_000, help="of a clip (16000)")
    audio.add_argument("--fit", action="store_true", help="pad and cut clips of other lengths")
    audio.add_argument(
        "--standardise",
        choices=["step", "all"],
        default="step",
        help="by the statistics of each sample's place (step, as published), or of all samples",
    )
    pictures = commands.add("pictures", "a folder of pictures for each class", "own", source=True)
    pictures.add_argument(
        "--size", type=positive, nargs=2, metavar=("WIDTH", "HEIGHT"), help="scale pictures to this"
    )
    table = commands.text("table", "a .csv or .tsv of texts and labels", "own", source=True)
    table.add_argument("--text-column", default="text", help="its name in the header (text)")
    table.add_argument("--label-column", default="label", help="its name in the header (label)")
    table.add_argument("--symbols", choices=["bytes", "words"], default="bytes", help="(bytes)")
    for action, held_out in ((audio, 0.15), (pictures, 0.1), (table, 0.1)):
        action.add_argument(
            "--held-out",
            type=float,
            default=held_out,
            help=f"fraction of each class to validate with, and to test with ({held_out})",
        )
    for action in (audio, pictures):
        action.add_argument(
            "--classes", nargs="+", default=[], help="folders, in the order of the classes (all)"
        )
