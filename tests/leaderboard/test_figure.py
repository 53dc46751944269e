"""The figure of a sample: what its artefacts hold is in its cells, whatever the method; the rest is left out.

The run is made by hand, so that every cell is known.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer
import yaml
from clips import HEIGHT, WIDTH, square, write_dataset
from PIL import Image

from rvosbench.harness import cli
from rvosbench.harness.data.images import read_rgb
from rvosbench.harness.data.masks import track_from_masks
from rvosbench.harness.data.reader import open_dataset
from rvosbench.harness.results.reader import read_run
from rvosbench.harness.store.artefacts import Artefact, ArtefactStore
from rvosbench.harness.store.tracks import segment_artefact
from rvosbench.leaderboard.figure import drawing
from rvosbench.leaderboard.figure.command import figure
from rvosbench.leaderboard.figure.content import FigureContent, Row, figure_content, for_display, shown_frames
from rvosbench.leaderboard.figure.drawing import draw_figure, to_png
from rvosbench.leaderboard.figure.maps import read_maps, read_prompts
from rvosbench.leaderboard.figure.samples import Wanted, find_sample
from rvosbench.leaderboard.overlays import reduce_mask

ROOT = Path(__file__).resolve().parents[2]


def array(values: object) -> Any:
    return np.array(values, dtype=np.float32)


REASON, GROUND, SEGMENT, OTHER, MASKS, BOXES = (letter * 64 for letter in "9abcef")
TEXT = "the bright one"
KEYFRAMES = [0, 1, 3, 5]
OBJECT_CLIP = array([[[0.4, 0.1], [0.0, 0.0]], [[0.1, 0.3], [0.2, 0.0]]])
BACKGROUND_CLIP = array([[[0.0, 0.2], [0.0, 0.0]], [[0.0, 0.1], [0.0, 0.0]]])
OBJECT_FRAME = array([[[0.5, 0.0]], [[0.2, 0.3]], [[0.0, 0.0]], [[0.1, 0.6]]])
BACKGROUND_FRAME = array([[[0.1, 0.3]], [[0.0, 0.0]], [[0.1, 0.1]], [[0.0, 0.2]]])
FUSED = array([[[1.0, 0.0]], [[0.75, 0.25]], [[0.0, 0.1]], [[0.9, 0.95]]])


def tracklet(frame: int, x: float, selected: bool) -> dict[str, Any]:
    return {"frame": frame, "point": [x, 0.5], "rho_clip": -0.204, "score": 0.04, "selected": selected, "rle": None}


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
    points = array([[0, 0.5, 0.25, 1.0], [5, 0.5, 0.25, 0.9], [5, 0.5, 0.75, 0.95]])
    store.write("segment", SEGMENT, Artefact(meta, {"fused": FUSED, "points": points, "keypoints": points}))
    said = {"attributes": ["grey", "on the left"], "reasons": "It lies still.", "fallback": "no JSON", "raw": ""}
    store.write("reason", REASON, Artefact(said))
    store.write("segment", MASKS, segment_artefact(every))
    store.write("find", BOXES, Artefact({"answer": "there"}, {"boxes": array([[3, 0.25, 0.125, 0.75, 0.5, 0.9]])}))
    some = track_from_masks([predicted(0), predicted(1)], [0, 1], HEIGHT, WIDTH)
    store.write("segment", OTHER, Artefact(segment_artefact(some, keyframes=KEYFRAMES).meta, {"fused": FUSED}))
    rows = [
        row("DecAF", "small", "a", "1", key_reason=REASON),
        row("DecAF", "large", "a", "1"),
        row("DecAF", "small", "b", "0", key_segment="d" * 64, status="failed", error="out of points"),
        row("DecAF", "small", "a", "0", key_ground=None),
        row("Otsu", "small", "a", "1", key_segment=OTHER, num_frames=4),
        row("bright", None, "a", "1", key_ground=None, key_segment=MASKS),
        row("boxes", None, "a", "1", key_ground=None, key_segment=None, key_find=BOXES),
    ]
    pd.DataFrame(rows).to_parquet(folder / "samples.parquet")
    scores = [{**{k: rows[0][k] for k in NAMES}, "frame": f"{i:05d}", "J": 0.1 * i, "F": 0.05 * i} for i in range(5)]
    pd.DataFrame(scores).to_parquet(folder / "frames.parquet")
    return folder


NAMES = ("method", "lvlm", "dataset", "split", "video", "expression")


def row(method: str, lvlm: str | None, video: str, expression: str, **changes: object) -> dict[str, Any]:
    scores = {"J": 0.25, "F": 0.5, "J_and_F": 0.375, "num_frames": 6, "status": "scored", "error": None}
    keys = {"key_reason": None, "key_ground": GROUND, "key_find": None, "key_segment": SEGMENT, "key_score": "0" * 64}
    values = dict(zip(NAMES, (method, lvlm, "shapes", "valid", video, expression), strict=True))
    return {**values, "text": TEXT + " ", **scores, **keys, **changes}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("figure"))


def content_of(run_dir: Path, method: str, lvlm: str | None = None, columns: int = 8, **changes: str) -> FigureContent:
    found = find_sample(
        read_run(run_dir), Wanted(**{"video": "a", "expression": "1", **changes}, method=method, lvlm=lvlm)
    )
    return figure_content(found, open_dataset("shapes", run_dir.parents[1] / "data", "valid"), columns)


def row_of(content: FigureContent, label: str) -> Row:
    (row,) = [row for row in content.rows if row.label == label]
    return row


def maps_of(row: Row) -> Any:
    return np.array([cell.map_hw for cell in row.cells])


def frames_of(run_dir: Path, indices: list[int]) -> list[Any]:
    folder = run_dir.parents[1] / "data" / "shapes" / "valid" / "JPEGImages" / "a"
    return [read_rgb(folder / f"{index:05d}.jpg") for index in indices]


# --- the content


def test_every_map_of_the_artefacts_is_a_row(run_dir: Path) -> None:
    content = content_of(run_dir, "DecAF", "small", columns=3)
    shown = [0, 1, 5]
    assert [row.label for row in content.rows] == [
        "ground: background clip", "ground: background frame", "ground: object clip", "ground: object frame",
        "segment: fused", "predicted mask", "ground truth",
    ]  # fmt: skip
    assert content.names == tuple(f"frame {index:05d}" for index in shown)
    for frame, expected in zip(content.frames, frames_of(run_dir, shown), strict=True):
        np.testing.assert_array_equal(frame, expected)
    clip = row_of(content, "ground: object clip")
    np.testing.assert_allclose(maps_of(clip), OBJECT_CLIP[[0, 0, 1]] / 0.4, atol=1e-6)
    assert "0 to 0.4 over the clip" in clip.note and clip.cells[2].caption == "max 0.3"
    np.testing.assert_allclose(
        maps_of(row_of(content, "ground: object frame")), OBJECT_FRAME[[0, 1, 3]] / 0.6, atol=1e-6
    )
    fused = row_of(content, "segment: fused")
    np.testing.assert_array_equal(maps_of(fused), FUSED[[0, 1, 3]])
    assert fused.note.startswith("as stored")


def test_prompts_lie_on_the_last_map_of_their_artefact(run_dir: Path) -> None:
    content = content_of(run_dir, "DecAF", "small", columns=3)
    cells = row_of(content, "segment: fused").cells
    assert [cell.prompts.xy_n2.tolist() for cell in cells] == [[[0.25, 0.5]], [], [[0.25, 0.5], [0.75, 0.5]]]
    assert [cell.prompts.chosen_n.tolist() for cell in cells] == [[False], [], [False, True]]
    assert [cell.caption for cell in cells] == ["max 1 · 1 point", "max 0.75 · no prompt", "max 0.95 · 2 points"]
    assert all(not len(cell.prompts.xy_n2) for row in content.rows[:4] for cell in row.cells)


def test_masks_ground_truth_and_the_scores_of_frames(run_dir: Path) -> None:
    content = content_of(run_dir, "DecAF", "small", columns=3)
    mask, truth = row_of(content, "predicted mask"), row_of(content, "ground truth")
    for predicted_cell, true_cell, index in zip(mask.cells, truth.cells, (0, 1, 5), strict=True):
        np.testing.assert_array_equal(predicted_cell.mask_HW, predicted(index))
        np.testing.assert_array_equal(true_cell.mask_HW, square(index))
    assert mask.cells[0].caption == "empty" and mask.cells[1].caption == f"{square(1).mean():.1%} of the frame"
    assert [cell.caption for cell in truth.cells] == ["J 0.0, F 0.0", "J 10.0, F 5.0", ""]
    assert (mask.mask, truth.mask) == ("prediction", "truth")


def test_facts_stand_below_the_title(run_dir: Path) -> None:
    content = content_of(run_dir, "DecAF", "small", columns=3)
    assert content.title == f"“{TEXT}”"
    assert content.facts == (
        "DecAF · small · shapes/valid · video a, expression 1",
        "J&F 37.5 (J 25.0, F 50.0) over 6 frames · 3 of 4 keyframes shown",
        "Attributes: grey; on the left",
        "Reasons: It lies still.",
        "Object: Block",
        "Fallback of reason: no JSON",
        "Prompted with 3 points on frames 00000, 00005 · result tracked from 00005",
        "Kept tracklet 2 of 2: rho_clip -0.20, score 0.04",
    )


def test_masks_on_keyframes_only_leave_blank_cells_and_no_prompts(run_dir: Path) -> None:
    content = content_of(run_dir, "Otsu")
    assert len(content.frames) == len(KEYFRAMES)
    assert [cell.blank for cell in row_of(content, "predicted mask").cells] == ["", "", "no mask", "no mask"]
    assert not any(fact.startswith("Prompted") for fact in content.facts)
    assert all(not len(cell.prompts.xy_n2) for row in content.rows for cell in row.cells)


def test_a_method_with_masks_alone_has_frames_masks_and_ground_truth(run_dir: Path) -> None:
    content = content_of(run_dir, "bright")
    assert [row.label for row in content.rows] == ["predicted mask", "ground truth"]
    assert len(content.frames) == 6 and "6 of 6 frames shown" in content.facts[1]


def test_boxes_without_maps_are_drawn_on_frames_that_are_shown(run_dir: Path) -> None:
    content = content_of(run_dir, "boxes", columns=3)
    assert content.names == ("frame 00000", "frame 00003", "frame 00005"), "frame 2 of an even choice made room for 3"
    cells = row_of(content, "find: prompts").cells
    assert [len(cell.prompts.boxes_m4) for cell in cells] == [0, 1, 0]
    np.testing.assert_allclose(cells[1].prompts.boxes_m4, [[0.125, 0.25, 0.5, 0.75]])
    assert [cell.caption for cell in cells] == ["no prompt", "1 box", "no prompt"]
    assert [row.label for row in content.rows] == ["find: prompts", "ground truth"]


def test_keyframes_that_are_no_indices_are_a_fact_and_all_frames_are_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    store = ArtefactStore(tmp_path / "runs" / "artefacts")
    store.write("find", BOXES, Artefact({"keyframes": [5, 0, 5]}, {"boxes": array([[3, 0.25, 0.125, 0.75, 0.5]])}))
    content = content_of(run, "boxes")
    assert len(content.frames) == 6 and any("keyframes of find" in fact for fact in content.facts)
    assert "No masks were kept for this sample." in content.facts


def test_artefacts_that_are_not_there_are_missing_rows_and_a_fact(run_dir: Path) -> None:
    content = content_of(run_dir, "DecAF", "small", video="b", expression="0")
    assert [row.label for row in content.rows][-1] == "ground truth"
    assert not any(row.label in ("predicted mask", "segment: fused") for row in content.rows)
    assert any("out of points" in fact for fact in content.facts)
    assert any("segment artefact dddddddddddd is not in the run's store" in fact for fact in content.facts)
    content = content_of(run_dir, "DecAF", "small", expression="0")
    assert not any(row.label.startswith("ground:") for row in content.rows)


# --- reading artefacts


def names_of(keyframes: int, **arrays: Any) -> tuple[list[str], int]:
    maps, problems = read_maps(Artefact({}, {name: np.asarray(array) for name, array in arrays.items()}), keyframes)
    assert all(len(one.maps) == keyframes for one in maps)
    return [one.name for one in maps], len(problems)


def test_maps_are_known_by_their_shapes() -> None:
    full = np.ones((5, 2, 3), dtype=np.float16)
    assert names_of(5, one=full, counts=np.ones((5, 6)), text=np.array(["x"])) == (["one"], 0)
    assert names_of(5, pairs=full[:3], all=full[:1]) == (["all", "pairs"], 0)
    assert names_of(5, wrong=full[:4], good=full) == (["good"], 1)
    assert names_of(5, heads=np.stack([full] * 3)) == ([f"heads {k} of 3" for k in (1, 2, 3)], 0)
    assert names_of(5, heads=np.stack([full] * 9)) == (["heads (mean of 9)"], 0)
    assert names_of(5, bad=np.full((5, 2, 3), np.nan), empty=np.ones((5, 0, 3))) == ([], 1)


def test_arrays_of_one_keyframe_each_are_one_map() -> None:
    arrays = {f"view_{k:03d}": np.full((k, 1, 2, 2), k, dtype=np.float32) for k in range(3)}
    (one,), problems = read_maps(Artefact({}, arrays), 3)
    assert one.name == "view" and not problems
    assert one.maps[0] is None, "an empty answer has no map"
    assert [float(map_hw[0, 0]) for map_hw in one.maps[1:] if map_hw is not None] == [1.0, 2.0]


def test_points_that_are_not_listed_are_those_of_the_tracklets() -> None:
    prompts, problems = read_prompts(Artefact({"tracklets": [tracklet(0, 0.25, False), tracklet(5, 0.75, True)]}))
    assert list(prompts) == [0, 5] and not problems
    assert prompts[5].xy_n2.tolist() == [[0.75, 0.5]] and prompts[5].chosen_n.tolist() == [True]


@pytest.mark.parametrize(
    "arrays",
    [
        {"points": np.array([[0, 10.0, 20.0]])},
        {"boxes": np.array([[0, 0.1, 0.1, np.nan, 0.2]])},
        {"boxes": np.zeros((2, 4))},
        {"points": np.zeros(3)},
    ],
)
def test_prompts_that_cannot_be_placed_are_named(arrays: dict[str, Any]) -> None:
    prompts, problems = read_prompts(Artefact({}, arrays))
    assert not prompts and len(problems) == 1


@pytest.mark.parametrize("tracklets", [None, "x", [1, "two", {"frame": "0"}, {"frame": 0, "point": 3}]])
def test_metadata_of_other_shapes_is_no_prompt(tracklets: Any) -> None:
    assert read_prompts(Artefact({"tracklets": tracklets, "keyframes": "x"})) == ({}, ())


def test_raw_values_are_normalised_over_the_clip_for_display() -> None:
    drawn, note = for_display([array([[0.1, 0.2]]), None, array([[0.3, 0.1]])])
    np.testing.assert_allclose(drawn[0], [[0, 0.5]], atol=1e-6)
    np.testing.assert_allclose(drawn[2], [[1, 0]], atol=1e-6)
    assert drawn[1] is None and "0.1 to 0.3" in note
    constant, note = for_display([array([[7.0, 7.0]])])
    assert constant[0] is not None and not constant[0].any() and "7 everywhere" in note
    huge, _ = for_display([np.array([[-1.7e308, 1.7e308]])])
    assert huge[0] is not None and huge[0].tolist() == [[0.0, 1.0]]


def test_wanted_frames_replace_the_nearest_and_the_count_stays() -> None:
    assert shown_frames(range(10), (), 4) == (0, 3, 6, 9)
    assert shown_frames(range(10), (4,), 4) == (0, 4, 6, 9)
    assert shown_frames(range(10), (3, 4, 20), 4) == (0, 3, 4, 9)
    assert shown_frames(range(10), range(10), 4) == (0, 3, 6, 9)
    assert shown_frames((2, 5), (7,), 4) == (2, 5)


def test_a_mask_smaller_than_a_pixel_stays_visible() -> None:
    mask_HW = np.zeros((480, 640), dtype=bool)
    mask_HW[101, 203] = True
    assert np.argwhere(reduce_mask(mask_HW, (120, 160))).tolist() == [[25, 50]]
    mask_HW[100:200, 200:400] = True
    assert reduce_mask(mask_HW, (120, 160)).sum() == 25 * 50


# --- drawing


def test_a_figure_has_an_axes_per_cell_that_overlap_nowhere(run_dir: Path) -> None:
    content = content_of(run_dir, "DecAF", "small", columns=3)
    drawn = draw_figure(content)
    assert len(drawn.axes) == 3 * (1 + len(content.rows))
    with Image.open(io.BytesIO(to_png(content))) as image:
        assert image.format == "PNG"
        width, height = image.size
    assert (width, height) == tuple(int(100 * inches) for inches in drawn.get_size_inches())
    boxes = [axes.get_position() for axes in drawn.axes]
    for number, one in enumerate(boxes):
        assert 0 < one.x0 < one.x1 < 1 and 0 < one.y0 < one.y1 < 1
        assert not any(one.overlaps(other) for other in boxes[:number])


def test_text_of_any_kind_is_drawn_as_it_is(run_dir: Path) -> None:
    content = content_of(run_dir, "Otsu")
    odd = "costs $x_ and $y^ \\frac{ 狗 " + "long" * 100
    rows = tuple(Row(odd, odd, row.cells, row.mask) for row in content.rows)
    written = FigureContent(odd, (odd, ""), content.frames, (odd,) * len(content.names), rows)
    with Image.open(io.BytesIO(to_png(written))) as image:
        assert image.width > 800


def test_many_rows_and_long_text_make_a_file_of_bounded_size(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "MOST_PIXELS", 1000)
    content = content_of(run_dir, "bright", columns=2)
    rows = content.rows[:1] * 6
    long = FigureContent("word " * 5000, ("x" * 50_000,) * 3, content.frames, content.names, rows)
    assert 1500 < 100 * draw_figure(long).get_size_inches()[1] < 3000, "the text does not grow without bound"
    with Image.open(io.BytesIO(to_png(long))) as image:
        assert max(image.size) <= 1000


# --- the command

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Runs ``rvosbench figure`` on the run; gives the exit code and what it printed."""
    app = typer.Typer()
    app.command()(figure)
    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr(cli, "_add_plugged_commands", lambda: None)
    monkeypatch.delenv("RVOSBENCH_DATA", raising=False)

    def call(*arguments: str, run: Path = run_dir, out: str = "figure.png") -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["rvosbench", str(run), *arguments, "--out", str(tmp_path / out)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return int(ended.value.code or 0), " ".join((printed.out + printed.err).split())

    return call


SAMPLE = ("--video", "a", "--expression", "1")


def test_the_command_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    value = project["entry-points"]["rvosbench.commands"]["figure"]
    assert EntryPoint("figure", value, cli.COMMANDS_GROUP).load() is figure


@pytest.mark.parametrize("method", ["DecAF", "Otsu", "bright", "boxes"])
def test_a_figure_of_every_method_is_written(command: Command, tmp_path: Path, method: str) -> None:
    lvlm = ("--lvlm", "small") if method == "DecAF" else ()
    code, text = command(*SAMPLE, "--method", method, *lvlm, "--columns", "2", out="new/figure.png")
    assert code == 0, text
    with Image.open(tmp_path / "new" / "figure.png") as image:
        assert image.format == "PNG"


def test_neither_torch_nor_streamlit_is_loaded(run_dir: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from rvosbench.leaderboard.figure.command import figure; "
        "print('matplotlib' in sys.modules); "
        f"figure(Path({str(run_dir)!r}), 'a', '1', Path({str(tmp_path / 'x.png')!r}), 'DecAF', 'small'); "
        "print(sorted({'torch', 'transformers', 'ray', 'mlflow', 'streamlit', 'matplotlib.pyplot'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[0] == "False" and ended.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (("--video", "c", "--expression", "1"), "Known: a, b."),
        (("--video", "a", "--expression", "7"), "Known: 0, 1."),
        ((*SAMPLE, "--method", "DeCAF"), "'DecAF'"),
        ((*SAMPLE, "--method", "DecAF", "--lvlm", "smal"), "'small'"),
        (SAMPLE, "--method: DecAF, Otsu, boxes, bright."),
        ((*SAMPLE, "--method", "DecAF"), "--lvlm: large, small."),
        ((*SAMPLE, "--split", "test"), "Known: valid."),
        ((*SAMPLE, "--method", "Otsu", "--data-root", "nowhere"), "nowhere"),
    ],
)  # fmt: skip
def test_a_sample_that_is_not_found_is_a_usage_error(command: Command, arguments: tuple[str, ...], fact: str) -> None:
    code, text = command(*arguments)
    assert code == 2 and fact in text


def test_a_target_that_is_no_png_and_a_run_that_is_none(command: Command, tmp_path: Path) -> None:
    assert command(*SAMPLE, out="figure.jpg")[0] == 2
    assert command(*SAMPLE, run=tmp_path / "absent")[0] == 2
    assert command(*SAMPLE, run=tmp_path)[0] == 2
    (tmp_path / "file").write_text("")
    assert command(*SAMPLE, "--method", "Otsu", out="file/figure.png")[0] == 2


def test_a_damaged_frame_damaged_artefacts_and_other_data_are_named(command: Command, tmp_path: Path) -> None:
    run = write_run(tmp_path / "own")
    folder = tmp_path / "own" / "data" / "shapes" / "valid" / "JPEGImages" / "a"
    Image.fromarray(np.zeros((10, 10, 3), dtype=np.uint8)).save(folder / "00003.jpg")
    code, text = command(*SAMPLE, "--method", "Otsu", run=run)
    assert code == 2 and "10x10" in text and "--data-root" in text
    (folder / "00003.jpg").write_bytes(b"no image")
    code, text = command(*SAMPLE, "--method", "Otsu", run=run)
    assert code == 2 and "00003.jpg" in text
    ArtefactStore(tmp_path / "own" / "runs" / "artefacts").path("ground", GROUND).write_bytes(b"no zip")
    assert command(*SAMPLE, "--method", "Otsu", run=run)[0] == 2
