"""The ``segment`` stage: points on the maps, SAM2's tracklets, the one that agrees best with the maps.

Source: SteerSeg (arXiv 2605.14908) says points on sampled keyframes, propagation to tracklets, ranking by Pearson; the
rest is DecAF's mask stage.

Shape legend: T keyframes, h w map cells, n points.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from rvosbench.harness.settings import Json
from rvosbench.harness.stages import Outcome, Request, VideoFrames, one_by_one
from rvosbench.harness.store.artefacts import Artefact
from rvosbench.methods.ground import fusion
from rvosbench.methods.models.sam2.segmenter import Segmenter
from rvosbench.methods.segment.artefacts import OpenVideo, with_maps
from rvosbench.methods.segment.from_map import rollout_maps
from rvosbench.methods.segment.from_points import Rank, Tracklet, segment_tracklets, tracklets_from_points
from rvosbench.methods.steerseg.ranking import by_decaf, by_pearson, view_maps
from rvosbench.methods.steerseg.settings import SegmentSettings

NO_POINT = "the map is the same everywhere, so no point was prompted"
NO_MASK = "SAM2 gave no mask for any point"
FALLBACK = "SAM2 gave no mask for any point, so it was prompted at the highest cell of the map alone"


class SamMasks:
    """Every cell at or above ``tau_point`` prompts SAM2; the best tracklet is tracked through all frames.

    Artefact: as in ``methods.segment.artefacts``, with ``arrays`` ``points`` (n, 4) float32, rows ``[frame index,
    y, x, value]`` of what prompted; ``meta`` ``points`` (n), ``fallback`` ("", or why the highest cell alone prompted),
    ``empty_because`` (null, or why nothing is predicted) and ``tracklets``, each with ``rho_frame``, ``rho_clip`` and
    ``score``, or DecAF's scores.

    A tracklet without a pixel on the keyframe of its point is no candidate: nothing could be tracked from there.
    """

    def __init__(self, settings: SegmentSettings, open_video: OpenVideo) -> None:
        self.settings = settings
        self.open_video = open_video

    def run(self, video: VideoFrames, requests: Sequence[Request]) -> Iterator[tuple[int, Outcome]]:
        segmenter = self.open_video(video)
        return one_by_one(requests, lambda request: self._masks(segmenter, request.inputs["ground"]))

    def _masks(self, segmenter: Segmenter, ground: Artefact) -> Artefact:
        settings = self.settings
        keyframes, maps = rollout_maps(ground)
        fused_Thw = fusion.fuse(maps, settings.fusion)
        pointed_Thw = fused_Thw
        if settings.points_from == "frame":
            pointed_Thw = fusion.normalise_frames(fusion.contrast_frame(maps, settings.fusion))
        points = fusion.points_above(pointed_Thw, settings.tau_point)
        fallback, empty = "", None if len(points.value_n) else NO_POINT
        tracklets = self._candidates(segmenter, keyframes, points)
        if not tracklets and len(points.value_n) and settings.fallback == "argmax":
            fallback, points = FALLBACK, fusion.highest(fused_Thw)
            tracklets = self._candidates(segmenter, keyframes, points)
        if not tracklets:
            empty = empty or NO_MASK
        found = segment_tracklets(segmenter, keyframes, tracklets, self._rank(maps, fused_Thw))
        said: dict[str, Json] = {"points": len(points.value_n), "fallback": fallback, "empty_because": empty}
        artefact = with_maps(found.track, keyframes, fused_Thw, {**found.meta(), **said})
        frame_n = np.asarray(keyframes, dtype=np.float32)[points.keyframe_n]
        prompted = np.column_stack([frame_n, points.xy_n2[:, 1], points.xy_n2[:, 0], points.value_n])
        return Artefact(artefact.meta, {**artefact.arrays, "points": prompted.astype(np.float32)})

    def _candidates(self, segmenter: Segmenter, keyframes: Sequence[int], points: fusion.Points) -> list[Tracklet]:
        settings = self.settings
        tracklets = tracklets_from_points(
            segmenter, keyframes, points, nms_iou=settings.nms_iou, deletion=settings.nms_deletion
        )
        return [tracklet for tracklet in tracklets if tracklet.masks.take(tracklet.keyframe).any()]

    def _rank(self, maps: fusion.RolloutMaps, fused_Thw: fusion.Float32) -> Rank:
        settings = self.settings
        if settings.ranking is None:
            return by_decaf(fused_Thw, settings.keep)
        return by_pearson(view_maps(maps, settings.fusion, settings.ranking), settings.ranking, settings.keep)
