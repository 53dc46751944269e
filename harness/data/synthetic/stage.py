"""A scene in the making: placing things so that they fit into the picture and do not collide.

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
from rvosbench.harness.data.synthetic.world import SIZES, Thing

Item = TypeVar("Item")
Point = tuple[float, float]

PLACES = 25
"""Places tried for a thing before the scene is given up."""


class NoRoomError(Exception):
    """A thing found no place; the scene is drawn again."""


@dataclass(frozen=True)
class Look:
    """What a still picture tells of a thing."""

    shape: str
    colour: str
    size: str


@dataclass
class Stage:
    """A scene in the making."""

    rng: np.random.Generator
    height: int
    width: int
    frames: int
    things: list[Thing] = field(default_factory=list)

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
        """Uniform; the middle where the interval is empty (a large thing in a narrow picture)."""
        return float(self.rng.uniform(low, high)) if high > low else (low + high) / 2

    def radius(self, size: str) -> float:
        return self.side * SIZES[size] * float(self.rng.uniform(0.96, 1.04))

    def add(
        self,
        look: Look,
        motion: str,
        path_T2: NDArray[np.float64],
        radius: float,
        *,
        depth: float | None = None,
        radius_T: NDArray[np.float64] | None = None,
        angle_T: NDArray[np.float64] | None = None,
    ) -> None:
        """Adds a thing; a random depth unless given."""
        drawn = float(self.rng.random())
        still = np.zeros(self.frames)
        self.things.append(
            Thing(
                id=len(self.things) + 1,
                shape=look.shape,
                colour=look.colour,
                size=look.size,
                motion=motion,
                centre_T2=path_T2,
                radius_T=np.full(self.frames, radius) if radius_T is None else radius_T,
                angle_T=still if angle_T is None else angle_T,
                depth=drawn if depth is None else depth,
            )
        )

    def travel(self, look: Look, motion: str, heading: str, *, share: tuple[float, float], lane: float | None) -> None:
        """Adds a thing on a straight line along ``heading``.

        Args:
            share: range of the line's length as a share of the picture along the heading.
            lane: the fixed coordinate across the heading in pixels, or None for a random one.
        """
        radius = self.radius(look.size)
        half = np.array(extent(look.shape)) * radius
        step = np.array(moves.HEADINGS[heading])
        axis = 0 if step[0] else 1
        room = np.array([self.width, self.height]) - 1 - 2 * half
        length = min(self.between(*share) * (room[axis] + 2 * half[axis]), room[axis])
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
        self.add(look, motion, moves.travel(motion, self.frames, point(start), point(end)), radius)

    def stay(self, look: Look, motion: str, place: Point | None, *, depth: float | None = None) -> None:
        """Adds a thing that remains around one place: still, bounces, circles, spins, grows or shrinks."""
        radius = self.radius(look.size)
        radius_T = radius * moves.swell(motion, self.frames) if motion in ("grows", "shrinks") else None
        widest = radius if radius_T is None else float(radius_T.max())
        half = np.array(extent(look.shape)) * widest
        if motion == "spins":
            half[:] = reach(look.shape) * radius
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
        self.add(look, motion, path_T2, radius, depth=depth, radius_T=radius_T, angle_T=angle_T)

    def act(self, look: Look, motion: str) -> None:
        """Adds a thing with a motion, where it collides with nothing if a few tries find such a place."""
        for _ in range(PLACES):
            if motion in moves.TRAVELLING:
                self.travel(look, motion, self.pick(tuple(moves.HEADINGS)), share=(0.35, 0.65), lane=None)
            else:
                self.stay(look, motion, None)
            if not any(collide(self.things[-1], other) for other in self.things[:-1]):
                return
            self.things.pop()
        raise NoRoomError

    def lanes(self, count: int, axis: int) -> list[float]:
        """Pixel coordinates of ``count`` parallel lanes for things that travel along ``axis``, shuffled."""
        across = (self.height, self.width)[axis]
        return self.shuffled([across * (index + 0.5) / count for index in range(count)])

    def looks(self, count: int, sizes: Sequence[str] = ("small", "medium", "large")) -> list[Look]:
        """Different looks from few shapes and colours, so that one word is seldom enough."""
        shapes, colours = self.shuffled(SHAPES)[:3], self.shuffled(tuple(COLOURS))[:3]
        every = [Look(shape, colour, size) for shape in shapes for colour in colours for size in sizes]
        return self.shuffled(every)[:count]


def touch(first: Thing, second: Thing) -> bool:
    """Whether two things touch in the first frame; discs stand in for outlines."""
    return bool(_gap(first, second)[0] < 1)


def collide(first: Thing, second: Thing) -> bool:
    """Whether two things touch in the first frame or overlap much of the time."""
    return touch(first, second) or bool((_gap(first, second) < 0).mean() > 0.4)


def _gap(first: Thing, second: Thing) -> NDArray[np.float64]:
    distance_T = np.hypot(*(first.centre_T2 - second.centre_T2).T)
    return np.asarray(distance_T - first.radius_T - second.radius_T)


def point(values: NDArray[np.float64]) -> Point:
    """A pair as plain floats."""
    return float(values[0]), float(values[1])
