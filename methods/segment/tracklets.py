"""How well a tracklet agrees with the fused map, and which tracklets are kept (DecAF, arXiv 2510.19592, Eq. 8).

Two details follow the released code rather than the paper: positive consistencies are divided by the largest one,
and when no tracklet passes the threshold the single best is kept.

Shape legend: N tracklets, T keyframes, H W pixels, h w map cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rvosbench.methods.models.sam2.packed import PackedMasks

MapThw = NDArray[np.float32]
"""The fused map over keyframes, (T, h, w) float32 in [0, 1]."""

_EPSILON = 1e-8


def _windows(cells: int, pixels: int) -> NDArray[np.float32]:
    """(cells, pixels) 0/1: which pixels each cell of adaptive average pooling covers; neighbours may share some."""
    index = np.arange(cells)[:, None]
    first, last = index * pixels // cells, -(-(index + 1) * pixels // cells)
    pixel = np.arange(pixels)[None]
    return ((pixel >= first) & (pixel < last)).astype(np.float32)


def pool_masks(masks_THW: NDArray[np.bool_], height: int, width: int) -> NDArray[np.float32]:
    """Adaptive average pooling of masks to (T, height, width): the covered fraction of each cell.

    Covered pixels are counted exactly (float32 holds integers below 2**24) and divided once. On a CPU this takes a
    fifth of the time of torch's adaptive_avg_pool2d, from which it differs by 3e-8 at most.
    """
    rows_hH = _windows(height, masks_THW.shape[1])
    columns_wW = _windows(width, masks_THW.shape[2])
    area_hw = rows_hH.sum(1)[:, None] * columns_wW.sum(1)[None]
    out_Thw = np.empty((len(masks_THW), height, width), dtype=np.float32)
    for t, mask_HW in enumerate(masks_THW):
        out_Thw[t] = (rows_hH @ mask_HW.astype(np.float32) @ columns_wW.T) / area_hw
    return out_Thw


def attention_consistency(map_Thw: MapThw, tracklets: Sequence[PackedMasks]) -> NDArray[np.float32]:
    """Agreement of each tracklet with the map, (N,) float32; positives scaled to a largest of 1, negatives raw.

    On each frame the cells strictly above the frame's mean keep their value and all others become minus the largest
    kept value, so that a constant frame, where nothing stands out, counts nothing. The score is the pooled mask's
    inner product with that, over the sum of the kept cells.

    Args:
        map_Thw: the fused map.
        tracklets: N masks of (T,) frames each.
    """
    map64_Thw = map_Thw.astype(np.float64)
    high_Thw = map64_Thw > map64_Thw.mean(axis=(1, 2), keepdims=True)
    kept_Thw = np.where(high_Thw, map64_Thw, 0.0)
    signed_Thw = np.where(high_Thw, map64_Thw, -kept_Thw.max(axis=(1, 2), keepdims=True))
    total = float(kept_Thw.sum()) + _EPSILON
    _, height, width = map_Thw.shape
    scores_N = np.array(
        [float((pool_masks(masks.unpack(), height, width) * signed_Thw).sum()) / total for masks in tracklets]
    )
    positive_N = scores_N > 0
    if positive_N.any():
        scores_N[positive_N] /= scores_N.max() + _EPSILON
    return scores_N.astype(np.float32)


def final_scores(scores_N: NDArray[np.float32], consistency_N: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean of predicted IoU, map value and consistency; ``scores_N`` is the sum of the first two. (N,) float32."""
    return np.asarray((scores_N + consistency_N) / np.float32(3))


def select(final_N: NDArray[np.float32], threshold: float) -> tuple[int, ...]:
    """Indices of the tracklets strictly above ``threshold``, ascending; the single best one where none is.

    Raises:
        ValueError: there is no tracklet.
    """
    if not len(final_N):
        raise ValueError("no tracklet to select from")
    passing = np.flatnonzero(final_N > np.float32(threshold))
    return tuple(int(i) for i in passing) if len(passing) else (int(final_N.argmax()),)
