"""Exchanges models with strangers as files that hold no code.

``python -m fairseq_mega`` alone prints the path to give to fairseq's ``--user-dir``.
"""

import argparse
import logging
import sys
from pathlib import Path
from typing import List, Optional

EXAMPLES = """examples:
  fairseq-train ... --user-dir "$(python -m fairseq_mega)"
  python -m fairseq_mega export checkpoints/checkpoint_best.pt my-model --data data-bin
  python -m fairseq_mega import my-model my-model.pt --dictionaries my-dictionaries
  fairseq-generate data-bin --user-dir "$(python -m fairseq_mega)" --path my-model.pt
"""
EXPORT = """Writes the model in a checkpoint to a new folder of two files: model.safetensors, the
weights, and config.json: task, architecture, options, dictionaries and versions. Neither can hold
code. Nothing in the checkpoint is run or built before it is known to be a Mega model."""
IMPORT = """Writes a checkpoint for fairseq-generate, -interactive, -eval-lm and -validate, and for
fairseq-train --finetune-from-model. Anything in the folder that is not as export writes it is an
error that says what and where."""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fairseq_mega",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", metavar="{export,import}")
    action = actions.add_parser("export", help="from a checkpoint to a folder", description=EXPORT)
    action.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="the checkpoint")
    action.add_argument("out", type=Path, metavar="OUT", help="the folder to make")
    action.add_argument(
        "--data", type=Path, help="the folder of dict.*.txt (default: that of the checkpoint)"
    )
    action = actions.add_parser("import", help="from a folder to a checkpoint", description=IMPORT)
    action.add_argument("folder", type=Path, metavar="FOLDER", help="what export has made")
    action.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="the file to write")
    action.add_argument(
        "--dictionaries", type=Path, metavar="DIR", help="a folder to make, for dict.*.txt"
    )
    return parser


def main(words: Optional[List[str]] = None) -> None:
    args = make_parser().parse_args(words)
    if args.action is None:
        print(Path(__file__).resolve().parent)
        return
    logging.disable(logging.INFO)
    from .exchange import export_checkpoint, import_folder  # imports fairseq, which takes seconds

    try:
        if args.action == "export":
            export_checkpoint(args.checkpoint, args.out, args.data or args.checkpoint.parent)
        else:
            import_folder(args.folder, args.checkpoint, args.dictionaries)
    except (OSError, ValueError) as error:
        sys.exit(f"{error}")
    print(args.out if args.action == "export" else args.checkpoint)


if __name__ == "__main__":
    main()
