"""The sections of the page of ``python -m fairseq_mega inspect``."""

from typing import Any, Dict, List, NamedTuple, Tuple

from .memory import GATES, Gate, Kernel, Spans, gates_of, kernels_of, spans_of
from .page import Picture, Section, Table
from .weight_pictures import (
    LONGEST_BIAS,
    bias_figure,
    bias_rows,
    gate_figure,
    gate_rows,
    kernel_figure,
    kernel_rows,
    memory_figure,
    memory_rows,
)
from .weights import Inspected, Layer

MEMORY = """After as many tokens as its half-life, an EMA dimension has forgotten half of what it
has read: ln 2 / −ln q. A row is a layer, its height how many dimensions of how many channels have
that half-life. Above the line is the EMA that reads from the start to the end, below it, hatched,
the one that reads backwards, which encoders alone have. The mark | is the median, ◇ the longest.
Long half-lives matter only where their weight in the kernel (in the CSV) is not small."""
KERNELS = """With which weight a token enters the average, by its offset from where it is read (0:
the token itself): those before it on the left (forward EMA), those after it on the right (backward
EMA). The strongest channel is that of the largest sum of squared weights, the longest that whose
squared weights lie farthest back in the mean; in each direction they may be different channels."""
GATE_NOTE = """Weights alone say no more than this of a gate: its value where the input to its
projection is zero, which is set by its bias, and the norm of the weights of each channel, how far a
text moves it from there (for inputs of unit variance, the standard deviation before the gate's
function). Boxes are the middle half of the channels, whiskers from 5% to 95%, the line their
median."""
BIAS = f"""What is added to the scores of a query and a key by the key's offset: a key before the
query has a negative one. Offsets up to the chunk, and up to {LONGEST_BIAS}. Under a softmax only
differences between offsets matter, not the level."""


def inspect_sections(found: Inspected, prefix: str = "") -> List[Section]:
    """What a checkpoint holds, in tables, and what it remembers, in pictures."""
    text, numbers = [_in_short(found)], numbers_of(found)
    title = f"{found.architecture}: {found.path}"
    return [
        Section(title, text, _memory_pictures(found.layers, numbers), prefix),
        Section("Gates and positions", [], _other_pictures(found.layers, numbers), prefix),
        Section("Model and training", [], _tables(found), prefix),
    ]


class Numbers(NamedTuple):
    """What the pictures show."""

    spans: List[Spans]
    kernels: List[Kernel]
    gates: List[Gate]
    biases: List[Tuple]  # rows of the CSV


def numbers_of(found: Inspected) -> Numbers:
    layers = found.layers
    return Numbers(
        [each for layer in layers for each in spans_of(layer)],
        [each for layer in layers for each in kernels_of(layer)],
        [each for layer in layers for each in gates_of(layer)],
        bias_rows(layers),
    )


def _in_short(found: Inspected) -> str:
    said = [f"{sum(found.parts.values()):,} parameters", f"{len(found.layers)} Mega layers"]
    said += [f"{name} {value!s:.20}" for name, value in list(found.training.items())[:4]]
    return "; ".join(said) + "."


def _tables(found: Inspected) -> List:
    total = sum(found.parts.values())
    parts: List[Tuple] = [("part", "parameters", "% of all")]
    parts += [(part, count, 100 * count / total) for part, count in found.parts.items()]
    parts.append(("all", total, 100.0))
    model = {"architecture": found.architecture, "task": found.task, **found.options}
    return [
        Table("options", "Model", [("option", "value"), *_texts(model)]),
        Table("training", "Training", [("", "value"), *_texts(found.training)]),
        Table("parameters", "Parameters", parts),
        Table("layers", "Memory of each layer", _span_table(found.layers)),
    ]


def _texts(values: Dict[str, Any]) -> List[Tuple[str, str]]:
    """A checkpoint may hold anything: as texts, and short ones."""
    return [(name, f"{value!s:.80}") for name, value in values.items()]


def _span_table(layers: List[Layer]) -> List[Tuple]:
    rows: List[Tuple] = [
        ("layer", "direction", "median half-life, tokens", "longest half-life, tokens", "channels",
         "dimensions", "chunk size")
    ]  # fmt: skip
    for layer in layers:
        chunk = layer.chunk_size if layer.chunk_size > 0 else "none"
        for each in spans_of(layer):
            size = tuple(each.half_lives.shape)
            rows.append((layer.name, each.direction, each.median, each.longest, *size, chunk))
    return rows


def _memory_pictures(layers: List[Layer], numbers: Numbers) -> List:
    spans, kernels = numbers.spans, numbers.kernels
    chunks = {layer.side: layer.chunk_size for layer in layers if layer.chunk_size > 0}
    truncation = max(layer.truncation for layer in layers)
    cut = f" Kernels are cut to {truncation} taps (--truncation-length)." if truncation else ""
    return [
        Picture("memory", "Memory spans", MEMORY, memory_figure(spans, chunks), memory_rows(spans)),
        Picture(
            "kernels", "Kernels", KERNELS + cut, kernel_figure(kernels), kernel_rows(kernels)
        ),
    ]  # fmt: skip


def _other_pictures(layers: List[Layer], numbers: Numbers) -> List:
    gates, rows = numbers.gates, numbers.biases
    kinds = {each.gate for each in gates}
    legend = " ".join(f"{name}: {what}." for name, what in GATES.items() if name in kinds)
    pictures = [
        Picture("gates", "Gates", f"{GATE_NOTE} {legend}", gate_figure(gates), gate_rows(gates))
    ]
    if len(rows) > 1:
        pictures.append(Picture("bias", "Relative bias", BIAS, bias_figure(layers), rows))
    return pictures
