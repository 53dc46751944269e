"""The ``segment`` stage: the heads' maps become one map, then masks by SAM2 from points, or by a threshold on it.

The artefacts are those of ``rvosbench.methods.segment.artefacts``.

Shape legend: T keyframes, K heads, h w map cells, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from rvosbench.harness.data.masks import track_from_masks
from rvosbench.harness.stages import Outcome, Request, VideoFrames, one_by_one
from rvosbench.harness.store.artefacts import Artefact
from rvosbench.methods.ground.fusion import Float32, resize
from rvosbench.methods.lochead.settings import AttentionSettings, MapSettings, SamSettings
from rvosbench.methods.segment.artefacts import OpenVideo, masks_from_map, masks_from_points, with_maps


class SamMasks:
    """Every cell of the map at or above ``tau_point`` prompts SAM2 (DecAF's stage); masks on all frames."""

    def __init__(self, settings: SamSettings, open_video: OpenVideo) -> None:
        self.settings = settings
        self.open_video = open_video

    def run(self, video: VideoFrames, requests: Sequence[Request]) -> Iterator[tuple[int, Outcome]]:
        segmenter = self.open_video(video)
        settings = self.settings

        def masks(request: Request) -> Artefact:
            keyframes, map_Thw = summed_map(request.inputs["ground"], settings.map)
            return masks_from_points(segmenter, keyframes, map_Thw, settings.tau_point, settings.tracklets)

        return one_by_one(requests, masks)


class AttentionMasks:
    """The map at the frames' size, cut on each keyframe; masks on keyframes only."""

    def __init__(self, settings: AttentionSettings) -> None:
        self.settings = settings

    def run(self, video: VideoFrames, requests: Sequence[Request]) -> Iterator[tuple[int, Outcome]]:
        return one_by_one(requests, lambda request: self._masks(video.size, request.inputs["ground"]))

    def _masks(self, size: tuple[int, int], ground: Artefact) -> Artefact:
        keyframes, map_Thw = summed_map(ground, self.settings.map)
        if self.settings.threshold == "otsu":
            return masks_from_map(size, keyframes, map_Thw)
        track = track_from_masks(masks_above_mean(map_Thw, size), keyframes, *size)
        return with_maps(track, keyframes, map_Thw, {})


def summed_map(ground: Artefact, settings: MapSettings) -> tuple[tuple[int, ...], Float32]:
    """The keyframes of a ground artefact and the heads' map, (T, h, w) in [0, 1]."""
    keyframes = ground.meta["keyframes"]
    assert isinstance(keyframes, list)
    maps_KThw = np.asarray(ground.arrays["heads"], dtype=np.float32)
    return tuple(int(index) for index in keyframes), settings.fuse(maps_KThw)


def masks_above_mean(map_Thw: Float32, size: tuple[int, int]) -> list[NDArray[np.bool_]]:
    """Each keyframe resized to (H, W), then what lies above its mean; a constant frame is empty."""
    masks = []
    for map_1hw in np.split(map_Thw, len(map_Thw)):
        map_HW = resize(map_1hw, size)[0]
        # In float64: a float32 mean of equal values may fall below them.
        masks.append(map_HW > map_HW.mean(dtype=np.float64))
    return masks
