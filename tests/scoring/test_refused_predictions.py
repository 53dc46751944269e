"""What fits no layout, or is not what it says, ends in one sentence with the cause; one bad mask spoils no other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rvosbench.harness.data.masks import encode
from rvosbench.harness.data.reader import Dataset
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.scoring.predictions import Problem, open_predictions
from rvosbench.harness.scoring.score import score_predictions

from .builders import SIZE, drawn_masks, odd_names, rle, square, write_json, write_predictions


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return odd_names(tmp_path / "data")


GUESSES: dict[str, tuple[Callable[[str, str, str], str], str]] = {
    "swapped": (lambda v, e, f: f"{e}/{v}/{f}.png", "swapped"),
    "padded": (lambda v, e, f: f"{v}/{e.zfill(3)}/{f}.png", "leading zeros"),
    "capitals": (lambda v, e, f: f"{v.upper()}/{e}/{f}.png", "capital"),
    "between": (lambda v, e, f: f"{v}/masks/{e}/{f}.png", "masks/"),
    "by frame": (lambda v, e, f: f"{v}/{f}/{e}.png", "expression and frame swapped"),
    "below": (lambda v, e, f: f"{v}/{e}/pred/{f}.png", "pred/"),
    "joined": (lambda v, e, f: f"{v}_{e}/{f}.png", "one folder for both"),
    "no expression": (lambda v, e, f: f"{v}/{f}.png", "folder for each expression"),
    "other files": (lambda v, e, f: f"{v}/{e}/{f}.jpg", ".jpg"),
    "other frames": (lambda v, e, f: f"{v}/{e}/mask-{f}.png", "named as a frame"),
    "other videos": (lambda v, e, f: f"other-{v}/{e}/{f}.png", "the first folder"),
}


@pytest.mark.parametrize("kind", GUESSES)
@pytest.mark.parametrize("strictness", ["strict", "lenient"])
@pytest.mark.parametrize("absence", [None, "empty"])
def test_what_fits_nothing_is_refused_with_a_guess(
    tmp_path: Path, dataset: Dataset, kind: str, strictness: Any, absence: Any
) -> None:
    name, hint = GUESSES[kind]
    for sample in dataset.samples():
        for frame in sample.video.frames:
            path = tmp_path / "p" / name(sample.video.name, sample.expression.id, frame)
            path.parent.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(square(2, 3).astype(np.uint8) * 255)
            image.save(path)
    with pytest.raises(PrerequisiteError) as caught:
        score_predictions(tmp_path / "p", dataset, out=tmp_path / "out", strictness=strictness, absence=absence)
    assert hint in caught.value.problem and caught.value.fix
    assert not (tmp_path / "out").exists()


def test_masks_of_the_same_samples_in_two_places_are_refused(tmp_path: Path, dataset: Dataset) -> None:
    for method in ("first", "second"):
        write_predictions(tmp_path / "p" / method, dataset, drawn_masks(dataset))
    with pytest.raises(PrerequisiteError, match="first/ and second/"):
        open_predictions(tmp_path / "p", dataset)


@pytest.mark.parametrize("form", ["folder", "json"])
def test_masks_in_parts_are_refused_rather_than_taken_for_absent(tmp_path: Path, dataset: Dataset, form: str) -> None:
    whole = write_predictions(tmp_path / "p/part1", dataset, drawn_masks(dataset))
    (tmp_path / "p/part2").mkdir()
    (whole / "c").rename(tmp_path / "p/part2/c")
    path = tmp_path / "p"
    if form == "json":
        path = tmp_path / "p.json"
        rest = {f"{v.name}/{e.id}": [None] * len(v.frames) for v in dataset.videos for e in v.expressions}
        write_json(path, {"part2": {"c": {"0": rest.pop("c/0")}}, "part1": rest})
    with pytest.raises(PrerequisiteError, match="part1/ and part2/"):
        open_predictions(path, dataset, "empty")


def test_the_data_root_is_no_folder_of_predictions(tmp_path: Path, dataset: Dataset) -> None:
    with pytest.raises(PrerequisiteError, match="the benchmark itself"):
        open_predictions(tmp_path / "data", dataset)


@pytest.mark.parametrize("strictness", ["strict", "lenient"])
@pytest.mark.parametrize("absence", [None, "empty", "zero"])
def test_predictions_without_one_usable_mask_get_no_score(
    tmp_path: Path, dataset: Dataset, strictness: Any, absence: Any
) -> None:
    small = square(1, 1, size=(SIZE[0] // 2, SIZE[1] // 2))
    masks = {f"{s.video.name}/{s.expression.id}": [small] * len(s.video.frames) for s in dataset.samples()}
    write_predictions(tmp_path / "p", dataset, masks)
    if strictness == "strict":
        report = score_predictions(tmp_path / "p", dataset, out=tmp_path / "o", workers=1, absence=absence)
        assert report.exit_code == 2 and set(report.problem_counts) == {"wrong size"}
    else:
        with pytest.raises(PrerequisiteError, match="Not one of the 19 masks is usable"):
            score_predictions(
                tmp_path / "p", dataset, out=tmp_path / "o", workers=1, strictness="lenient", absence=absence
            )
    assert not (tmp_path / "o/scores.json").exists()


@pytest.mark.parametrize("name", ["p.pkl", "p.npz", "p.npy", "p.pt", "p.h5", "p.rar", "p.mp4", "p.txt", "p"])
def test_other_kinds_of_file_are_refused_with_the_reason(tmp_path: Path, dataset: Dataset, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(PrerequisiteError) as caught:
        open_predictions(tmp_path / name, dataset)
    assert name in caught.value.problem and ".json" in caught.value.fix


def test_a_run_folder_holds_no_files_of_masks(tmp_path: Path, dataset: Dataset) -> None:
    for name in ("recipe.yaml", "run.json", "samples.parquet"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(PrerequisiteError, match="run folder"):
        open_predictions(tmp_path, dataset)


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tar.xz", ".json.gz", ".parquet", ".jsonl"])
def test_files_that_are_not_what_their_name_says(tmp_path: Path, dataset: Dataset, suffix: str) -> None:
    rng = np.random.default_rng(0)
    for content in (b"", b"x" * 600, rng.bytes(2000), b"version https://git-lfs.github.com/spec/v1\n", b"<html>"):
        path = tmp_path / f"p{suffix}"
        path.write_bytes(content)
        with pytest.raises(PrerequisiteError) as caught:
            open_predictions(path, dataset)
        assert path.name in caught.value.problem and caught.value.fix


BAD_JSON = {
    "nesting": "[" * 100_000 + "]" * 100_000,
    "nested mappings": '{"a":' * 900 + "1" + "}" * 900,
    "digits": '{"a": {"0": [' + "9" * 5000 + "]}}",
    "NaN": '{"c": {"0": [NaN]}}',
    "a scalar": '{"c": {"0": 3}}',
    "two masks of a frame": '[{"video": "c", "exp_id": 0, "frame": 1}, {"video": "c", "exp_id": 0, "frame": "1"}]',
    "a list and frames": '[{"video": "c", "expression": 0, "masks": []}, {"video": "c", "expression": 0, "frame": 1}]',
    "frames that do not fit": '{"c": {"0": {"prediction_masks": [null], "frames": ["1", "2"]}}}',
    "frames twice": '{"c": {"0": {"prediction_masks": [null, null], "frames": ["1", "1"]}}}',
    "frames of another kind": '{"c": {"0": {"prediction_masks": [null], "frames": [{}]}}}',
    "masks of another kind": '{"c": {"0": {"prediction_masks": 3}}}',
    "a record without a video": '[{"expression": "0", "masks": []}]',
    "a record with a true video": '[{"video": true, "expression": "0", "masks": []}]',
    "a record of numbers": "[1, 2]",
    "a record of a frame without a mask": '[{"video": "c", "expression": "0", "frame": "00000", "pred": null}]',
    "a frame with and without a suffix": '{"c": {"0": {"00000": null, "00000.png": null}}}',
    "frames that nobody has": '{"c": {"0": {"first": null, "second": null}}}',
    "a video without masks": '{"c": {"0": null}}',
    "a key twice": '{"c": {"0": []}, "c": {"0": []}}',
    "a path twice": '{"c/0": [], "c": {"0": []}}',
}


@pytest.mark.parametrize("kind", BAD_JSON)
def test_json_that_holds_no_masks_ends_in_one_sentence(tmp_path: Path, dataset: Dataset, kind: str) -> None:
    (tmp_path / "p.json").write_text(BAD_JSON[kind])
    with pytest.raises(PrerequisiteError) as caught:
        open_predictions(tmp_path / "p.json", dataset)
    assert "p.json" in caught.value.problem


SIDES = list(SIZE)
BAD_MASKS: dict[str, Any] = {
    "size as floats": {"size": [12.0, 16.0], "counts": "0"},
    "size as truth values": {"size": [True, True], "counts": "0"},
    "a size too long": {"size": [12, 16, 1], "counts": "0"},
    "long text": {"size": SIDES, "counts": "0" * 10**6},
    "many runs": {"size": SIDES, "counts": [0] * 10**6},
    "negative runs": {"size": SIDES, "counts": [200, -8]},
    "runs that are no numbers": {"size": SIDES, "counts": [192.0]},
    "huge runs": {"size": SIDES, "counts": [2**62, 2**62, 2**62, 2**62, 192]},
    "runs too short": {"size": SIDES, "counts": [100]},
    "text that is no bytes": {"size": SIDES, "counts": "b'...' + 1"},
    "a record": {"masks": []},
}


@pytest.mark.parametrize("kind", BAD_MASKS)
def test_one_bad_mask_spoils_no_other(tmp_path: Path, dataset: Dataset, kind: str) -> None:
    good = rle(square(2, 3))
    write_json(tmp_path / "p.json", {"c": {"0": [good, BAD_MASKS[kind], good, good]}})
    video = next(video for video in dataset.videos if video.name == "c")
    masks = open_predictions(tmp_path / "p.json", dataset).of_video(video)
    read = [masks.read(video.expressions[0], frame, SIZE) for frame in range(4)]
    assert [isinstance(mask, Problem) for mask in read] == [False, True, False, False]


@pytest.mark.parametrize("bad", ["no mask", 3, {"size": SIDES, "counts": [1]}])
def test_one_bad_mask_spoils_no_other_by_frame_name(tmp_path: Path, dataset: Dataset, bad: object) -> None:
    good = rle(square(2, 3))
    frames = {"00000": good, "00001": bad, "00002": None, "00003.jpg": good, "00004": good, "mean": None}
    write_json(tmp_path / "p.json", {"c": {"0": frames}, "b [1] für": {"0": None}})
    predictions = open_predictions(tmp_path / "p.json", dataset)
    video = next(video for video in dataset.videos if video.name == "c")
    masks = predictions.of_video(video)
    read = [masks.read(video.expressions[0], frame, SIZE) for frame in range(4)]
    assert [mask.kind if isinstance(mask, Problem) else "read" for mask in read] == [
        "read",
        "unreadable",
        "read",
        "read",
    ]
    assert [(problem.kind, problem.masks) for problem in predictions.unexpected()] == [("extra", 2)]


@pytest.mark.parametrize(
    ("entry", "kind"),
    [
        ({"prediction_masks": None, "exp": "it"}, "missing"),
        ({"prediction_masks": [], "frames": ["00000"]}, "unreadable"),
        ({"prediction_masks": [None] * 3, "frames": ["00000", "00005", "00005"]}, "unreadable"),
        ({"prediction_masks": [], "exp": "it"}, "unreadable"),
        ({"prediction_masks": "none"}, "unreadable"),
        (None, "missing"),
        (rle(square(2, 3)), "unreadable"),
        ("no mask", "unreadable"),
    ],
)
def test_one_bad_entry_spoils_no_other(tmp_path: Path, dataset: Dataset, entry: object, kind: str) -> None:
    video = dataset.videos[0]
    good = {"prediction_masks": [rle(square(2, 3))] * 3, "frames": list(video.frames), "exp": "it"}
    write_json(tmp_path / "p.json", {video.name: {"0": good, "7": entry}})
    masks = open_predictions(tmp_path / "p.json", dataset).of_video(video)
    read = [masks.read(expression, 0, SIZE) for expression in video.expressions]
    assert [mask.kind if isinstance(mask, Problem) else "read" for mask in read] == ["read", kind, "missing"]


def test_swapped_height_and_width_are_named(tmp_path: Path, dataset: Dataset) -> None:
    one = {"size": SIDES[::-1], "counts": encode(square(2, 3))}
    write_json(tmp_path / "p.json", {"c": {"0": [one] * 4}})
    video = next(video for video in dataset.videos if video.name == "c")
    found = open_predictions(tmp_path / "p.json", dataset).of_video(video).read(video.expressions[0], 0, SIZE)
    assert isinstance(found, Problem) and found.kind == "wrong size" and "swapped" in found.detail
