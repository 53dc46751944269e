"""The picture command on a run made by hand.

The run's maps are so small that its rows are worked out here by hand (the Gaussians have one cell).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from clips import HEIGHT, WIDTH, square, write_dataset
from PIL import Image

from rvosbench.harness import cli
from rvosbench.harness.data.images import read_rgb
from rvosbench.harness.data.masks import track_from_masks
from rvosbench.harness.store.artefacts import Artefact, ArtefactStore
from rvosbench.harness.store.tracks import segment_artefact
from rvosbench.methods.picture.painting import (
    fit,
    paint_heat,
)
from rvosbench.methods.picture.rows import PREDICTED, TRUE
from rvosbench.methods.picture.sheet import (
    EMPTY,
    Heading,
    HeatRow,
    MaskRow,
    Points,
    Row,
    draw_sheet,
    lay_out,
)


def array(values: object) -> Any:
    return np.array(values, dtype=np.float32)


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
        "import sys; from pathlib import Path; from rvosbench.methods.picture import picture; "
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
