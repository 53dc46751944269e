"""From points on keyframes to a mask track: prompt, suppress, track, rank, track the chosen again.

Follows the mask stage of DecAF (arXiv 2510.19592) as its authors released it. How tracklets are ranked is a parameter,
``Rank`` (see ``ranking``).

Shape legend: n points, N tracklets, T keyframes, H W pixels, h w map cells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rvosbench.harness.data.masks import encode, track_from_masks
from rvosbench.harness.data.types import MaskTrack
from rvosbench.harness.settings import Json
from rvosbench.methods.models.sam2.packed import PackedMasks
from rvosbench.methods.models.sam2.prompts import Masks
from rvosbench.methods.models.sam2.segmenter import Segmenter
from rvosbench.methods.segment.nms import DeletionRule, suppress


class PointPrompts(Protocol):
    """Points on keyframes with the map value of their cells; every point stands for one object."""

    @property
    def keyframe_n(self) -> NDArray[np.int64]:
        """Position of each point's frame in the keyframes."""
        ...

    @property
    def xy_n2(self) -> NDArray[np.float32]:
        """(x, y) relative to width and height, in [0, 1]."""
        ...

    @property
    def value_n(self) -> NDArray[np.float32]:
        """Fused map at each point's cell."""
        ...


@dataclass(frozen=True, eq=False)
class Tracklet:
    """One object through the keyframes, prompted by one point."""

    keyframe: int
    """Position of its point's frame in the keyframes."""
    xy: tuple[float, float]
    """Its point, relative."""
    value: float
    """Map value at the point."""
    predicted_iou: float
    """The segmenter's estimate for the mask of the point."""
    score: np.float32
    """Predicted IoU + map value, in float32 as in the released code (ties depend on it)."""
    masks: PackedMasks
    """(T,) masks on the keyframes."""


@dataclass(frozen=True, eq=False)
class Ranked:
    """Which of some tracklets make the result, and what says so."""

    selected: tuple[int, ...]
    """Their indices, ascending; empty only where there is no tracklet."""
    scores: Mapping[str, NDArray[np.float32]]
    """By name, (N,) each: what the segment artefact says of every tracklet."""


Rank = Callable[[Sequence[Tracklet]], Ranked]
"""Ranks the tracklets of one expression; also called with none."""


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The mask track of one expression, and the tracklets it was chosen from."""

    track: MaskTrack
    """On every frame of the video; all masks empty where there is no tracklet."""
    keyframes: tuple[int, ...]
    tracklets: tuple[Tracklet, ...]
    scores: Mapping[str, NDArray[np.float32]]
    """By name, (N,) each."""
    selected: tuple[int, ...]
    """Indices into ``tracklets``, ascending."""

    def meta(self) -> dict[str, Json]:
        """JSON for the segment artefact.

        ``tracklets`` holds their scores and their mask on the keyframe of their point.
        """
        tracklets: list[Json] = [
            {
                "frame": self.keyframes[tracklet.keyframe],
                "point": [tracklet.xy[0], tracklet.xy[1]],
                "map_value": tracklet.value,
                "predicted_iou": tracklet.predicted_iou,
                **{name: float(values[i]) for name, values in self.scores.items()},
                "selected": i in self.selected,
                "rle": encode(tracklet.masks.take(tracklet.keyframe).unpack()),
            }
            for i, tracklet in enumerate(self.tracklets)
        ]
        return {"tracklets": tracklets}


def segment_tracklets(
    segmenter: Segmenter, keyframes: Sequence[int], tracklets: Sequence[Tracklet], rank: Rank
) -> Segmentation:
    """The mask track of the tracklets that are ranked best."""
    ranked = rank(tracklets)
    track = _union_over_video(segmenter, keyframes, [tracklets[i] for i in ranked.selected])
    return Segmentation(track, tuple(keyframes), tuple(tracklets), ranked.scores, ranked.selected)


def tracklets_from_points(
    segmenter: Segmenter, keyframes: Sequence[int], points: PointPrompts, *, nms_iou: float, deletion: DeletionRule
) -> list[Tracklet]:
    """Tracklets through the keyframes, in the order of their points, after suppression.

    Keyframe by keyframe: masks of its points, suppression against each other and the tracklets so far, then the
    survivors are tracked through all keyframes. Deletions are applied only where at least one new mask survives.

    Args:
        segmenter: opened on the video.
        keyframes: T indices into the video, ascending.
        points: prompts on the keyframes.
        nms_iou: masks with an IoU strictly above this are the same object.
        deletion: which new masks may delete earlier tracklets.

    Raises:
        ValueError: keyframes and points do not fit together.
    """
    _check(keyframes, points)
    height, width = segmenter.size
    tracklets: list[Tracklet] = []
    for keyframe in range(len(keyframes)):
        chosen = np.flatnonzero(points.keyframe_n == keyframe)
        if not len(chosen):
            continue
        found = segmenter.masks_from_points(keyframes[keyframe], points.xy_n2[chosen])
        scores_n = (found.predicted_iou + points.value_n[chosen]).astype(np.float32)
        previous = PackedMasks.empty((len(tracklets),), height, width)
        for k, tracklet in enumerate(tracklets):
            previous.words[k] = tracklet.masks.words[keyframe]
        outcome = suppress(
            found.masks,
            scores_n,
            previous,
            np.array([tracklet.score for tracklet in tracklets], dtype=np.float32),
            iou_threshold=nms_iou,
            deletion=deletion,
        )
        if not outcome.keep:
            continue
        kept = list(outcome.keep)
        tracks = PackedMasks.empty((len(kept), len(keyframes)), height, width)
        for tracked in segmenter.propagate(keyframes, Masks(keyframe, found.masks.take(kept).unpack())):
            tracks.words[tracked.objects, tracked.position] = PackedMasks.pack(tracked.masks).words
        tracklets = [tracklet for k, tracklet in enumerate(tracklets) if k not in outcome.delete_previous]
        tracklets += [
            Tracklet(
                keyframe=keyframe,
                xy=(float(points.xy_n2[chosen[j], 0]), float(points.xy_n2[chosen[j], 1])),
                value=float(points.value_n[chosen[j]]),
                predicted_iou=float(found.predicted_iou[j]),
                score=scores_n[j],
                masks=tracks.take(row),
            )
            for row, j in enumerate(kept)
        ]
    return tracklets


def _union_over_video(segmenter: Segmenter, keyframes: Sequence[int], chosen: Sequence[Tracklet]) -> MaskTrack:
    """Tracks each tracklet's mask on its point's keyframe through the whole video; those of one frame go together."""
    height, width = segmenter.size
    frames = range(len(segmenter))
    union = PackedMasks.empty((len(frames),), height, width)
    for keyframe in sorted({tracklet.keyframe for tracklet in chosen}):
        group = [tracklet.masks.words[keyframe] for tracklet in chosen if tracklet.keyframe == keyframe]
        prompts = PackedMasks(np.stack(group), height, width)
        for tracked in segmenter.propagate(frames, Masks(keyframes[keyframe], prompts.unpack())):
            union.words[tracked.position] |= PackedMasks.pack(np.logical_or.reduce(tracked.masks, axis=0)).words
    return track_from_masks([union.take(frame).unpack() for frame in frames], frames, height, width)


def _check(keyframes: Sequence[int], points: PointPrompts) -> None:
    count = len(points.keyframe_n)
    if points.xy_n2.shape != (count, 2) or points.value_n.shape != (count,):
        raise ValueError(f"{count} points, but xy {points.xy_n2.shape} and values {points.value_n.shape}")
    if count and (points.keyframe_n.min() < 0 or points.keyframe_n.max() >= len(keyframes)):
        raise ValueError(f"a point lies on keyframe {int(points.keyframe_n.max())} of {len(keyframes)}")
