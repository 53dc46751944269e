"""A scene in the making: placing objects so that they fit into the image and do not collide.

Shape legend: T frames; a point is (x, y) in pixels, y down.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from rvosbench.harness.data.synthetic import motion as moves
from rvosbench.harness.data.synthetic.draw import pick, shuffled
from rvosbench.harness.data.synthetic.outlines import SHAPES, extent, reach
from rvosbench.harness.data.synthetic.render import COLOURS
from rvosbench.harness.data.synthetic.scene import SIZES, SceneObject

Item = TypeVar("Item")
Point = tuple[float, float]

PLACES = 25
"""Places tried for an object before the scene is given up."""


class NoRoomError(Exception):
    """An object found no place; the scene is drawn again."""


@dataclass(frozen=True)
class Appearance:
    """The appearance of an object in a still image: shape, colour and size."""

    shape: str
    colour: str
    size: str


@dataclass
class SceneBuilder:
    """A scene in the making."""

    rng: np.random.Generator
    height: int
    width: int
    frames: int
    objects: list[SceneObject] = field(default_factory=list)

    @property
    def side(self) -> int:
        return min(self.height, self.width)

    def pick(self, items: Sequence[Item]) -> Item:
        return pick(self.rng, items)

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        return shuffled(self.rng, items)

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def between(self, low: float, high: float) -> float:
        """Uniform; the middle where the interval is empty (a large object in a narrow image)."""
        return float(self.rng.uniform(low, high)) if high > low else (low + high) / 2

    def radius(self, size: str) -> float:
        return self.side * SIZES[size] * float(self.rng.uniform(0.96, 1.04))

    def add(
        self,
        appearance: Appearance,
        motion: str,
        path_T2: NDArray[np.float64],
        radius: float,
        *,
        depth: float | None = None,
        radius_T: NDArray[np.float64] | None = None,
        angle_T: NDArray[np.float64] | None = None,
    ) -> None:
        """Adds an object; a random depth unless given."""
        drawn = float(self.rng.random())
        still = np.zeros(self.frames)
        self.objects.append(
            SceneObject(
                id=len(self.objects) + 1,
                shape=appearance.shape,
                colour=appearance.colour,
                size=appearance.size,
                motion=motion,
                centre_T2=path_T2,
                radius_T=np.full(self.frames, radius) if radius_T is None else radius_T,
                angle_T=still if angle_T is None else angle_T,
                depth=drawn if depth is None else depth,
            )
        )

    def travel(
        self, appearance: Appearance, motion: str, heading: str, *, fraction: tuple[float, float], lane: float | None
    ) -> None:
        """Adds an object on a straight line along ``heading``.

        Args:
            fraction: range of the line's length as a fraction of the image along the heading.
            lane: the fixed coordinate across the heading in pixels, or None for a random one.
        """
        radius = self.radius(appearance.size)
        half = np.array(extent(appearance.shape)) * radius
        step = np.array(moves.HEADINGS[heading])
        axis = 0 if step[0] else 1
        room = np.array([self.width, self.height]) - 1 - 2 * half
        length = min(self.between(*fraction) * (room[axis] + 2 * half[axis]), room[axis])
        start = half + self.rng.random(2) * room
        if lane is not None:
            start[1 - axis] = lane
        start[axis] = half[axis] + self.between(0, room[axis] - length)
        end = start.copy()
        end[axis] += length
        if step[axis] < 0:
            start, end = end, start
        outside = half[axis] + 3
        far = (self.width, self.height)[axis] + outside
        if motion == "enters":
            start[axis] = -outside if step[axis] > 0 else far
        elif motion == "leaves":
            end[axis] = far if step[axis] > 0 else -outside
        self.add(appearance, motion, moves.travel(motion, self.frames, point(start), point(end)), radius)

    def stay(self, appearance: Appearance, motion: str, place: Point | None, *, depth: float | None = None) -> None:
        """Adds an object that remains around one place: still, bounces, circles, spins, grows or shrinks."""
        radius = self.radius(appearance.size)
        radius_T = radius * moves.swell(motion, self.frames) if motion in ("grows", "shrinks") else None
        widest = radius if radius_T is None else float(radius_T.max())
        half = np.array(extent(appearance.shape)) * widest
        if motion == "spins":
            half[:] = reach(appearance.shape) * radius
        climb = turn = 0.0
        if motion == "bounces":
            climb = self.side * self.between(0.2, 0.3)
        if motion == "circles":
            turn = self.side * self.between(0.17, 0.24)
        if place is None:
            place = (
                self.between(half[0] + turn, self.width - 1 - half[0] - turn),
                self.between(half[1] + turn + climb, self.height - 1 - half[1] - turn),
            )
        path_T2 = np.tile(np.asarray(place, dtype=float), (self.frames, 1))
        sense = self.pick((-1, 1))
        if motion == "bounces":
            path_T2 = moves.hops(self.frames, place, climb)
        elif motion == "circles":
            path_T2 = moves.orbit(self.frames, place, turn, self.between(0, 2 * math.pi), sense)
        angle_T = moves.spin(self.frames, sense) if motion == "spins" else None
        self.add(appearance, motion, path_T2, radius, depth=depth, radius_T=radius_T, angle_T=angle_T)

    def act(self, appearance: Appearance, motion: str) -> None:
        """Adds an object with a motion, where it collides with nothing if a few tries find such a place."""
        for _ in range(PLACES):
            if motion in moves.TRAVELLING:
                self.travel(appearance, motion, self.pick(tuple(moves.HEADINGS)), fraction=(0.35, 0.65), lane=None)
            else:
                self.stay(appearance, motion, None)
            if not any(collide(self.objects[-1], other) for other in self.objects[:-1]):
                return
            self.objects.pop()
        raise NoRoomError

    def lanes(self, count: int, axis: int) -> list[float]:
        """Pixel coordinates of ``count`` parallel lanes for objects that travel along ``axis``, shuffled."""
        across = (self.height, self.width)[axis]
        return self.shuffled([across * (index + 0.5) / count for index in range(count)])

    def appearances(self, count: int, sizes: Sequence[str] = ("small", "medium", "large")) -> list[Appearance]:
        """Different appearances from few shapes and colours, so that one word is seldom enough."""
        shapes, colours = self.shuffled(SHAPES)[:3], self.shuffled(tuple(COLOURS))[:3]
        every = [Appearance(shape, colour, size) for shape in shapes for colour in colours for size in sizes]
        return self.shuffled(every)[:count]


def touch(first: SceneObject, second: SceneObject) -> bool:
    """Whether two objects touch in the first frame; discs stand in for outlines."""
    return bool(_gap(first, second)[0] < 1)


def collide(first: SceneObject, second: SceneObject) -> bool:
    """Whether two objects touch in the first frame or overlap much of the time."""
    return touch(first, second) or bool((_gap(first, second) < 0).mean() > 0.4)


def _gap(first: SceneObject, second: SceneObject) -> NDArray[np.float64]:
    distance_T = np.hypot(*(first.centre_T2 - second.centre_T2).T)
    return np.asarray(distance_T - first.radius_T - second.radius_T)


def point(values: NDArray[np.float64]) -> Point:
    """A pair as plain floats."""
    return float(values[0]), float(values[1])
