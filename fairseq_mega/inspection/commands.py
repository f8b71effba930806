"""The commands ``inspect``, ``attend`` and ``curves`` of ``python -m fairseq_mega``.

Nothing is imported here that takes seconds.
"""

import argparse
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, List

INSPECT = """Writes pictures of what is in the weights of a checkpoint, of this package or of the
published code: how long the EMAs of each layer remember (half-lives in tokens), their kernels, what
the weights tell of the gates, the relative bias; and tables of its options, parameters and
training. Nothing in the checkpoint is run or built."""
INSPECT_EXAMPLES = """examples:
  python -m fairseq_mega inspect checkpoints/checkpoint_best.pt
  python -m fairseq_mega inspect checkpoints/checkpoint_best.pt --out pictures
"""
ATTEND = """Runs a translation or language model on a text and writes maps of its attention. For a
translation, cross attention is drawn as an alignment; for a language model, how unexpected each
token was, and how unexpected it is when chunks are read without what the EMAs carry."""
ATTEND_EXAMPLES = """examples:
  python -m fairseq_mega attend checkpoints/checkpoint_best.pt data-bin 'in 12 days' \\
      --bpe sentencepiece --sentencepiece-model data-bin/subword.model
  python -m fairseq_mega attend checkpoints/checkpoint_best.pt data-bin --split test --index 3
  python -m fairseq_mega attend lm.pt data-bin 'the text , in words' --layers 0,1,-1
"""
CURVES = """Draws the logs of trainings: loss, learning rate, gradient norm, speed and, of models of
this package, the memory spans of each layer; several trainings in one picture. Reads what
fairseq-train prints with --log-format json or simple, or writes with --log-file."""
CURVES_EXAMPLES = """examples:
  fairseq-train ... --save-dir checkpoints --log-format json --log-file checkpoints/train.log
  python -m fairseq_mega curves checkpoints
  python -m fairseq_mega curves first/train.log second/train.log --out pictures
"""


def add_commands(actions: Any) -> None:
    """Adds the parsers of the three commands to those of ``python -m fairseq_mega``."""
    action = _add(actions, "inspect", "what a checkpoint remembers", INSPECT, INSPECT_EXAMPLES)
    action.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="the checkpoint")
    _add_out(action, "CHECKPOINT-inspect")

    action = _add(actions, "attend", "what it attends to in a text", ATTEND, ATTEND_EXAMPLES)
    action.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="the checkpoint")
    action.add_argument("data", metavar="DATA-BIN", help="the folder of dict.*.txt")
    action.add_argument("text", nargs="?", metavar="TEXT", help="the text; or give --index")
    action.add_argument("--target", metavar="TEXT", help="its translation (default: the model's)")
    action.add_argument("--index", type=int, metavar="N", help="the sample N of the data, from 0")
    action.add_argument("--split", default="test", help="the set of the sample (default: test)")
    action.add_argument(
        "--layers",
        type=_layer_numbers,
        metavar="N,N",
        help="as in --layers=-1,0 (default: the first and the last, 0,-1)",
    )
    action.add_argument("--bpe", choices=["sentencepiece", "subword_nmt", "fastbpe"])
    action.add_argument("--sentencepiece-model", metavar="FILE", help="of --bpe sentencepiece")
    action.add_argument("--bpe-codes", metavar="FILE", help="of --bpe subword_nmt and fastbpe")
    action.add_argument(
        "--task", metavar="NAME", help="its task, where it is one that a file may not choose"
    )
    _add_out(action, "CHECKPOINT-attend")

    action = _add(actions, "curves", "how trainings went", CURVES, CURVES_EXAMPLES)
    action.add_argument(
        "logs", nargs="+", type=Path, metavar="SAVE-DIR-OR-LOG", help="a log, or a folder with one"
    )
    _add_out(action, "curves beside the first log")


def _add(actions: Any, name: str, help: str, text: str, examples: str) -> argparse.ArgumentParser:
    return actions.add_parser(
        name,
        help=help,
        description=text,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_out(action: argparse.ArgumentParser, default: str) -> None:
    action.add_argument(
        "--out", type=Path, metavar="DIR", help=f"the folder to make (default: {default})"
    )


def _layer_numbers(text: str) -> List[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers such as 0,3,-1") from None


def run(args: argparse.Namespace) -> Path:
    """Does what one of the three commands asks for; returns the page that it has written.

    Raises:
        ValueError, OSError: says what is wrong; nothing is left of what was written before it.
    """
    from .style import require_matplotlib

    require_matplotlib()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hydra's, about how fairseq uses it
        return ACTIONS[args.action](args)


def check_new(out: Path) -> Path:
    """
    Raises:
        OSError: where the folder cannot be made; before any work.
    """
    from ..checkpoints.writing import new_folder

    try:
        with new_folder(out):
            pass
        out.rmdir()
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError as error:
        raise OSError(f"{out} cannot be made: {error.strerror}. Give another --out") from error
    return out


def _inspect(args: argparse.Namespace) -> Path:
    from .inspect_page import inspect_sections
    from .page import write_page
    from .weights import read_weights

    out = check_new(args.out or _beside(args.checkpoint, "inspect"))
    found = read_weights(str(args.checkpoint))
    return write_page(out, f"What {args.checkpoint.name} remembers", inspect_sections(found))


def _attend(args: argparse.Namespace) -> Path:
    from .attention import attend, load, sample_of_data, sample_of_text
    from .attention_pictures import attend_sections
    from .page import write_page

    options = _text_options(args)
    out = check_new(args.out or _beside(args.checkpoint, "attend"))
    hub = load(args.checkpoint, args.data, options)
    if args.text is not None:
        sample, what = sample_of_text(hub, args.text, args.target), f"The text: {args.text}"
    else:
        sample = sample_of_data(hub, args.split, args.index)
        what = f"Sample {args.index} of {args.split} in {args.data}"
    sections = attend_sections(attend(hub, sample, args.layers), what)
    return write_page(out, f"What {args.checkpoint.name} attends to", sections)


def _text_options(args: argparse.Namespace) -> Dict[str, Any]:
    """
    Raises:
        ValueError: at options that do not go together; names them.
    """
    if (args.text is None) == (args.index is None):
        raise ValueError("give either a TEXT or --index N, a sample of the data")
    if args.target is not None and args.text is None:
        raise ValueError("--target is the translation of a TEXT: a sample has one")
    needed = {"sentencepiece": "sentencepiece_model", "subword_nmt": "bpe_codes"}
    option = needed.get(args.bpe, "bpe_codes")
    options = {} if args.task is None else {"task": args.task}
    if args.bpe is None:
        return options
    path = getattr(args, option)
    if path is None:
        raise ValueError(f"--bpe {args.bpe} needs --{option.replace('_', '-')}")
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file at {path}")
    return {**options, "bpe": args.bpe, option: path}


def _curves(args: argparse.Namespace) -> Path:
    from .curve_pictures import curve_sections
    from .logs import find_log, read_runs
    from .page import write_page

    out = check_new(args.out or find_log(args.logs[0]).parent / "curves")
    return write_page(out, "Training", curve_sections(read_runs(args.logs)))


def _beside(checkpoint: Path, what: str) -> Path:
    return checkpoint.with_name(f"{checkpoint.stem}-{what}")


ACTIONS: Dict[str, Callable[[argparse.Namespace], Path]] = {
    "inspect": _inspect,
    "attend": _attend,
    "curves": _curves,
}
