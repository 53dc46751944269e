"""COCO RLE in and out of boolean masks (pycocotools; the Fortran order and bytes/str traps live here)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco

from harness.data.types import BoolHW, MaskTrack
from harness.errors import SampleError


def encode(mask_HW: BoolHW) -> str | None:
    """COCO ``counts`` of a boolean mask; ``None`` for an empty one."""
    if not mask_HW.any():
        return None
    counts = coco.encode(np.asfortranarray(mask_HW, dtype=np.uint8))["counts"]
    return counts.decode("ascii") if isinstance(counts, bytes) else str(counts)


def decode(counts: str | bytes | None, height: int, width: int) -> BoolHW:
    """The (height, width) boolean mask of COCO ``counts``; ``None`` gives an empty mask.

    Raises:
        SampleError: the run lengths do not cover height x width.
    """
    if counts is None:
        return np.zeros((height, width), dtype=bool)
    try:
        decoded = coco.decode({"size": [height, width], "counts": counts})
    except ValueError as error:
        raise SampleError(f"RLE does not decode to {height}x{width}: {error}") from error
    return np.asarray(decoded, dtype=bool)


def track_from_masks(masks_THW: Sequence[BoolHW], frames: Sequence[int], height: int, width: int) -> MaskTrack:
    """A mask track from one boolean mask per frame index in ``frames``."""
    return MaskTrack(height, width, tuple(frames), tuple(encode(mask) for mask in masks_THW))
