"""Scene description: objects, the ground they move on, and the scene that holds both.

Shape legend: T frames; a point is (x, y) in pixels, y down, pixel centres at whole numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIZES = {"small": 0.1, "medium": 0.142, "large": 0.2}
"""Radius of a disc of the same area, as a fraction of the image's shorter side."""


@dataclass(frozen=True, eq=False)
class SceneObject:
    """A shape with its colour and its path."""

    id: int
    """1..N within the scene; its value in id maps."""
    shape: str
    colour: str
    size: str
    """A key of ``SIZES``: the size at the start for an object that keeps it."""
    motion: str
    """A name in ``motion.MOTIONS``."""
    centre_T2: NDArray[np.float64]
    radius_T: NDArray[np.float64]
    """Radius of the disc of the same area, pixels."""
    angle_T: NDArray[np.float64]
    """Radians; 0 stands upright."""
    depth: float
    """Smaller is nearer."""


@dataclass(frozen=True)
class Backdrop:
    """The ground: two muted RGB colours, the direction of their gradient, a texture and its seed."""

    first: tuple[int, int, int]
    second: tuple[int, int, int]
    angle: float
    texture: str
    seed: int


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything a clip shows."""

    scenario: str
    """The name of the scenario it was made from."""
    height: int
    width: int
    frames: int
    backdrop: Backdrop
    objects: tuple[SceneObject, ...]
    """By id: ``objects[i].id == i + 1``."""

    @property
    def side(self) -> int:
        """The shorter side in pixels, the unit for "far" and "large"."""
        return min(self.height, self.width)

    def object_by_id(self, id: int) -> SceneObject:
        return self.objects[id - 1]

    def back_to_front(self) -> list[SceneObject]:
        return sorted(self.objects, key=lambda obj: -obj.depth)
