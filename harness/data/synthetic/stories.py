"""Scenarios: how a scene is cast and set in motion.

A story only makes some facts likely ("one goes against the others"); what is true of the finished scene, and what
may be said of it, is measured afterwards (facts.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from rvosbench.harness.data.synthetic import motion as moves
from rvosbench.harness.data.synthetic.outlines import SHAPES, extent
from rvosbench.harness.data.synthetic.render import COLOURS
from rvosbench.harness.data.synthetic.stage import PLACES, Look, NoRoomError, Point, Stage, point
from rvosbench.harness.data.synthetic.world import Backdrop, Scene

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
    motions = [_any_motion(stage, look) if stage.chance(0.7) else "still" for look in looks]
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
    middle = (stage.width * stage.between(0.46, 0.54), stage.height * stage.between(0.46, 0.54))
    stage.stay(centre, "still", middle, depth=0.5)
    turns: list[float] = []
    for look in others:
        radius = stage.radius(look.size)
        near = 1.2 * (radius + float(stage.things[0].radius_T[0])) + 2
        turn, far = _ray(stage, look, radius, middle, turns, near + 0.2 * stage.side)
        turns.append(turn)
        ray = np.array([math.cos(turn), math.sin(turn)])
        ends = [point(np.array(middle) + ray * near), point(np.array(middle) + ray * far)]
        path_T2 = moves.travel("steady", stage.frames, *(ends if outward else ends[::-1]))
        stage.add(look, "steady", path_T2, radius)


def _ray(
    stage: Stage, look: Look, radius: float, middle: Point, taken: Sequence[float], least: float
) -> tuple[float, float]:
    """A direction from ``middle`` apart from those taken, and the distance at which a thing reaches the border."""
    half = np.array(extent(look.shape)) * radius
    room = np.array([stage.width - 1, stage.height - 1]) - half
    for _ in range(PLACES):
        turn = stage.between(0, 2 * math.pi)
        ray = np.array([math.cos(turn), math.sin(turn)])
        # Along each axis the ray ends where the thing touches the border ahead.
        border = np.where(ray > 0, room, half)
        far = float(((border - middle) / np.where(np.abs(ray) < 1e-6, 1e-6, ray)).min())
        if far >= least and all(math.cos(turn - other) < 0.4 for other in taken):
            return turn, far
    raise NoRoomError


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
    # The order of the cast would give the odd one away.
    things = tuple(replace(thing, id=id) for id, thing in enumerate(stage.shuffled(stage.things), start=1))
    return Scene(story.__name__, height, width, stage.frames, ground, things)


def _scaled(colour: tuple[int, int, int], factor: float) -> tuple[int, int, int]:
    red, green, blue = (round(channel * factor) for channel in colour)
    return red, green, blue
