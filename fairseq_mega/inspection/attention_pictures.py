"""Pictures of what ``attention`` finds, and the sections of the page of ``attend``."""

from typing import TYPE_CHECKING, List, Tuple

import numpy as np

from .attention import Attended, AttentionMap, Surprisal
from .page import Picture, Section
from .style import COLOUR_MAP, COLOURS, grid, shared_legend, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_WORDS = 70  # on an axis; else numbers of positions
STRIP = 50  # tokens of a row of surprisals
MOST_STRIPS = 8
LINE = 256  # tokens of a row where there are more

SELF = """Each row is a token that attends, each column one that it attends to; the tokens are those
that the layer reads. White is what a token may not see: later tokens in a decoder, and other
chunks, whose borders are the lines."""
CROSS = """Each row is a token of the translation as it is predicted, each column one of the source:
the alignment of the two."""
ROWS = {
    "softmax": "A row sums to 1.",
    "relu2": "Each weight is a square by itself: a row sums to any number.",
    "laplace": "Each weight is between 0 and 1 by itself: a row sums to any number.",
}
SURPRISAL = """How unexpected each token was after the tokens before it: −log₂ of its probability.
Dotted lines are borders of chunks: attention sees nothing before them."""
SAVED = """By how many bits a token is less expected when every chunk is read from an empty state.
Attention sees no more than the chunk in either case, so this is what the EMAs carried over the
border; above 0 they helped. The first chunk has nothing before it, and the difference there is 0
but for rounding."""


def attend_sections(attended: Attended, what: str) -> List[Section]:
    """The page of a sample that ``what`` describes."""
    sections = []
    if attended.surprisal is not None:
        text = _means(attended.surprisal)
        sections.append(Section("Surprisal", text, _surprisal_pictures(attended.surprisal)))
    pictures = [
        Picture(
            each.layer.replace(" ", "-"),
            title_of(each),
            f"{CROSS if each.layer.startswith('cross') else SELF} {ROWS[each.function]}",
            map_figure(each),
            map_rows(each),
        )
        for each in attended.maps
    ]
    return [*sections, Section("Attention", [what], [*pictures])]


def title_of(each: AttentionMap) -> str:
    kind, number = each.layer.split()
    if kind == "cross":
        return f"Cross attention of decoder layer {number}: alignment"
    return f"Attention inside {kind} layer {number}"


# --- maps ---------------------------------------------------------------------------------------


def map_rows(each: AttentionMap) -> List[Tuple]:
    """A row for each query: its token, then its weights; the head has the keys' tokens."""
    rows: List[Tuple] = [("query", *each.keys)]
    return rows + [(word, *row) for word, row in zip(each.queries, each.weights.tolist())]


def map_figure(each: AttentionMap) -> "Figure":
    """The weights as colours, on a square-root scale, so that small ones can be seen."""
    from matplotlib import colormaps
    from matplotlib.colors import PowerNorm

    rows, columns = each.weights.shape
    with styled():
        wide, high = (0.13 * n if n <= MOST_WORDS else 4.5 for n in (columns, rows))
        figure, (axes,) = grid(1, 1, (max(2.2 + wide, 4.0), max(1.8 + high, 3.0)))
        seen = np.ma.masked_where(hidden(each), each.weights.float().numpy())
        largest = max(float(seen.max()), 1e-9)
        image = axes.imshow(
            seen,
            cmap=colormaps[COLOUR_MAP].with_extremes(bad="white"),
            norm=PowerNorm(0.5, 0.0, largest),
            interpolation="nearest",
        )
        _word_axes(axes, each)
        for at in range(each.chunk_size, max(rows, columns), max(each.chunk_size, 1)):
            if each.chunk_size > 0:
                axes.axvline(at - 0.5, color="black", linewidth=0.8)
                axes.axhline(at - 0.5, color="black", linewidth=0.8)
        axes.set_title(title_of(each))
        axes.grid(False)
        bar = figure.colorbar(image, ax=axes, shrink=0.8)
        bar.set_label("attention weight (square-root scale)")
    return figure


def hidden(each: AttentionMap) -> np.ndarray:
    """What the masks hide, ``(L, S)``: other chunks, and in decoders the future."""
    rows, columns = (np.arange(size) for size in each.weights.shape)
    i, j = rows[:, None], columns[None, :]
    mask = np.zeros(tuple(each.weights.shape), dtype=bool)
    if each.layer.startswith("decoder"):
        mask |= j > i
    if each.chunk_size > 0:
        mask |= i // each.chunk_size != j // each.chunk_size
    return mask


def _word_axes(axes: "Axes", each: AttentionMap) -> None:
    cross = each.layer.startswith("cross")
    for words, axis, name in (
        (each.keys, axes.xaxis, "token of the source" if cross else "token attended to"),
        (each.queries, axes.yaxis, "token predicted" if cross else "token that attends"),
    ):
        if len(words) <= MOST_WORDS:
            axis.set_ticks(range(len(words)), [printable(word) for word in words], fontsize=7)
            axis.set_label_text(name)
        else:
            axis.set_label_text(f"{name} (position)")
    if len(each.keys) <= MOST_WORDS:
        axes.tick_params(axis="x", labelrotation=90)


def printable(word: str) -> str:
    """At most 16 characters, none of which moves the others."""
    text = "".join(c if c.isprintable() else "\ufffd" for c in word)
    return text if len(text) <= 16 else text[:15] + "…"


# --- surprisal ----------------------------------------------------------------------------------


def _means(surprisal: Surprisal) -> List[str]:
    said = [
        f"{len(surprisal.tokens)} tokens, {surprisal.carried.mean():.3f} bits each in the mean."
    ]
    size, cut = surprisal.chunk_size, surprisal.cut
    if cut is not None:
        after = surprisal.carried[size:].mean(), cut[size:].mean()
        said.append(
            f"After the first chunk of {size}: {after[0]:.3f} bits with the state that the EMAs "
            f"carry, {after[1]:.3f} with a state cut at every border."
        )
    elif size > 0:
        said.append(f"The text is within one chunk of {size} tokens: there is no border to cut at.")
    else:
        said.append("The model attends to all of the text: it has no borders to cut at.")
    return said


def _surprisal_pictures(surprisal: Surprisal) -> List:
    rows = surprisal_rows(surprisal)
    pictures = [Picture("surprisal", "Surprisal", SURPRISAL, surprisal_figure(surprisal), rows)]
    if surprisal.cut is not None:
        figure = difference_figure(surprisal)
        pictures.append(Picture("difference", "What the EMAs carried", SAVED, figure, rows))
    return pictures


def surprisal_rows(surprisal: Surprisal) -> List[Tuple]:
    carried = surprisal.carried.tolist()
    if surprisal.cut is None:
        head: Tuple = ("position", "token", "bits")
        return [head, *((i, *each) for i, each in enumerate(zip(surprisal.tokens, carried)))]
    cut = surprisal.cut.tolist()
    rows = zip(surprisal.tokens, carried, cut, (b - a for a, b in zip(carried, cut)))
    head = ("position", "token", "bits_state_carried", "bits_state_cut", "difference_bits")
    return [head, *((i, *each) for i, each in enumerate(rows))]


def surprisal_figure(surprisal: Surprisal) -> "Figure":
    """Bars over the tokens, in rows of ``STRIP``; of long texts in rows of ``LINE``."""
    count = len(surprisal.tokens)
    if count > STRIP * MOST_STRIPS:
        return _line_figure(surprisal)
    with styled():
        figure, panels = grid(-(-count // STRIP), 1, (10.0, 2.3))
        top = max(part.max().item() for part in surprisal[1:3] if part is not None)
        for axes, start in zip(panels, range(0, count, STRIP)):
            _bars(axes, surprisal, start, min(start + STRIP, count))
            axes.set_ylim(0, 1.05 * top)
        panels[-1].set_xlabel("token")
        shared_legend(figure, panels)
    return figure


def _bars(axes: "Axes", surprisal: Surprisal, start: int, end: int) -> None:
    places = np.arange(start, end)
    carried = surprisal.carried[start:end].numpy()
    axes.bar(places, carried, 0.75, color=COLOURS[6], edgecolor="black", linewidth=0.4,
             label="state carried")  # fmt: skip
    if surprisal.cut is not None:
        cut = surprisal.cut[start:end].numpy()
        axes.plot(places, cut, "D", color=COLOURS[1], markersize=4, markerfacecolor="none",
                  label="state cut at each border")  # fmt: skip
    words = [printable(word) for word in surprisal.tokens[start:end]]
    axes.set_xticks(places, words, rotation=90, fontsize=7)
    axes.set_xlim(start - 0.7, start + STRIP - 0.3 if start else max(end, 8) - 0.3)
    axes.set_ylabel("surprisal (bits)")
    axes.grid(False, axis="x")
    _borders(axes, surprisal, start, end)


def _line_figure(surprisal: Surprisal) -> "Figure":
    count = len(surprisal.tokens)
    with styled():
        figure, panels = grid(-(-count // LINE), 1, (10.0, 1.9))
        for axes, start in zip(panels, range(0, count, LINE)):
            end = min(start + LINE, count)
            places = np.arange(start, end)
            carried = surprisal.carried[start:end].numpy()
            axes.plot(places, carried, color=COLOURS[2], linewidth=0.8, label="state carried")
            if surprisal.cut is not None:
                cut = surprisal.cut[start:end].numpy()
                axes.plot(places, cut, "D", color=COLOURS[1], markersize=2.5,
                          markerfacecolor="none", label="state cut at each border")  # fmt: skip
            axes.set_xlim(start - 2, start + LINE + 1)
            axes.set_ylabel("surprisal (bits)")
            _borders(axes, surprisal, start, end)
        panels[-1].set_xlabel("position (tokens)")
        shared_legend(figure, panels)
    return figure


def difference_figure(surprisal: Surprisal) -> "Figure":
    """The state cut minus the state carried, by position."""
    assert surprisal.cut is not None
    with styled():
        figure, (axes,) = grid(1, 1, (10.0, 2.6))
        difference = (surprisal.cut - surprisal.carried).numpy()
        places = np.arange(len(difference))
        axes.vlines(places, 0, difference, color=COLOURS[2], linewidth=1.0)
        axes.plot(places, difference, "o", color=COLOURS[2], markersize=2.5,
                  label="state cut − state carried")  # fmt: skip
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_xlabel("position (tokens)")
        axes.set_ylabel("difference (bits)")
        _borders(axes, surprisal, 0, len(places))
        shared_legend(figure, [axes])
    return figure


def _borders(axes: "Axes", surprisal: Surprisal, start: int, end: int) -> None:
    if surprisal.chunk_size <= 0:
        return
    borders = [at for at in range(0, end, surprisal.chunk_size) if at > 0 and at >= start]
    for i, at in enumerate(borders):
        label = "border of chunks" if i == 0 else None
        axes.axvline(at - 0.5, color="black", linestyle=":", linewidth=1.2, label=label)
