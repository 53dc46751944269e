"""From rollout maps to points: smoothing, contrast, normalisation, fusion, Otsu masks.

Source: DecAF (arXiv 2510.19592) section 3.2 and its released code, which adds the last min-max and fixes the kernels.
Pure numpy in float32: maps are a few thousand cells, and viewers fuse without torch.

Shape legend: T keyframes, t time slots of a map (T, or T/2 rounded up where a model merges frame pairs), h w token
grid, H W pixels, k kernel size, n points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from rvosbench.harness.settings import Settings, identity

Views = Literal["both", "clip", "frame"]
Float32 = NDArray[np.float32]


def _odd(size: int) -> int:
    if size % 2 == 0:
        raise ValueError("a kernel has an odd number of cells")
    return size


Sigma = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""Standard deviation of a Gaussian, in cells."""
KernelSize = Annotated[int, Field(ge=1), AfterValidator(_odd)]
"""Cells of a kernel's side; odd."""


@dataclass(frozen=True)
class FusionSettings(Settings):
    """How the clip maps and the frame maps become one map."""

    views: Views = identity("both")
    """"both" averages them on the frame maps' grid; "clip" or "frame" uses one alone, on its own grid."""
    subtract_background: bool = identity(True)
    """False fuses the smoothed object maps as they are (the paper's "Obj only" row)."""
    sigma: Sigma = identity(1.0)
    """Standard deviation of the Gaussian, in cells."""
    clip_kernel: KernelSize = identity(3)
    """Size of the Gaussian on clip maps; odd."""
    frame_kernel: KernelSize = identity(7)
    """Size of the Gaussian on frame maps; odd."""


@dataclass(frozen=True)
class RolloutMaps:
    """Raw rollout values on the visual grid, float32, not normalised; t is T for frame maps.

    Without a background call both background maps are None.
    """

    object_clip_thw: Float32
    object_frame_thw: Float32
    background_clip_thw: Float32 | None = None
    background_frame_thw: Float32 | None = None


@dataclass(frozen=True)
class Points:
    """Cells of a fused map, in frame, row, column order."""

    keyframe_n: NDArray[np.int64]
    """Position in the list of keyframes, not a frame index."""
    xy_n2: Float32
    """Cell centres as fractions of the frame's width and height."""
    value_n: Float32
    """The map's value in the cell."""


def gaussian_kernel(size: int, sigma: float) -> Float32:
    """A (k, k) float32 Gaussian that sums to 1."""
    offset_k = np.arange(size) - (size - 1) / 2
    profile_k = np.exp(-(offset_k**2) / (2 * sigma**2))
    kernel_kk = np.outer(profile_k, profile_k)
    return np.asarray(kernel_kk / kernel_kk.sum(), dtype=np.float32)


def smooth(map_Thw: Float32, size: int, sigma: float) -> Float32:
    """Each slice blurred; outside the map counts as zero, so the border loses mass. Same shape."""
    # The rows of the kernel's sum: a Gaussian is separable.
    profile_k = gaussian_kernel(size, sigma).sum(0)
    blurred = [
        cv2.sepFilter2D(np.ascontiguousarray(map_hw), cv2.CV_32F, profile_k, profile_k, borderType=cv2.BORDER_CONSTANT)
        for map_hw in map_Thw
    ]
    return np.asarray(np.stack(blurred), dtype=np.float32)


def contrast(object_Thw: Float32, background_Thw: Float32) -> Float32:
    """What the object prompt attends to more than the background prompt: the difference, kept within [0, 1]."""
    return np.clip(object_Thw - background_Thw, np.float32(0), np.float32(1))


def normalise_clip(map_Thw: Float32) -> Float32:
    """Min-max over the whole clip; a constant map becomes 0."""
    return _min_max(map_Thw, (0, 1, 2))


def normalise_frames(map_Thw: Float32) -> Float32:
    """Min-max of each frame alone; a constant frame becomes 0."""
    return _min_max(map_Thw, (1, 2))


def _min_max(map_Thw: Float32, axes: tuple[int, ...]) -> Float32:
    low = map_Thw.min(axes, keepdims=True)
    span = map_Thw.max(axes, keepdims=True) - low
    return np.asarray((map_Thw - low) / np.where(span > 0, span, np.float32(1)), dtype=np.float32)


def match_keyframes(map_thw: Float32, keyframes: int) -> Float32:
    """One slice per keyframe: slots that hold two frames are repeated, a padded last frame is dropped.

    Raises:
        ValueError: neither ``keyframes`` slots nor half of them, rounded up.
    """
    slots = len(map_thw)
    if slots == keyframes:
        return map_thw
    if slots != (keyframes + 1) // 2:
        raise ValueError(f"a clip map with {slots} time slots does not cover {keyframes} keyframes")
    return map_thw.repeat(2, axis=0)[:keyframes]


def resize(map_Thw: Float32, size: tuple[int, int]) -> Float32:
    """Bilinear to (h, w) or (H, W): cell centres at half integers, edges held, no antialias."""
    height, width = size
    resized = [
        cv2.resize(np.ascontiguousarray(map_hw), (width, height), interpolation=cv2.INTER_LINEAR) for map_hw in map_Thw
    ]
    return np.asarray(np.stack(resized), dtype=np.float32)


def contrast_clip(maps: RolloutMaps, settings: FusionSettings) -> Float32:
    """The clip map before normalisation: smoothed, background subtracted. (t, h, w)."""
    return _contrast(maps.object_clip_thw, maps.background_clip_thw, settings.clip_kernel, settings)


def contrast_frame(maps: RolloutMaps, settings: FusionSettings) -> Float32:
    """The frame maps before normalisation: smoothed, background subtracted. (T, h, w)."""
    return _contrast(maps.object_frame_thw, maps.background_frame_thw, settings.frame_kernel, settings)


def _contrast(object_Thw: Float32, background_Thw: Float32 | None, kernel: int, settings: FusionSettings) -> Float32:
    smoothed_Thw = smooth(object_Thw, kernel, settings.sigma)
    if not settings.subtract_background:
        return smoothed_Thw
    if background_Thw is None:
        raise ValueError("subtracting the background needs background maps")
    return contrast(smoothed_Thw, smooth(background_Thw, kernel, settings.sigma))


def fuse(maps: RolloutMaps, settings: FusionSettings) -> Float32:
    """The fused map, (T, h, w) float32 in [0, 1]; its maximum is 1 unless it is 0 everywhere.

    Clip and frame maps are normalised (over the clip, and each frame alone), averaged on the frame maps' grid, and the
    average is normalised over the clip once more. One view alone is its normalised map.
    """
    if settings.views == "frame":
        return normalise_frames(contrast_frame(maps, settings))
    keyframes = len(maps.object_frame_thw)
    clip_Thw = match_keyframes(normalise_clip(contrast_clip(maps, settings)), keyframes)
    if settings.views == "clip":
        return clip_Thw
    frame_Thw = normalise_frames(contrast_frame(maps, settings))
    height, width = frame_Thw.shape[1:]
    return normalise_clip((resize(clip_Thw, (height, width)) + frame_Thw) * np.float32(0.5))


def points_above(fused_Thw: Float32, threshold: float) -> Points:
    """The cells at or above ``threshold`` (compared in float32), each as a point at its centre."""
    keyframe_n, row_n, column_n = np.nonzero(fused_Thw >= np.float32(threshold))
    return Points(
        keyframe_n=keyframe_n.astype(np.int64),
        xy_n2=np.stack(_centres(row_n, column_n, fused_Thw.shape), axis=1),
        value_n=fused_Thw[keyframe_n, row_n, column_n],
    )


def highest(fused_Thw: Float32) -> Points:
    """The cell with the largest value as a point at its centre; of equals the first in frame, row, column order."""
    found = points_above(fused_Thw, float(fused_Thw.max()))
    return Points(found.keyframe_n[:1], found.xy_n2[:1], found.value_n[:1])


def top_cells(fused_Thw: Float32, keyframes: Sequence[int], count: int = 100) -> Float32:
    """The ``count`` highest cells as rows ``[frame index, y, x, value]``, highest first, (count, 4) float32.

    Positions are cell centres as fractions of the frame; equal values keep frame, row, column order; a map with fewer
    cells gives all of them. This is DecAF's keypoint output.
    """
    order = np.argsort(-fused_Thw.ravel(), kind="stable")[:count]
    keyframe_n, row_n, column_n = np.unravel_index(order, fused_Thw.shape)
    x_n, y_n = _centres(row_n, column_n, fused_Thw.shape)
    frame_n = np.asarray(keyframes, dtype=np.float32)[keyframe_n]
    return np.stack([frame_n, y_n, x_n, fused_Thw.ravel()[order]], axis=1)


def _centres(row_n: NDArray[np.intp], column_n: NDArray[np.intp], shape: tuple[int, ...]) -> tuple[Float32, Float32]:
    """x and y of cell centres as fractions of the frame."""
    _, height, width = shape
    return ((column_n + 0.5) / width).astype(np.float32), ((row_n + 0.5) / height).astype(np.float32)


def to_uint8(map_THW: Float32) -> NDArray[np.uint8]:
    """A map in [0, 1] as 0..255, fractions cut off."""
    return (map_THW * np.float32(255)).astype(np.uint8)


def otsu(image_HW: NDArray[np.uint8]) -> tuple[float, NDArray[np.bool_]]:
    """Otsu's threshold and the pixels strictly above it, (H, W) bool.

    A constant image has threshold 0, so a constant positive one is all foreground.
    """
    threshold, _ = cv2.threshold(image_HW, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return float(threshold), image_HW > threshold


def attention_masks(fused_Thw: Float32, size: tuple[int, int]) -> list[NDArray[np.bool_]]:
    """Masks straight from the map: each keyframe resized to (H, W), then Otsu. (H, W) bool each."""
    # Frame by frame: a resized clip of large frames would not fit beside the models.
    return [otsu(to_uint8(resize(map_1hw, size))[0])[1] for map_1hw in np.split(fused_Thw, len(fused_Thw))]
