"""Losses of the first updates of four small trainings, which the tests hold all code to.

    OMP_NUM_THREADS=1 python tests/golden/losses.py

writes losses.json anew, after a change that is meant to change them: initial values, random
numbers, an equation. It says how far they have moved.
"""

import copy
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Dict, List

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from classification import dictionary_of, make_texts, write_lines  # noqa: E402
from helpers import parse  # noqa: E402
from trainers import make_trainer  # noqa: E402

FILE = Path(__file__).with_name("losses.json")
UPDATES = 20
WORDS = [f"w{i}" for i in range(30)]
TRAIN = (
    "--optimizer adam --adam-betas (0.9,0.98) --lr 1e-2 --lr-scheduler linear_decay --cpu --seed 2 "
    "--warmup-updates 5 --total-num-update 100 --max-update 20 --clip-norm 1.0 --num-workers 0 "
    "--dropout 0.1"
)
SIZES = (
    "--{0}-layers 2 --{0}-embed-dim 24 --{0}-hidden-dim 32 --{0}-ffn-embed-dim 32 --{0}-z-dim 8 "
    "--{0}-n-dim 4"
)
TRAININGS = {
    "translation": (
        "--task translation --arch mega_iwslt_de_en --criterion label_smoothed_cross_entropy "
        "--label-smoothing 0.1 --batch-size 8 --share-all-embeddings --attention-dropout 0.1 "
        + SIZES.format("encoder")
    ),
    "language model, chunked": (
        "--task mega_language_modeling --arch mega_lm --sample-break-mode complete "
        "--tokens-per-sample 24 --variant-block-multiple-min 1 --variant-block-multiple-max 2 "
        "--max-tokens 96 --decoder-chunk-size 8 --rel-pos-bias rotary --normalize-before "
        "--weight-init xavier "
        "--attention-activation-fn laplace " + SIZES.format("decoder")
    ),
    "classifier": (
        "--task lra-text --arch mega_text --criterion lra_cross_entropy --sentence-avg "
        "--batch-size 8 --encoder-layers 2 --encoder-embed-dim 24 --encoder-hidden-dim 32 "
        "--encoder-ffn-embed-dim 32 --z-dim 8 --n-dim 4 --classifier-out-dim 16"
    ),
    "masked language model": (
        "--task masked_lm --criterion masked_lm --arch mega_masked_lm --tokens-per-sample 24 "
        "--batch-size 8 --sample-break-mode eos --encoder-chunk-size 8 --weight-init xavier "
        + SIZES.format("encoder")
    ),
}


def make_data(name: str, folder: Path) -> Path:
    if name == "classifier":
        return make_texts(folder)
    dictionary, generator = dictionary_of(WORDS), random.Random(1)
    parts = [".src-tgt.src", ".src-tgt.tgt"] if name == "translation" else [""]
    for split, count in {"train": 160, "valid": 8}.items():
        rows = [generator.choices(WORDS, k=generator.randint(4, 20)) for _ in range(count)]
        for part in parts:  # the target is the source
            write_lines(folder / f"{split}{part}", rows, dictionary)
    for side in ("src", "tgt"):
        dictionary.save(str(folder / f"dict.{side}.txt"))
    return folder


def train(name: str, folder: Path) -> List[float]:
    """The loss of each update, per token or sentence, as fairseq-train makes the updates."""
    cfg = copy.deepcopy(parse(f"{TRAININGS[name]} {TRAIN}"))
    cfg.task.data = str(make_data(name, folder))
    trainer = make_trainer(cfg)
    losses: List[float] = []

    def note(module, args, output) -> None:
        loss, count, _ = output
        losses.append(loss.item() / int(count))

    trainer.criterion.register_forward_hook(note)
    epochs = trainer.get_train_iterator(1)
    while len(losses) < UPDATES:
        batches = epochs.next_epoch_itr(shuffle=True)
        trainer.begin_epoch(epochs.epoch)
        for batch in batches:
            trainer.train_step([batch])
            if len(losses) == UPDATES:
                break
    return losses


def all_losses() -> Dict[str, List[float]]:
    with tempfile.TemporaryDirectory() as folder:
        return {name: train(name, Path(folder, str(i))) for i, name in enumerate(TRAININGS)}


def largest_difference(ours: Dict[str, List[float]], theirs: Dict[str, List[float]]) -> float:
    """In relation to the loss; of the same trainings and updates."""
    assert {name: len(each) for name, each in ours.items()} == {
        name: len(each) for name, each in theirs.items()
    }
    return max(abs(a - b) / abs(b) for name in theirs for a, b in zip(ours[name], theirs[name]))


def main() -> None:
    torch.set_num_threads(1)
    losses = all_losses()
    if FILE.exists():
        before = json.loads(FILE.read_text())
        print(f"largest relative difference to before: {largest_difference(losses, before):.1e}")
    FILE.write_text(json.dumps(losses, indent=1) + "\n")
    print(f"{FILE} written")


if __name__ == "__main__":
    main()
