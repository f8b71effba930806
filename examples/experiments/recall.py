"""How far back a language model can recall a word: Mega in chunks, with and without what its EMA
carries from chunk to chunk, with the published initial memories and with spread ones, and fairseq's
Transformer with a window of one chunk.

    python examples/experiments/recall.py            some minutes on two CPU cores
    python examples/experiments/recall.py --quick    tiny, in seconds: only that it runs
    python examples/experiments/recall.py --only mega-spread --texts 100000

A sample is one of a few values somewhere in a text of random words, and a query at its end, to be
answered with the value. All models see the same samples in the same number of updates; their
distances grow in stages. Prints a table of accuracies, and writes it to the output folder with
results.json and chart.png.
"""

import argparse
import json
import logging
import math
import shlex
import sys
import time
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Tuple

import torch
import torch.nn.functional as F
from fairseq import options
from fairseq.data import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.tasks.language_modeling import LanguageModelingTask
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
logging.disable(logging.INFO)  # of fairseq and hydra
warnings.simplefilter("ignore", UserWarning)  # of torch, about how fairseq uses it

import fairseq_mega  # noqa: E402, F401 - registers the models
from fairseq_mega.models.config import EMA_LONGEST  # noqa: E402

VALUES, WORDS = 8, 8
SPECIAL = 4  # fairseq's entries of every dictionary
QUERY = SPECIAL + VALUES + WORDS


@dataclass(frozen=True)
class Scale:
    """How large the experiment is."""

    chunk: int
    first: int  # the longest distance of the first stage, doubled from stage to stage
    longest: int  # of the last two stages
    updates: int  # of a stage
    lines: int  # of a batch, where its tokens allow
    tokens: int  # of a batch
    tested: int  # lines for each distance
    learning_rate: float = 1.5e-2
    seed: int = 1  # of weights and samples

    @property
    def stages(self) -> List[int]:
        doubled = [self.first << i for i in range(int(math.log2(self.longest / self.first)) + 1)]
        return [*doubled, self.longest]

    @property
    def distances(self) -> List[int]:
        """Those that are tested, up to the longest of the training."""
        return [4 << i for i in range(int(math.log2(self.longest / 2)))]


FULL = Scale(chunk=64, first=16, longest=4096, updates=240, lines=32, tokens=8192, tested=128)
QUICK = Scale(chunk=8, first=4, longest=16, updates=3, lines=4, tokens=64, tested=8)

_MEGA = (
    "--arch mega_lm --decoder-layers 2 --decoder-embed-dim 64 --decoder-hidden-dim 128 "
    "--decoder-ffn-embed-dim 128 --decoder-z-dim 32 --decoder-n-dim 8 --decoder-chunk-size {chunk} "
    "--rel-pos-bias rotary --normalize-before --weight-init xavier --dropout 0"
)
MODELS = {
    "mega": f"{_MEGA} --truncation-length 0",
    "mega-spread": f"{_MEGA} --truncation-length 0 --ema-init spread --ema-longest {{longest}}",
    "mega-cut": f"{_MEGA} --truncation-length {{cut}}",
    "transformer": "--arch transformer_lm --decoder-layers 2 --decoder-embed-dim 64 "
    "--decoder-input-dim 64 --decoder-output-dim 64 --decoder-attention-heads 4 "
    "--decoder-ffn-embed-dim 288 --decoder-normalize-before --dropout 0",
}
STREAMED = ("mega", "mega-spread")  # their tests carry a state


# --- samples --------------------------------------------------------------------------------------


def samples(distance: int, lines: int, offset: int, draw: torch.Generator) -> Tuple[Tensor, Tensor]:
    """Texts ``(lines, offset + distance)`` that end with the query, and the values ``(lines,)``
    that are its answers: the token after the query, ``distance`` behind the value."""
    texts = torch.randint(SPECIAL + VALUES, QUERY, (lines, offset + distance), generator=draw)
    values = torch.randint(SPECIAL, SPECIAL + VALUES, (lines,), generator=draw)
    texts[:, offset] = values
    texts[:, -1] = QUERY
    return texts, values


def training_batches(scale: Scale) -> Iterator[Tuple[int, Tensor, Tensor]]:
    """Batches with the longest distance of their stage. Distances go from 2 to that, the long ones
    more often than by their logarithms; values stand anywhere in a chunk, so that short distances
    too cross from one chunk to the next."""
    draw = torch.Generator().manual_seed(scale.seed)
    for longest in scale.stages:
        for _ in range(scale.updates):
            share = torch.rand((), generator=draw).item() ** 0.4
            distance = round(2 * (longest / 2) ** share)
            lines = max(2, min(scale.lines, scale.tokens // (distance + scale.chunk // 2)))
            yield longest, *samples(distance, lines, offset_in(scale.chunk, draw), draw)


def offset_in(chunk: int, draw: torch.Generator) -> int:
    return int(torch.randint(chunk, (), generator=draw))


# --- models ---------------------------------------------------------------------------------------


def options_of(name: str, chunk: int, longest: int) -> str:
    return MODELS[name].format(chunk=chunk, cut=chunk // 2, longest=longest)


def build(name: str, chunk: int, seed: int = 1, longest: int = EMA_LONGEST):
    """The model of these options, built as ``fairseq-train`` builds it."""
    words = shlex.split(options_of(name, chunk, longest))
    words = ["data", "--task", "language_modeling", "--tokens-per-sample", str(chunk), *words]
    args = options.parse_args_and_arch(options.get_training_parser(), words)
    cfg = convert_namespace_to_omegaconf(args)
    dictionary = Dictionary()
    for i in range(QUERY + 1 - SPECIAL):
        dictionary.add_symbol(f"w{i}")
    torch.manual_seed(seed)
    return LanguageModelingTask(cfg.task, dictionary, dictionary).build_model(cfg.model)


def answers(name: str, model, texts: Tensor, chunk: int) -> Tensor:
    """Scores ``(lines, V)`` of the token after each text."""
    if name == "transformer":
        texts = texts[:, -chunk:]
    if name in STREAMED and not model.training:
        features = read_in_segments(model, texts)
    else:  # the cut holds in the parallel form alone
        features, _ = model(texts, features_only=True)
    return model.decoder.output_layer(features[:, -1])


def read_in_segments(model, texts: Tensor) -> Tensor:
    """Features of the last segment; only the state is carried from one to the next."""
    state = {}
    length, segment = texts.size(1), model.segment_length
    for end in range(segment, length + segment, segment):
        features, _ = model(texts[:, :end], incremental_state=state, features_only=True)
    return features


def train(name: str, model, scale: Scale) -> None:
    """With Adam and one learning rate for all, which falls to 0 in the last two fifths."""
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98))
    updates, start, right, seen = scale.updates * len(scale.stages), time.time(), 0, 0
    for update, (longest, texts, values) in enumerate(training_batches(scale), 1):
        rate = scale.learning_rate * min(1, update / 50, 2.5 * (1 - update / updates))
        for group in optimizer.param_groups:
            group["lr"] = rate
        scores = answers(name, model, texts, scale.chunk)
        optimizer.zero_grad()
        F.cross_entropy(scores, values).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        right, seen = right + int((scores.argmax(-1) == values).sum()), seen + len(values)
        if update % scale.updates == 0:
            seconds = time.time() - start
            print(f"{name}: distances to {longest}, {right / seen:.1%} right, {seconds:.0f} s")
            right = seen = 0


@torch.no_grad()
def accuracy(
    name: str, model, scale: Scale, draw: torch.Generator, place: Callable[[], Tuple[int, int]]
) -> float:
    """Of batches whose distance and offset ``place`` gives."""
    right, batch = 0, 8
    for _ in range(scale.tested // batch):
        distance, offset = place()
        texts, values = samples(distance, batch, offset, draw)
        scores = answers(name, model, texts, scale.chunk)
        right += int((scores.argmax(-1) == values).sum())
    return right / scale.tested


def test(name: str, model, scale: Scale) -> Dict[int, float]:
    """Accuracy at each distance, on the same new samples for every model; each batch has its place
    in the chunk."""
    draw = torch.Generator().manual_seed(scale.seed + 1)
    return {
        n: accuracy(name, model, scale, draw, lambda n=n: (n, offset_in(scale.chunk, draw)))
        for n in scale.distances
    }


def test_texts(name: str, model, scale: Scale, lengths: List[int]) -> Dict[int, float]:
    """Accuracy in texts of each length, with the value at a random place; models that carry no
    state are not asked."""
    draw = torch.Generator().manual_seed(scale.seed + 2)

    def place(length: int) -> Tuple[int, int]:
        distance = int(torch.randint(2, length + 1, (), generator=draw))
        return distance, length - distance

    asked = lengths if name in STREAMED else []
    return {n: accuracy(name, model, scale, draw, lambda n=n: place(n)) for n in asked}


def test_places(name: str, model, scale: Scale) -> Dict[int, float]:
    """Accuracy at the longest distance, by the value's place in its chunk: the tokens after it in
    the chunk attend to it, so that the state gets more of an early one."""
    draw, chunk = torch.Generator().manual_seed(scale.seed + 3), scale.chunk
    places = (0, chunk // 2, chunk * 7 // 8, chunk - 1) if name in STREAMED else ()
    return {n: accuracy(name, model, scale, draw, lambda n=n: (scale.longest, n)) for n in places}


@torch.no_grad()
def longest_memories(model) -> List[int]:
    """The longest times in which a dimension of each layer's EMA decays to 1/e, in tokens."""
    moves = (layer.mega_layer.move for layer in model.decoder.layers)
    return [round(float((-1 / move.directions()[0].log_decay).max())) for move in moves]


# --- report ---------------------------------------------------------------------------------------


def table(results: Dict[str, Dict], chunk: int) -> str:
    """Markdown: a row for each distance."""
    rows = [("distance", "chunks", *results), ("---:",) * (2 + len(results))]
    for distance in next(iter(results.values()))["accuracy"]:
        right = (f"{result['accuracy'][distance]:.1%}" for result in results.values())
        rows.append((f"{distance:,}", f"{distance / chunk:.3g}", *right))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def chart(path: Path, results: Dict[str, Dict], scale: Scale) -> str:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "No chart: matplotlib is not installed."
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, result in results.items():
        axes.plot(*zip(*result["accuracy"].items()), marker="o", label=name)
    axes.axhline(1 / VALUES, color="gray", linestyle=":", label="chance")
    axes.axvspan(scale.distances[0], scale.chunk, alpha=0.1, label="one chunk")
    axes.set(xscale="log", xlabel="distance in tokens", ylabel="accuracy", ylim=(0, 1.03))
    axes.set_xticks(scale.distances, [str(distance) for distance in scale.distances], rotation=45)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    return f"Written to {path.parent}."


def write_report(out: Path, results: Dict[str, Dict], scale: Scale) -> str:
    """Writes results.json, results.md and chart.png; returns the text."""
    out.mkdir(parents=True, exist_ok=True)
    content = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "scale": asdict(scale),
        "chance": 1 / VALUES,
        "models": results,
    }
    (out / "results.json").write_text(json.dumps(content, indent=1) + "\n")
    lines = [f"{table(results, scale.chunk)}\n\nChance is {1 / VALUES:.1%}."]
    for name, result in results.items():
        memory = result.get("longest_memories", "none")
        lines.append(
            f"{name}: {result['parameters']:,} parameters, trained in {result['seconds']} s, "
            f"longest memories of its layers' EMAs in tokens: {memory}."
        )
        if result["places"]:
            shares = ", ".join(f"{share:.1%} at {n}" for n, share in result["places"].items())
            lines.append(
                f"{name}: over {scale.longest:,} tokens, by the place of the value in its chunk: "
                f"{shares}."
            )
        for length, share in result["texts"].items():
            lines.append(f"{name}: in texts of {length:,} tokens, from random places, {share:.1%}.")
    text = "\n".join(lines) + "\n"
    (out / "results.md").write_text(text)
    return text + "\n" + chart(out / "chart.png", results, scale)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "recall")
    parser.add_argument("--quick", action="store_true", help="tiny: only that it runs")
    parser.add_argument("--only", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--updates", type=int, help="of each stage")
    parser.add_argument(
        "--ema-longest", type=int, default=EMA_LONGEST, help=f"of mega-spread ({EMA_LONGEST})"
    )
    parser.add_argument("--seed", type=int, default=1, help="of weights and samples")
    parser.add_argument(
        "--texts", type=int, nargs="+", default=[], metavar="TOKENS",
        help=f"also test {' and '.join(STREAMED)} on texts so long, the value at a random place",
    )  # fmt: skip
    args = parser.parse_args()
    if any(length < 2 for length in args.texts):
        parser.error("--texts: a text has a value and a query: at least 2 tokens")
    scale = replace(QUICK if args.quick else FULL, seed=args.seed)
    if args.updates is not None:
        scale = replace(scale, updates=args.updates)
    results = {}
    for name in args.only:
        model = build(name, scale.chunk, scale.seed, args.ema_longest)
        start = time.time()
        train(name, model.train(), scale)
        seconds = round(time.time() - start)
        results[name] = {
            "options": options_of(name, scale.chunk, args.ema_longest),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "seconds": seconds,
            "accuracy": test(name, model.eval(), scale),
            "places": test_places(name, model, scale),
            "texts": test_texts(name, model, scale, args.texts),
        }
        if name != "transformer":
            results[name]["longest_memories"] = longest_memories(model)
    print("\n" + write_report(args.out, results, scale))


if __name__ == "__main__":
    main()
