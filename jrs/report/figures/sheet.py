"""Pictures on a grid at print size, as PNG and PDF (text stays text), and the numbers behind them as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from jrs.io.atomic import atomic_write
from jrs.visualization.pictures import Picture

PAGE_MM = 174.0                                 # width of two columns of print
DPI = 300
POINTS = 7                                      # size of the text
LINE_MM, GAP_MM, MARGIN_MM = 3.2, 0.8, 0.6
MM_PER_INCH = 25.4


@dataclass(frozen=True)
class Box:
    """A frame in a picture, or around all of it: x, y, width, height in pixels (None = all), and its colour, 0 .. 255."""

    colour: Sequence[int]
    place: tuple[float, float, float, float] | None = None


@dataclass
class Cell:
    """A picture (h, w, 3) uint8 of a grid, a note in its lower left corner, and frames; `note` may be empty."""

    picture: Picture
    note: str = ''
    boxes: Sequence[Box] = ()


@dataclass
class Row:
    """One row: its cells (None leaves a place free), what stands at its left, and what above each of its cells."""

    cells: Sequence[Cell | None]
    name: str = ''
    heads: Sequence[str] = field(default_factory=tuple)


def write_sheet(stem: Path, rows: Sequence[Row], caption: str = '', width_mm: float = PAGE_MM) -> list[Path]:
    """Write `<stem>.png` and `<stem>.pdf` of equal look; return both.

    Args:
        stem: path without suffix.
        rows: at least one; all of as many cells, pictures of a row of one size.
        caption: below, wrapped.
        width_mm: of the sheet.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    columns = max(len(row.cells) for row in rows)
    left = MARGIN_MM + (LINE_MM if any(row.name for row in rows) else 0)
    wide = (width_mm - left - MARGIN_MM - GAP_MM * (columns - 1)) / columns
    tall = [wide * _aspect(row) for row in rows]
    heads = [LINE_MM if any(row.heads) else 0.0 for row in rows]
    lines = _wrapped(caption, width_mm)
    height_mm = 2 * MARGIN_MM + sum(tall) + sum(heads) + GAP_MM * (len(rows) - 1) + LINE_MM * len(lines)
    figure = Figure(figsize=(width_mm / MM_PER_INCH, height_mm / MM_PER_INCH), dpi=DPI, facecolor='white')
    FigureCanvasAgg(figure)
    down = MARGIN_MM

    def text(x: float, y: float, words: str, **options) -> None:
        figure.text(x / width_mm, 1 - y / height_mm, words, fontsize=POINTS, parse_math=False, **options)
    for row, high, head in zip(rows, tall, heads, strict=True):
        for column, cell in enumerate(row.cells):
            x = left + column * (wide + GAP_MM)
            if column < len(row.heads):
                text(x + wide / 2, down + head / 2, row.heads[column], ha='center', va='center')
            if cell is not None:
                place = (x / width_mm, 1 - (down + head + high) / height_mm, wide / width_mm, high / height_mm)
                _draw(figure.add_axes(place), cell)
        if row.name:
            text(left - LINE_MM / 2 - MARGIN_MM / 2, down + head + high / 2, row.name, ha='center', va='center', rotation=90)
        down += head + high + GAP_MM
    for number, line in enumerate(lines):
        text(MARGIN_MM, down - GAP_MM + LINE_MM * (number + 0.6), line, ha='left', va='center')
    return [_save(figure, stem.with_name(f'{stem.name}.{kind}')) for kind in ('png', 'pdf')]


def _aspect(row: Row) -> float:
    """Return height over width of the pictures of a row."""
    height, width = next(cell for cell in row.cells if cell is not None).picture.shape[:2]
    return height / width


def _draw(axes, cell: Cell) -> None:
    from matplotlib.patches import Rectangle
    height, width = cell.picture.shape[:2]
    axes.imshow(cell.picture, interpolation='none', aspect='auto', extent=(0, width, height, 0))
    axes.set_axis_off()
    for box in cell.boxes:
        x, y, wide, high = box.place or (0, 0, width, height)
        axes.add_patch(Rectangle((x, y), wide, high, fill=False, edgecolor=np.array(box.colour) / 255, clip_on=False,
                                 linewidth=1.0))
    if cell.note:
        axes.text(0.02, 0.03, cell.note, transform=axes.transAxes, fontsize=POINTS - 1, color='white', va='bottom',
                  parse_math=False, bbox=dict(facecolor='black', alpha=0.55, pad=0.8, linewidth=0))


def _wrapped(caption: str, width_mm: float) -> list[str]:
    import textwrap
    return textwrap.wrap(caption, int(width_mm / 1.27)) if caption else []      # a letter of 7 points is 1.27 mm at most


def _save(figure, path: Path) -> Path:
    """Write a figure; text of a PDF stays text, and nothing in it says when it was made."""
    import matplotlib
    buffer = io.BytesIO()
    metadata = {'CreationDate': None} if path.suffix == '.pdf' else {}
    with matplotlib.rc_context({'pdf.fonttype': 42}):
        figure.savefig(buffer, format=path.suffix[1:], dpi=DPI, metadata=metadata)
    with atomic_write(path) as file:
        file.write(buffer.getvalue())
    return path


def write_numbers(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """Write rows of numbers as CSV, the columns of the first; an empty list leaves the file with a line that says so."""
    with atomic_write(path, 'w') as file:
        if not rows:
            file.write('nothing was found\n')
            return path
        writer = csv.DictWriter(file, list(rows[0]), lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)
    return path
