"""Pictures: masks lie where they are, sizes are never guessed, and stored keys never become paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rvosbench.harness.data.masks import track_from_masks
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.results.reader import Run, read_run, read_samples
from rvosbench.harness.store.artefacts import Artefact, ArtefactStore
from rvosbench.harness.store.tracks import segment_artefact
from rvosbench.leaderboard.overlays import COLOURS, compose, reduce_frame
from rvosbench.leaderboard.viewer import find_dataset, open_sample, reasoning

GREY_HW3 = np.full((40, 60, 3), 100, dtype=np.uint8)


def mask(top: int, bottom: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    out_HW = np.zeros((40, 60), dtype=bool)
    out_HW[top:bottom] = True
    return out_HW


def tint(name: str) -> list[int]:
    return [round(0.5 * 100 + 0.5 * value) for value in COLOURS[name]]


def test_agreement_misses_and_extras_have_their_colours() -> None:
    picture = compose(GREY_HW3, mask(10, 30), mask(20, 40), "compare")
    assert picture[15, 30].tolist() == tint("extra")
    assert picture[25, 30].tolist() == tint("both")
    assert picture[35, 30].tolist() == tint("missed")
    assert picture[5, 30].tolist() == [100, 100, 100]
    assert (GREY_HW3 == 100).all(), "the frame itself is not painted"


def test_views_show_one_mask_or_none() -> None:
    prediction_HW, truth_HW = mask(10, 20), mask(20, 40)
    assert (compose(GREY_HW3, prediction_HW, truth_HW, "frame") == GREY_HW3).all()
    assert compose(GREY_HW3, prediction_HW, truth_HW, "prediction")[30, 30].tolist() == [100, 100, 100]
    assert compose(GREY_HW3, prediction_HW, truth_HW, "truth")[15, 30].tolist() == [100, 100, 100]
    assert (compose(GREY_HW3, None, None, "compare") == GREY_HW3).all()


def test_masks_of_another_size_are_refused_not_resized() -> None:
    with pytest.raises(ValueError, match="the prediction is 59x40, the frame 60x40"):
        compose(GREY_HW3, np.zeros((40, 59), dtype=bool), None, "compare")


def test_large_frames_are_reduced_and_small_ones_are_not_enlarged() -> None:
    assert reduce_frame(np.zeros((480, 854, 3), dtype=np.uint8)).shape == (360, 640, 3)
    assert reduce_frame(np.zeros((1920, 1080, 3), dtype=np.uint8)).shape == (640, 360, 3)
    assert reduce_frame(GREY_HW3).shape == GREY_HW3.shape
    assert compose(np.zeros((480, 854, 3), np.uint8), np.ones((480, 854), bool), None, "compare").shape == (360, 640, 3)


def sample_of(folder: Path, **changes: Any) -> tuple[Run, dict[str, Any]]:
    run = read_run(folder)
    row = {str(name): value for name, value in read_samples(run).iloc[0].items()}
    return run, {**row, **changes}


def test_a_stored_track_is_shown_on_its_real_frames(davis_run: Path) -> None:
    run, row = sample_of(davis_run)
    view = open_sample(run, find_dataset(run, "ref_davis17", "valid"), row)
    assert view.problem == "" and view.track is not None and view.track.frames == tuple(range(12))
    frame_HW3, prediction_HW, truth_HW = view.layers(0)
    assert prediction_HW is not None and truth_HW is not None
    assert frame_HW3.shape[:2] == prediction_HW.shape == truth_HW.shape
    assert (prediction_HW == truth_HW).all(), "the first prediction of the first sample is the ground truth"
    overlap = (prediction_HW & view.layers(11)[1]).sum()
    assert overlap < prediction_HW.sum()
    assert view.layers(20)[1] is None and view.layers(20)[2] is not None


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        (None, "No masks were kept for this sample."),
        ("../../../../etc/passwd", "The artefact key of this sample is malformed."),
        ("AB" * 32, "The artefact key of this sample is malformed."),
        ("fe" * 32, "is missing."),
    ],
)
def test_keys_are_checked_before_they_become_paths(davis_run: Path, key: str | None, problem: str) -> None:
    run, row = sample_of(davis_run, key_segment=key)
    view = open_sample(run, find_dataset(run, "ref_davis17", "valid"), row)
    assert view.track is None and problem in view.problem
    assert view.layers(0)[2] is not None, "the ground truth is still shown"


def test_artefacts_that_are_no_tracks_are_named(davis_run: Path) -> None:
    run, row = sample_of(davis_run)
    store = ArtefactStore(run.artefacts)
    store.write("segment", "cd" * 32, Artefact(meta={"text": "a reason, not a track"}))
    store.path("segment", "ef" * 32).parent.mkdir(parents=True, exist_ok=True)
    store.path("segment", "ef" * 32).write_bytes(b"not a zip")
    store.write("segment", "ad" * 32, segment_artefact(track_from_masks([mask(0, 9)], [0], 40, 60)))
    dataset = find_dataset(run, "ref_davis17", "valid")
    assert "holds no mask track" in open_sample(run, dataset, {**row, "key_segment": "cd" * 32}).problem
    assert "damaged" in open_sample(run, dataset, {**row, "key_segment": "ef" * 32}).problem
    view = open_sample(run, dataset, {**row, "key_segment": "ad" * 32})
    with pytest.raises(ValueError, match="the prediction is 60x40"):
        compose(*view.layers(0), "compare")


def test_what_the_reasoning_call_said_is_read_for_people(tmp_path: Path, write_run: Any) -> None:
    run = read_run(write_run(tmp_path / "runs" / "one"))
    store = ArtefactStore(run.artefacts)
    store.write(
        "reason", "aa" * 32, Artefact({"attributes": ["red"], "reasons": "", "fallback": "no JSON", "raw": "x"})
    )
    store.write("reason", "bb" * 32, Artefact({"object_name": "dog", "answers": ["Dog"]}))
    store.write("reason", "cc" * 32, Artefact({"attributes": "not a list", "reasons": 7}))
    assert reasoning(run, {"key_reason": "aa" * 32}) == (("Attributes", "red"), ("Fallback", "no JSON"))
    assert reasoning(run, {"key_reason": "bb" * 32}) == (("Object", "dog"),)
    assert reasoning(run, {"key_reason": "cc" * 32}) == ()
    for key in (None, float("nan"), "../../secret"):
        assert reasoning(run, {"key_reason": key}) == ()
    with pytest.raises(PrerequisiteError, match="is missing"):
        reasoning(run, {"key_reason": "dd" * 32})


def test_absent_data_is_said_with_the_fix(tmp_path: Path, write_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RVOSBENCH_DATA", raising=False)
    run = read_run(write_run(tmp_path / "runs" / "one", recipe={"data_root": str(tmp_path / "nowhere")}))
    with pytest.raises(PrerequisiteError, match=r"cannot be shown.*nowhere.*RVOSBENCH_DATA"):
        find_dataset(run, "ref_davis17", "valid")
    with pytest.raises(PrerequisiteError, match="There is no dataset card"):
        find_dataset(run, "../x", "valid")
    bare = read_run(write_run(tmp_path / "runs" / "two", recipe={"name": "x"}))
    with pytest.raises(PrerequisiteError, match="does not say where its data is"):
        find_dataset(bare, "ref_davis17", "valid")


def test_a_sample_that_is_not_in_the_data_is_named(davis_run: Path) -> None:
    run, row = sample_of(davis_run, video="../../secret")
    with pytest.raises(PrerequisiteError, match=r"Video ../../secret, expression 0 is not among the 5 of 30 videos"):
        open_sample(run, find_dataset(run, "ref_davis17", "valid"), row)
