"""Figures of attention weights and surprisal, and the page of ``attend``."""

from typing import List, Optional, Tuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from .attention import AttentionMap, Surprisal
from .page import Part
from .style import COLOURS, add_legend, panels, styled

MOST_WORDS = 70  # on an axis of a map; longer axes show positions
STRIP, MOST_STRIPS = 64, 8  # tokens in a row of surprisals; rows that show words

SELF = """Rows are tokens that attend, columns the tokens they attend to. Masked entries are white:
later tokens in a decoder, and chunks out of reach; lines are the borders of chunks. A row sums to 1
with softmax, and to any value with relu2 and laplace."""
CROSS = """An alignment: rows are tokens of the translation, columns tokens of the source."""
SURPRISAL = """How unexpected each token was: −log₂ of its probability. Dotted lines are borders of
chunks."""
DIFFERENCE = """How many more bits a token takes if every chunk is read from an empty state. Above
0, the states of the EMAs helped, and with --decoder-chunks-before also attention to earlier
chunks."""


def attend_parts(maps: List[AttentionMap], surprisal: Optional[Surprisal]) -> List[Part]:
    """Returns the parts of a sample's page."""
    parts = []
    if surprisal is not None:
        text, rows = f"{SURPRISAL} {mean_bits(surprisal)}", surprisal_rows(surprisal)
        parts.append(Part("surprisal", "Surprisal", text, rows, surprisal_figure(surprisal)))
        figure = difference_figure(surprisal)
        parts.append(Part("difference", "What the EMAs carried", DIFFERENCE, rows, figure))
    for each in maps:
        text = CROSS if each.layer.startswith("cross") else SELF
        name = each.layer.replace(" ", "-")
        parts.append(Part(name, f"Attention: {each.layer}", text, map_rows(each), map_figure(each)))
    return parts


# --- maps ---------------------------------------------------------------------------------------


def map_rows(each: AttentionMap) -> List[Tuple]:
    """Returns a row for each query, its token and weights; the head has the tokens of the keys."""
    rows: List[Tuple] = [("query", *each.keys)]
    return rows + [(word, *row) for word, row in zip(each.queries, each.weights.tolist())]


@styled()
def map_figure(each: AttentionMap) -> Figure:
    """Plots the weights as colours, on a square-root scale, which shows small weights, too."""
    rows, columns = each.weights.shape
    wide, high = (0.13 * n if n <= MOST_WORDS else 4.5 for n in (columns, rows))
    figure, (axes,) = panels(1, 1, (max(2.2 + wide, 4.0), max(1.8 + high, 3.0)))
    seen = np.ma.masked_where(hidden(each), each.weights.float().numpy())
    image = axes.imshow(
        seen,
        cmap=colormaps["cividis"].with_extremes(bad="white"),
        norm=PowerNorm(0.5, 0.0, max(float(seen.max()), 1e-9)),
        interpolation="nearest",
    )
    cross = each.layer.startswith("cross")
    axes.set_xlabel("token of the source" if cross else "token attended to")
    axes.set_ylabel("token predicted" if cross else "token that attends")
    if columns <= MOST_WORDS:
        words = [_printable(word) for word in each.keys]
        axes.set_xticks(range(columns), words, fontsize=7, rotation=90, parse_math=False)
    if rows <= MOST_WORDS:
        words = [_printable(word) for word in each.queries]
        axes.set_yticks(range(rows), words, fontsize=7, parse_math=False)
    for at in _borders(each.chunk_size, 0, rows):
        axes.axvline(at - 0.5, color="black", linewidth=0.8, linestyle="-")
        axes.axhline(at - 0.5, color="black", linewidth=0.8, linestyle="-")
    axes.set_title(f"Attention: {each.layer}")
    axes.grid(False)
    figure.colorbar(image, ax=axes, label="attention weight (square-root scale)")
    return figure


def hidden(each: AttentionMap) -> np.ndarray:
    """Returns the mask ``(L, S)`` of the keys in chunks out of reach, and of later ones in a
    decoder."""
    i, j = np.indices(tuple(each.weights.shape))
    mask = (j > i) & each.layer.startswith("decoder")
    if each.chunk_size > 0:
        mask |= abs(i // each.chunk_size - j // each.chunk_size) > each.chunks_before
    return mask


def _borders(chunk_size: int, start: int, end: int) -> List[int]:
    """Returns the positions from ``start`` to ``end`` at which a chunk but the first begins."""
    borders = range(chunk_size, end, chunk_size) if chunk_size > 0 else ()
    return [at for at in borders if at >= start]


def _printable(word: str) -> str:
    """Shortens a word to 16 characters, without control characters."""
    text = "".join(c if c.isprintable() else "\ufffd" for c in word)
    return text if len(text) <= 16 else text[:15] + "…"


# --- surprisal ----------------------------------------------------------------------------------


def mean_bits(surprisal: Surprisal) -> str:
    tokens, carried, cut, size = surprisal
    text = f"{len(tokens)} tokens, {carried.mean():.3f} bits each on average"
    if not 0 < size < len(tokens):
        return f"{text}; the text has no border of chunks."
    return (
        f"{text}; after the first chunk {carried[size:].mean():.3f} bits with the states of the "
        f"EMAs, and {cut[size:].mean():.3f} with an empty state at every border."
    )


def surprisal_rows(surprisal: Surprisal) -> List[Tuple]:
    tokens, carried, cut, _ = surprisal
    head = ("position", "token", "bits_state_carried", "bits_state_cut", "difference_bits")
    columns = carried.tolist(), cut.tolist(), (cut - carried).tolist()
    return [head, *zip(range(len(tokens)), tokens, *columns)]


@styled()
def surprisal_figure(surprisal: Surprisal) -> Figure:
    """Plots a bar for each token, in rows of ``STRIP`` tokens."""
    tokens, carried, cut, size = surprisal
    figure, axes = panels(-(-len(tokens) // STRIP), 1, (10.0, 2.2))
    for panel, start in zip(axes, range(0, len(tokens), STRIP)):
        end = min(start + STRIP, len(tokens))
        places = range(start, end)
        panel.bar(places, carried[start:end].numpy(), color=COLOURS[6], label="state carried")
        panel.plot(places, cut[start:end].numpy(), "D", color=COLOURS[1], markersize=4,
                   markerfacecolor="none", label="state cut at each border")  # fmt: skip
        if len(tokens) <= MOST_STRIPS * STRIP:
            words = [_printable(word) for word in tokens[start:end]]
            panel.set_xticks(places, words, rotation=90, fontsize=7, parse_math=False)
        panel.set_xlim(start - 1, start + min(STRIP, len(tokens)))
        panel.set_ylabel("surprisal (bits)")
        _mark_borders(panel, size, start, end)
    axes[-1].set_xlabel("token")
    add_legend(figure)
    return figure


@styled()
def difference_figure(surprisal: Surprisal) -> Figure:
    """Plots the bits with the state cut minus those with the state carried, by position."""
    figure, (axes,) = panels(1, 1, (10.0, 2.6))
    difference = (surprisal.cut - surprisal.carried).numpy()
    axes.bar(range(len(difference)), difference, color=COLOURS[2])
    axes.set(xlabel="position (tokens)", ylabel="state cut − state carried (bits)")
    _mark_borders(axes, surprisal.chunk_size, 0, len(difference))
    add_legend(figure)
    return figure


def _mark_borders(axes: Axes, chunk_size: int, start: int, end: int) -> None:
    for at in _borders(chunk_size, start, end):
        axes.axvline(at - 0.5, color="black", linestyle=":", label="border of chunks")
