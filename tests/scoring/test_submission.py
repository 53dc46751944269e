"""Archives for the servers, written and refused."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rvosbench.harness.data.masks import track_from_masks
from rvosbench.harness.data.reader import Dataset, open_dataset
from rvosbench.harness.data.types import MaskTrack, Sample, Video
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.scoring.outputs import require_output_folder
from rvosbench.harness.scoring.predictions import VideoMasks, open_predictions
from rvosbench.harness.scoring.submission import (
    export_submission,
    sha256_of,
    validate_submission,
)
from rvosbench.harness.scoring.tracks import masks_of_tracks

from .builders import NOTHING, SIZE, Clip, Entry, hidden, mevis, square, write_png, write_predictions

A, B = square(2, 2), square(5, 8)
IDS = ("0062f687f1", "01c88b5b60")


@pytest.fixture(params=["ref_youtube_vos", "mevis"])
def card(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def dataset(tmp_path: Path, card: str) -> Dataset:
    first = Clip({}, {"0": Entry(), "10": Entry()}, 2, frames=("00085", "00105"))
    return hidden(tmp_path / "data", card, {IDS[0]: first, IDS[1]: Clip({}, {"0": Entry()}, 1)})


@pytest.fixture
def predictions(tmp_path: Path, dataset: Dataset) -> Path:
    masks = {f"{IDS[0]}/0": [A, NOTHING], f"{IDS[0]}/10": [B, A], f"{IDS[1]}/0": [B]}
    return write_predictions(tmp_path / "p", dataset, masks)


def root(card: str) -> str:
    return "Annotations/" if card == "ref_youtube_vos" else ""


def test_archive_of_a_folder(tmp_path: Path, dataset: Dataset, predictions: Path, card: str) -> None:
    seen = []
    out = tmp_path / "s.zip"
    report = export_submission(
        open_predictions(predictions, dataset).of_video,
        dataset,
        out,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert (report.files, report.problems, seen[-1]) == (5, (), (3, 3))
    assert report.sha256 == hashlib.sha256(out.read_bytes()).hexdigest()
    assert report.bytes == out.stat().st_size
    with zipfile.ZipFile(out) as archive:
        assert archive.namelist() == [
            f"{root(card)}{name}.png"
            for name in (
                f"{IDS[0]}/0/00085",
                f"{IDS[0]}/0/00105",
                f"{IDS[0]}/10/00085",
                f"{IDS[0]}/10/00105",
                f"{IDS[1]}/0/00000",
            )
        ]
        with Image.open(io.BytesIO(archive.read(archive.namelist()[2]))) as image:
            assert image.mode == "L"
            assert np.array_equal(np.asarray(image), B.astype(np.uint8) * 255)
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
    again = export_submission(open_predictions(predictions, dataset).of_video, dataset, tmp_path / "t.zip")
    assert again.sha256 == report.sha256
    assert validate_submission(out, dataset) == []


def test_archive_of_a_run(tmp_path: Path, dataset: Dataset, predictions: Path) -> None:
    folder = export_submission(open_predictions(predictions, dataset).of_video, dataset, tmp_path / "s.zip")
    masks = {(IDS[0], "0"): [A, NOTHING], (IDS[0], "10"): [B, A], (IDS[1], "0"): [B]}

    def track(sample: Sample) -> MaskTrack:
        mine = masks[sample.video.name, sample.expression.id]
        return track_from_masks(mine, range(len(mine)), *SIZE)

    run = export_submission(masks_of_tracks(track), dataset, tmp_path / "t.zip")
    assert run.sha256 == folder.sha256


def test_a_run_with_holes_is_refused_or_filled(tmp_path: Path, dataset: Dataset) -> None:
    def track(sample: Sample) -> MaskTrack | None:
        if sample.video.name == IDS[1]:
            return None
        if sample.expression.id == "0":
            return track_from_masks([A], [1], *SIZE)
        return MaskTrack(12, 17, (0, 1), (None, None))

    out = tmp_path / "s.zip"
    report = export_submission(masks_of_tracks(track), dataset, out)
    assert report.files == 0 and not out.exists()
    assert [(problem.kind, problem.where) for problem in report.problems] == [
        ("no keyframe", f"{IDS[0]}/0/00085.png"),
        ("wrong size", f"{IDS[0]}/10/"),
        ("missing", f"{IDS[1]}/0/00000.png"),
    ]
    filled = export_submission(masks_of_tracks(track), dataset, out, strictness="lenient")
    assert (filled.files, len(filled.problems)) == (5, 3)
    assert validate_submission(out, dataset) == []


def test_a_folder_with_holes_is_refused(tmp_path: Path, dataset: Dataset, predictions: Path) -> None:
    (predictions / IDS[0] / "10/00105.png").unlink()
    write_png(predictions / IDS[1] / "0/00000.png", np.ones((3, 3), dtype=bool))
    report = export_submission(open_predictions(predictions, dataset).of_video, dataset, tmp_path / "s.zip")
    assert [problem.kind for problem in report.problems] == ["missing", "wrong size"]
    assert not (tmp_path / "s.zip").exists()


def png(mask: object, mode: str | None = None) -> bytes:
    out = io.BytesIO()
    image = Image.fromarray(np.asarray(mask))
    (image.convert(mode) if mode else image).save(out, "PNG")
    return out.getvalue()


Members = dict[str, bytes]
SPOILT: dict[str, tuple[Callable[[Members, str], object], str, str]] = {
    "a frame is gone": (lambda m, first: m.pop(first), "missing", ""),
    "a file too many": (lambda m, first: m.update({"__MACOSX/x": b""}), "extra", ""),
    "a foreign frame": (lambda m, first: m.update({first.replace("00085", "00090"): m[first]}), "extra", ""),
    "another size": (lambda m, first: m.update({first: png(np.zeros((12, 15), np.uint8))}), "wrong size", "12x15"),
    "values 0 and 1": (lambda m, first: m.update({first: png(A.astype(np.uint8))}), "unreadable", "[1]"),
    "one bit": (lambda m, first: m.update({first: png(A)}), "unreadable", "pixel format 1"),
    "palette": (lambda m, first: m.update({first: png(A.astype(np.uint8), "P")}), "unreadable", "pixel format P"),
    "not a PNG": (lambda m, first: m.update({first: b"nothing"}), "unreadable", ""),
    "cut short": (lambda m, first: m.update({first: m[first][:50]}), "unreadable", ""),
}


@pytest.mark.parametrize("what", SPOILT)
def test_the_validator_sees_what_a_server_would_refuse(
    tmp_path: Path, dataset: Dataset, predictions: Path, card: str, what: str
) -> None:
    spoil, kind, detail = SPOILT[what]
    export_submission(open_predictions(predictions, dataset).of_video, dataset, tmp_path / "s.zip")
    with zipfile.ZipFile(tmp_path / "s.zip") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    spoil(members, f"{root(card)}{IDS[0]}/0/00085.png")
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    problems = validate_submission(tmp_path / "t.zip", dataset)
    assert [problem.kind for problem in problems] == [kind]
    assert detail in problems[0].detail


def test_the_wrong_root_is_all_missing_and_all_extra(tmp_path: Path, dataset: Dataset, card: str) -> None:
    other = "" if card == "ref_youtube_vos" else "Annotations/"
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        archive.writestr(f"{other}{IDS[1]}/0/00000.png", png(np.zeros(SIZE, np.uint8)))
    kinds = [problem.kind for problem in validate_submission(tmp_path / "s.zip", dataset)]
    assert kinds.count("extra") == 1 and kinds.count("missing") == 3


def test_what_has_no_server_or_no_zip_stops_with_a_fix(tmp_path: Path, dataset: Dataset) -> None:
    shown = mevis(tmp_path / "public", {"a": Clip({"x": [A]}, {"0": Entry(("x",))}, 1)})
    assert shown.card.name == "mevis"
    (tmp_path / "s.zip").write_text("no")
    with pytest.raises(PrerequisiteError, match="not a readable zip"):
        validate_submission(tmp_path / "s.zip", dataset)
    # Its frames are not on disk, so nobody knows how large the masks must be.
    with pytest.raises(PrerequisiteError, match="every frame"):
        export_submission(masks_of_tracks(lambda sample: None), shown, tmp_path / "t.zip")


def test_other_datasets_have_no_archive(tmp_path: Path, samples: Path) -> None:
    dataset = open_dataset("ref_davis17", samples / "mini_ref_davis17")
    with pytest.raises(PrerequisiteError, match="no server archive"):
        export_submission(masks_of_tracks(lambda sample: None), dataset, tmp_path / "s.zip")


def test_a_split_that_is_not_complete_on_disk(tmp_path: Path, card: str, dataset: Dataset, predictions: Path) -> None:
    [image] = (tmp_path / "data").rglob(f"{IDS[1]}/00000.jpg")
    image.unlink()
    partial = open_dataset(card, tmp_path / "data", "valid", needs="frames")
    masks = open_predictions(predictions, partial)
    assert masks.unexpected() == []
    out = tmp_path / "s.zip"
    with pytest.raises(PrerequisiteError, match=IDS[1]):
        export_submission(masks.of_video, partial, out)
    assert not out.exists()
    report = export_submission(masks.of_video, partial, out, strictness="lenient")
    assert (report.exit_code, report.files, report.left_out, report.filled) == (3, 4, (IDS[1],), ())


def test_absent_masks_are_refused_filled_or_meant(tmp_path: Path, dataset: Dataset, predictions: Path) -> None:
    (predictions / IDS[0] / "10/00105.png").unlink()
    masks, out = open_predictions(predictions, dataset).of_video, tmp_path / "s.zip"
    reports = {
        (strictness, absence): export_submission(masks, dataset, out, strictness=strictness, absence=absence)
        for strictness in ("strict", "lenient")
        for absence in (None, "empty", "refuse")
    }
    assert {key: report.exit_code for key, report in reports.items()} == {
        ("strict", None): 2,
        ("strict", "refuse"): 2,
        ("strict", "empty"): 0,
        ("lenient", None): 3,
        ("lenient", "refuse"): 2,
        ("lenient", "empty"): 0,
    }
    assert reports["lenient", None].filled == (IDS[0],)
    assert reports["lenient", None].sha256 == reports["strict", "empty"].sha256
    with pytest.raises(PrerequisiteError, match="cannot score 0"):
        export_submission(masks, dataset, out, strictness="lenient", absence="zero")
    # A mask that is there and cannot be read is no absent one.
    (predictions / IDS[0] / "10/00085.png").write_bytes(b"")
    assert export_submission(masks, dataset, out, absence="empty").exit_code == 2
    assert export_submission(masks, dataset, out, strictness="lenient", absence="empty").exit_code == 3


def test_an_archive_without_one_usable_mask_is_refused(tmp_path: Path, dataset: Dataset, predictions: Path) -> None:
    for path in predictions.rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(PrerequisiteError, match="Not one of the 5 masks"):
        export_submission(
            open_predictions(predictions, dataset).of_video, dataset, tmp_path / "s.zip", strictness="lenient"
        )
    assert not (tmp_path / "s.zip").exists()


def test_what_was_written_is_read_again(tmp_path: Path, dataset: Dataset, predictions: Path, card: str) -> None:
    export_submission(open_predictions(predictions, dataset).of_video, dataset, tmp_path / "s.zip")
    again = open_predictions(tmp_path / "s.zip", dataset)
    assert again.unexpected() == []
    assert export_submission(again.of_video, dataset, tmp_path / "t.zip").sha256 == sha256_of(tmp_path / "s.zip")


@pytest.mark.parametrize(
    "name", ["folder", "file/s.zip", "file/more/s.zip", "s.rar", "s", "x" * 300 + ".zip", "folder.zip"]
)
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, dataset: Dataset, name: str
) -> None:
    def untouched(video: Video) -> VideoMasks:
        raise AssertionError("the work has begun")

    for folder in ("folder", "folder.zip"):
        (tmp_path / folder).mkdir()
    (tmp_path / "file").write_text("x")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(PrerequisiteError):
        export_submission(untouched, dataset, tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["file", "file/out", "file/more/out", "x" * 300])
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(PrerequisiteError):
        require_output_folder(tmp_path / name)
    for good in ("", "new", "new/deeper"):
        require_output_folder(tmp_path / good)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
