"""Host time of Mega next to fairseq's Transformer: what a step costs before it computes anything.

    python examples/benchmark/host.py [--compile-layers]

Models are so small (D 16, 8 tokens) that almost all time goes to Python and to launching
operators, as it does on a GPU in small trainings. Both sides run interleaved in one process on one
thread; times are medians. Also compares ``mega_adam`` with ``adam``, and counts the operators that
a forward pass launches (views excluded).
"""

import argparse
import logging
import statistics
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Callable, Dict, List

import torch
from fairseq.dataclass.configs import FairseqConfig
from fairseq.optim import OPTIMIZER_DATACLASS_REGISTRY, build_optimizer
from omegaconf import OmegaConf
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
logging.disable(logging.INFO)  # of fairseq and hydra
warnings.simplefilter("ignore", UserWarning)  # of torch, about how fairseq uses it

from examples.benchmark.models import Built, beam_step, build  # noqa: E402

WORDS, LENGTH = 40, 8
ROUNDS, STEPS = 30, 5  # medians of 30 rounds; a round is 5 steps of each side
SENTENCES = 2  # of a beam search
MEGA = dict(embed_dim=16, hidden_dim=32, ffn_embed_dim=32, z_dim=8, n_dim=4)
TRANSFORMER = dict(embed_dim=16, ffn_embed_dim=32, attention_heads=2)
ENDS = dict(decoder_input_dim=16, decoder_output_dim=16)
# Every kind of dropout that a side has, as in both models' recipes for WMT and WikiText-103.
DROPOUTS = dict(dropout=0.1, attention_dropout=0.1, activation_dropout=0.1)
MEGA_DROPOUTS = dict(DROPOUTS, hidden_dropout=0.1)
COMPILED: Dict[str, bool] = {}  # options of Mega's models that the command line asks for

Step = Callable[[], object]


def model(kind: str, side: str) -> Built:
    """A model for translation or language modeling: Mega, or fairseq's Transformer."""
    sizes = MEGA if side == "mega" else TRANSFORMER
    options = {**MEGA_DROPOUTS, **COMPILED} if side == "mega" else {**DROPOUTS, **ENDS}
    parts = ["decoder"]
    if kind == "translation":
        parts = ["encoder"] if side == "mega" else ["encoder", "decoder"]
    else:
        options |= dict(tokens_per_sample=LENGTH, max_target_positions=LENGTH)
    options |= {f"{part}_{name}": size for part in parts for name, size in sizes.items()}
    return build(f"{side}_{'wmt_en_de' if kind == 'translation' else 'lm'}", WORDS, options)


def tokens() -> Tensor:
    return torch.arange(4, 4 + LENGTH).unsqueeze(0)


def training_step(kind: str, side: str) -> Dict[str, Step]:
    """The forward pass alone, and both passes."""
    built, net_input = model(kind, side), {"src_tokens": tokens()}
    net_input["src_lengths"] = torch.tensor([LENGTH])
    if kind == "translation":
        net_input["prev_output_tokens"] = tokens()
    sample = {"net_input": net_input, "target": tokens(), "ntokens": LENGTH}
    parameters = list(built.model.train().parameters())

    def forward():
        return built.criterion(built.model, sample)[0]

    def both():
        for parameter in parameters:  # as fairseq's optimizers
            parameter.grad = None
        forward().backward()

    return {"forward": forward, "step": both}


def beam_search(side: str) -> Dict[str, Step]:
    sentences, lengths = tokens().expand(SENTENCES, -1), torch.full((SENTENCES,), LENGTH)
    step = beam_step(model("translation", side).model.eval(), sentences, lengths)
    return {"forward": step, "step": step}


def update(optimizer: str) -> Step:
    """Clips the gradients of the translation model and updates its weights."""
    parameters = list(model("translation", "mega").model.parameters())
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    cfg = OmegaConf.structured(FairseqConfig)
    cfg.optimization.lr = [1e-3]
    options = OmegaConf.structured(OPTIMIZER_DATACLASS_REGISTRY[optimizer])
    cfg.optimizer = OmegaConf.merge(options, {"_name": optimizer, "weight_decay": 0.01})
    built = build_optimizer(cfg.optimizer, parameters)

    def step():
        built.clip_grad_norm(1.0)
        built.step()

    return step


CASES = {
    "translation": partial(training_step, "translation"),
    "language model": partial(training_step, "language model"),
    "beam search": beam_search,
}


def seconds(sides: List[Step]) -> List[float]:
    """The median time of each side's step, the sides interleaved."""
    times: List[List[float]] = [[] for _ in sides]
    for _ in range(ROUNDS):
        for side, found in zip(sides, times):
            start = time.perf_counter()
            for _ in range(STEPS):
                side()
            found.append((time.perf_counter() - start) / STEPS)
    return [statistics.median(found) for found in times]


class OperatorCount(TorchDispatchMode):
    """Counts the operators that run inside it, views and uninitialised memory excluded."""

    FREE = {"empty", "empty_like", "new_empty", "empty_strided", "_unsafe_view", "detach"}

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.total += not (func.is_view or func.overloadpacket.__name__ in self.FREE)
        return func(*args, **(kwargs or {}))


def operators(step: Step) -> int:
    with OperatorCount() as count:
        step()
    return count.total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compile-layers", action="store_true", help="Mega's layers are compiled")
    args = parser.parse_args()
    COMPILED["compile_layers"] = args.compile_layers
    torch.set_num_threads(1)
    print("| step | Mega | Transformer | ratio | operators | Transformer's |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, make in CASES.items():
        mega, transformer = (make(side) for side in ("mega", "transformer"))
        for side in (mega, transformer):
            for _ in range(2 * LENGTH):
                side["step"]()
        ours, theirs = seconds([mega["step"], transformer["step"]])
        counts = [operators(side["forward"]) for side in (mega, transformer)]
        print(
            f"| {name} | {1e3 * ours:.2f} ms | {1e3 * theirs:.2f} ms | {ours / theirs:.2f} "
            f"| {counts[0]} | {counts[1]} |",
            flush=True,
        )
    ours, theirs = (update(name) for name in ("mega_adam", "adam"))
    ours(), theirs()
    a, b = seconds([ours, theirs])
    print(
        f"\nUpdate of Mega's translation model: mega_adam {1e3 * a:.2f} ms, adam {1e3 * b:.2f} ms, "
        f"ratio {a / b:.2f}; operators {operators(ours)} and {operators(theirs)}"
    )


if __name__ == "__main__":
    main()
