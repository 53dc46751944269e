"""Reading predicted masks of every form, and saying what is wrong with them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rvosbench.harness.data.reader import Dataset
from rvosbench.harness.data.types import BoolHW
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.scoring.predictions import Problem, open_predictions, summed_up

from .builders import FULL, NOTHING, SIZE, Clip, Entry, mevis, revos, rle, square, write_json, write_png

MASK = square(2, 3)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return mevis(tmp_path / "data", {"a": Clip({"x": [MASK, None]}, {"0": Entry(("x",)), "1": Entry(("x",))}, 2)})


def read(folder: Path, dataset: Dataset, frame: int = 0) -> BoolHW | Problem:
    video = dataset.videos[0]
    return open_predictions(folder, dataset).of_video(video).read(video.expressions[0], frame, SIZE)


@pytest.mark.parametrize("form", ["1-bit", "0/1", "0/255", "16-bit", "palette", "RGB", "grey 3"])
def test_any_value_but_zero_is_the_object(tmp_path: Path, dataset: Dataset, form: str) -> None:
    labels_HW = MASK.astype(np.uint8)
    images = {
        "1-bit": Image.fromarray(MASK),
        "0/1": Image.fromarray(labels_HW),
        "0/255": Image.fromarray(labels_HW * np.uint8(255)),
        "grey 3": Image.fromarray(labels_HW * np.uint8(3)),
        "16-bit": Image.fromarray(labels_HW.astype(np.uint16) * np.uint16(256)),
        "palette": Image.fromarray(labels_HW, mode="P"),
        "RGB": Image.fromarray(np.stack([NOTHING, NOTHING, MASK], axis=2).astype(np.uint8)),
    }
    # Palette index 1 is black here and index 0 white: the index counts, not the colour.
    images["palette"].putpalette([255, 255, 255, 0, 0, 0] + [7] * 762)
    path = tmp_path / "p/a/0/00000.png"
    path.parent.mkdir(parents=True)
    images[form].save(path)
    mask_HW = read(tmp_path / "p", dataset)
    assert isinstance(mask_HW, np.ndarray)
    assert mask_HW.dtype == np.bool_
    assert np.array_equal(mask_HW, MASK)


def test_problems_name_the_file_and_the_reason(tmp_path: Path, dataset: Dataset) -> None:
    folder = tmp_path / "p"
    write_png(folder / "a/0/00000.png", np.zeros((12, 15), dtype=bool))
    problem = read(folder, dataset)
    assert problem == Problem("wrong size", "a/0/00000.png", "12x15 (HxW), expected 12x16")
    assert read(folder, dataset, 1) == Problem("missing", "a/0/00001.png")
    (folder / "a/0/00001.png").write_bytes((folder / "a/0/00000.png").read_bytes()[:40])
    problem = read(folder, dataset, 1)
    assert isinstance(problem, Problem)
    assert (problem.kind, problem.where) == ("unreadable", "a/0/00001.png")
    (folder / "a/0/00001.png").write_text("not an image")
    assert isinstance(problem := read(folder, dataset, 1), Problem) and problem.kind == "unreadable"
    (folder / "a/0/00001.png").unlink()
    (folder / "a/0/00001.png").mkdir()
    assert isinstance(problem := read(folder, dataset, 1), Problem) and problem.kind == "missing"


def test_surplus_files_and_folders(tmp_path: Path, dataset: Dataset) -> None:
    folder = tmp_path / "p"
    for name in ("a/0/00000.png", "a/0/00001.png", "a/0/00002.png", "a/1/00000.png", "a/9/00000.png", "b/0/00000.png"):
        write_png(folder / name, MASK)
    (folder / "notes.txt").write_text("x")
    (folder / ".DS_Store").write_text("x")
    (folder / "a/0/00000.jpg").write_text("x")
    (folder / "a/0/more").mkdir()
    (folder / "a/0/more/x.png").write_text("x")
    for junk in ("__MACOSX/a/0/00000.png", "Thumbs.db", "a/.hidden/00000.png", "scores/scores.json"):
        (folder / junk).parent.mkdir(parents=True, exist_ok=True)
        (folder / junk).write_text("x")
    problems = open_predictions(folder, dataset).unexpected()
    assert [(problem.where, problem.masks) for problem in problems] == [
        ("a/0/00002.png", 1),
        ("a/0/more/", 1),
        ("a/9/", 1),
        ("b/", 1),
    ]
    assert {problem.kind for problem in problems} == {"extra"}


def test_nested_video_names(tmp_path: Path) -> None:
    clips = {"UVO/all/-a": Clip({"x": [MASK]}, {"0": Entry(("x",))}, 1)}
    dataset = revos(tmp_path / "data", clips)
    write_png(tmp_path / "p/UVO/all/-a/0/00000.png", MASK)
    assert np.array_equal(read(tmp_path / "p", dataset), MASK)
    assert open_predictions(tmp_path / "p", dataset).unexpected() == []
    write_png(tmp_path / "p/UVO/none/0/00000.png", MASK)
    write_png(tmp_path / "p/-a/0/00000.png", MASK)
    assert [problem.where for problem in open_predictions(tmp_path / "p", dataset).unexpected()] == ["-a/", "UVO/none/"]


def test_predictions_for_videos_the_root_lacks_are_no_surplus(tmp_path: Path) -> None:
    here = Clip({"x": [MASK]}, {"0": Entry(("x",))}, 1)
    dataset = mevis(tmp_path / "data", {"a": here, "b": here})
    table = tmp_path / "data/mevis/valid_u/mask_dict.json"
    masks = json.loads(table.read_text())
    del masks["1"]
    write_json(table, masks)
    from rvosbench.harness.data.reader import open_dataset

    dataset = open_dataset("mevis", tmp_path / "data", needs="masks")
    assert [video.name for video in dataset.videos] == ["a"]
    for video in "abc":
        write_png(tmp_path / f"p/{video}/0/00000.png", MASK)
    assert [problem.where for problem in open_predictions(tmp_path / "p", dataset).unexpected()] == ["c/"]
    one = [rle(MASK)]
    write_json(tmp_path / "p.json", {"a": {"0": one, "7": one}, "b": {"0": one}, "c": {"0": one}})
    assert [problem.where for problem in open_predictions(tmp_path / "p.json", dataset).unexpected()] == ["a/7", "c/"]


@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_rle_files(tmp_path: Path, dataset: Dataset, suffix: str) -> None:
    text = json.dumps({"a": {"0": [rle(MASK), None], "1": [rle(FULL), rle(NOTHING)]}}).encode()
    path = tmp_path / f"p{suffix}"
    path.write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
    video = dataset.videos[0]
    masks = open_predictions(path, dataset).of_video(video)
    got = [masks.read(expression, frame, SIZE) for expression in video.expressions for frame in range(2)]
    assert all(np.array_equal(mask, wanted) for mask, wanted in zip(got, [MASK, NOTHING, FULL, NOTHING], strict=True))
    assert open_predictions(path, dataset).unexpected() == []


@pytest.mark.parametrize(
    ("masks", "kind", "detail"),
    [
        (None, "missing", ""),
        ([None], "unreadable", "1 masks for 2 frames"),
        ([{"size": [12, 15], "counts": "0"}, None], "wrong size", "12x15"),
        ([{"size": [12, 16], "counts": 7}, None], "unreadable", "neither text nor"),
        ([{"size": 3}, None], "unreadable", "neither null nor"),
        (["text", None], "unreadable", "neither null nor"),
        ([{"size": [12, 16], "counts": "1"}, None], "unreadable", "RLE"),
        ([{"size": [12, 16], "counts": "~~~~"}, None], "unreadable", "RLE"),
    ],
)
def test_bad_rle_masks(tmp_path: Path, dataset: Dataset, masks: object, kind: str, detail: str) -> None:
    write_json(tmp_path / "p.json", {"a": {"1": [None, None]} | ({} if masks is None else {"0": masks})})
    problem = read(tmp_path / "p.json", dataset)
    assert isinstance(problem, Problem)
    assert (problem.kind, problem.where) == (kind, "a/0[00000]")
    assert detail in problem.detail


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.json", b"[1, 2"),
        ("p.json", b"[1, 2]"),
        ("p.json", b'{"a": {"0": 3}}'),
        ("p.json", b'{"a": [1]}'),
        ("p.json", b"\xff\xfe"),
        ("p.json.gz", b"not gzip"),
        ("p.json.gz", gzip.compress(b"{}", mtime=0)[:-9]),
        ("p.zip", b""),
    ],
)
def test_malformed_files_stop_with_a_fix(tmp_path: Path, dataset: Dataset, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PrerequisiteError) as caught:
        open_predictions(tmp_path / name, dataset)
    assert name in caught.value.problem and caught.value.fix


def test_no_predictions_at_all(tmp_path: Path, dataset: Dataset) -> None:
    with pytest.raises(PrerequisiteError, match="does not exist"):
        open_predictions(tmp_path / "nowhere", dataset)


def test_what_concerns_all_frames_is_told_once() -> None:
    missing = [Problem("missing", f"a/0/{index:05}.png") for index in range(3)]
    assert summed_up(missing, 3) == [Problem("missing", "a/0/", "3 masks", 3)]
    assert summed_up(missing[:2], 3) == missing[:2]
    mixed = [*missing[:2], Problem("unreadable", "a/0/00002.png")]
    assert summed_up(mixed, 3) == mixed
    assert summed_up(missing[:1], 1) == missing[:1]
    short = [Problem("unreadable", f"a/0[{index:05}]", "1 masks for 2 frames") for index in range(2)]
    assert summed_up(short, 2) == [Problem("unreadable", "a/0", "1 masks for 2 frames; 2 masks", 2)]
    assert summed_up([], 0) == []
