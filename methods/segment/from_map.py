"""The ``segment`` stage: fuse the rollout maps, then masks by SAM2 from points, or by Otsu on the map itself.

The artefacts are those of ``rvosbench.methods.segment.artefacts``.

Shape legend: T keyframes, h w map cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from rvosbench.harness.stages import Outcome, Request, VideoFrames, one_by_one
from rvosbench.harness.store.artefacts import Artefact
from rvosbench.methods.decaf.settings import AttentionSettings, SamSettings
from rvosbench.methods.ground import fusion
from rvosbench.methods.models.sam2.segmenter import Segmenter
from rvosbench.methods.segment.artefacts import OpenVideo, masks_from_map, masks_from_points


class SamMasks:
    """Every cell of the fused map at or above ``tau_point`` prompts SAM2; masks on all frames."""

    def __init__(self, settings: SamSettings, open_video: OpenVideo) -> None:
        self.settings = settings
        self.open_video = open_video

    def run(self, video: VideoFrames, requests: Sequence[Request]) -> Iterator[tuple[int, Outcome]]:
        segmenter = self.open_video(video)
        return one_by_one(requests, lambda request: self._masks(segmenter, request.inputs["ground"]))

    def _masks(self, segmenter: Segmenter, ground: Artefact) -> Artefact:
        settings = self.settings
        keyframes, fused_Thw = fused_map(ground, settings.fusion)
        return masks_from_points(segmenter, keyframes, fused_Thw, settings.tau_point, settings.tracklets)


class AttentionMasks:
    """The fused map at the frames' size, Otsu's threshold on each; masks on keyframes only."""

    def __init__(self, settings: AttentionSettings) -> None:
        self.settings = settings

    def run(self, video: VideoFrames, requests: Sequence[Request]) -> Iterator[tuple[int, Outcome]]:
        return one_by_one(
            requests,
            lambda request: masks_from_map(video.size, *fused_map(request.inputs["ground"], self.settings.fusion)),
        )


def fused_map(ground: Artefact, settings: fusion.FusionSettings) -> tuple[tuple[int, ...], fusion.Float32]:
    """The keyframes of a ground artefact and its fused map, (T, h, w)."""
    keyframes, maps = rollout_maps(ground)
    return keyframes, fusion.fuse(maps, settings)


def rollout_maps(ground: Artefact) -> tuple[tuple[int, ...], fusion.RolloutMaps]:
    """The keyframes of a ground artefact and its raw maps."""
    keyframes = ground.meta["keyframes"]
    assert isinstance(keyframes, list)
    maps = {name: np.asarray(array, dtype=np.float32) for name, array in ground.arrays.items()}
    raw = fusion.RolloutMaps(
        maps["object_clip"], maps["object_frame"], maps.get("background_clip"), maps.get("background_frame")
    )
    return tuple(int(index) for index in keyframes), raw
