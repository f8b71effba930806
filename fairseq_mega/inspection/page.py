"""Writes pictures as PNG and SVG with their numbers as CSV, and one page that shows them all."""

import base64
import csv
import warnings
from dataclasses import dataclass, field
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterable, List, Sequence

from ..checkpoints.writing import new_folder
from .style import styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "index.html"
DOTS_PER_INCH = 110
STYLE = """
body { font: 16px/1.5 sans-serif; color: #111; background: #fff; max-width: 60rem;
       margin: 2rem auto; padding: 0 1rem }
h1, h2, h3 { line-height: 1.2 }
figure { margin: 1.5rem 0 }
figure img { max-width: 100%; height: auto; border: 1px solid #ccc }
figcaption { font-size: 0.9rem; color: #333 }
table { border-collapse: collapse; font-size: 0.9rem; margin: 1rem 0 }
th, td { border: 1px solid #bbb; padding: 0.2rem 0.6rem; text-align: left }
td.number { text-align: right; font-variant-numeric: tabular-nums }
"""


@dataclass(frozen=True)
class Picture:
    """A figure, the numbers that it shows as rows of a CSV (the first is the head), and how to read
    it. ``name`` is that of its files, ``NAME.png``, ``NAME.svg`` and ``NAME.csv``."""

    name: str
    title: str
    caption: str
    figure: "Figure"
    rows: Iterable[Sequence[Any]]


@dataclass(frozen=True)
class Table:
    """Rows of which the first is the head; in the CSV ``NAME.csv``, too."""

    name: str
    title: str
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Section:
    """A part of a page. ``prefix`` comes before the names of its files."""

    title: str
    text: List[str] = field(default_factory=list)
    parts: Sequence[Picture | Table] = field(default_factory=list)
    prefix: str = ""


def write_page(out: Path, title: str, sections: List[Section]) -> Path:
    """Writes the new folder ``out``: a page that needs nothing beside itself, and all files.

    Returns:
        the page.

    Raises:
        FileExistsError, FileNotFoundError: where ``out`` is there, or cannot be made.
    """
    body: List[str] = []
    with new_folder(out) as folder:
        for section in sections:
            body.append(f"<h2>{escape(section.title)}</h2>")
            body += [f"<p>{escape(line)}</p>" for line in section.text]
            for part in section.parts:
                name = section.prefix + part.name
                _write_csv(folder / f"{name}.csv", part.rows)
                if isinstance(part, Picture):
                    body.append(_figure(folder, name, part))
                else:
                    body.append(_table(part))
        (folder / PAGE).write_text(_page(title, body), encoding="utf-8")
    return out / PAGE


def _page(title: str, body: List[str]) -> str:
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            # A favicon of nothing, or browsers ask for one.
            '<link rel="icon" href="data:,">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style></head>",
            f"<body><h1>{escape(title)}</h1>",
            *body,
            "</body></html>\n",
        ]
    )


def _figure(folder: Path, name: str, picture: Picture) -> str:
    """Saves the figure; what the page has of it."""
    with styled(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # scripts without a font
        png = BytesIO()
        picture.figure.savefig(png, format="png", dpi=DOTS_PER_INCH)
        picture.figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    (folder / f"{name}.png").write_bytes(png.getvalue())
    data = base64.b64encode(png.getvalue()).decode()
    return (
        f'<figure id="{escape(name)}"><h3>{escape(picture.title)}</h3>'
        f'<img alt="{escape(picture.title)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(picture.caption)} Beside this page: {escape(name)}.png, .svg and "
        ".csv.</figcaption></figure>"
    )


def _table(table: Table) -> str:
    head, *rows = table.rows
    cells = "".join(f"<th>{escape(str(value))}</th>" for value in head)
    lines = [f"<h3>{escape(table.title)}</h3>", f"<table><thead><tr>{cells}</tr></thead><tbody>"]
    lines += ["<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in rows]
    return "\n".join([*lines, "</tbody></table>"])


def _cell(value: Any) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        text = f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
        return f'<td class="number">{text}</td>'
    return f"<td>{escape(str(value))}</td>"


def _write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Numbers with as many digits as it takes to read the same ones."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
