"""Draws the content of a figure with matplotlib: a grid of frames with maps, prompts and masks over them.

Shape legend: H W pixels, h w map cells.
"""

from __future__ import annotations

import io
import math
import textwrap
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from rvosbench.harness.data.types import FrameHW3
from rvosbench.leaderboard.figure.content import Cell, FigureContent, Row
from rvosbench.leaderboard.overlays import compose, reduce_frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 100
MOST_PIXELS = 30_000
"""Of a side of the file: with many rows or columns there are fewer pixels per inch. matplotlib refuses 65,536."""
HEAT = "inferno"
"""The colour map; its lightness rises evenly, so that equal steps look equal."""
_HEAT_OPACITY = 0.55
_PROMPT, _CHOSEN = "white", "#00dcff"
"""Neither is a colour of the heat map."""
_AREA = 4.0
"""Square inches of a cell: frames of any shape get the same room."""
_LABELS, _GAP, _MARGIN = 1.7, 0.12, 0.25
"""Inches: the room of the row labels, between cells, around everything."""
_TITLE, _TEXT, _SMALL = 14.0, 9.0, 8.0
"""Points."""
_BLANK = "#e9ecf1"


def to_png(content: FigureContent) -> bytes:
    """The figure as a PNG file."""
    # matplotlib takes half a second to load, and only the leaderboard extra has it.
    import matplotlib.style

    target = io.BytesIO()
    # A user's own style, say LaTeX for all text, may not be able to draw this one.
    with matplotlib.style.context("default", after_reset=True):
        figure = draw_figure(content)
        figure.savefig(target, format="png", dpi=min(DPI, MOST_PIXELS / max(figure.get_size_inches())))
    return target.getvalue()


def draw_figure(content: FigureContent) -> Figure:
    """The figure: one axes per frame and per cell of each row, in reading order.

    Raises:
        ValueError: a mask has another size than its frame, or a row another number of cells than there are frames.
    """
    from matplotlib.figure import Figure

    layout = _lay_out(content)
    # Of its own, not pyplot's, which keeps every figure: pages draw in several threads of one process.
    figure = Figure(figsize=(layout.width, layout.height), facecolor="white")
    below = layout.height - _MARGIN
    for lines, size, colour in ((layout.title, _TITLE, "black"), (layout.facts, _TEXT, "#555555")):
        _write(figure, layout, _MARGIN, below, "\n".join(lines), size, colour)
        below -= _height(len(lines), size)
    below -= _GAP + _height(1, _TEXT)
    rows = (Row("frame", "", (Cell(),) * len(content.frames)), *content.rows)
    for number, (row, captions) in enumerate(zip(rows, layout.captions, strict=True)):
        below -= layout.cell_height
        label = _lines(row.label, _LABELS, _TEXT, 3)
        _write(figure, layout, _MARGIN, below + layout.cell_height, "\n".join(label), _TEXT, "black")
        note = _lines(row.note, _LABELS, _SMALL, 5)
        under = below + layout.cell_height - _height(len(label), _TEXT)
        _write(figure, layout, _MARGIN, under, "\n".join(note), _SMALL, "#555555")
        for column, (cell, frame) in enumerate(zip(row.cells, content.frames, strict=True)):
            left = _MARGIN + _LABELS + column * (layout.cell_width + _GAP)
            axes = figure.add_axes(
                (left / layout.width, below / layout.height, layout.cell_width / layout.width,
                 layout.cell_height / layout.height), xticks=[], yticks=[],
            )  # fmt: skip
            _draw_cell(axes, cell, row, frame)
            if number == 0:
                name = "".join(_lines(content.names[column], layout.cell_width, _SMALL, 1))
                axes.set_title(name, fontsize=_SMALL, pad=3, parse_math=False)
            axes.set_xlabel("\n".join(captions[column]), fontsize=_SMALL, labelpad=3, parse_math=False)
        below -= _height(max(len(lines) for lines in captions), _SMALL) + _GAP
    return figure


@dataclass(frozen=True)
class _Layout:
    """Sizes in inches, and text in lines that fit."""

    width: float
    height: float
    cell_width: float
    cell_height: float
    title: tuple[str, ...]
    facts: tuple[str, ...]
    captions: tuple[tuple[tuple[str, ...], ...], ...]
    """By row, the row of frames first, and column."""


def _lay_out(content: FigureContent) -> _Layout:
    height, width = content.frames[0].shape[:2]
    # A strip of a frame is drawn less extreme than it is, rather than in metres.
    ratio = min(4.0, max(0.25, width / height))
    cell_width = math.sqrt(_AREA * ratio)
    columns = len(content.frames)
    total = max(8.0, 2 * _MARGIN + _LABELS + columns * (cell_width + _GAP) - _GAP)
    room = total - 2 * _MARGIN
    title = _lines(content.title, room, _TITLE, 4)
    facts = tuple(line for fact in content.facts for line in _lines(fact, room, _TEXT, 6))
    captions: list[tuple[tuple[str, ...], ...]] = [((),) * columns]
    for row in content.rows:
        captions.append(tuple(_lines(cell.caption, cell_width, _SMALL, 3) for cell in row.cells))
    high = 2 * _MARGIN + _height(len(title), _TITLE) + _height(len(facts), _TEXT) + _GAP + _height(1, _TEXT)
    high += sum(cell_width / ratio + _height(max(len(one) for one in row), _SMALL) + _GAP for row in captions)
    return _Layout(total, high, cell_width, cell_width / ratio, title, facts, tuple(captions))


def _draw_cell(axes: Axes, cell: Cell, row: Row, frame_HW3: FrameHW3) -> None:
    for side in axes.spines.values():
        side.set_visible(False)
    if cell.blank:
        axes.set_facecolor(_BLANK)
        axes.text(0.5, 0.5, cell.blank, ha="center", va="center", fontsize=_SMALL, transform=axes.transAxes)
        return
    # Fractions of the frame, in which prompts are given.
    extent = (0.0, 1.0, 1.0, 0.0)
    image_HW3 = reduce_frame(frame_HW3)
    if cell.mask_HW is not None:
        prediction, truth = (cell.mask_HW, None) if row.mask == "prediction" else (None, cell.mask_HW)
        image_HW3 = compose(frame_HW3, prediction, truth, row.mask)
    if cell.map_hw is not None:
        # In grey, so that hue means the map alone.
        grey_HW = image_HW3.mean(axis=2)
        axes.imshow(grey_HW, cmap="gray", vmin=0, vmax=255, extent=extent, aspect="auto")
        axes.imshow(
            cell.map_hw, cmap=HEAT, vmin=0, vmax=1, extent=extent, aspect="auto", alpha=_HEAT_OPACITY,
            interpolation="bilinear",
        )  # fmt: skip
    else:
        axes.imshow(image_HW3, extent=extent, aspect="auto")
    _draw_prompts(axes, cell)
    axes.set_xlim(0, 1)
    axes.set_ylim(1, 0)


def _draw_prompts(axes: Axes, cell: Cell) -> None:
    from matplotlib.patches import Rectangle

    for x0, y0, x1, y1 in cell.prompts.boxes_m4:
        # Twice, so that the line has dark edges on bright frames.
        for colour, width in (("black", 3.0), (_PROMPT, 1.4)):
            axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=width))
    chosen_n = cell.prompts.chosen_n
    for which_n, colour, size in ((~chosen_n, _PROMPT, 14), (chosen_n, _CHOSEN, 40)):
        xy_n2 = cell.prompts.xy_n2[which_n]
        if len(xy_n2):
            axes.scatter(xy_n2[:, 0], xy_n2[:, 1], s=size, c=colour, edgecolors="black", linewidths=0.8)


def _write(figure: Figure, layout: _Layout, x: float, y: float, text: str, size: float, colour: str) -> None:
    """Text whose upper left corner is at (x, y) inches."""
    where: dict[str, Any] = {"ha": "left", "va": "top", "parse_math": False}
    figure.text(x / layout.width, y / layout.height, text, fontsize=size, color=colour, linespacing=1.2, **where)


def _height(lines: int, size: float) -> float:
    """Inches of lines of text."""
    return lines * size * 1.45 / 72


def _characters(inches: float, size: float) -> int:
    """How many characters of average width stand in a line."""
    return max(1, int(inches * 72 / (0.58 * size)))


def _lines(text: str, inches: float, size: float, most: int) -> tuple[str, ...]:
    """The text in at most so many lines that fit; an ellipsis stands for the rest."""
    return tuple(textwrap.wrap(_printable(text), _characters(inches, size), max_lines=most, placeholder=" …"))


def _printable(text: str) -> str:
    """The text in characters that matplotlib's own font has; "?" for others, so that it looks the same everywhere."""
    has = _own_font()
    return "".join(c if c.isspace() or has.get_char_index(ord(c)) else "?" for c in text)


@cache
def _own_font() -> Any:
    from matplotlib.font_manager import findfont, get_font

    return get_font(findfont("DejaVu Sans"))
