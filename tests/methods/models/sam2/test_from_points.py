"""The whole stage from points to the mask track, with a segmenter whose answers are known."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rvosbench.harness.data.masks import decode
from rvosbench.harness.store.tracks import mask_track, segment_artefact
from rvosbench.methods.segment.from_points import Segmentation, tracklets_from_points
from rvosbench.methods.segment.nms import DeletionRule
from tests.methods.models.sam2.world import WorldSegmenter, decaf_masks


@dataclass(frozen=True)
class Points:
    keyframe_n: NDArray[np.int64]
    xy_n2: NDArray[np.float32]
    value_n: NDArray[np.float32]


def cells_at_least(map_Thw: NDArray[np.float32], threshold: float) -> Points:
    """Every cell at or above the threshold, in frame, row, column order, at its centre."""
    t, i, j = np.nonzero(map_Thw >= np.float32(threshold))
    _, height, width = map_Thw.shape
    xy = np.stack([(j + 0.5) / width, (i + 0.5) / height], axis=-1).astype(np.float32)
    return Points(t, xy, map_Thw[t, i, j])


def masks_of(segmentation: Segmentation) -> NDArray[np.bool_]:
    track = segmentation.track
    return np.stack([decode(rle, track.height, track.width) for rle in track.rles])


@pytest.mark.parametrize("deletion", ["by_any", "by_kept"])
@pytest.mark.parametrize("case", ["pipeline_0", "pipeline_1"])
def test_the_whole_stage_is_the_released_one(samples: Path, case: str, deletion: str) -> None:
    file = np.load(samples / "golden" / "decaf" / "sam_stage" / f"{case}.npz")
    keyframes = file["key_frame_indices"].tolist()
    segmenter = WorldSegmenter(file["world"], keyframes, file["predicted_iou"])
    points = cells_at_least(file["fused_map"], 0.8)
    counts = np.bincount(points.keyframe_n, minlength=len(keyframes))
    np.testing.assert_array_equal(counts, file["point_count_per_frame"])
    rule: DeletionRule = "by_any" if deletion == "by_any" else "by_kept"
    result = decaf_masks(segmenter, keyframes, file["fused_map"], points, deletion=rule)
    assert [tracklet.keyframe for tracklet in result.tracklets] == file["tracklet_frame"].tolist()
    scores = np.array([tracklet.score for tracklet in result.tracklets])
    np.testing.assert_allclose(scores, file["tracklet_score"], rtol=0, atol=1e-6)
    width = file["world"].shape[2]
    tracks = np.unpackbits(file["tracklet_masks"], axis=-1, count=width).astype(bool)
    for tracklet, expected in zip(result.tracklets, tracks, strict=True):
        np.testing.assert_array_equal(tracklet.masks.unpack(), expected)
    np.testing.assert_allclose(result.scores["consistency"], file["ac_score"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(result.scores["final_score"], file["final_score"], rtol=0, atol=1e-5)
    expected = np.unpackbits(file["final_mask"], axis=-1, count=width).astype(bool)
    np.testing.assert_array_equal(masks_of(result), expected)
    assert result.track.frames == tuple(range(len(expected)))


def two_objects() -> tuple[WorldSegmenter, list[int]]:
    """Six frames; label 1 fills the left third, label 2 the right third; keyframes 0, 2, 5."""
    world = np.zeros((6, 12, 18), dtype=np.uint8)
    world[:, :, :6], world[:, :, 12:] = 1, 2
    world[4, :, :6] = 0
    iou = np.array([[0.1, 0.9, 0.8], [0.1, 0.85, 0.7], [0.1, 0.2, 0.6]], dtype=np.float32)
    return WorldSegmenter(world, [0, 2, 5], iou), [0, 2, 5]


def two_maps() -> NDArray[np.float32]:
    map_Thw = np.zeros((3, 2, 3), dtype=np.float32)
    map_Thw[:, :, 0], map_Thw[0, 0, 2] = 1.0, 0.9
    return map_Thw


def test_objects_of_one_frame_are_tracked_together_and_the_selected_ones_once_more() -> None:
    segmenter, keyframes = two_objects()
    map_Thw = two_maps()
    result = decaf_masks(segmenter, keyframes, map_Thw, cells_at_least(map_Thw, 0.8))
    # Frame 0: four points; the two on the left are one object. Later points on the left score less and are dropped.
    assert [(tracklet.keyframe, tracklet.xy[0] < 0.5) for tracklet in result.tracklets] == [(0, True), (0, False)]
    assert segmenter.prompted == [(3, 0, 2), (6, 0, 1)]
    assert result.selected == (0,)
    assert [rle is None for rle in result.track.rles] == [False, False, False, False, True, False]


def test_a_better_mask_on_a_later_keyframe_replaces_the_tracklet() -> None:
    segmenter, keyframes = two_objects()
    segmenter.iou_of_frame[2] = np.array([0.1, 0.95, 0.7], dtype=np.float32)
    map_Thw = two_maps()
    result = decaf_masks(segmenter, keyframes, map_Thw, cells_at_least(map_Thw, 0.8))
    assert [(tracklet.keyframe, round(tracklet.predicted_iou, 2)) for tracklet in result.tracklets] == [
        (0, 0.8),
        (1, 0.95),
    ]


def test_a_constant_map_gives_an_empty_track() -> None:
    segmenter, keyframes = two_objects()
    nothing = np.zeros((3, 2, 3), dtype=np.float32)
    result = decaf_masks(segmenter, keyframes, nothing, cells_at_least(nothing, 0.8))
    assert result.track.rles == (None,) * 6
    assert result.track.frames == tuple(range(6))
    assert result.meta()["tracklets"] == [] and result.selected == ()
    assert segmenter.prompted == []


def test_meta_is_json_and_joins_a_segment_artefact() -> None:
    segmenter, keyframes = two_objects()
    map_Thw = two_maps()
    result = decaf_masks(segmenter, keyframes, map_Thw, cells_at_least(map_Thw, 0.8))
    artefact = segment_artefact(result.track, **result.meta())
    assert mask_track(artefact) == result.track
    stored = json.loads(json.dumps(dict(artefact.meta)))
    first = stored["tracklets"][0]
    assert first["frame"] == 0 and first["selected"]
    np.testing.assert_array_equal(decode(first["rle"], 12, 18), segmenter.world[0] == 1)


def test_what_does_not_fit_together_is_refused() -> None:
    segmenter, keyframes = two_objects()
    map_Thw = two_maps()
    points = cells_at_least(map_Thw, 0.8)
    with pytest.raises(ValueError, match="keyframe 2 of 2"):
        tracklets_from_points(segmenter, keyframes[:2], points, nms_iou=0.7, deletion="by_kept")
    outside = Points(np.array([3]), np.zeros((1, 2), np.float32), np.ones(1, np.float32))
    with pytest.raises(ValueError, match="keyframe 3 of 3"):
        tracklets_from_points(segmenter, keyframes, outside, nms_iou=0.7, deletion="by_kept")
    uneven = Points(points.keyframe_n, points.xy_n2[:1], points.value_n)
    with pytest.raises(ValueError, match="xy"):
        tracklets_from_points(segmenter, keyframes, uneven, nms_iou=0.7, deletion="by_kept")
