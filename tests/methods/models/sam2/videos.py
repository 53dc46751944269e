"""Small videos to track in.

Shape legend: F frames, H W pixels, N objects.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rvosbench.harness.data.types import FrameHW3
from rvosbench.methods.models.sam2.packed import BoolNHW


def moving_blocks(frames: int, size: tuple[int, int], seed: int = 0) -> list[FrameHW3]:
    """Coloured blocks that move over noise."""
    rng = np.random.default_rng(seed)
    height, width = size
    noise = rng.integers(0, 120, (frames, height, width, 3))
    for k in range(3):
        colour, top, left = rng.integers(100, 255, 3), rng.integers(0, height // 2), rng.integers(0, width // 2)
        for t in range(frames):
            y, x = top + t % (height // 4), left + (2 * t) % (width // 4)
            noise[t, y : y + height // 4, x : x + width // (3 + k)] = colour
    return [frame.astype(np.uint8) for frame in noise]


def boxes(count: int, size: tuple[int, int], seed: int = 0) -> BoolNHW:
    """Rectangular mask prompts with specks missing, some of them overlapping."""
    rng = np.random.default_rng(seed)
    height, width = size
    masks = np.zeros((count, height, width), dtype=bool)
    for mask_HW in masks:
        y, x = rng.integers(0, height // 2), rng.integers(0, width // 2)
        mask_HW[y : y + height // 3, x : x + width // 4] = True
    masks &= rng.random(masks.shape) > 0.3
    return masks


def points(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Relative (x, y), (count, 2)."""
    return np.random.default_rng(seed).random((count, 2)).astype(np.float32)
