"""Tools for Mega models: lists options, exports and imports models as safetensors, converts other
Mega checkpoints, repairs checkpoint folders, and plots trained models.

Without a command, prints the folder for fairseq's --user-dir.
"""

import argparse
import logging
import sys
import warnings
from pathlib import Path
from typing import List, Optional

from .checkpoints.exchange import export_checkpoint, import_folder
from .checkpoints.huggingface import convert_huggingface
from .checkpoints.imagenet import convert_imagenet
from .checkpoints.recovery import recover
from .options import describe

EXAMPLES = """examples:
  fairseq-train ... --user-dir "$(python -m fairseq_mega)"
  python -m fairseq_mega options mega_wmt_en_de
  python -m fairseq_mega export checkpoints/checkpoint_best.pt my-model --data data-bin
  python -m fairseq_mega convert-hf mega-base-wikitext mega-masked-lm
  python -m fairseq_mega inspect checkpoints/checkpoint_best.pt --out page
  python -m fairseq_mega attend checkpoints/checkpoint_best.pt data-bin --index 3 --out page
  python -m fairseq_mega curves checkpoints other-checkpoints --out page
"""
COMMANDS = {
    "options": """Lists the architectures, or the options of one architecture with its defaults.""",
    "export": """Writes a model as safetensors and JSON. The new folder has model.safetensors, the
        weights, and config.json, the options and dictionaries. Neither file can hold code.""",
    "import": """Writes a checkpoint from an exported folder. fairseq-generate, -interactive,
        -eval-lm and -validate read it, and fairseq-train with --finetune-from-model. A folder with
        anything that export does not write is refused.""",
    "convert-hf": """Converts a model of the Hugging Face port. The port is MegaForMaskedLM or
        MegaForSequenceClassification of transformers 4.30 to 4.57; transformers is not needed. The
        new folder has model.pt and dictionaries. An option without an exact equivalent is refused
        by name.""",
    "convert-imagenet": """Converts a published ImageNet checkpoint for the task image_folder. The
        EMA of the published model has another form; weights that float32 cannot hold in the form
        of this package are refused.""",
    "recover": """Repairs the --save-dir of an interrupted training. The newest intact checkpoint
        replaces a missing or truncated checkpoint_last.pt. Run it before fairseq-train, not during
        it.""",
    "inspect": """Plots the weights of a checkpoint. The page shows half-lives and kernels of the
        EMAs and relative biases, with tables of options and parameters. No model is built or
        run.""",
    "attend": """Plots what a translation or language model attends to in a text. For a language
        model, the page also shows how unexpected each token is, with and without the EMA's state
        from earlier chunks.""",
    "curves": """Plots the logs of trainings. It reads logs with --log-format json or simple and
        plots loss, learning rate, gradient norm, speed and memory spans.""",
}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fairseq_mega",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", metavar="COMMAND")
    commands = {
        name: actions.add_parser(name, help=text.partition(". ")[0].rstrip("."), description=text)
        for name, text in COMMANDS.items()
    }
    add = {name: command.add_argument for name, command in commands.items()}
    help = "an architecture (default: lists all)"
    add["options"]("architecture", nargs="?", metavar="ARCH", help=help)
    add["recover"]("folder", type=Path, metavar="SAVE_DIR", help="the folder to repair")
    for name in ("export", "inspect", "attend"):
        add[name]("checkpoint", type=Path, metavar="CHECKPOINT", help="the file to read")
    for name in ("import", "convert-hf"):
        add[name]("folder", type=Path, metavar="FOLDER", help="the folder to read")
    add["convert-imagenet"]("file", type=Path, metavar="FILE", help="the published checkpoint")
    for name in ("export", "convert-hf", "convert-imagenet"):
        add[name]("out", type=Path, metavar="OUT", help="the file or folder to write")
    help = "the folder with dict.*.txt (default: the checkpoint's folder)"
    add["export"]("--data", type=Path, help=help)
    add["import"]("checkpoint", type=Path, metavar="CHECKPOINT", help="the file to write")
    help = "the new folder for dict.*.txt"
    add["import"]("--dictionaries", type=Path, metavar="DIR", help=help)
    help = "the id of <mask>, if the vocabulary has no such word"
    add["convert-hf"]("--mask-id", type=int, metavar="N", help=help)
    help = (
        "the model's task, such as denoising, if it is one that files may not choose. Its options "
        "are used as they are, so give it only for files that you trust"
    )
    for name in ("export", "import", "attend"):
        add[name]("--task", metavar="NAME", help=help)
    help = "logs, or folders that contain one"
    add["curves"]("logs", nargs="+", type=Path, metavar="SAVE-DIR-OR-LOG", help=help)
    for name in ("inspect", "attend", "curves"):
        help = "the new folder (default: next to the input)"
        add[name]("--out", type=Path, metavar="DIR", help=help)
    attend = add["attend"]
    attend("data", type=Path, metavar="DATA-BIN", help="the folder with dict.*.txt")
    sample = commands["attend"].add_mutually_exclusive_group(required=True)
    sample.add_argument("text", nargs="?", metavar="TEXT", help="the text")
    sample.add_argument("--index", type=int, metavar="N", help="sample N of the data, from 0")
    attend("--split", default="test", help="the split of the sample (default: test)")
    attend("--target", metavar="TEXT", help="the text's translation (default: the model's)")
    help = "layers to plot, as in --layers=-1,0 (default: the first and the last)"
    attend("--layers", type=layer_numbers, default=[0, -1], metavar="N,N", help=help)
    help = "how TEXT is split into subwords (default: it is split already)"
    attend("--bpe", choices=["sentencepiece", "subword_nmt", "fastbpe"], help=help)
    attend("--sentencepiece-model", metavar="FILE", help="the model for --bpe sentencepiece")
    attend("--bpe-codes", metavar="FILE", help="the codes for --bpe subword_nmt and fastbpe")
    return parser


def layer_numbers(text: str) -> List[int]:
    return [int(number) for number in text.split(",")]


def main(words: Optional[List[str]] = None) -> None:
    args = make_parser().parse_args(words)
    logging.disable(logging.INFO)
    try:
        print(_act(args))
    except (OSError, ValueError) as error:
        sys.exit(f"{error}")


def _act(args: argparse.Namespace) -> Path | str:
    """Runs the command; returns what to print."""
    if args.action is None:
        return Path(__file__).resolve().parent
    if args.action == "options":
        return describe(args.architecture)
    if args.action == "recover":
        return recover(args.folder)
    if args.action == "export":
        data = args.data or args.checkpoint.parent
        export_checkpoint(args.checkpoint, args.out, data, args.task)
        return args.out
    if args.action == "import":
        import_folder(args.folder, args.checkpoint, args.dictionaries, args.task)
        return args.checkpoint
    if args.action == "convert-hf":
        convert_huggingface(args.folder, args.out, args.mask_id)
        return args.out
    if args.action == "convert-imagenet":
        convert_imagenet(args.file, args.out)
        return args.out
    return _plot(args)


def _plot(args: argparse.Namespace) -> Path:
    """Runs a command that plots; only here is matplotlib, an optional package, imported."""
    try:
        from .inspection import commands
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        raise ValueError(f"{args.action} needs matplotlib: pip install '.[inspect]'") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hydra's, and matplotlib's about missing glyphs
        return getattr(commands, args.action)(args)


if __name__ == "__main__":
    main()
