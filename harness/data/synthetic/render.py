"""Pixels and masks of a scene.

The mask of an object on a frame is exact: the pixels whose centre lies inside its outline and inside the outline
of nothing nearer. Masks of a frame therefore never overlap. Pixels blend over one pixel of the edge.

Shape legend: T frames, H W pixels, 3 RGB.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from rvosbench.harness.data.synthetic.outlines import FloatHW, reach, signed_distance
from rvosbench.harness.data.synthetic.scene import Backdrop, Scene, SceneObject
from rvosbench.harness.data.types import FrameHW3

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 44),
    "green": (42, 160, 62),
    "blue": (40, 86, 214),
    "yellow": (246, 214, 40),
    "purple": (136, 52, 176),
    "orange": (244, 128, 24),
    "white": (244, 243, 238),
    "black": (38, 37, 42),
}
SHADOW = 0.42
"""How dark a shadow is at its core."""


def id_maps(scene: Scene) -> NDArray[np.uint8]:
    """Which object is seen where: (T, H, W) uint8 of object ids, 0 = background."""
    maps_THW = np.zeros((scene.frames, scene.height, scene.width), dtype=np.uint8)
    for frame in range(scene.frames):
        for obj in scene.back_to_front():
            placed = _distance(obj, frame, scene.height, scene.width, margin=0)
            if placed is not None:
                rows, columns, distance_HW, _, _ = placed
                maps_THW[frame, rows, columns][distance_HW <= 0] = obj.id
    return maps_THW


def images(scene: Scene, frames: Iterable[int] | None = None) -> Iterator[FrameHW3]:
    """The frames of a scene in order, all or the ones named, each (H, W, 3) uint8 RGB."""
    ground_HW3 = backdrop(scene.backdrop, scene.height, scene.width)
    for frame in range(scene.frames) if frames is None else frames:
        canvas_HW3 = ground_HW3.copy()
        for obj in scene.back_to_front():
            _shade(canvas_HW3, obj, frame)
            _paint(canvas_HW3, obj, frame)
        yield np.clip(canvas_HW3 + 0.5, 0, 255).astype(np.uint8)


def _distance(
    obj: SceneObject, frame: int, height: int, width: int, *, margin: float, shift: tuple[float, float] = (0.0, 0.0)
) -> tuple[slice, slice, FloatHW, FloatHW, FloatHW] | None:
    """Signed distance in pixels around an object, cut to the image; None where nothing of it is inside.

    Returns rows, columns, distance and the coordinates (x, y) about its centre in radii, not turned.
    """
    radius, angle = float(obj.radius_T[frame]), float(obj.angle_T[frame])
    x, y = obj.centre_T2[frame] + shift
    half = radius * reach(obj.shape) + margin + 1
    top, bottom = max(0, int(y - half)), min(height, int(y + half) + 2)
    left, right = max(0, int(x - half)), min(width, int(x + half) + 2)
    if top >= bottom or left >= right:
        return None
    y_HW, x_HW = np.mgrid[top:bottom, left:right].astype(np.float32)
    u_HW = (x_HW - np.float32(x)) / np.float32(radius)
    v_HW = (y_HW - np.float32(y)) / np.float32(radius)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    distance_HW = signed_distance(obj.shape, cos * u_HW + sin * v_HW, cos * v_HW - sin * u_HW) * np.float32(radius)
    return slice(top, bottom), slice(left, right), distance_HW, u_HW, v_HW


def _shade(canvas_HW3: NDArray[np.float32], obj: SceneObject, frame: int) -> None:
    """Darkens the ground to the lower right of an object."""
    radius = float(obj.radius_T[frame])
    blur = 0.28 * radius + 1
    height, width, _ = canvas_HW3.shape
    placed = _distance(obj, frame, height, width, margin=blur, shift=(0.16 * radius, 0.22 * radius))
    if placed is None:
        return
    rows, columns, distance_HW, _, _ = placed
    core = np.clip(0.5 - distance_HW / (2 * blur), 0, 1)
    canvas_HW3[rows, columns] *= (1 - SHADOW * core * core * (3 - 2 * core))[..., None]


def _paint(canvas_HW3: NDArray[np.float32], obj: SceneObject, frame: int) -> None:
    """Blends an object in: light from the upper left, a darker rim, a soft highlight."""
    height, width, _ = canvas_HW3.shape
    placed = _distance(obj, frame, height, width, margin=1)
    if placed is None:
        return
    rows, columns, distance_HW, u_HW, v_HW = placed
    radius = float(obj.radius_T[frame])
    rim = np.clip(-distance_HW / (0.16 * radius + 1), 0, 1)
    light = (1.0 - 0.13 * (u_HW + v_HW)) * (0.72 + 0.28 * rim)
    gleam = 46 * np.exp(-((u_HW + 0.34) ** 2 + (v_HW + 0.36) ** 2) / 0.1)
    body_HW3 = np.array(COLOURS[obj.colour], dtype=np.float32) * light[..., None] + gleam[..., None]
    alpha_HW1 = np.clip(0.5 - distance_HW, 0, 1)[..., None]
    patch = canvas_HW3[rows, columns]
    patch += (np.clip(body_HW3, 0, 255) - patch) * alpha_HW1


def backdrop(plan: Backdrop, height: int, width: int) -> NDArray[np.float32]:
    """The ground, (H, W, 3) float32 in 0..255: two muted colours blended along a slope, then a texture."""
    rng = np.random.default_rng(plan.seed)
    y_HW, x_HW = np.mgrid[0:height, 0:width].astype(np.float32)
    slope = np.cos(plan.angle) * x_HW / width + np.sin(plan.angle) * y_HW / height
    fraction = ((slope - slope.min()) / (slope.max() - slope.min()))[..., None].astype(np.float32)
    first, second = (np.array(colour, dtype=np.float32) for colour in (plan.first, plan.second))
    ground_HW3 = first * (1 - fraction) + second * fraction
    if plan.texture == "clouds":
        ground_HW3 += 26 * _noise(rng, height, width, cell=28)[..., None]
    elif plan.texture == "grain":
        ground_HW3 += 13 * _noise(rng, height, width, cell=3)[..., None]
    elif plan.texture == "planks":
        plank = np.floor(y_HW / 17).astype(int)
        tone = rng.uniform(-13, 13, size=int(plank.max()) + 1).astype(np.float32)
        ground_HW3 += tone[plank][..., None] + 12 * _noise(rng, height, width, cell=5, stretch=9)[..., None]
        ground_HW3[(y_HW % 17) < 1] -= 22
    elif plan.texture == "tiles":
        ground_HW3 += np.where((np.floor(x_HW / 19) + np.floor(y_HW / 19)) % 2 > 0, 8.0, -8.0)[..., None]
        ground_HW3 += 8 * _noise(rng, height, width, cell=6)[..., None]
    return np.asarray(np.clip(ground_HW3, 0, 255), dtype=np.float32)


def _noise(rng: np.random.Generator, height: int, width: int, *, cell: int, stretch: int = 1) -> FloatHW:
    """Smooth noise (H, W) of about unit height whose patches are ``cell`` pixels high, ``stretch`` times as wide."""
    coarse = rng.uniform(-1, 1, size=(height // cell + 3, width // (cell * stretch) + 3)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.float32)
