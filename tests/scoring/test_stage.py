"""The score stage of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rvosbench.harness.data.masks import track_from_masks
from rvosbench.harness.data.reader import Dataset
from rvosbench.harness.data.types import BoolHW, FrameHW3, MaskTrack, Video
from rvosbench.harness.errors import SampleError
from rvosbench.harness.pipeline.score import ScoreSettings, build, score_spec, scored_result
from rvosbench.harness.scoring.kernel import GroundTruthFrame
from rvosbench.harness.scoring.matching import annotated_objects
from rvosbench.harness.scoring.protocols import require_protocol
from rvosbench.harness.scoring.sample import SampleResult, ScoredDataset
from rvosbench.harness.scoring.tracks import masks_of_tracks
from rvosbench.harness.scoring.video import score_video
from rvosbench.harness.settings import identity_of
from rvosbench.harness.stages import Outcome, Request, StageSpec
from rvosbench.harness.store.artefacts import Artefact
from rvosbench.harness.store.tracks import segment_artefact

from . import plain
from .builders import NOTHING, SIZE, Clip, Entry, mevis, ref_davis, square

A, B = square(2, 2), square(5, 8)


class NoFrames:
    """A video whose frames must not be touched: scoring needs masks only."""

    def __init__(self, video: Video) -> None:
        self.video = video

    @property
    def size(self) -> tuple[int, int]:
        raise AssertionError("scoring asked for the frames' size")

    def __len__(self) -> int:
        return len(self.video.frames)

    def __getitem__(self, index: int) -> FrameHW3:
        raise AssertionError("scoring asked for a frame")


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    entries = {"0": Entry(("x",)), "1": Entry(("x",)), "2": Entry(("x", "y"))}
    return mevis(tmp_path / "data", {"a": Clip({"x": [A, A, None], "y": [B, None, None]}, entries, 3)})


def track(masks: dict[int, BoolHW]) -> MaskTrack:
    return track_from_masks(list(masks.values()), list(masks), *SIZE)


def run(dataset: Dataset, tracks: dict[str, MaskTrack]) -> dict[str, Outcome]:
    video = dataset.videos[0]
    expressions = [expression for expression in video.expressions if expression.id in tracks]
    requests = [Request(e, {"segment": segment_artefact(tracks[e.id])}) for e in expressions]
    scored = ScoredDataset(dataset, dataset.card.splits[dataset.split].protocols)
    outcomes = dict(score_spec(scored).build().run(NoFrames(video), requests))
    assert sorted(outcomes) == list(range(len(requests)))
    return {expression.id: outcomes[index] for index, expression in enumerate(expressions)}


def test_counts_of_every_frame(dataset: Dataset) -> None:
    outcome = run(dataset, {"0": track({0: A, 1: NOTHING, 2: NOTHING}), "2": track({0: B, 1: A, 2: A})})
    first, last = outcome["0"], outcome["2"]
    assert isinstance(first, Artefact) and isinstance(last, Artefact)
    assert (first.meta["frames"], first.meta["evaluated"]) == (["00000", "00001", "00002"], "all")
    assert first.arrays["counts"].dtype == np.int64
    wanted = [plain.counts(A, A), plain.counts(A, NOTHING), plain.counts(NOTHING, NOTHING)]
    assert first.arrays["counts"].tolist() == [list(row) for row in wanted]
    wanted = [plain.counts(A | B, B), plain.counts(A, A), plain.counts(NOTHING, A)]
    assert last.arrays["counts"].tolist() == [list(row) for row in wanted]


def test_tracks_on_keyframes_are_scored_there(dataset: Dataset) -> None:
    outcome = run(dataset, {"0": track({1: A})})["0"]
    assert isinstance(outcome, Artefact)
    assert (outcome.meta["frames"], outcome.meta["evaluated"]) == (["00001"], "keyframes")
    assert outcome.arrays["counts"].tolist() == [list(plain.counts(A, A))]


def test_bad_tracks_fail_alone(dataset: Dataset) -> None:
    wide = MaskTrack(12, 17, (0, 1, 2), (None, None, None))
    torn = MaskTrack(*SIZE, (0, 1, 2), ("1", None, None))
    outcome = run(dataset, {"0": wide, "1": torn, "2": track({0: A, 1: A, 2: A})})
    assert isinstance(outcome["0"], SampleError) and "12x17" in str(outcome["0"])
    assert isinstance(outcome["1"], SampleError) and "covers 1 pixels" in str(outcome["1"])
    assert isinstance(outcome["2"], Artefact)
    assert isinstance(run(dataset, {"0": track({})})["0"], SampleError)
    assert isinstance(run(dataset, {"0": track({7: A})})["0"], SampleError)


def test_expressions_share_ground_truth_but_not_results(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    original = GroundTruthFrame.__init__

    def counting(self: GroundTruthFrame, mask_HW: BoolHW, void_HW: BoolHW | None = None) -> None:
        made.append(1)
        original(self, mask_HW, void_HW)

    monkeypatch.setattr(GroundTruthFrame, "__init__", counting)
    tracks = {"0": track({0: A, 1: B, 2: B}), "1": track({0: B, 1: B, 2: NOTHING})}
    together = run(dataset, tracks)
    assert len(made) == 3
    for name, alone in tracks.items():
        outcome, single = together[name], run(dataset, {name: alone})[name]
        assert isinstance(outcome, Artefact) and isinstance(single, Artefact)
        assert np.array_equal(outcome.arrays["counts"], single.arrays["counts"])


def test_the_data_root_is_not_part_of_the_identity(dataset: Dataset) -> None:
    spec = score_spec(ScoredDataset(dataset, ("mevis-v1/valid_u",)))
    assert isinstance(spec, StageSpec)
    assert (spec.name, spec.consumes) == ("score", ("segment",))
    assert identity_of(spec.settings) == {"dataset": "mevis", "split": "valid_u", "recorded": []}
    # Nothing is opened before the first video.
    build(ScoreSettings("mevis", "valid_u", (), "mevis", "/nowhere"))


def test_artefacts_become_results(dataset: Dataset) -> None:
    sample = next(iter(dataset.samples()))
    pending = SampleResult("M", None, sample, "missing", keys={"score": "ab"})
    outcome = run(dataset, {"0": track({1: A})})["0"]
    assert isinstance(outcome, Artefact)
    result = scored_result(pending, outcome)
    assert (result.status, result.frames, result.evaluated) == ("scored", ("00001",), "keyframes")
    assert result.mean_j_and_f() == (1.0, 1.0)
    hidden = scored_result(pending, None)
    assert (hidden.status, hidden.counts_T6) == ("scored", None)


def test_objects_are_matched_from_tracks(tmp_path: Path) -> None:
    labels = np.zeros(SIZE, dtype=np.uint8)
    labels[A], labels[B] = 1, 2
    expressions = {str(index): "1" if index < 4 else "2" for index in range(8)}
    dataset = ref_davis(tmp_path / "data", {"v": [labels, labels]}, {"v": expressions})
    ground_truth = dataset.ground_truth
    assert ground_truth is not None
    # Everybody swaps the two objects; annotator 3 has no mask of object 2, annotator 2 covers one frame only.
    tracks: dict[str, MaskTrack | None] = {}
    for number in range(8):
        mask_HW = B if number < 4 else A
        tracks[str(number)] = track({0: mask_HW} if number % 4 == 2 else {0: mask_HW, 1: mask_HW})
    tracks["7"] = None
    rule = require_protocol("refdavis17/anno4")
    masks = masks_of_tracks(lambda sample: tracks[sample.expression.id])(dataset.videos[0])
    pairs = score_video(dataset.videos[0], ground_truth, masks, [rule]).pairs[rule.id]
    found, notes = annotated_objects(dataset.videos, {"v": pairs})
    assert notes == ()
    assert {(item.group, item.name): item.J for item in found} == {
        **{(annotator, name): 1.0 for annotator in "012" for name in "12"},
        ("3", "1"): 0.0,
        ("3", "2"): 1.0,
    }
