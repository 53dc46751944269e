"""A scene as a viewer sees it, and truths about its objects with three values.

A truth is True, False, or None where a person could argue. A sentence is allowed only where no object is None, so
every expression about a scene is unambiguous and not just formally correct.

Shape legend: T frames, N objects (index i holds object id i + 1), H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from rvosbench.harness.data.synthetic.scene import Scene

Truth = Mapping[int, bool | None]
"""By object id."""

SEEN = 0.25
"""An object counts as seen on a frame where at least this fraction of it is visible."""


class View:
    """A scene as a viewer sees it."""

    def __init__(self, scene: Scene, ids_THW: NDArray[np.uint8]) -> None:
        self.scene = scene
        self.side = float(scene.side)
        self.ids = tuple(obj.id for obj in scene.objects)
        self.centre_NT2 = np.stack([obj.centre_T2 for obj in scene.objects])
        self.radius_NT = np.stack([obj.radius_T for obj in scene.objects])
        counts_TN = np.stack([np.bincount(ids_HW.ravel(), minlength=len(self.ids) + 1)[1:] for ids_HW in ids_THW])
        self.visible_fraction_NT = counts_TN.T / (math.pi * self.radius_NT**2)
        """Visible fraction of the whole object; about 1 when nothing hides it."""
        self.seen_NT = self.visible_fraction_NT >= SEEN
        self.inside_NT = _inside(scene, self.centre_NT2)
        self._ids_THW = ids_THW

    def path(self, id: int) -> NDArray[np.float64]:
        """Centres (t, 2) over the frames from the first to the last on which an object is inside the image."""
        inside = np.flatnonzero(self.inside_NT[id - 1])
        return self.centre_NT2[id - 1, inside[0] : inside[-1] + 1]

    def length(self, id: int) -> float:
        """Length of the path in shorter sides."""
        return float(np.hypot(*np.diff(self.path(id), axis=0).T).sum()) / self.side

    def speed(self, id: int) -> float:
        """Mean speed over the path, shorter sides per frame."""
        return self.length(id) / max(1, len(self.path(id)) - 1)

    def motion(self, id: int) -> str:
        return self.scene.object_by_id(id).motion

    def truth(self, holds: Callable[[int], bool | None]) -> Truth:
        return {id: holds(id) for id in self.ids}

    def over(self, id: int) -> int | None:
        """The object that covers most of object ``id`` on the frame where it is most hidden."""
        hidden = np.where(self.inside_NT[id - 1], self.visible_fraction_NT[id - 1], np.inf)
        frame = int(np.argmin(hidden))
        x, y = self.centre_NT2[id - 1, frame]
        radius = self.radius_NT[id - 1, frame]
        rows, columns = np.mgrid[0 : self.scene.height, 0 : self.scene.width]
        here = self._ids_THW[frame][(columns - x) ** 2 + (rows - y) ** 2 <= radius**2]
        top = int(np.bincount(here[here != id], minlength=1).argmax()) if (here != id).any() else 0
        return top or None


def _inside(scene: Scene, centre_NT2: NDArray[np.float64]) -> NDArray[np.bool_]:
    x, y = centre_NT2[..., 0], centre_NT2[..., 1]
    return (x > 0) & (x < scene.width - 1) & (y > 0) & (y < scene.height - 1)


def both(*truths: Truth) -> Truth:
    """Conjunction: one False decides, otherwise one None spoils."""
    return {
        id: False if any(t[id] is False for t in truths) else None if any(t[id] is None for t in truths) else True
        for id in truths[0]
    }


def answer(truth: Truth) -> tuple[int, ...] | None:
    """The objects for which it is true; None where that is arguable."""
    if any(value is None for value in truth.values()):
        return None
    return tuple(id for id, value in truth.items() if value)


def between(value: float, no: float, yes: float) -> bool | None:
    """True from ``yes`` on, False up to ``no``, None in the gap; works in both directions."""
    if yes >= no:
        return True if value >= yes else False if value <= no else None
    return True if value <= yes else False if value >= no else None
