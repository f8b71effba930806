"""Loads each hostile file in every way that the plugin has, and says how each attempt ended.

    python tests/hostile/entries.py FOLDER [--commands] [--every N]

prints a line of JSON for each: kind, file, entry, the error's type and its words. With --commands,
the entries are fairseq's whole commands, called in this process; else, what they load files with.
"""

import argparse
import contextlib
import io
import json
import logging
import resource
import signal
import sys
import warnings
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests/hostile")]

import honest  # noqa: E402
import torch  # noqa: E402
from corpus import FAIRSEQ_BUILDS, KINDS, OLDER  # noqa: E402
from fairseq import checkpoint_utils, tasks  # noqa: E402
from fairseq.trainer import Trainer  # noqa: E402
from fairseq_cli import eval_lm, generate, interactive, train, validate  # noqa: E402
from helpers import build, parse  # noqa: E402

from examples.translation import average_checkpoints  # noqa: E402
from fairseq_mega import MegaLanguageModel, MegaModel  # noqa: E402
from fairseq_mega.__main__ import main as fairseq_mega  # noqa: E402

MEMORY, SECONDS = 12 << 30, 30
CLASSES = {"translation": MegaModel, "language_model": MegaLanguageModel}


def only_load(kind, path, folder):
    torch.load(path, weights_only=True)


def from_pretrained(kind, path, folder):
    data = str(folder / "data")
    CLASSES[kind].from_pretrained(str(path.parent), path.name, data_name_or_path=data)


def export(kind, path, folder):
    fairseq_mega(["export", str(path), str(folder / "exported"), "--data", str(folder / "data")])


def average(kind, path, folder):
    (folder / "training").mkdir()
    for i, each in enumerate((path.parent / "honest", path)):
        (folder / f"training/checkpoint{i}.pt").symlink_to(each)
    words = [str(folder / "training"), "--last", "2", "--output", str(folder / "averaged.pt")]
    average_checkpoints.main(words)


def load_for_task(kind, path, folder):
    """As fairseq-generate, -interactive and -eval-lm do, with the task of the command line."""
    task = tasks.setup_task(honest.with_data(parse(honest.OPTIONS[kind]), folder / "data").task)
    checkpoint_utils.load_model_ensemble([str(path)], task=task)


def load_for_long_text(kind, path, folder):
    """The same with --task mega_language_modeling."""
    options = honest.OPTIONS["mega_language_modeling"]
    task = tasks.setup_task(honest.with_data(parse(options), folder / "data").task)
    checkpoint_utils.load_model_ensemble([str(path)], task=task)


def load_with_task(kind, path, folder):
    """As fairseq-validate does, with the task that the file chooses."""
    overrides = {"data": str(folder / "data")}
    checkpoint_utils.load_model_ensemble_and_task([str(path)], arg_overrides=overrides)


def restore(kind, path, folder, **settings):
    """As fairseq-train --restore-file does."""
    cfg = honest.with_data(parse(f"{honest.OPTIONS[kind]} --cpu"), folder / "data")
    task = tasks.setup_task(cfg.task)
    model = build(honest.OPTIONS[kind], words=honest.WORDS)
    trainer = Trainer(cfg, task, model, task.build_criterion(cfg.criterion))
    cfg.checkpoint.save_dir = str(folder / "training")
    for name, value in (settings or {"restore_file": str(path)}).items():
        cfg.checkpoint[name] = value
    with mock.patch.object(trainer, "get_train_iterator"):  # there is no training set
        checkpoint_utils.load_checkpoint(cfg.checkpoint, trainer)


def finetune(kind, path, folder):
    """As fairseq-train --finetune-from-model does."""
    restore(kind, path, folder, finetune_from_model=str(path))


def state(kind, path, folder):
    """As if the file held the state of a text."""
    model = build(f"{honest.OPTIONS['language_model']} --decoder-chunk-size 4").eval()
    model.restore(torch.load(path))


def command(module, options):
    def run(kind, path, folder):
        words = ["fairseq", str(folder / "bin"), "--user-dir", str(ROOT / "fairseq_mega"), "--cpu"]
        words += ["--required-batch-size-multiple", "1", "--num-workers", "0"]
        words += [word.format(path=path, save=folder / "training") for word in options.split()]
        with (
            mock.patch.object(sys, "argv", words),
            mock.patch.object(sys, "stdin", io.StringIO("w1 w2\n")),
        ):
            module.cli_main()

    return run


LM = "--task mega_language_modeling --path {path}"
PAIR = "--source-lang src --target-lang tgt --path {path}"
TRAIN = f"{honest.OPTIONS['translation']} --batch-size 2 --max-update 4 --save-dir {{save}} "
TRAIN += "--no-save --disable-validation"
LOADERS = {
    "translation": [only_load, from_pretrained, export, average, load_for_task, load_with_task]
    + [restore, finetune],
    "language_model": [only_load, from_pretrained, export, load_for_long_text, load_with_task]
    + [restore, state],
}
COMMANDS = {
    "translation": {
        "fairseq-generate": command(generate, f"{PAIR} --batch-size 2"),
        "fairseq-interactive": command(interactive, PAIR),
        "fairseq-validate": command(validate, "--task translation --path {path} --batch-size 2"),
        "fairseq-train --restore-file": command(train, f"{TRAIN} --restore-file {{path}}"),
        "fairseq-train --finetune-from-model": command(
            train, f"{TRAIN} --finetune-from-model {{path}}"
        ),
    },
    "language_model": {
        "fairseq-eval-lm": command(eval_lm, f"{LM} --batch-size 2 --tokens-per-sample 32"),
        "fairseq-interactive": command(interactive, LM),
    },
}
STOCK = {load_for_task, load_with_task}
STOCK_COMMANDS = ("fairseq-generate", "fairseq-validate", "fairseq-interactive")


def attempts(folder, commands, every):
    """With up to as many in ``every`` as there are entries, each file has its turn."""
    for kind in KINDS:
        entries = {each.__name__: each for each in LOADERS[kind]}
        entries = COMMANDS[kind] if commands else entries
        for i, path in enumerate(sorted((folder / kind).iterdir())):
            for j, (name, entry) in enumerate(entries.items()):
                stock = entry in STOCK or (kind == "translation" and name in STOCK_COMMANDS)
                unsafe = stock and path.name.removeprefix(OLDER) in FAIRSEQ_BUILDS
                if (i + j) % every == 0 and not unsafe:
                    yield kind, path, name, entry


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--commands", action="store_true")
    parser.add_argument("--every", type=int, default=1, help="one attempt in so many")
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    for kind, path, name, entry in attempts(args.folder, args.commands, args.every):
        error = None
        signal.alarm(SECONDS)
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                entry(kind, path, args.folder)
            except BaseException as raised:
                error = raised
        signal.alarm(0)
        clean(args.folder)
        words = [type(error).__name__, str(error)] if error is not None else ["", ""]
        print(json.dumps([kind, path.name, name, *words]), flush=True)


def clean(folder):
    """Removes what an entry may write, and nothing else."""
    for name in ("exported", "training", "averaged.pt"):
        each = folder / name
        for inner in each.iterdir() if each.is_dir() else ():
            inner.unlink()
        if each.is_dir():
            each.rmdir()
        else:
            each.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
