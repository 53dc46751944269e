"""The ``segment`` stage: fuse the rollout maps, then masks by SAM2 from points, or by Otsu on the map itself.

Either way the artefact keeps what viewers show: ``arrays`` ``fused`` (T, h, w) float32 and ``keypoints`` (up to 100, 4)
float32, rows ``[frame index, y, x, value]`` (DecAF's keypoint output); ``meta`` ``keyframes``.

Shape legend: T keyframes, h w map cells, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from harness.data.masks import track_from_masks
from harness.data.types import MaskTrack
from harness.pipeline.stages import Artefact, Outcome, Request, VideoFrames, one_by_one
from harness.pipeline.tracks import segment_artefact
from harness.settings import Json
from methods.decaf.settings import AttentionSettings, SamSettings
from methods.rollout import fusion
from methods.segmentation.from_points import segment_from_points
from methods.segmentation.segmenter import Segmenter

OpenVideo = Callable[[VideoFrames], Segmenter]
"""Opens a video for the segmenter; what it encodes is shared by the video's expressions."""


class SamMasks:
    """Every cell of the fused map at or above ``tau_point`` prompts SAM2; masks on all frames.

    ``meta`` adds ``points`` (how many prompted) and what ``Segmentation.meta`` says about the tracklets.
    """

    def __init__(self, settings: SamSettings, open_video: OpenVideo) -> None:
        self.settings = settings
        self.open_video = open_video

    def run(self, video: VideoFrames, requests: Sequence[Request]) -> Iterator[tuple[int, Outcome]]:
        segmenter = self.open_video(video)
        return one_by_one(requests, lambda request: self._masks(segmenter, request.inputs["ground"]))

    def _masks(self, segmenter: Segmenter, ground: Artefact) -> Artefact:
        settings = self.settings
        keyframes, fused_Thw = fused_map(ground, settings.fusion)
        points = fusion.points_above(fused_Thw, settings.tau_point)
        found = segment_from_points(segmenter, keyframes, fused_Thw, points, settings.tracklets)
        return with_maps(found.track, keyframes, fused_Thw, {**found.meta(), "points": len(points.value_n)})


class AttentionMasks:
    """The fused map at the frames' size, Otsu's threshold on each; masks on keyframes only."""

    def __init__(self, settings: AttentionSettings) -> None:
        self.settings = settings

    def run(self, video: VideoFrames, requests: Sequence[Request]) -> Iterator[tuple[int, Outcome]]:
        return one_by_one(requests, lambda request: self._masks(video, request.inputs["ground"]))

    def _masks(self, video: VideoFrames, ground: Artefact) -> Artefact:
        height, width = video.size
        keyframes, fused_Thw = fused_map(ground, self.settings.fusion)
        masks = fusion.attention_masks(fused_Thw, (height, width))
        return with_maps(track_from_masks(masks, keyframes, height, width), keyframes, fused_Thw, {})


def fused_map(ground: Artefact, settings: fusion.FusionSettings) -> tuple[tuple[int, ...], fusion.Float32]:
    """The keyframes of a ground artefact and its fused map, (T, h, w)."""
    keyframes = ground.meta["keyframes"]
    assert isinstance(keyframes, list)
    maps = {name: np.asarray(array, dtype=np.float32) for name, array in ground.arrays.items()}
    raw = fusion.RolloutMaps(
        maps["object_clip"], maps["object_frame"], maps.get("background_clip"), maps.get("background_frame")
    )
    return tuple(int(index) for index in keyframes), fusion.fuse(raw, settings)


def with_maps(
    track: MaskTrack, keyframes: Sequence[int], fused_Thw: fusion.Float32, meta: Mapping[str, Json]
) -> Artefact:
    """The segment artefact of a mask track, with the fused map and its keypoints."""
    return Artefact(
        meta=segment_artefact(track, **{**meta, "keyframes": list(keyframes)}).meta,
        arrays={"fused": fused_Thw, "keypoints": fusion.top_cells(fused_Thw, keyframes)},
    )
