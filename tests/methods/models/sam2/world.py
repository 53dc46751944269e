"""A segmenter over a label map: what the golden files' stand-in does, by the plain definition.

Shape legend: F frames of the video, H W pixels, N objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from rvosbench.methods.models.sam2.packed import PackedMasks
from rvosbench.methods.models.sam2.prompts import Masks, Prompt
from rvosbench.methods.models.sam2.segmenter import PointMasks, Segmenter, TrackedMasks
from rvosbench.methods.segment.from_points import (
    PointPrompts,
    Segmentation,
    segment_tracklets,
    tracklets_from_points,
)
from rvosbench.methods.segment.nms import DeletionRule
from rvosbench.methods.segment.ranking import by_consistency
from rvosbench.methods.segment.settings import KeepSettings


def decaf_masks(
    segmenter: Segmenter,
    keyframes: Sequence[int],
    map_Thw: NDArray[np.float32],
    points: PointPrompts,
    *,
    nms_iou: float = 0.7,
    keep: float = 0.8,
    deletion: DeletionRule = "by_kept",
) -> Segmentation:
    """DecAF's masks of some points."""
    tracklets = tracklets_from_points(segmenter, keyframes, points, nms_iou=nms_iou, deletion=deletion)
    return segment_tracklets(segmenter, keyframes, tracklets, by_consistency(map_Thw, KeepSettings("threshold", keep)))


class WorldSegmenter:
    """Label 0 is background; a point selects the label under it, a mask the most frequent non-zero one under it."""

    def __init__(
        self, world_FHW: NDArray[np.uint8], keyframes: Sequence[int], predicted_iou: NDArray[np.float32]
    ) -> None:
        self.world = world_FHW
        self.iou_of_frame = {int(frame): predicted_iou[t] for t, frame in enumerate(keyframes)}
        self.prompted: list[tuple[int, int, int]] = []
        """(length of the clip, prompted position, objects) of every propagation."""

    @property
    def size(self) -> tuple[int, int]:
        return self.world.shape[1], self.world.shape[2]

    def __len__(self) -> int:
        return len(self.world)

    def masks_from_points(self, frame: int, points_N2: NDArray[np.float32]) -> PointMasks:
        height, width = self.size
        masks, ious = [], []
        for x, y in points_N2:
            label = self.world[frame, int(np.floor(height * y)), int(np.floor(width * x))]
            masks.append((self.world[frame] == label) & (label > 0))
            ious.append(self.iou_of_frame[frame][label])
        return PointMasks(PackedMasks.pack(np.stack(masks)), np.array(ious, dtype=np.float32))

    def propagate(self, frames: Sequence[int], prompt: Prompt) -> Iterator[TrackedMasks]:
        assert isinstance(prompt, Masks)
        start, masks_NHW = prompt.position, prompt.mask_NHW
        self.prompted.append((len(frames), start, len(masks_NHW)))
        labels = []
        for mask in masks_NHW:
            under = self.world[frames[start]][mask]
            counts = np.bincount(under[under > 0], minlength=1)
            labels.append(int(counts.argmax()) if counts.any() else 0)
        for position in [*range(start, len(frames)), *range(start - 1, -1, -1)]:
            world = self.world[frames[position]]
            for i, label in enumerate(labels):
                yield TrackedMasks(position, slice(i, i + 1), ((world == label) & (label > 0))[None])
