"""Writes figures as PNG and SVG, their data as CSV, and one page that contains them."""

import base64
import csv
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any, List, NamedTuple, Optional, Sequence

from matplotlib.figure import Figure

from ..checkpoints.writing import new_folder
from .style import styled

PAGE = "index.html"
HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 16px/1.5 sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
img {{ max-width: 100% }}
table {{ border-collapse: collapse; font-size: 0.9rem }}
th, td {{ border: 1px solid #bbb; padding: 0.2rem 0.6rem; text-align: left }}
</style></head>
<body><h1>{title}</h1>
"""


class Part(NamedTuple):
    """A part of a page: a title, a text, and a figure, or else a table of the rows.

    ``rows``, the figure's data after a head, go to ``NAME.csv``, the figure to ``NAME.png`` and
    ``NAME.svg``.
    """

    name: str
    title: str
    text: str
    rows: Sequence[Sequence[Any]]
    figure: Optional[Figure] = None


def write_page(out: Path, title: str, parts: List[Part]) -> Path:
    """Writes the new folder ``out``: the page, which contains its figures, and all files.

    Returns:
        the page.
    """
    body = [HEAD.format(title=escape(title))]
    with new_folder(out) as folder:
        for part in parts:
            with (folder / f"{part.name}.csv").open("w", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows(part.rows)
            body.append(f"<h2>{escape(part.title)}</h2>\n<p>{escape(part.text)}</p>")
            body.append(_table(part) if part.figure is None else _image(folder, part, part.figure))
        (folder / PAGE).write_text("\n".join([*body, "</body></html>\n"]), encoding="utf-8")
    return out / PAGE


@styled()
def _image(folder: Path, part: Part, figure: Figure) -> str:
    png = BytesIO()
    figure.savefig(png, dpi=110)
    figure.set_layout_engine("none")  # keeps the layout, which takes time to compute
    figure.savefig(folder / f"{part.name}.svg")
    (folder / f"{part.name}.png").write_bytes(png.getvalue())
    data = base64.b64encode(png.getvalue()).decode()
    return f'<img id="{part.name}" alt="{escape(part.title)}" src="data:image/png;base64,{data}">'


def _table(part: Part) -> str:
    head, *rows = part.rows
    lines = ["<table>", _row("th", head), *(_row("td", row) for row in rows), "</table>"]
    return "\n".join(lines)


def _row(tag: str, values: Sequence[Any]) -> str:
    texts = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in values)
    return "<tr>" + "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts) + "</tr>"
