"""Exchanges models with strangers as files that hold no code, converts those of other code,
recovers folders of checkpoints, and shows what a trained model remembers.

``python -m fairseq_mega`` alone prints the path to give to fairseq's ``--user-dir``.
"""

import argparse
import logging
import sys
from pathlib import Path
from typing import List, Optional

from .inspection.commands import ACTIONS, add_commands, run

EXAMPLES = """examples:
  fairseq-train ... --user-dir "$(python -m fairseq_mega)"
  python -m fairseq_mega export checkpoints/checkpoint_best.pt my-model --data data-bin
  python -m fairseq_mega import my-model my-model.pt --dictionaries my-dictionaries
  fairseq-generate data-bin --user-dir "$(python -m fairseq_mega)" --path my-model.pt
  python -m fairseq_mega convert-hf mega-base-wikitext mega-masked-lm
  python -m fairseq_mega convert-imagenet mega_base.pth mega_base.pt
  python -m fairseq_mega inspect checkpoints/checkpoint_best.pt --out pictures
  python -m fairseq_mega attend checkpoints/checkpoint_best.pt data-bin --index 3 --out maps
  python -m fairseq_mega curves checkpoints other-checkpoints --out curves
  python -m fairseq_mega recover checkpoints && fairseq-train ... --save-dir checkpoints
"""
EXPORT = """Writes the model in a checkpoint to a new folder of two files: model.safetensors, the
weights, and config.json: task, architecture, options, dictionaries and versions. Neither can hold
code. Nothing in the checkpoint is run or built before it is known to be a Mega model."""
IMPORT = """Writes a checkpoint for fairseq-generate, -interactive, -eval-lm and -validate, and for
fairseq-train --finetune-from-model. Anything in the folder that is not as export writes it is an
error that says what and where."""

CONVERT_HF = """Converts a folder that transformers 4.30 to 4.57 wrote of a MegaForMaskedLM or a
MegaForSequenceClassification to a new folder: model.pt for fairseq's commands and the dictionaries
of its task. An option of which there is no exact equivalent is an error that names it. transformers
is not needed."""
CONVERT_HF_EXAMPLE = """example:
  python -m fairseq_mega convert-hf mega-base-wikitext mega-masked-lm
  fairseq-train data-bin --user-dir "$(python -m fairseq_mega)" \\
      --task sentence_prediction --finetune-from-model mega-masked-lm/model.pt ...
"""

CONVERT_IMAGENET = """Converts a checkpoint of the published code for ImageNet to one for fairseq's
commands and the task image_folder. Its EMA has another form, which is written in the form here;
where float32 cannot hold that, it is an error that says so."""
CONVERT_IMAGENET_EXAMPLE = """example:
  python -m fairseq_mega convert-imagenet mega_base.pth mega_base.pt
  fairseq-validate imagenet --user-dir "$(python -m fairseq_mega)" \\
      --task image_folder --path mega_base.pt --batch-size 64
"""

RECOVER = """Makes a --save-dir fit to train on after whatever has interrupted a training. Where
checkpoint_last.pt is cut off or not there, the newest whole checkpoint takes its place; a whole one
stays as it is. Run it once before fairseq-train, in a job script for instance, not during it."""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fairseq_mega",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(
        dest="action",
        metavar="{export,import,convert-hf,convert-imagenet,recover,inspect,attend,curves}",
    )
    action = actions.add_parser("export", help="from a checkpoint to a folder", description=EXPORT)
    action.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="the checkpoint")
    action.add_argument("out", type=Path, metavar="OUT", help="the folder to make")
    action.add_argument(
        "--data", type=Path, help="the folder of dict.*.txt (default: that of the checkpoint)"
    )
    _add_task(action)
    action = actions.add_parser("import", help="from a folder to a checkpoint", description=IMPORT)
    action.add_argument("folder", type=Path, metavar="FOLDER", help="what export has made")
    action.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="the file to write")
    action.add_argument(
        "--dictionaries", type=Path, metavar="DIR", help="a folder to make, for dict.*.txt"
    )
    _add_task(action)
    _add_convert_hf(actions)
    _add_convert_imagenet(actions)
    action = actions.add_parser(
        "recover", help="before a training goes on: checkpoint_last.pt", description=RECOVER
    )
    action.add_argument("folder", type=Path, metavar="SAVE_DIR", help="of fairseq-train")
    add_commands(actions)
    return parser


def _add_task(action) -> None:
    action.add_argument(
        "--task",
        metavar="NAME",
        help="the model's task, where it is one that a file may not choose, such as denoising; "
        "its options are then taken as they are: name it for files that you trust",
    )


def _add_convert_hf(actions) -> None:
    action = actions.add_parser(
        "convert-hf",
        help="from the Hugging Face port's folder to one with a checkpoint",
        description=CONVERT_HF,
        epilog=CONVERT_HF_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    action.add_argument("folder", type=Path, metavar="FOLDER", help="the port's folder")
    action.add_argument("out", type=Path, metavar="OUT", help="the folder to make")
    action.add_argument(
        "--mask-id", type=int, metavar="N", help="the number of <mask>, if no word is called that"
    )


def _add_convert_imagenet(actions) -> None:
    action = actions.add_parser(
        "convert-imagenet",
        help="from the published code for ImageNet to a checkpoint",
        description=CONVERT_IMAGENET,
        epilog=CONVERT_IMAGENET_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    action.add_argument("file", type=Path, metavar="FILE", help="the published checkpoint")
    action.add_argument("out", type=Path, metavar="OUT", help="the file to write")


def main(words: Optional[List[str]] = None) -> None:
    args = make_parser().parse_args(words)
    if args.action is None:
        print(Path(__file__).resolve().parent)
        return
    logging.disable(logging.INFO)
    try:
        print(_act(args))
    except (OSError, ValueError) as error:
        sys.exit(f"{error}")


def _act(args: argparse.Namespace) -> Path | str:
    """Does what is asked for; returns what to print. fairseq takes seconds to import."""
    if args.action in ACTIONS:
        return run(args)
    if args.action == "recover":
        from .checkpoints.recovery import recover

        return recover(args.folder)
    if args.action == "convert-hf":
        from .checkpoints.huggingface import convert_huggingface

        convert_huggingface(args.folder, args.out, args.mask_id)
        return args.out
    if args.action == "convert-imagenet":
        from .checkpoints.imagenet import convert_imagenet

        convert_imagenet(args.file, args.out)
        return args.out
    from .checkpoints.exchange import export_checkpoint, import_folder

    if args.action == "export":
        data = args.data or args.checkpoint.parent
        export_checkpoint(args.checkpoint, args.out, data, args.task)
        return args.out
    import_folder(args.folder, args.checkpoint, args.dictionaries, args.task)
    return args.checkpoint


if __name__ == "__main__":
    main()
