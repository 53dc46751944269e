"""Sheets: every cell where it belongs, every colour what it means."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from rvosbench.methods.picture.painting import (
    CHOSEN,
    HEAT,
    HEAT_OPACITY,
    MASK_OPACITY,
    POINT,
    cell_size,
    fit,
    fit_mask,
    paint_heat,
    paint_mask,
    paint_points,
)
from rvosbench.methods.picture.rows import PREDICTED, TRUE
from rvosbench.methods.picture.sheet import (
    EMPTY,
    PAPER,
    Heading,
    HeatRow,
    Layout,
    MaskRow,
    Points,
    Row,
    caption_lines,
    draw_sheet,
    font,
    lay_out,
    printable,
    wrap,
)

GREY_HW3 = np.full((120, 160, 3), 100, dtype=np.uint8)
RED_HW3 = np.full((120, 160, 3), (200, 30, 30), dtype=np.uint8)


def array(values: object) -> Any:
    return np.array(values, dtype=np.float32)


# --- one cell


def test_equal_steps_of_heat_look_equal() -> None:
    lightness = cv2.cvtColor(HEAT[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0, :, 0]
    steps = np.diff(lightness[::15])
    assert (steps > 0).all()
    assert steps[1:].max() < 1.5 * steps[1:].min(), "the first step is all but black, where Lab and inferno differ"


def test_the_highest_cell_is_the_hottest() -> None:
    map_hw = np.zeros((3, 4), dtype=np.float32)
    map_hw[1, 2] = 1.0
    painted = paint_heat(np.full((3 * 41, 4 * 39, 3), 100, dtype=np.uint8), map_hw)
    lightness_HW = painted.sum(axis=2)
    assert np.argwhere(lightness_HW == lightness_HW.max()).tolist() == [[61, 97]], "the centre of the cell (1, 2)"
    hot, cold = (np.rint((1 - HEAT_OPACITY) * 100 + HEAT_OPACITY * HEAT[value].astype(float)) for value in (255, 0))
    assert painted[61, 97].tolist() == hot.tolist()
    assert painted[10, 10].tolist() == cold.tolist()


def test_a_map_of_ones_is_the_last_colour_and_the_frame_shows_in_grey() -> None:
    ones = paint_heat(RED_HW3, np.ones((2, 2), dtype=np.float32))
    grey = 0.299 * 200 + 0.587 * 30 + 0.114 * 30
    assert np.abs(ones[5, 5] - ((1 - HEAT_OPACITY) * grey + HEAT_OPACITY * HEAT[255].astype(float))).max() <= 1


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_a_map_that_is_not_normalised_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        paint_heat(GREY_HW3, array([[0.0, value]]))


def test_a_mask_is_tinted_and_outlined_inside_its_border() -> None:
    mask_HW = np.zeros((120, 160), dtype=bool)
    mask_HW[20:60, 30:90] = True
    mask_HW[35:45, 50:60] = False
    painted = paint_mask(RED_HW3, mask_HW, TRUE)
    expected = np.zeros((120, 160), dtype=bool)
    expected[20:60, 30:90] = True
    expected[22:58, 32:88] = False
    expected[33:47, 48:62] = True
    expected[35:45, 50:60] = False
    assert ((painted == TRUE).all(axis=2) == expected).all()
    grey = round(0.299 * 200 + 0.587 * 30 + 0.114 * 30)
    inside = [round((1 - MASK_OPACITY) * grey + MASK_OPACITY * channel) for channel in TRUE]
    assert np.abs(painted[26, 40].astype(int) - inside).max() <= 1
    assert painted[10, 10].tolist() == [grey] * 3 == painted[40, 55].tolist(), "grey outside and in the hole"
    assert (RED_HW3 == (200, 30, 30)).all(), "the frame itself is not painted"


def test_an_outline_follows_the_border_of_the_frame() -> None:
    painted = paint_mask(GREY_HW3, np.ones((120, 160), dtype=bool), PREDICTED)
    outline_HW = (painted == PREDICTED).all(axis=2)
    assert outline_HW[:2].all() and outline_HW[-2:].all() and outline_HW[:, :2].all() and outline_HW[:, -2:].all()
    assert not outline_HW[2:-2, 2:-2].any()


def test_points_lie_at_fractions_and_chosen_ones_on_top() -> None:
    painted = paint_points(GREY_HW3, array([[0.25, 0.5], [0.255, 0.5], [0.75, 0.25]]), np.array([True, False, False]))
    assert painted[60, 40].tolist() == list(CHOSEN)
    assert painted[30, 120].tolist() == list(POINT)
    assert painted[30, 127].tolist() == [100] * 3, "a small point"
    assert painted[60, 20].tolist() == [100] * 3


def test_a_mask_smaller_than_a_pixel_stays_visible() -> None:
    mask_HW = np.zeros((480, 640), dtype=bool)
    mask_HW[100, 200] = True
    assert fit_mask(mask_HW, (120, 160)).sum() == 1
    assert fit_mask(mask_HW, (120, 160))[25, 50]
    mask_HW[100:200, 200:400] = True
    assert fit_mask(mask_HW, (120, 160)).sum() == 25 * 50


def test_cells_have_the_frames_shape_and_equal_area() -> None:
    for height, width in ((480, 854), (168, 112), (48, 64), (1080, 1920)):
        cell_height, cell_width = cell_size(height, width)
        assert cell_width / cell_height == pytest.approx(width / height, rel=0.01)
        assert cell_height * cell_width == pytest.approx(40_000, rel=0.01)


# --- the sheet

HEADING = Heading("“a red car”", ("DecAF · model", "J&F 10.9"), "prompt", "kept")


def three_frames() -> list[Any]:
    return [np.full((60, 80, 3), 60 * step, dtype=np.uint8) for step in (1, 2, 3)]


def heat_and_masks() -> list[Row]:
    maps_Thw = np.linspace(0, 1, 3 * 2 * 2, dtype=np.float32).reshape(3, 2, 2)
    points = tuple(Points(array([[0.5, 0.5]]), np.array([True])) for _ in range(3))
    mask_HW = np.zeros((60, 80), dtype=bool)
    mask_HW[10:30, 20:60] = True
    return [
        HeatRow("clip map", "a note", maps_Thw, ("one", "two", "three"), points),
        MaskRow("predicted mask", "", (mask_HW, None, ~mask_HW), PREDICTED, "no mask"),
    ]


def boxes(layout: Layout, rows: int, columns: int) -> list[list[tuple[slice, slice]]]:
    return [[layout.box(row, column) for column in range(columns)] for row in range(rows)]


def test_cells_hold_what_was_painted_and_rows_align() -> None:
    frames, rows = three_frames(), heat_and_masks()
    sheet = draw_sheet(HEADING, frames, ["a", "b", "c"], rows)
    layout = lay_out(HEADING, (60, 80), 3, rows)
    assert sheet.shape == (layout.height, layout.width, 3) and sheet.dtype == np.uint8
    heat, masks = rows
    assert isinstance(heat, HeatRow) and isinstance(masks, MaskRow)
    for column, frame in enumerate(frames):
        cell = fit(frame, layout.cell)
        painted = paint_points(paint_heat(cell, heat.map_Thw[column]), array([[0.5, 0.5]]), np.array([True]))
        assert (sheet[layout.box(0, column)] == cell).all()
        assert (sheet[layout.box(1, column)] == painted).all()
        mask_HW = masks.masks[column]
        if mask_HW is not None:
            expected = paint_mask(cell, fit_mask(mask_HW, layout.cell), PREDICTED)
            assert (sheet[layout.box(2, column)] == expected).all()
    blank = sheet[layout.box(2, 1)]
    assert blank[0, 0].tolist() == list(EMPTY)
    assert (blank != EMPTY).any(axis=2).mean() < 0.05, "nothing but a word in it"
    assert (blank[60:140] != EMPTY).any()


def test_cells_keep_clear_of_each_other_and_of_the_edges() -> None:
    rows = heat_and_masks()
    layout = lay_out(HEADING, (60, 80), 3, rows)
    taken = np.zeros((layout.height, layout.width), dtype=int)
    for across in boxes(layout, 3, 3):
        assert len({box[0].start for box in across}) == 1, "the cells of a row are level"
        for box in across:
            assert taken[box].shape == layout.cell, "inside the sheet"
            taken[box] += 1
    assert taken.max() == 1
    sheet = draw_sheet(HEADING, three_frames(), ["a", "b", "c"], rows)
    for edge in (sheet[:20], sheet[-20:], sheet[:, :20], sheet[:, -20:]):
        assert (edge == PAPER).all()


def test_the_same_arrays_give_the_same_bytes() -> None:
    first, second = (draw_sheet(HEADING, three_frames(), ["a", "b", "c"], heat_and_masks()) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_text_of_any_length_stays_on_the_sheet() -> None:
    heading = Heading("the one that " + "very " * 60 + "slowly moves", ("x" * 400,))
    rows: list[Row] = [HeatRow("clip map", "", np.zeros((1, 2, 2), dtype=np.float32), ("a caption " * 20,))]
    sheet = draw_sheet(heading, three_frames()[:1], ["frame " * 30], rows)
    layout = lay_out(heading, (60, 80), 1, rows)
    assert len(layout.title_lines) > 1 and len(layout.fact_lines) > 1
    assert (sheet[:, -20:] == PAPER).all() and (sheet[:, :20] == PAPER).all()
    gap = sheet[layout.tops[0] : layout.tops[1], : layout.box(0, 0)[1].start - 60]
    assert (gap == PAPER).all(axis=2).mean() > 0.9, "captions stay below their cell"


def test_wrapped_lines_fit_and_lose_nothing() -> None:
    text = "one two " + "three" * 30 + " four"
    lines = wrap(text, 20, 150)
    assert all(font(20).getlength(line) <= 150 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert wrap("", 20, 150) == ("",)


def test_captions_break_between_their_parts_and_push_the_next_row_down() -> None:
    assert caption_lines("no target · J 100.0, F 100.0", 1000) == ("no target · J 100.0, F 100.0",)
    assert caption_lines("no target · J 100.0, F 100.0", 150) == ("no target", "J 100.0, F 100.0")
    assert caption_lines("", 150) == ("",)
    maps_Thw = np.zeros((1, 2, 2), dtype=np.float32)

    def gap(caption: str) -> int:
        rows: list[Row] = [HeatRow("one", "", maps_Thw, (caption,)), HeatRow("two", "", maps_Thw)]
        layout = lay_out(HEADING, (168, 112), 1, rows)
        return layout.tops[2] - layout.box(1, 0)[0].stop

    assert gap("no target · J 100.0, F 100.0") > gap("no target") > 20


def test_a_long_legend_widens_the_sheet() -> None:
    heading = Heading("t", (), "what the small points are " * 4, "what the large points are " * 4)
    rows: list[Row] = [HeatRow("one", "", np.zeros((1, 2, 2), dtype=np.float32))]
    sheet = draw_sheet(heading, three_frames()[:1], ["a"], rows)
    assert (sheet[:, -20:] == PAPER).all()
    layout = lay_out(heading, (60, 80), 1, rows)
    legend = sheet[layout.legend_top : layout.legend_top + 30, -120:-28]
    assert (legend != PAPER).any(), "its end is on the sheet"


def test_characters_that_the_font_lacks_are_replaced() -> None:
    assert printable("café 狗 “a” · b\n") == "cafe ? “a” · b\n"


@pytest.mark.parametrize("fault", ["names", "sizes", "columns", "captions", "mask"])
def test_rows_that_do_not_fit_the_frames_are_refused(fault: str) -> None:
    frames, names = three_frames(), ["a", "b", "c"]
    rows: list[Row] = [HeatRow("clip map", "", np.zeros((3, 2, 2), dtype=np.float32))]
    if fault == "names":
        names = ["a"]
    elif fault == "sizes":
        frames[1] = frames[1][:30]
    elif fault == "columns":
        rows = [HeatRow("clip map", "", np.zeros((2, 2, 2), dtype=np.float32))]
    elif fault == "captions":
        rows = [HeatRow("clip map", "", np.zeros((3, 2, 2), dtype=np.float32), ("only one",))]
    else:
        rows = [MaskRow("mask", "", (np.zeros((3, 3), dtype=bool),) * 3, TRUE, "none")]
    with pytest.raises(ValueError):
        draw_sheet(HEADING, frames, names, rows)
