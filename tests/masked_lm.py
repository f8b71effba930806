"""Shared by the tests of masked language models: converted models, compared with the port's."""

import sys
from pathlib import Path
from types import SimpleNamespace

import fairseq.models
import torch
from fairseq.checkpoint_utils import load_model_ensemble_and_task
from fairseq.tasks.sentence_prediction import SentencePredictionTask
from helpers import configured, make_dictionary, relative_error, scatter

from fairseq_mega.checkpoints.huggingface import convert_huggingface

HUGGINGFACE = Path(__file__).resolve().parent / "parity" / "huggingface"
HEAD = "sentence_classification_head"
SIZES = (
    "--encoder-layers 2 --encoder-embed-dim 12 --encoder-hidden-dim 16 --encoder-ffn-embed-dim 20 "
    "--encoder-z-dim 4 --encoder-n-dim 3"
)
WORDS = f"--task masked_lm --criterion masked_lm -a mega_masked_lm --tokens-per-sample 32 {SIZES}"
CLASSES = (
    "--task sentence_prediction --criterion sentence_prediction -a mega_masked_lm "
    f"--num-classes 3 --max-positions 32 {SIZES}"
)


def build(options, words=20, **model_options):
    """The model that fairseq-train would build for so many words."""
    cfg, dictionary = configured(options, **model_options), make_dictionary(words)
    if cfg.task._name == "sentence_prediction":
        return SentencePredictionTask(cfg.task, dictionary, dictionary).build_model(cfg.model)
    longest = cfg.task.tokens_per_sample
    task = SimpleNamespace(source_dictionary=dictionary, max_positions=lambda: longest)
    return fairseq.models.build_model(cfg.model, task)


def make_model(options=WORDS, **kwargs):
    """The model of ``build`` in float64 and evaluation, with telling weights."""
    return scatter(build(options, **kwargs)).double().eval()


def converted(folder, out):
    """The model that ``convert-hf`` makes of a folder, as fairseq loads it, in evaluation."""
    convert_huggingface(folder, out, mask_id=23)
    (model,), _, _ = load_model_ensemble_and_task([str(out / "model.pt")], {"data": str(out)})
    return model.eval()


@torch.no_grad()
def difference(folder, out):
    """The largest relative difference between the port's hidden states or logits and ours."""
    model, expected = converted(folder, out), torch.load(folder / "expected.pt")
    tokens, keep = expected["input_ids"], expected["attention_mask"].bool()
    head = HEAD if HEAD in model.classification_heads else None
    options = {"classification_head_name": head, "return_all_hiddens": True}
    logits, extra = model(tokens, **options)
    hidden = [each.transpose(0, 1) for each in extra["inner_states"]]
    assert len(hidden) == len(expected["hidden"])
    pairs = [(ours[keep], port[keep]) for ours, port in zip(hidden, expected["hidden"])]
    theirs = expected["logits"]
    pairs.append((logits, theirs) if head else (logits[keep], theirs[keep]))
    return max(relative_error(ours, port) for ours, port in pairs)


if __name__ == "__main__":  # FOLDER OUT: all cases that parity/huggingface/make.py made in FOLDER
    for case in sorted(Path(sys.argv[1]).iterdir()):
        print(f"{case.name:24} {difference(case, Path(sys.argv[2]) / case.name):.1e}")
