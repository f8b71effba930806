"""The commands ``inspect``, ``attend`` and ``curves``: each writes a page and returns its path."""

from argparse import Namespace
from pathlib import Path

from ..checkpoints.writing import check_new
from .attention import attention_maps, load, sample_of_data, sample_of_text, surprisal_of
from .attention_figures import attend_parts
from .curve_figures import curve_parts
from .logs import find_log, read_runs
from .page import write_page
from .weight_figures import inspect_parts
from .weights import read_weights

HUB_OPTIONS = ("task", "bpe", "sentencepiece_model", "bpe_codes")


def inspect(args: Namespace) -> Path:
    path = args.checkpoint
    out = _out(args, path)
    parts = inspect_parts(read_weights(str(path)))
    return write_page(out, f"What {path.name} remembers", parts)


def attend(args: Namespace) -> Path:
    if args.target is not None and args.text is None:
        raise ValueError(
            f"--target is {args.target!r:.80}, but a sample has a translation: leave it out"
        )
    if args.bpe is not None and args.sentencepiece_model is None and args.bpe_codes is None:
        raise ValueError(
            f"--bpe {args.bpe} needs a model: give --sentencepiece-model or --bpe-codes"
        )
    out = _out(args, args.checkpoint)
    given = {name: getattr(args, name) for name in HUB_OPTIONS}
    given = {name: value for name, value in given.items() if value is not None}
    hub = load(args.checkpoint, args.data, given)
    if args.text is not None:
        sample = sample_of_text(hub, args.text, args.target)
    else:
        sample = sample_of_data(hub, args.split, args.index)
    surprisal = surprisal_of(hub, sample) if sample.source is None else None
    parts = attend_parts(attention_maps(hub, sample, args.layers), surprisal)
    what = f"sample {args.index} of {args.split}" if args.text is None else f"{args.text:.80}"
    title = f"What {args.checkpoint.name} attends to in {what}"
    return write_page(out, title, parts)


def curves(args: Namespace) -> Path:
    out = _out(args, find_log(args.logs[0]))
    return write_page(out, "Training", curve_parts(read_runs(args.logs)))


def _out(args: Namespace, read: Path) -> Path:
    """Returns ``--out``, by default next to the file that is read; it must not exist yet."""
    out = args.out or read.with_name(f"{read.stem}-{args.action}")
    check_new(out)
    return out
