"""Models, batches, and data in the published layouts, for the tests of classification."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import fairseq.models
import numpy as np
import torch
from fairseq.data import Dictionary, indexed_dataset
from helpers import configured, make_dictionary, scatter

PARITY = Path(__file__).resolve().parent / "parity" / "classification"
KINDS = ("text", "pair", "image", "speech")
TASK_OF = {"text": "lra-text", "image": "lra-image", "speech": "speech_commands"}
TINY = (
    "--encoder-layers 2 --encoder-embed-dim 12 --encoder-hidden-dim 16 --encoder-ffn-embed-dim 20 "
    "--z-dim 4 --n-dim 3 --max-positions 32 --sentence-class-num 3 --classifier-out-dim 10"
)
TEXT = f"--task lra-text -a mega_text {TINY}"
IMAGE = f"--task lra-image -a mega_image {TINY}"


# --- models and batches -------------------------------------------------------------------------


def build(options, words=20, documents=1, **model_options):
    """The model that fairseq-train would build for so many words; None for real numbers."""
    cfg = configured(options, **model_options).model
    dictionary = None if words is None else make_dictionary(words)
    return fairseq.models.build_model(
        cfg, SimpleNamespace(source_dictionary=dictionary, documents=documents)
    )


def make_model(options=TEXT, **kwargs):
    """The model of ``build`` in float64 and evaluation, with telling weights."""
    return scatter(build(options, **kwargs)).double().eval()


def symbols(*lengths, seed=3):
    """Rows of random symbols."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(4, 20, (n,), generator=generator, device="cpu") for n in lengths]
    return [row.to(torch.get_default_device()) for row in rows]


def numbers(*lengths, seed=3):
    """Rows of random numbers."""
    generator = torch.Generator().manual_seed(seed)
    kind = dict(generator=generator, dtype=torch.float64, device="cpu")
    return [torch.randn(length, **kind).to(torch.get_default_device()) for length in lengths]


def batch(rows, second=None, pad=1, extra=0):
    """Rows as the tasks pad them, with ``extra`` columns of padding more."""
    sample = {"net_input": _padded(rows, pad, extra)}
    if second is not None:
        sample["net_input1"] = _padded(second, pad, extra)
    return sample


def _padded(rows, pad, extra):
    width = max(map(len, rows)) + extra
    tokens = torch.stack([torch.cat([row, row.new_full((width - len(row),), pad)]) for row in rows])
    return {"src_tokens": tokens, "src_lengths": torch.tensor([len(row) for row in rows])}


@torch.no_grad()
def logits(model, *args, **kwargs):
    return model(batch(*args, **kwargs))["encoder_out"]


# --- data ---------------------------------------------------------------------------------------


def parity_data(kind, folder):
    """A copy of the published layout in a folder that may be written."""
    shutil.copytree(PARITY / kind / "data", folder)
    return folder


def write_lines(path, rows, dictionary, append_eos=True):
    """A binarised file of lines of symbols."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dictionary.save(str(path.parent / "dict.txt"))
    builder = indexed_dataset.make_builder(f"{path}.bin", "mmap", vocab_size=len(dictionary))
    for row in rows:
        line = dictionary.encode_line(" ".join(row), add_if_not_exist=False, append_eos=append_eos)
        builder.add_item(line)
    builder.finalize(f"{path}.idx")


def dictionary_of(words):
    dictionary = Dictionary()
    for word in words:
        dictionary.add_symbol(word)
    return dictionary


SETS = {"train": 60, "valid": 20, "test": 20}


def make_texts(folder, classes=2, documents=1, sets=SETS, longest=24):
    """Texts whose first symbol is their class; labels of a dictionary in another order."""
    words = dictionary_of("abcdefghij")
    labels = dictionary_of([str(i) for i in reversed(range(classes))])
    for seed, (split, count) in enumerate(sets.items()):
        rng = np.random.default_rng(seed)
        targets = [i % classes for i in range(count)]
        for name in ("src-bin", "src1-bin")[:documents]:
            rows = [
                ["abcdefghij"[target], *rng.choice(list("abcdefghij"), rng.integers(1, longest))]
                for target in targets
            ]
            write_lines(folder / name / split, rows, words)
        write_lines(folder / "label-bin" / split, [[str(t)] for t in targets], labels)
    return folder


def make_images(folder, classes=2, pixels=36, sets=SETS):
    """Images that are brighter the higher their class."""
    for part in ("input", "label"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for seed, (split, count) in enumerate(sets.items()):
        rng = np.random.default_rng(seed)
        targets = np.arange(count) % classes
        images = rng.integers(0, 60, (count, pixels)) + targets[:, None] * (190 // classes)
        lines = (" ".join(map(str, image)) + "\n" for image in images)
        (folder / "input" / f"{split}.src").write_text("".join(lines))
        (folder / "label" / f"{split}.label").write_text("".join(f"{t}\n" for t in targets))
    return folder


def make_clips(folder, classes=10, samples=50, sets=SETS, dtype=torch.float32):
    """Clips that are louder the higher their class."""
    raw = folder / "processed_data" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for seed, (split, count) in enumerate(sets.items()):
        generator = torch.Generator().manual_seed(seed)
        targets = torch.arange(count) % classes
        clips = torch.randn(count, 1, samples, generator=generator) * (1 + targets[:, None, None])
        if not dtype.is_floating_point:
            clips = clips * 100
        stem = "val" if split == "valid" else split
        torch.save(clips.to(dtype), raw / f"{stem}_X.pt")
        torch.save(targets, raw / f"{stem}_y.pt")
    return folder


def make_data(kind, folder, classes):
    makers = {"text": make_texts, "image": make_images, "speech": make_clips}
    if kind == "pair":
        return make_texts(folder, classes, documents=2)
    return makers[kind](folder, classes)
