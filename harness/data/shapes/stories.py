"""Scenarios: how a scene is cast and set in motion.

A story only makes some facts likely ("one goes against the others"); what is true of the finished scene, and what
may be said of it, is measured afterwards (facts.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from harness.data.shapes import motion as moves
from harness.data.shapes.draw import pick, shuffled
from harness.data.shapes.outlines import SHAPES, extent, reach
from harness.data.shapes.render import COLOURS
from harness.data.shapes.world import SIZES, Backdrop, Scene, Thing

Item = TypeVar("Item")
Point = tuple[float, float]

PICTURE_SIZES = (
    (96, 128), (112, 112), (112, 168), (120, 160), (128, 128), (144, 176), (168, 112), (176, 144),
    (97, 131), (105, 141), (133, 175), (151, 109),
)  # fmt: skip
"""(H, W); a few odd ones, because sizes that are no multiple of a patch are the ones that break things."""
TEXTURES = ("gradient", "clouds", "grain", "planks", "tiles")
GROUNDS = (
    (122, 140, 150), (150, 142, 128), (132, 150, 134), (148, 134, 146), (112, 118, 132), (160, 156, 148),
    (128, 124, 116), (140, 152, 160),
)  # fmt: skip


SPINNERS = ("square", "triangle", "star", "cross", "heart")
"""Shapes that may spin: a turning disc looks still, and a turning pillar needs too much room."""
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
        self.add(look, motion, moves.travel(motion, self.frames, _point(start), _point(end)), radius)

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


def collide(first: Thing, second: Thing) -> bool:
    """Whether two things touch in the first frame or overlap much of the time; discs stand in for outlines."""
    gap_T = np.hypot(*(first.centre_T2 - second.centre_T2).T) - first.radius_T - second.radius_T
    return bool(gap_T[0] < 1 or (gap_T < 0).mean() > 0.4)


def _point(values: NDArray[np.float64]) -> Point:
    return float(values[0]), float(values[1])


def mixed(stage: Stage) -> None:
    """Anything goes."""
    for look in stage.looks(int(stage.rng.integers(4, 6))):
        stage.act(look, _any_motion(stage, look))


def twins(stage: Stage) -> None:
    """Two things that differ in one attribute, and others that share some of it."""
    look, *others = stage.looks(int(stage.rng.integers(4, 6)), sizes=("small", "large"))
    twin, first, second = look, "steady", "steady"
    attribute = stage.pick(("colour", "size", "shape", "motion", "motion"))
    if attribute == "colour":
        twin = Look(look.shape, stage.pick([colour for colour in COLOURS if colour != look.colour]), look.size)
    elif attribute == "shape":
        twin = Look(stage.pick([shape for shape in SHAPES if shape != look.shape]), look.colour, look.size)
    elif attribute == "size":
        twin = Look(look.shape, look.colour, "small" if look.size == "large" else "large")
    else:
        first, second = stage.shuffled(("steady", "still", "bounces", "stops", "circles", "returns"))[:2]
    stage.act(look, first)
    stage.act(twin, second)
    for other in others:
        stage.act(other, _any_motion(stage, other))


def flee(stage: Stage) -> None:
    """All move away from one."""
    _around(stage, outward=True)


def gather(stage: Stage) -> None:
    """All move towards one."""
    _around(stage, outward=False)


def against(stage: Stage) -> None:
    """One moves against the others."""
    heading = stage.pick(tuple(moves.HEADINGS))
    _procession(stage, [(heading, "steady")] * int(stage.rng.integers(2, 5)) + [(moves.OPPOSITE[heading], "steady")])


def halt(stage: Stage) -> None:
    """Several set out together; one stops, or starts late."""
    heading = stage.pick(tuple(moves.HEADINGS))
    odd = stage.pick(("stops", "stops", "starts", "returns", "speeds_up"))
    _procession(stage, [(heading, odd)] + [(heading, "steady")] * int(stage.rng.integers(2, 4)))


def race(stage: Stage) -> None:
    """The same line for all, one much faster."""
    heading = stage.pick(tuple(moves.HEADINGS))
    count = int(stage.rng.integers(3, 5))
    axis = 0 if heading in ("left", "right") else 1
    sizes = ("small", "medium") if count > 3 else ("small", "medium", "large")
    for place, (look, lane) in enumerate(zip(stage.looks(count, sizes), stage.lanes(count, axis), strict=True)):
        share = (0.75, 0.8) if place == 0 else (0.22, 0.33)
        stage.travel(look, "steady", heading, share=share, lane=lane)


def chase(stage: Stage) -> None:
    """One follows another on the same path; others mind their own business."""
    leader, follower, *others = stage.looks(int(stage.rng.integers(4, 6)), sizes=("small", "medium"))
    heading = stage.pick(("left", "right"))
    radii = [stage.radius(look.size) for look in (leader, follower)]
    halves = [extent(look.shape)[0] * radius for look, radius in zip((leader, follower), radii, strict=True)]
    gap = halves[0] + halves[1] + stage.side * stage.between(0.06, 0.12)
    tall = max(extent(look.shape)[1] * radius for look, radius in zip((leader, follower), radii, strict=True))
    lane = stage.between(tall, stage.height - 1 - tall)
    near, far = halves[1], stage.width - 1 - halves[0]
    front = moves.travel("steady", stage.frames, (near + gap, lane), (far, lane))
    if heading == "left":
        front[:, 0] = stage.width - 1 - front[:, 0]
    behind = front - np.array([gap, 0.0]) * moves.HEADINGS[heading][0]
    stage.add(leader, "steady", front, radii[0])
    stage.add(follower, "steady", behind, radii[1])
    for other in others:
        stage.act(other, stage.pick(("still", "still", "bounces")))


def screen(stage: Stage) -> None:
    """A small thing passes behind a large one."""
    wall, passer, *others = stage.looks(int(stage.rng.integers(3, 6)))
    wall, passer = Look(wall.shape, wall.colour, "large"), Look(passer.shape, passer.colour, "small")
    middle = (stage.width * stage.between(0.44, 0.56), stage.height * stage.between(0.4, 0.6))
    stage.stay(wall, "still", middle, depth=0.0)
    radius = stage.radius("small")
    edge = extent(passer.shape)[0] * radius
    line = ((edge, middle[1]), (stage.width - 1 - edge, middle[1]))
    stage.add(passer, "steady", moves.travel("steady", stage.frames, *stage.shuffled(line)), radius, depth=1.0)
    for other in others:
        small = Look(other.shape, other.colour, "small")
        stage.act(small, "spins" if other.shape in SPINNERS and stage.chance(0.5) else "still")


def visit(stage: Stage) -> None:
    """One comes in late or leaves."""
    looks = stage.looks(int(stage.rng.integers(4, 6)))
    kinds = stage.pick((("enters",), ("leaves",), ("enters", "leaves")))
    for place, look in enumerate(looks):
        if place < len(kinds):
            stage.act(look, kinds[place])
        else:
            stage.act(look, stage.pick(("still", "still", "steady", "bounces")))


def odd_one(stage: Stage) -> None:
    """All but one share a shape, a colour, or standing still."""
    count = int(stage.rng.integers(4, 6))
    looks = stage.looks(count, sizes=("small", "medium"))
    motions = [_any_motion(stage, look) if stage.chance(0.4) else "still" for look in looks]
    trait = stage.pick(("shape", "colour", "moves", "rests"))
    if trait == "shape":
        common = stage.pick([shape for shape in SHAPES if shape != looks[0].shape])
        colours = stage.shuffled(tuple(COLOURS))
        looks[1:] = [Look(common, colours[place], look.size) for place, look in enumerate(looks[1:])]
    elif trait == "colour":
        common = stage.pick([colour for colour in COLOURS if colour != looks[0].colour])
        shapes = stage.shuffled(SHAPES)
        looks[1:] = [Look(shapes[place], common, look.size) for place, look in enumerate(looks[1:])]
    elif trait == "moves":
        motions = [stage.pick(("steady", "circles", "bounces"))] + ["still"] * (count - 1)
    else:
        motions = ["still"] + [stage.pick(("steady", "steady", "circles", "bounces")) for _ in looks[1:]]
    for look, motion in zip(looks, motions, strict=True):
        stage.act(look, motion)


def _any_motion(stage: Stage, look: Look) -> str:
    common = ("steady", "steady", "steady", "still", "still", "bounces", "stops", "returns")
    rare = ("starts", "speeds_up", "circles", "grows", "shrinks", "enters", "leaves", "spins")
    motion = stage.pick(common) if stage.chance(0.5) else stage.pick(rare)
    return "still" if motion == "spins" and look.shape not in SPINNERS else motion


def _procession(stage: Stage, plans: Sequence[tuple[str, str]]) -> None:
    """One lane for each (heading, motion)."""
    axis = 0 if plans[0][0] in ("left", "right") else 1
    sizes = ("small", "medium") if len(plans) > 3 else ("small", "medium", "large")
    share = stage.between(0.45, 0.6)
    for (heading, motion), look, lane in zip(
        plans, stage.looks(len(plans), sizes), stage.lanes(len(plans), axis), strict=True
    ):
        stage.travel(look, motion, heading, share=(share, share + 0.05), lane=lane)


def _around(stage: Stage, *, outward: bool) -> None:
    """Things on rays around a still one, moving outward or inward."""
    count = int(stage.rng.integers(2, 5))
    centre, *others = stage.looks(count + 1, sizes=("small",))
    centre = Look(centre.shape, centre.colour, stage.pick(("small", "medium")))
    middle = (stage.width * stage.between(0.46, 0.54), stage.height * stage.between(0.46, 0.54))
    stage.stay(centre, "still", middle, depth=0.5)
    radius = stage.radius(centre.size) * reach(centre.shape)
    first = stage.between(0, 2 * math.pi)
    for place, look in enumerate(others):
        turn = first + 2 * math.pi * (place + stage.between(-0.12, 0.12)) / count
        ray = np.array([math.cos(turn), math.sin(turn)])
        own = stage.radius(look.size)
        half = np.array(extent(look.shape)) * own
        near = radius + reach(look.shape) * own + 2
        room = np.array([stage.width - 1, stage.height - 1]) - 2 * half
        origin = np.array(middle)
        limits = [
            (((half + room) if ray[axis] > 0 else half)[axis] - origin[axis]) / ray[axis]
            for axis in (0, 1)
            if abs(ray[axis]) > 1e-6
        ]
        ends = [_point(origin + ray * near), _point(origin + ray * max(min(limits), near))]
        path_T2 = moves.travel("steady", stage.frames, *(ends if outward else ends[::-1]))
        stage.add(look, "steady", path_T2, own)


STORIES: tuple[Callable[[Stage], None], ...] = (
    mixed, twins, flee, against, halt, screen, race, visit, odd_one, gather, chase,
)  # fmt: skip


def tell(rng: np.random.Generator, story: Callable[[Stage], None]) -> Scene:
    """One scene of a story; it may be a poor one (crowded, hidden), which the caller rejects.

    Raises:
        NoRoomError: the things do not fit.
    """
    height, width = PICTURE_SIZES[int(rng.integers(len(PICTURE_SIZES)))]
    stage = Stage(rng, height, width, frames=int(rng.integers(8, 41)))
    first, second = stage.shuffled(GROUNDS)[:2]
    lightness = stage.between(0.8, 1.08)
    ground = Backdrop(
        _scaled(first, lightness),
        _scaled(second, lightness * stage.between(0.72, 0.92)),
        stage.between(0, 2 * math.pi),
        stage.pick(TEXTURES),
        int(rng.integers(2**31)),
    )
    story(stage)
    things = tuple(_renumbered(thing, id) for id, thing in enumerate(stage.shuffled(stage.things), start=1))
    return Scene(story.__name__, height, width, stage.frames, ground, things)


def _scaled(colour: tuple[int, int, int], factor: float) -> tuple[int, int, int]:
    red, green, blue = (round(channel * factor) for channel in colour)
    return red, green, blue


def _renumbered(thing: Thing, id: int) -> Thing:
    # The order of the cast would give the odd one away.
    return Thing(
        id, thing.shape, thing.colour, thing.size, thing.motion, thing.centre_T2, thing.radius_T, thing.angle_T,
        thing.depth,
    )  # fmt: skip
