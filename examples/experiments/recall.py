"""Measures how far back a language model recalls a word: Mega in chunks, with published and with
spread initial memories and with a truncated EMA, and fairseq's Transformer with a window of one
chunk.

    python examples/experiments/recall.py            some minutes on two CPU cores
    python examples/experiments/recall.py --quick    tiny, in seconds: only that it runs

A sample is one of eight values somewhere in a text of random words, and a query at its end, to be
answered with the value. All models see the same samples in the same number of updates; distances
grow in stages. Prints accuracies, and writes them to results.md in the output folder.
"""

import argparse
import logging
import math
import shlex
import sys
import time
import warnings
from pathlib import Path
from typing import Callable, Iterator, NamedTuple

import torch
import torch.nn.functional as F
from fairseq import options
from fairseq.data import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.tasks.language_modeling import LanguageModelingTask
from torch import Generator, Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
warnings.simplefilter("ignore", UserWarning)  # of torch, about how fairseq uses it

import fairseq_mega  # noqa: E402, F401 - registers the models
from examples.quickstart.demo import table  # noqa: E402

VALUES = [f"value{i}" for i in range(8)]
WORDS = [f"word{i}" for i in range(8)]
QUERY = "query"
PIECE = 4096  # tokens that a stream reads at a time


class Scale(NamedTuple):
    """Sizes of the experiment."""

    chunk: int  # within which values have their places
    first: int  # the longest distance of the first stage, doubled from stage to stage
    longest: int  # of the last two stages
    updates: int  # of a stage
    lines: int  # of a batch, where its tokens allow
    tokens: int  # of a batch
    tested: int  # lines for each distance

    @property
    def stages(self) -> list[int]:
        doubled = [self.first << i for i in range(int(math.log2(self.longest / self.first)) + 1)]
        return [*doubled, self.longest]


FULL = Scale(chunk=64, first=16, longest=4096, updates=240, lines=32, tokens=8192, tested=128)
QUICK = Scale(chunk=8, first=4, longest=16, updates=3, lines=4, tokens=64, tested=8)
RATE = 1.5e-2

_MEGA = (
    "--arch mega_lm --decoder-layers 2 --decoder-embed-dim 64 --decoder-hidden-dim 128 "
    "--decoder-ffn-embed-dim 128 --decoder-z-dim 32 --decoder-n-dim 8 --decoder-chunk-size {chunk} "
    "--decoder-chunks-before {before} --rel-pos-bias rotary --normalize-before "
    "--weight-init xavier --dropout 0"
)
MODELS = {
    "mega": f"{_MEGA} --truncation-length 0",
    "mega-spread": f"{_MEGA} --truncation-length 0 --ema-init spread --ema-longest {{longest}}",
    "mega-cut": f"{_MEGA} --truncation-length {{cut}}",
    "transformer": "--arch transformer_lm --decoder-layers 2 --decoder-embed-dim 64 "
    "--decoder-input-dim 64 --decoder-output-dim 64 --decoder-attention-heads 4 "
    "--decoder-ffn-embed-dim 288 --decoder-normalize-before --dropout 0",
}
STREAMED = ("mega", "mega-spread")  # tested with a state; a truncated EMA carries more in one


def samples(
    words: Dictionary, distance: int, lines: int, offset: int, draw: Generator
) -> tuple[Tensor, Tensor]:
    """Texts ``(lines, offset + distance)`` that end with the query, and the values ``(lines,)``
    that answer it: the token after the query, ``distance`` behind the value."""
    fillers, values = (torch.tensor([words.index(w) for w in each]) for each in (WORDS, VALUES))
    texts = fillers[torch.randint(len(WORDS), (lines, offset + distance), generator=draw)]
    answers = values[torch.randint(len(VALUES), (lines,), generator=draw)]
    texts[:, offset] = answers
    texts[:, -1] = words.index(QUERY)
    return texts, answers


def training_batches(words: Dictionary, scale: Scale, seed: int) -> Iterator[tuple]:
    """Batches with the longest distance of their stage. Long distances are more frequent than
    evenly by the logarithm; values stand anywhere in a chunk, so that short distances too cross
    from one chunk to the next."""
    draw = Generator().manual_seed(seed)
    for longest in scale.stages:
        for _ in range(scale.updates):
            share = torch.rand((), generator=draw).item() ** 0.4
            distance = round(2 * (longest / 2) ** share)
            lines = max(2, min(scale.lines, scale.tokens // (distance + scale.chunk // 2)))
            yield longest, *samples(words, distance, lines, below(scale.chunk, draw), draw)


def below(size: int, draw: Generator) -> int:
    return int(torch.randint(size, (), generator=draw))


def build(name: str, scale: Scale, seed: int, **sizes: int):
    """The model, built as ``fairseq-train`` builds it; ``sizes`` fill the places in ``MODELS``."""
    chosen = MODELS[name].format(cut=scale.chunk // 2, **sizes)
    task = f"data --task language_modeling --tokens-per-sample {scale.chunk} {chosen}"
    args = options.parse_args_and_arch(options.get_training_parser(), shlex.split(task))
    cfg = convert_namespace_to_omegaconf(args)
    words = Dictionary()
    for word in [*VALUES, *WORDS, QUERY]:
        words.add_symbol(word)
    torch.manual_seed(seed)
    return LanguageModelingTask(cfg.task, words, words).build_model(cfg.model)


def stream(model, texts: Tensor) -> Tensor:
    """Scores ``(lines, V)`` of the token after each text, of which only the state is carried."""
    state = model.start(len(texts))
    for piece in texts.split(PIECE, dim=1):
        state.read(piece)
    return state.predict()


def train(name: str, model, scale: Scale, seed: int) -> None:
    """Uses Adam; the learning rate falls to 0 in the last two fifths."""
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98))
    total, start, right, seen = scale.updates * len(scale.stages), time.time(), 0, 0
    batches = training_batches(model.decoder.dictionary, scale, seed)
    for update, (longest, texts, values) in enumerate(batches, 1):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, update / 50, 2.5 * (1 - update / total))
        scores = last_scores(name, model, texts, scale)
        optimizer.zero_grad()
        F.cross_entropy(scores, values).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        right, seen = right + int((scores.argmax(-1) == values).sum()), seen + len(values)
        if update % scale.updates == 0:
            spent = time.time() - start
            print(f"{name}: distances to {longest}, {right / seen:.1%} right, {spent:.0f} s")
            right = seen = 0


def last_scores(name: str, model, texts: Tensor, scale: Scale) -> Tensor:
    """Scores of the token after each text, in one parallel pass. Mega's texts start with ``</s>``,
    as its streams do."""
    if name == "transformer":
        texts = texts[:, -scale.chunk :]
    else:
        texts = F.pad(texts, (1, 0), value=model.decoder.dictionary.eos())
    features, _ = model(texts, features_only=True)
    return model.decoder.output_layer(features[:, -1])


@torch.no_grad()
def accuracy(
    name: str, model, scale: Scale, distance: int, draw: Generator, place: Callable[[], int]
) -> float:
    """The share of values recalled over a distance; each batch has its place in a chunk."""
    right, batch = 0, 8
    for _ in range(scale.tested // batch):
        texts, values = samples(model.decoder.dictionary, distance, batch, place(), draw)
        streamed = name in STREAMED
        scores = stream(model, texts) if streamed else last_scores(name, model, texts, scale)
        right += int((scores.argmax(-1) == values).sum())
    return right / scale.tested


def test(name: str, model, scale: Scale, seed: int) -> dict[str, float]:
    """Accuracies by distance; and over the longest, by the place of the value among ``scale.chunk``
    places: later tokens of its chunk attend to it, so the state gets more of an early value."""
    draw, chunk = Generator().manual_seed(seed + 1), scale.chunk
    distances = [4 << i for i in range(int(math.log2(scale.longest / 2)))]
    found = {
        f"{distance:,}": accuracy(name, model, scale, distance, draw, lambda: below(chunk, draw))
        for distance in distances
    }
    draw = Generator().manual_seed(seed + 3)
    for place in (0, chunk // 2, chunk * 7 // 8, chunk - 1):
        share = accuracy(name, model, scale, scale.longest, draw, lambda place=place: place)
        found[f"{scale.longest:,} from place {place}"] = share
    return found


def longest_memories(model) -> list[int]:
    """The longest time in which a dimension of each layer's EMA decays to 1/e, in tokens."""
    moves = (layer.mega_layer.move for layer in model.decoder.layers)
    return [round(float((-1 / move.directions()[0].log_decay).max())) for move in moves]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "recall")
    parser.add_argument("--quick", action="store_true", help="tiny: only that it runs")
    parser.add_argument("--only", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--updates", type=int, help="of each stage")
    parser.add_argument("--chunk-size", type=int, help="of Mega (64)")
    parser.add_argument("--chunks-before", type=int, default=0, help="that Mega attends to (0)")
    parser.add_argument("--ema-longest", type=int, default=4096, help="of mega-spread (4096)")
    parser.add_argument("--seed", type=int, default=1, help="of weights and samples")
    args = parser.parse_args()
    logging.disable(logging.INFO)  # of fairseq and hydra
    scale = QUICK if args.quick else FULL
    scale = scale._replace(updates=args.updates or scale.updates)
    sizes = dict(
        chunk=args.chunk_size or scale.chunk, before=args.chunks_before, longest=args.ema_longest
    )
    results, notes = {}, []
    for name in args.only:
        model, start = build(name, scale, args.seed, **sizes), time.time()
        train(name, model.train(), scale, args.seed)
        notes.append(
            f"{name}: {sum(p.numel() for p in model.parameters()):,} parameters, trained in "
            f"{time.time() - start:.0f} s"
        )
        results[name] = test(name, model.eval(), scale, args.seed)
        if name != "transformer":
            with torch.no_grad():
                notes[-1] += f", longest memories of its layers in tokens {longest_memories(model)}"
    rows = [("distance", *results)]
    for distance in results[args.only[0]]:
        rows.append((distance, *(f"{result[distance]:.1%}" for result in results.values())))
    text = "\n".join([table(rows), f"\nChance is {1 / len(VALUES):.1%}.", *notes, ""])
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.md").write_text(text)
    print(f"\n{text}\nWritten to {args.out}.")


if __name__ == "__main__":
    main()
