"""Lays rows of painted keyframes out on one sheet: a pure function from arrays to an (H, W, 3) image.

Shape legend: T keyframes (columns), H W pixels, h w map cells, n points.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rvosbench.harness.data.types import BoolHW, FrameHW3
from rvosbench.methods.ground.fusion import Float32
from rvosbench.methods.picture.painting import (
    HEAT,
    Colour,
    cell_size,
    draw_point,
    fit,
    fit_mask,
    paint_heat,
    paint_mask,
    paint_points,
)

PAPER: Colour = (255, 255, 255)
INK: Colour = (24, 30, 42)
FAINT: Colour = (98, 108, 124)
EMPTY: Colour = (233, 236, 241)
MARGIN, GUTTER, GAP = 28, 190, 10
"""Around the sheet, for the labels of rows, between cells."""
CAPTION, ROW_GAP = 24, 16
"""Below a cell (a caption of one line), and between rows."""
TITLE_SIZE, FACT_SIZE, LABEL_SIZE, NOTE_SIZE = 30, 19, 20, 16
_LEADING = 1.35
_CAPTION_LEADING = 20
_LEGEND_HEIGHT, _HEADER_HEIGHT = 36, 28
_MIN_WIDTH = 1000
_BAR = 200


@dataclass(frozen=True, eq=False)
class Points:
    """Points on one keyframe."""

    xy_n2: Float32
    """Fractions of the frame's width and height."""
    chosen_n: BoolHW
    """(n,) bool: drawn larger and in another colour."""


@dataclass(frozen=True, eq=False)
class HeatRow:
    """A heat map per keyframe."""

    label: str
    note: str
    """Small, below the label."""
    map_Thw: Float32
    """Values in [0, 1]."""
    captions: tuple[str, ...] = ()
    """One per keyframe, or none at all."""
    points: tuple[Points, ...] = ()
    """One per keyframe, or none at all."""


@dataclass(frozen=True, eq=False)
class MaskRow:
    """A mask per keyframe."""

    label: str
    note: str
    masks: tuple[BoolHW | None, ...]
    """At the frames' size; None where there is none."""
    colour: Colour
    without: str
    """Stands in a cell that has no mask, e.g. "not annotated"."""
    captions: tuple[str, ...] = ()


Row = HeatRow | MaskRow


@dataclass(frozen=True)
class Heading:
    """What stands on top."""

    title: str
    facts: tuple[str, ...] = ()
    """Lines below the title."""
    points: str = ""
    """What the small points are, for the legend; empty: no points."""
    chosen: str = ""
    """What the large points are."""


@dataclass(frozen=True)
class Layout:
    """Where things are, in pixels of the sheet."""

    width: int
    cell: tuple[int, int]
    """(H, W) of each cell."""
    title_lines: tuple[str, ...]
    fact_lines: tuple[str, ...]
    tops: tuple[int, ...]
    """Of the cells of each row; the first is the row of frames."""
    caption_heights: tuple[int, ...]
    """Below the cells of each row; 0 without captions."""

    @property
    def legend_top(self) -> int:
        """Of the legend."""
        return self.tops[0] - _HEADER_HEIGHT - _LEGEND_HEIGHT

    @property
    def height(self) -> int:
        """Of the sheet."""
        return self.tops[-1] + self.cell[0] + self.caption_heights[-1] + MARGIN

    def box(self, row: int, column: int) -> tuple[slice, slice]:
        """The cell's rows and columns of pixels; row 0 is the row of frames."""
        left = MARGIN + GUTTER + column * (self.cell[1] + GAP)
        return slice(self.tops[row], self.tops[row] + self.cell[0]), slice(left, left + self.cell[1])


def draw_sheet(heading: Heading, frames: Sequence[FrameHW3], names: Sequence[str], rows: Sequence[Row]) -> FrameHW3:
    """The sheet, (H, W, 3) uint8 RGB; equal arguments give equal bytes on every machine.

    Args:
        frames: one per keyframe, all of one size.
        names: of the frames, above the columns.
        rows: below the row of frames, top to bottom.

    Raises:
        ValueError: rows, names and frames do not fit together, or a heat map leaves [0, 1].
    """
    _check(frames, names, rows)
    layout = lay_out(heading, frames[0].shape[:2], len(frames), rows)
    sheet = np.full((layout.height, layout.width, 3), PAPER, dtype=np.uint8)
    cells = [fit(frame, layout.cell) for frame in frames]
    blanks: list[tuple[int, int, str]] = []
    for column, cell in enumerate(cells):
        sheet[layout.box(0, column)] = cell
        for number, row in enumerate(rows, start=1):
            painted = _paint(row, column, cell)
            if painted is None:
                assert isinstance(row, MaskRow)
                blanks.append((number, column, row.without))
            sheet[layout.box(number, column)] = EMPTY if painted is None else painted
    if any(isinstance(row, HeatRow) for row in rows):
        _draw_legend_marks(sheet, layout, heading)
    page = Image.fromarray(sheet)
    _write(ImageDraw.Draw(page), layout, heading, names, rows, blanks)
    return np.asarray(page)


def lay_out(heading: Heading, size: tuple[int, ...], columns: int, rows: Sequence[Row]) -> Layout:
    """Where everything goes, for frames of (H, W) ``size``."""
    cell = cell_size(size[0], size[1])
    width = max(_MIN_WIDTH, 2 * MARGIN + GUTTER + columns * (cell[1] + GAP) - GAP, _legend_end(heading) + MARGIN)
    room = width - 2 * MARGIN
    title = wrap(heading.title, TITLE_SIZE, room)
    facts = tuple(line for fact in heading.facts for line in wrap(fact, FACT_SIZE, room))
    top = MARGIN + _lines_height(title, TITLE_SIZE) + _lines_height(facts, FACT_SIZE) + ROW_GAP
    top += _LEGEND_HEIGHT + _HEADER_HEIGHT
    lines = [max((len(caption_lines(text, cell[1])) for text in row.captions), default=0) for row in rows]
    captions = (0, *(CAPTION + (count - 1) * _CAPTION_LEADING if count else 0 for count in lines))
    tops = []
    for height in captions:
        tops.append(top)
        top += cell[0] + height + ROW_GAP
    return Layout(width, cell, title, facts, tuple(tops), captions)


def caption_lines(text: str, width: int) -> tuple[str, ...]:
    """A caption in lines no wider than ``width`` pixels, broken between its parts (" · ") where that is enough."""
    lines: list[str] = []
    for part in printable(text).split(" · "):
        longer = f"{lines[-1]} · {part}" if lines else part
        if font(NOTE_SIZE).getlength(longer) <= width:
            lines[-1:] = [longer]
        else:
            lines += wrap(part, NOTE_SIZE, width)
    return tuple(lines)


def wrap(text: str, size: int, width: int) -> tuple[str, ...]:
    """The text in lines no wider than ``width`` pixels; a word that is too wide alone is cut."""
    lines = [""]
    for word in printable(text).split():
        rest = word
        while rest:
            longer = f"{lines[-1]} {rest}".strip()
            if font(size).getlength(longer) <= width:
                lines[-1], rest = longer, ""
            elif lines[-1]:
                lines.append("")
            else:
                fits = next((n for n in range(len(rest), 1, -1) if font(size).getlength(rest[:n]) <= width), 1)
                lines[-1], rest = rest[:fits], rest[fits:]
                if rest:
                    lines.append("")
    return tuple(lines)


def printable(text: str) -> str:
    """The text in characters that the font has: accents dropped, "?" for what is not Latin.

    The font is the one inside Pillow. Fonts of the machine hold more, but a sheet would look different on each.
    """
    plain = unicodedata.normalize("NFKD", text)
    kept = (c for c in plain if not unicodedata.combining(c))
    return "".join(c if c.isspace() or (c.isascii() and c.isprintable()) or c in "“”‘’·" else "?" for c in kept)


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font at a size in pixels."""
    loaded = ImageFont.load_default(size)
    assert isinstance(loaded, ImageFont.FreeTypeFont), "Pillow's wheels carry FreeType"
    return loaded


def _check(frames: Sequence[FrameHW3], names: Sequence[str], rows: Sequence[Row]) -> None:
    if not frames or len(names) != len(frames):
        raise ValueError(f"{len(frames)} frames, but {len(names)} names")
    if len({frame.shape for frame in frames}) > 1:
        raise ValueError("the frames differ in size")
    for row in rows:
        across = row.map_Thw if isinstance(row, HeatRow) else row.masks
        parallel = (row.captions, row.points) if isinstance(row, HeatRow) else (row.captions,)
        if len(across) != len(frames) or any(len(values) not in (0, len(frames)) for values in parallel):
            raise ValueError(f"row '{row.label}' does not have one cell per frame ({len(frames)})")
        if isinstance(row, MaskRow) and any(m is not None and m.shape != frames[0].shape[:2] for m in row.masks):
            raise ValueError(f"row '{row.label}' has a mask of another size than the frames")


def _paint(row: Row, column: int, cell_HW3: FrameHW3) -> FrameHW3 | None:
    if isinstance(row, HeatRow):
        painted = paint_heat(cell_HW3, row.map_Thw[column])
        points = row.points[column] if row.points else None
        return painted if points is None else paint_points(painted, points.xy_n2, points.chosen_n)
    mask_HW = row.masks[column]
    if mask_HW is None:
        return None
    height, width = cell_HW3.shape[:2]
    return paint_mask(cell_HW3, fit_mask(mask_HW, (height, width)), row.colour)


def _lines_height(lines: Sequence[str], size: int) -> int:
    return round(len(lines) * size * _LEADING)


def _legend_items(heading: Heading) -> list[tuple[str, bool]]:
    return [(text, chosen) for text, chosen in ((heading.points, False), (heading.chosen, True)) if text]


def _draw_legend_marks(sheet: FrameHW3, layout: Layout, heading: Heading) -> None:
    """The colour bar and one point of each kind."""
    middle, left = layout.legend_top + _LEGEND_HEIGHT // 2 - 6, MARGIN + GUTTER
    sheet[middle - 7 : middle + 8, left : left + _BAR] = HEAT[np.linspace(0, 255, _BAR).round().astype(int)]
    for x, (_, chosen) in zip(_legend_places(heading), _legend_items(heading), strict=True):
        draw_point(sheet, x, middle, chosen=chosen)


def _legend_places(heading: Heading) -> list[int]:
    """x of the points in the legend."""
    places, x = [], MARGIN + GUTTER + _BAR + 70
    for text, _ in _legend_items(heading):
        places.append(x)
        x += 14 + round(font(NOTE_SIZE).getlength(printable(text))) + 32
    return places


def _legend_end(heading: Heading) -> int:
    """x of the end of the legend's last text."""
    items = _legend_items(heading)
    return _legend_places(heading)[-1] + 14 + round(font(NOTE_SIZE).getlength(printable(items[-1][0]))) if items else 0


def _write(
    pen: ImageDraw.ImageDraw,
    layout: Layout,
    heading: Heading,
    names: Sequence[str],
    rows: Sequence[Row],
    blanks: Sequence[tuple[int, int, str]],
) -> None:
    y = float(MARGIN)
    for lines, size, colour in ((layout.title_lines, TITLE_SIZE, INK), (layout.fact_lines, FACT_SIZE, FAINT)):
        for line in lines:
            pen.text((MARGIN, y), line, colour, font(size))
            y += size * _LEADING
    if any(isinstance(row, HeatRow) for row in rows):
        middle, left = layout.legend_top + _LEGEND_HEIGHT // 2 - 6, MARGIN + GUTTER
        pen.text((left - 8, middle), "0", FAINT, font(NOTE_SIZE), anchor="rm")
        pen.text((left + _BAR + 8, middle), "1", FAINT, font(NOTE_SIZE), anchor="lm")
        for x, (text, _) in zip(_legend_places(heading), _legend_items(heading), strict=True):
            pen.text((x + 14, middle), printable(text), FAINT, font(NOTE_SIZE), anchor="lm")
    _label(pen, layout, 0, "frame", "")
    for column, name in enumerate(names):
        _centred(pen, layout.box(0, column)[1], layout.tops[0] - 14, wrap(name, NOTE_SIZE, layout.cell[1])[0], FAINT)
    for number, row in enumerate(rows, start=1):
        _label(pen, layout, number, row.label, row.note)
        for column, caption in enumerate(row.captions):
            below, across = layout.box(number, column)
            for step, line in enumerate(caption_lines(caption, layout.cell[1])):
                _centred(pen, across, below.stop + CAPTION // 2 + 2 + step * _CAPTION_LEADING, line, INK)
    for number, column, text in blanks:
        _centred(pen, layout.box(number, column)[1], layout.tops[number] + layout.cell[0] // 2, text, FAINT)


def _centred(pen: ImageDraw.ImageDraw, across: slice, y: int, text: str, colour: Colour) -> None:
    pen.text(((across.start + across.stop) / 2, y), printable(text), colour, font(NOTE_SIZE), anchor="mm")


def _label(pen: ImageDraw.ImageDraw, layout: Layout, row: int, label: str, note: str) -> None:
    """Label and note, in the middle of the cells' height."""
    labels, notes = (wrap(text, size, GUTTER - 16) for text, size in ((label, LABEL_SIZE), (note, NOTE_SIZE)))
    notes = notes if note else ()
    height = _lines_height(labels, LABEL_SIZE) + _lines_height(notes, NOTE_SIZE)
    y = layout.tops[row] + (layout.cell[0] - height) / 2
    for lines, size, colour in ((labels, LABEL_SIZE, INK), (notes, NOTE_SIZE, FAINT)):
        for line in lines:
            pen.text((MARGIN, y), line, colour, font(size))
            y += size * _LEADING
