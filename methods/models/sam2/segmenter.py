"""What a promptable video segmenter offers to a method, whatever the model behind it.

Shape legend: N objects, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rvosbench.methods.models.sam2.packed import BoolNHW, PackedMasks
from rvosbench.methods.models.sam2.prompts import Prompt


@dataclass(frozen=True, eq=False)
class PointMasks:
    """One mask per point prompt."""

    masks: PackedMasks
    """(N,) masks at video resolution."""
    predicted_iou: NDArray[np.float32]
    """(N,) the model's own estimate of the IoU of the candidate it chose."""


@dataclass(frozen=True, eq=False)
class TrackedMasks:
    """Some objects' masks on one frame, as propagation reaches it."""

    position: int
    """Index into the ``frames`` given to ``propagate``."""
    objects: slice
    """Which of the prompted objects."""
    masks: BoolNHW
    """Their masks at video resolution, (N, H, W)."""


class Segmenter(Protocol):
    """A promptable segmenter opened on one video; frames it has encoded are shared by all calls."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the video. Raises SampleError for unreadable frames."""
        ...

    def __len__(self) -> int:
        """Frames of the video."""
        ...

    def masks_from_points(self, frame: int, points_N2: NDArray[np.float32]) -> PointMasks:
        """Every point is one object, prompted alone on video frame ``frame``.

        ``points_N2`` are (x, y) relative to width and height, in [0, 1].
        """
        ...

    def propagate(self, frames: Sequence[int], prompt: Prompt) -> Iterator[TrackedMasks]:
        """Tracks N objects, prompted on one frame, through ``frames`` treated as a video.

        Args:
            frames: indices into the video, in the order that stands for time.
            prompt: points, boxes, masks or token embeddings of every object, and their position in ``frames``.

        Yields:
            Each object on each position exactly once: from the prompt to the end, then from the prompt to the start.
            Objects do not influence each other.
        """
        ...
