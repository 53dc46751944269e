"""From rollout maps to points: smoothing, contrast, normalisation, fusion, Otsu masks.

Source: DecAF (arXiv 2510.19592) section 3.2 and its released code, which adds the last min-max and fixes the kernels.
Everything runs in float32 on the tensors' own device and is differentiable up to ``fuse``.

Shape legend: T keyframes, t time slots of a map (T, or ceil(T/2) where a model merges frame pairs), h w token grid,
H W pixels, k kernel size, n points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from harness.errors import PrerequisiteError
from harness.settings import Settings, identity

Views = Literal["both", "clip", "frame"]


@dataclass(frozen=True)
class FusionSettings(Settings):
    """How the clip maps and the frame maps become one map."""

    views: Views = identity("both")
    """"both" averages them on the frame maps' grid; "clip" or "frame" uses one alone, on its own grid."""
    subtract_background: bool = identity(True)
    """False fuses the smoothed object maps as they are (the paper's "Obj only" row)."""
    sigma: float = identity(1.0)
    """Of the Gaussian, in cells."""
    clip_kernel: int = identity(3)
    """Size of the Gaussian on clip maps; odd."""
    frame_kernel: int = identity(7)
    """Size of the Gaussian on frame maps; odd."""

    def check(self) -> None:
        """Raises PrerequisiteError for a value outside its range."""
        if self.views not in ("both", "clip", "frame"):
            raise PrerequisiteError(f"fusion.views is '{self.views}'.", "Use both, clip or frame.")
        if not self.sigma > 0:
            raise PrerequisiteError(f"fusion.sigma is {self.sigma}.", "Give a positive number of cells.")
        for name in ("clip_kernel", "frame_kernel"):
            size = getattr(self, name)
            if size < 1 or size % 2 == 0:
                raise PrerequisiteError(f"fusion.{name} is {size}.", "Give an odd number of cells, 1 or more.")


@dataclass(frozen=True)
class RolloutMaps:
    """Raw rollout values on the visual tokens, float32, not normalised. No background: None twice."""

    object_clip_thw: Tensor
    object_frame_Thw: Tensor
    background_clip_thw: Tensor | None = None
    background_frame_Thw: Tensor | None = None


@dataclass(frozen=True)
class Points:
    """Cells of a fused map, in frame, row, column order."""

    keyframe_n: NDArray[np.int64]
    """Position in the list of keyframes, not a frame index."""
    xy_n2: NDArray[np.float32]
    """Cell centres as fractions of the frame's width and height."""
    value_n: NDArray[np.float32]
    """The map's value in the cell."""


def gaussian_kernel(size: int, sigma: float) -> Tensor:
    """A (k, k) float32 Gaussian that sums to 1."""
    offset_k = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
    profile_k = torch.exp(-(offset_k**2) / (2 * sigma**2))
    kernel_kk = profile_k[:, None] * profile_k[None, :]
    return kernel_kk / kernel_kk.sum()


def smooth(map_Thw: Tensor, size: int, sigma: float) -> Tensor:
    """Each slice blurred; outside the map counts as zero, so the border loses mass. Same shape."""
    kernel_11kk = gaussian_kernel(size, sigma).to(map_Thw)[None, None]
    return functional.conv2d(map_Thw[:, None], kernel_11kk, padding=size // 2)[:, 0]


def contrast(object_Thw: Tensor, background_Thw: Tensor) -> Tensor:
    """What the object prompt attends to more than the background prompt: the difference, kept within [0, 1]."""
    return (object_Thw - background_Thw).clamp(0.0, 1.0)


def normalise_clip(map_Thw: Tensor) -> Tensor:
    """Min-max over the whole clip; a constant map becomes 0."""
    return _min_max(map_Thw, map_Thw.amin(), map_Thw.amax())


def normalise_frames(map_Thw: Tensor) -> Tensor:
    """Min-max of each frame alone; a constant frame becomes 0."""
    return _min_max(map_Thw, map_Thw.amin((1, 2), keepdim=True), map_Thw.amax((1, 2), keepdim=True))


def _min_max(map_Thw: Tensor, low: Tensor, high: Tensor) -> Tensor:
    span = high - low
    return (map_Thw - low) / torch.where(span > 0, span, torch.ones_like(span))


def match_keyframes(map_thw: Tensor, keyframes: int) -> Tensor:
    """One slice per keyframe: slots that hold two frames are repeated, a padded last frame is dropped.

    Raises:
        ValueError: neither ``keyframes`` slots nor half of them, rounded up.
    """
    slots = map_thw.shape[0]
    if slots == keyframes:
        return map_thw
    if slots != (keyframes + 1) // 2:
        raise ValueError(f"a clip map with {slots} time slots does not cover {keyframes} keyframes")
    return map_thw.repeat_interleave(2, dim=0)[:keyframes]


def resize(map_Thw: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear to (h, w) or (H, W), pixel centres at half integers (``align_corners=False``), no antialias."""
    return functional.interpolate(map_Thw[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def contrast_clip(maps: RolloutMaps, settings: FusionSettings) -> Tensor:
    """The clip map before normalisation: smoothed, background subtracted. (t, h, w)."""
    return _contrast(maps.object_clip_thw, maps.background_clip_thw, settings.clip_kernel, settings)


def contrast_frame(maps: RolloutMaps, settings: FusionSettings) -> Tensor:
    """The frame maps before normalisation: smoothed, background subtracted. (T, h, w)."""
    return _contrast(maps.object_frame_Thw, maps.background_frame_Thw, settings.frame_kernel, settings)


def _contrast(object_Thw: Tensor, background_Thw: Tensor | None, kernel: int, settings: FusionSettings) -> Tensor:
    smoothed_Thw = smooth(object_Thw, kernel, settings.sigma)
    if not settings.subtract_background:
        return smoothed_Thw
    if background_Thw is None:
        raise ValueError("subtracting the background needs background maps")
    return contrast(smoothed_Thw, smooth(background_Thw, kernel, settings.sigma))


def fuse(maps: RolloutMaps, settings: FusionSettings) -> Tensor:
    """The fused map, (T, h, w) float32 in [0, 1]; its maximum is 1 unless it is 0 everywhere.

    Clip and frame maps are normalised (over the clip, and each frame alone), averaged on the frame maps' grid, and the
    average is normalised over the clip once more. One view alone takes the last step too.
    """
    keyframes = maps.object_frame_Thw.shape[0]
    if settings.views == "frame":
        return normalise_clip(normalise_frames(contrast_frame(maps, settings)))
    clip_Thw = match_keyframes(normalise_clip(contrast_clip(maps, settings)), keyframes)
    if settings.views == "clip":
        return normalise_clip(clip_Thw)
    frame_Thw = normalise_frames(contrast_frame(maps, settings))
    height, width = frame_Thw.shape[1:]
    return normalise_clip((resize(clip_Thw, (height, width)) + frame_Thw) / 2)


def points_above(fused_Thw: Tensor, threshold: float) -> Points:
    """Every cell at or above ``threshold`` (compared in float32) as a point at the cell's centre."""
    fused = fused_Thw.detach().to("cpu", torch.float32).numpy()
    _, height, width = fused.shape
    frame_n, row_n, column_n = np.nonzero(fused >= np.float32(threshold))
    x_n, y_n = (column_n + 0.5) / width, (row_n + 0.5) / height
    return Points(
        keyframe_n=frame_n.astype(np.int64),
        xy_n2=np.stack([x_n, y_n], axis=1).astype(np.float32),
        value_n=fused[frame_n, row_n, column_n],
    )


def top_cells(fused_Thw: Tensor, keyframes: tuple[int, ...], count: int = 100) -> NDArray[np.float32]:
    """The ``count`` highest cells as rows ``[frame index, y, x, value]``, highest first, (count, 4) float32.

    Positions are cell centres as fractions of the frame; equal values keep frame, row, column order; a map with fewer
    cells gives all of them. This is DecAF's keypoint output.
    """
    fused = fused_Thw.detach().to("cpu", torch.float32).numpy()
    _, height, width = fused.shape
    order = np.argsort(-fused.ravel(), kind="stable")[:count]
    frame_n, row_n, column_n = np.unravel_index(order, fused.shape)
    columns = [
        np.asarray(keyframes, dtype=np.float32)[frame_n],
        (row_n + 0.5) / height,
        (column_n + 0.5) / width,
        fused.ravel()[order],
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def to_uint8(map_THW: Tensor) -> NDArray[np.uint8]:
    """A map in [0, 1] as 0..255, fractions cut off."""
    return (map_THW.detach().to("cpu", torch.float32) * 255).numpy().astype(np.uint8)


def otsu(image_THW: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Each frame's Otsu threshold, (T,), and the pixels strictly above it, (T, H, W) bool.

    A constant frame has threshold 0, so a constant positive frame is all foreground.
    """
    threshold_T = np.zeros(len(image_THW), dtype=np.float64)
    mask_THW = np.zeros(image_THW.shape, dtype=bool)
    for index, image_HW in enumerate(image_THW):
        threshold_T[index], _ = cv2.threshold(image_HW, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
        mask_THW[index] = image_HW > threshold_T[index]
    return threshold_T, mask_THW


def attention_masks(fused_Thw: Tensor, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Masks straight from the map: resized to (H, W), Otsu per keyframe. (T, H, W) bool."""
    _, mask_THW = otsu(to_uint8(resize(fused_Thw, size)))
    return mask_THW
