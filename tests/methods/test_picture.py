"""Sheets: every cell where it belongs, every colour what it means, and the command on a run made by hand.

The run's maps are so small that its rows are worked out here by hand (the Gaussians have one cell).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import yaml
from clips import HEIGHT, WIDTH, square, write_dataset
from PIL import Image

from harness import cli
from harness.data.images import read_rgb
from harness.data.masks import track_from_masks
from harness.pipeline.artefacts import ArtefactStore
from harness.pipeline.stages import Artefact
from harness.pipeline.tracks import segment_artefact
from methods.picture.painting import (
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
from methods.picture.rows import PREDICTED, TRUE
from methods.picture.sheet import (
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


# --- the command

GROUND, SEGMENT, OTHER = "aa" * 32, "bb" * 32, "cc" * 32
TEXT = "the bright one"
KEYFRAMES = [0, 1, 3, 5]
OBJECT_CLIP = array([[[0.4, 0.1], [0.0, 0.0]], [[0.1, 0.3], [0.2, 0.0]]])
BACKGROUND_CLIP = array([[[0.0, 0.2], [0.0, 0.0]], [[0.0, 0.1], [0.0, 0.0]]])
CLIP_MAP = array([[[1.0, 0.0], [0.0, 0.0]], [[0.25, 0.5], [0.5, 0.0]]])
"""Object minus background, at least 0, divided by the clip's largest, 0.4."""
OBJECT_FRAME = array([[[0.5, 0.0]], [[0.2, 0.3]], [[0.0, 0.0]], [[0.1, 0.6]]])
BACKGROUND_FRAME = array([[[0.1, 0.3]], [[0.0, 0.0]], [[0.1, 0.1]], [[0.0, 0.2]]])
FRAME_MAP = array([[[1.0, 0.0]], [[0.0, 1.0]], [[0.0, 0.0]], [[0.0, 1.0]]])
"""The same, but from the smallest to the largest value of each frame; the third frame is constant."""
FUSED = array([[[1.0, 0.0]], [[0.75, 0.25]], [[0.0, 0.1]], [[0.9, 0.95]]])
"""Not what those maps give: shows that the stored map is drawn."""


def tracklet(frame: int, x: float, selected: bool) -> dict[str, Any]:
    return {"frame": frame, "point": [x, 0.5], "selected": selected, "rle": None}


def predicted(index: int) -> Any:
    return np.roll(square(index), 3, axis=1) if index else np.zeros((HEIGHT, WIDTH), dtype=bool)


def write_run(root: Path) -> Path:
    """A DecAF run over six real frames: two labels, one of them on two models, and a method without attention."""
    write_dataset(root / "data", {"a": ["the square", TEXT], "b": ["it"]}, frames=6)
    settings = {"keyframes": 4, "fusion": {"clip_kernel": 1, "frame_kernel": 1}}
    recipe = {
        "name": "trial",
        "data_root": str(root / "data"),
        "runs": str(root / "runs"),
        "datasets": [{"name": "shapes", "split": "valid"}],
        "lvlms": ["maker/small", "maker/large"],
        "methods": [
            {"method": "decaf", "settings": settings},
            {
                "method": "decaf",
                "label": "Otsu",
                "lvlms": ["maker/small"],
                "settings": {**settings, "masks": "attention"},
            },
            {"method": "bright", "label": "bright"},
        ],
    }
    folder = root / "runs" / "trial-00000000"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "run.json").write_text(json.dumps({"schema": 1, "name": "trial", "status": "interrupted"}))
    store = ArtefactStore(root / "runs" / "artefacts")
    ground = {
        "object_clip": OBJECT_CLIP,
        "background_clip": BACKGROUND_CLIP,
        "object_frame": OBJECT_FRAME,
        "background_frame": BACKGROUND_FRAME,
    }
    store.write("ground", GROUND, Artefact({"keyframes": KEYFRAMES, "object_name": "Block"}, ground))
    every = track_from_masks([predicted(i) for i in range(6)], range(6), HEIGHT, WIDTH)
    tracklets = [tracklet(0, 0.25, False), tracklet(5, 0.75, True)]
    meta = segment_artefact(every, keyframes=KEYFRAMES, tracklets=tracklets, empty_because=None).meta
    store.write("segment", SEGMENT, Artefact(meta, {"fused": FUSED}))
    some = track_from_masks([predicted(0), predicted(1)], [0, 1], HEIGHT, WIDTH)
    store.write("segment", OTHER, Artefact(segment_artefact(some, keyframes=KEYFRAMES).meta, {"fused": FUSED}))
    rows = [
        row("DecAF", "small", "a", "1"),
        row("DecAF", "large", "a", "1"),
        row("DecAF", "small", "b", "0", key_segment="dd" * 32, status="failed", error="out of points"),
        row("DecAF", "small", "a", "0", key_ground=None),
        row("Otsu", "small", "a", "1", key_segment=OTHER, num_frames=4),
        row("bright", None, "a", "1"),
    ]
    pd.DataFrame(rows).to_parquet(folder / "samples.parquet")
    scores = [{**{k: rows[0][k] for k in NAMES}, "frame": f"{i:05d}", "J": 0.1 * i, "F": 0.05 * i} for i in range(5)]
    pd.DataFrame(scores).to_parquet(folder / "frames.parquet")
    return folder


NAMES = ("method", "lvlm", "dataset", "split", "video", "expression")


def row(method: str, lvlm: str | None, video: str, expression: str, **changes: object) -> dict[str, Any]:
    scores = {"J": 0.25, "F": 0.5, "J_and_F": 0.375, "num_frames": 6, "status": "scored", "error": None}
    keys = {"key_ground": GROUND, "key_segment": SEGMENT}
    values = dict(zip(NAMES, (method, lvlm, "shapes", "valid", video, expression), strict=True))
    return {**values, "text": TEXT + " ", **scores, **keys, **changes}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("picture"))


Command = Callable[..., tuple[int, str]]


@pytest.fixture
def picture(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Runs ``rvosbench picture`` on the run; gives the exit code and what it said."""

    def call(*arguments: str, run: Path = run_dir, out: str = "sheet.png") -> tuple[int, str]:
        target = ["--out", str(tmp_path / out)]
        monkeypatch.setattr(sys, "argv", ["rvosbench", "picture", str(run), *arguments, *target])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return int(ended.value.code or 0), " ".join((said.out + said.err).split())

    return call


SAMPLE = ("--video", "a", "--expression", "1")


def frames_of(run_dir: Path, indices: list[int]) -> list[Any]:
    folder = run_dir.parents[1] / "data" / "shapes" / "valid" / "JPEGImages" / "a"
    return [read_rgb(folder / f"{index:05d}.jpg") for index in indices]


def test_the_sheet_of_a_sample(picture: Command, run_dir: Path, tmp_path: Path) -> None:
    code, said = picture(*SAMPLE, "--method", "DecAF", "--lvlm", "small", "--columns", "3", out="new/sheet.png")
    assert code == 0, said
    shown = [0, 1, 5]
    positions = [0, 1, 3]
    points = (
        Points(array([[0.25, 0.5]]), np.array([False])),
        Points(array(np.zeros((0, 2))), np.array([], dtype=bool)),
        Points(array([[0.25, 0.5], [0.75, 0.5]]), np.array([False, True])),
    )
    heading = Heading(
        "“the bright one”",
        (
            "DecAF · small · shapes/valid · video a, expression 1",
            "J&F 37.5 (J 25.0, F 50.0) over 6 frames · object “Block” · 3 of 4 keyframes shown",
            "SAM2 prompted on frames 00000, 00005 (3 points) · result tracked from frame 00005",
        ),
        "point that prompted SAM2",
        "point whose tracklet is in the result",
    )
    share = f"{square(1).mean():.1%} of the frame"
    rows: list[Row] = [
        HeatRow(
            "clip map",
            "object minus background, 0 to 1 over the clip",
            CLIP_MAP[[0, 0, 1]],
            ("max 1.00", "max 1.00", "max 0.50"),
        ),
        HeatRow("frame map", "object minus background, 0 to 1 in each frame", FRAME_MAP[positions], ("max 1.00",) * 3),
        HeatRow(
            "fused map",
            "average of both, 0 to 1 over the clip; points at 0.8 or more",
            FUSED[positions],
            ("max 1.00 · 1 point", "max 0.75 · no points", "max 0.95 · 2 points"),
            points,
        ),
        MaskRow(
            "predicted mask",
            "",
            tuple(predicted(index) for index in shown),
            PREDICTED,
            "no mask",
            ("empty", share, share),
        ),
        MaskRow(
            "ground truth",
            "J and F in %",
            tuple(square(index) for index in shown),
            TRUE,
            "not annotated",
            ("J 0.0, F 0.0", "J 10.0, F 5.0", ""),
        ),
    ]
    expected = draw_sheet(heading, frames_of(run_dir, shown), [f"frame {index:05d}" for index in shown], rows)
    with Image.open(tmp_path / "new" / "sheet.png") as image:
        assert image.format == "PNG"
        drawn = np.asarray(image)
    assert drawn.shape == expected.shape
    layout = lay_out(heading, (HEIGHT, WIDTH), 3, rows)
    for number in range(len(rows) + 1):
        for column in range(3):
            box = layout.box(number, column)
            assert (drawn[box] == expected[box]).all(), f"row {number}, column {column}"
    assert (drawn == expected).all(), "the texts"


def test_masks_of_attention_have_no_prompts_and_exist_on_keyframes_only(
    picture: Command, run_dir: Path, tmp_path: Path
) -> None:
    code, said = picture(*SAMPLE, "--method", "Otsu")
    assert code == 0, said
    drawn = np.asarray(Image.open(tmp_path / "sheet.png"))
    heading = Heading("t", ("DecAF", "J&F"))
    rows: list[Row] = [HeatRow(name, "", FUSED, ("",) * 4) for name in ("clip map", "frame map", "fused map")]
    rows += [MaskRow(name, "", (None,) * 4, TRUE, "no mask", ("",) * 4) for name in ("predicted mask", "ground truth")]
    layout = lay_out(heading, (HEIGHT, WIDTH), 4, rows)
    frames = frames_of(run_dir, KEYFRAMES)
    for column in range(4):
        cell = fit(frames[column], layout.cell)
        assert (drawn[layout.box(3, column)] == paint_heat(cell, FUSED[column])).all(), "no points on it"
        assert (drawn[layout.box(4, column)][0, 0] == EMPTY).all() == (column > 1)


def test_a_sheet_needs_no_torch(run_dir: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from methods.picture import picture; "
        f"picture(Path({str(run_dir)!r}), 'a', '1', Path({str(tmp_path / 'x.png')!r}), 'DecAF', 'small'); "
        "print(sorted({'torch', 'transformers', 'ray', 'mlflow', 'matplotlib'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--video", "c", "--expression", "1"), "The run has no video 'c'. Known: a, b."),
        (("--video", "a", "--expression", "7"), "The run has no expression '7' in video a. Known: 0, 1."),
        ((*SAMPLE, "--method", "DeCAF"), "no method 'DeCAF' for this sample. Did you mean 'DecAF'?"),
        ((*SAMPLE, "--method", "DecAF", "--lvlm", "smal"), "no lvlm 'smal' for this sample. Did you mean 'small'?"),
        (SAMPLE, "under more than one method. Choose with --method: DecAF, Otsu, bright."),
        ((*SAMPLE, "--method", "DecAF"), "under more than one lvlm. Choose with --lvlm: large, small."),
        ((*SAMPLE, "--split", "test"), "The run has no split 'test' for this sample. Known: valid."),
        ((*SAMPLE, "--method", "bright"), "'bright' is the method bright, whose maps this command cannot read."),
        (("--video", "b", "--expression", "0"), "segment artefact of video b, expression 0 is missing"),
        (("--video", "b", "--expression", "0"), "(out of points). Compute it: rvosbench run --resume"),
        (("--video", "a", "--expression", "0"), "The run has no ground artefact of video a, expression 0."),
        ((*SAMPLE, "--method", "Otsu", "--data-root", "nowhere"), "nowhere"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_sentence(picture: Command, arguments: tuple[str, ...], message: str) -> None:
    code, said = picture(*arguments)
    assert code == 2
    assert message in said


def test_a_target_that_is_no_png_and_a_run_that_is_none(picture: Command, tmp_path: Path) -> None:
    assert picture(*SAMPLE, out="sheet.jpg") == (2, f"error: --out {tmp_path / 'sheet.jpg'} is not a PNG file. "
                                                    "Example: --out sheet.png")  # fmt: skip
    assert "There is no run folder" in picture(*SAMPLE, run=tmp_path / "absent")[1]
    assert "holds no run" in picture(*SAMPLE, run=tmp_path)[1]
    (tmp_path / "file").write_text("")
    code, said = picture(*SAMPLE, "--method", "Otsu", out="file/sheet.png")
    assert code == 2 and "Cannot write" in said


def test_a_damaged_frame_and_other_data_are_named(picture: Command, tmp_path: Path) -> None:
    run = write_run(tmp_path / "own")
    folder = tmp_path / "own" / "data" / "shapes" / "valid" / "JPEGImages" / "a"
    Image.fromarray(np.zeros((10, 10, 3), dtype=np.uint8)).save(folder / "00003.jpg")
    code, said = picture(*SAMPLE, "--method", "Otsu", run=run)
    assert code == 2 and "is 10x10, a mask of the run 64x48" in said and "--data-root" in said
    (folder / "00003.jpg").write_bytes(b"no image")
    code, said = picture(*SAMPLE, "--method", "Otsu", run=run)
    assert code == 2 and "00003.jpg cannot be read as an image" in said
