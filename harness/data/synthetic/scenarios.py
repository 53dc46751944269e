"""Scenarios: how a scene is cast and set in motion.

A scenario only makes some facts likely ("one goes against the others"); what is true of the finished scene, and which
expressions hold for it, is measured afterwards (predicates.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from rvosbench.harness.data.synthetic import motion as moves
from rvosbench.harness.data.synthetic.builder import PLACES, Appearance, NoRoomError, Point, SceneBuilder, point
from rvosbench.harness.data.synthetic.outlines import SHAPES, extent
from rvosbench.harness.data.synthetic.render import COLOURS
from rvosbench.harness.data.synthetic.scene import Backdrop, Scene

IMAGE_SIZES = (
    (96, 128), (112, 112), (112, 168), (120, 160), (128, 128), (144, 176), (168, 112), (176, 144),
    (97, 131), (105, 141), (133, 175), (151, 109),
)  # fmt: skip
"""(H, W); a few odd ones, because sizes that are no multiple of a patch are the ones that break code."""
TEXTURES = ("gradient", "clouds", "grain", "planks", "tiles")
GROUNDS = (
    (122, 140, 150), (150, 142, 128), (132, 150, 134), (148, 134, 146), (112, 118, 132), (160, 156, 148),
    (128, 124, 116), (140, 152, 160),
)  # fmt: skip
SPINNERS = ("square", "triangle", "star", "cross", "heart")
"""Shapes that may spin: a turning disc looks still, and a turning pillar needs too much room."""


def mixed(builder: SceneBuilder) -> None:
    """Objects with random motions, without a common pattern."""
    for appearance in builder.appearances(int(builder.rng.integers(4, 6))):
        builder.act(appearance, _any_motion(builder, appearance))


def twins(builder: SceneBuilder) -> None:
    """Two objects that differ in one attribute, and others that share some of it."""
    appearance, *others = builder.appearances(int(builder.rng.integers(4, 6)), sizes=("small", "large"))
    twin, first, second = appearance, "steady", "steady"
    attribute = builder.pick(("colour", "size", "shape", "motion", "motion"))
    if attribute == "colour":
        twin = Appearance(
            appearance.shape,
            builder.pick([colour for colour in COLOURS if colour != appearance.colour]),
            appearance.size,
        )
    elif attribute == "shape":
        twin = Appearance(
            builder.pick([shape for shape in SHAPES if shape != appearance.shape]), appearance.colour, appearance.size
        )
    elif attribute == "size":
        twin = Appearance(appearance.shape, appearance.colour, "small" if appearance.size == "large" else "large")
    else:
        first, second = builder.shuffled(("steady", "still", "bounces", "stops", "circles", "returns"))[:2]
    builder.act(appearance, first)
    builder.act(twin, second)
    for other in others:
        builder.act(other, _any_motion(builder, other))


def flee(builder: SceneBuilder) -> None:
    """All move away from one."""
    _around(builder, outward=True)


def gather(builder: SceneBuilder) -> None:
    """All move towards one."""
    _around(builder, outward=False)


def against(builder: SceneBuilder) -> None:
    """One moves against the others."""
    heading = builder.pick(tuple(moves.HEADINGS))
    _procession(
        builder, [(heading, "steady")] * int(builder.rng.integers(2, 5)) + [(moves.OPPOSITE[heading], "steady")]
    )


def halt(builder: SceneBuilder) -> None:
    """Several set out together; one stops, or starts late."""
    heading = builder.pick(tuple(moves.HEADINGS))
    odd = builder.pick(("stops", "stops", "starts", "returns", "speeds_up"))
    _procession(builder, [(heading, odd)] + [(heading, "steady")] * int(builder.rng.integers(2, 4)))


def race(builder: SceneBuilder) -> None:
    """The same line for all, one much faster."""
    heading = builder.pick(tuple(moves.HEADINGS))
    count = int(builder.rng.integers(3, 5))
    axis = 0 if heading in ("left", "right") else 1
    sizes = ("small", "medium") if count > 3 else ("small", "medium", "large")
    for place, (appearance, lane) in enumerate(
        zip(builder.appearances(count, sizes), builder.lanes(count, axis), strict=True)
    ):
        fraction = (0.75, 0.8) if place == 0 else (0.22, 0.33)
        builder.travel(appearance, "steady", heading, fraction=fraction, lane=lane)


def chase(builder: SceneBuilder) -> None:
    """One follows another on the same path; the others move independently."""
    leader, follower, *others = builder.appearances(int(builder.rng.integers(4, 6)), sizes=("small", "medium"))
    heading = builder.pick(("left", "right"))
    radii = [builder.radius(appearance.size) for appearance in (leader, follower)]
    halves = [
        extent(appearance.shape)[0] * radius for appearance, radius in zip((leader, follower), radii, strict=True)
    ]
    gap = halves[0] + halves[1] + builder.side * builder.between(0.06, 0.12)
    tall = max(
        extent(appearance.shape)[1] * radius for appearance, radius in zip((leader, follower), radii, strict=True)
    )
    lane = builder.between(tall, builder.height - 1 - tall)
    near, far = halves[1], builder.width - 1 - halves[0]
    front = moves.travel("steady", builder.frames, (near + gap, lane), (far, lane))
    if heading == "left":
        front[:, 0] = builder.width - 1 - front[:, 0]
    behind = front - np.array([gap, 0.0]) * moves.HEADINGS[heading][0]
    builder.add(leader, "steady", front, radii[0])
    builder.add(follower, "steady", behind, radii[1])
    for other in others:
        builder.act(other, builder.pick(("still", "still", "bounces")))


def screen(builder: SceneBuilder) -> None:
    """A small object passes behind a large one."""
    wall, passer, *others = builder.appearances(int(builder.rng.integers(3, 6)))
    wall, passer = Appearance(wall.shape, wall.colour, "large"), Appearance(passer.shape, passer.colour, "small")
    middle = (builder.width * builder.between(0.44, 0.56), builder.height * builder.between(0.4, 0.6))
    builder.stay(wall, "still", middle, depth=0.0)
    radius = builder.radius("small")
    edge = extent(passer.shape)[0] * radius
    line = ((edge, middle[1]), (builder.width - 1 - edge, middle[1]))
    builder.add(passer, "steady", moves.travel("steady", builder.frames, *builder.shuffled(line)), radius, depth=1.0)
    for other in others:
        small = Appearance(other.shape, other.colour, "small")
        builder.act(small, "spins" if other.shape in SPINNERS and builder.chance(0.5) else "still")


def visit(builder: SceneBuilder) -> None:
    """One comes in late or leaves."""
    appearances = builder.appearances(int(builder.rng.integers(4, 6)))
    kinds = builder.pick((("enters",), ("leaves",), ("enters", "leaves")))
    for place, appearance in enumerate(appearances):
        if place < len(kinds):
            builder.act(appearance, kinds[place])
        else:
            builder.act(appearance, builder.pick(("still", "still", "steady", "bounces")))


def odd_one(builder: SceneBuilder) -> None:
    """All but one share a shape, a colour, or standing still."""
    count = int(builder.rng.integers(4, 6))
    appearances = builder.appearances(count, sizes=("small", "medium"))
    motions = [_any_motion(builder, appearance) if builder.chance(0.7) else "still" for appearance in appearances]
    trait = builder.pick(("shape", "colour", "moves", "rests"))
    if trait == "shape":
        common = builder.pick([shape for shape in SHAPES if shape != appearances[0].shape])
        colours = builder.shuffled(tuple(COLOURS))
        appearances[1:] = [
            Appearance(common, colours[place], appearance.size) for place, appearance in enumerate(appearances[1:])
        ]
    elif trait == "colour":
        common = builder.pick([colour for colour in COLOURS if colour != appearances[0].colour])
        shapes = builder.shuffled(SHAPES)
        appearances[1:] = [
            Appearance(shapes[place], common, appearance.size) for place, appearance in enumerate(appearances[1:])
        ]
    elif trait == "moves":
        motions = [builder.pick(("steady", "circles", "bounces"))] + ["still"] * (count - 1)
    else:
        motions = ["still"] + [builder.pick(("steady", "steady", "circles", "bounces")) for _ in appearances[1:]]
    for appearance, motion in zip(appearances, motions, strict=True):
        builder.act(appearance, motion)


def _any_motion(builder: SceneBuilder, appearance: Appearance) -> str:
    common = ("steady", "steady", "steady", "still", "still", "bounces", "stops", "returns")
    rare = ("starts", "speeds_up", "circles", "grows", "shrinks", "enters", "leaves", "spins")
    motion = builder.pick(common) if builder.chance(0.5) else builder.pick(rare)
    return "still" if motion == "spins" and appearance.shape not in SPINNERS else motion


def _procession(builder: SceneBuilder, plans: Sequence[tuple[str, str]]) -> None:
    """One lane for each (heading, motion)."""
    axis = 0 if plans[0][0] in ("left", "right") else 1
    sizes = ("small", "medium") if len(plans) > 3 else ("small", "medium", "large")
    fraction = builder.between(0.45, 0.6)
    for (heading, motion), appearance, lane in zip(
        plans, builder.appearances(len(plans), sizes), builder.lanes(len(plans), axis), strict=True
    ):
        builder.travel(appearance, motion, heading, fraction=(fraction, fraction + 0.05), lane=lane)


def _around(builder: SceneBuilder, *, outward: bool) -> None:
    """Objects on rays around a still one, moving outward or inward."""
    count = int(builder.rng.integers(2, 5))
    centre, *others = builder.appearances(count + 1, sizes=("small",))
    middle = (builder.width * builder.between(0.46, 0.54), builder.height * builder.between(0.46, 0.54))
    builder.stay(centre, "still", middle, depth=0.5)
    turns: list[float] = []
    for appearance in others:
        radius = builder.radius(appearance.size)
        near = 1.2 * (radius + float(builder.objects[0].radius_T[0])) + 2
        turn, far = _ray(builder, appearance, radius, middle, turns, near + 0.2 * builder.side)
        turns.append(turn)
        ray = np.array([math.cos(turn), math.sin(turn)])
        ends = [point(np.array(middle) + ray * near), point(np.array(middle) + ray * far)]
        path_T2 = moves.travel("steady", builder.frames, *(ends if outward else ends[::-1]))
        builder.add(appearance, "steady", path_T2, radius)


def _ray(
    builder: SceneBuilder, appearance: Appearance, radius: float, middle: Point, taken: Sequence[float], least: float
) -> tuple[float, float]:
    """A direction from ``middle`` apart from those taken, and the distance at which an object reaches the border."""
    half = np.array(extent(appearance.shape)) * radius
    room = np.array([builder.width - 1, builder.height - 1]) - half
    for _ in range(PLACES):
        turn = builder.between(0, 2 * math.pi)
        ray = np.array([math.cos(turn), math.sin(turn)])
        # Along each axis the ray ends where the object touches the border ahead.
        border = np.where(ray > 0, room, half)
        far = float(((border - middle) / np.where(np.abs(ray) < 1e-6, 1e-6, ray)).min())
        if far >= least and all(math.cos(turn - other) < 0.4 for other in taken):
            return turn, far
    raise NoRoomError


SCENARIOS: tuple[Callable[[SceneBuilder], None], ...] = (
    mixed, twins, flee, against, halt, screen, race, visit, odd_one, gather, chase,
)  # fmt: skip


def build_scene(rng: np.random.Generator, scenario: Callable[[SceneBuilder], None]) -> Scene:
    """One scene of a scenario; it may be a poor one (crowded, hidden), which the caller rejects.

    Raises:
        NoRoomError: the objects do not fit.
    """
    height, width = IMAGE_SIZES[int(rng.integers(len(IMAGE_SIZES)))]
    builder = SceneBuilder(rng, height, width, frames=int(rng.integers(8, 41)))
    first, second = builder.shuffled(GROUNDS)[:2]
    lightness = builder.between(0.8, 1.08)
    ground = Backdrop(
        _scaled(first, lightness),
        _scaled(second, lightness * builder.between(0.72, 0.92)),
        builder.between(0, 2 * math.pi),
        builder.pick(TEXTURES),
        int(rng.integers(2**31)),
    )
    scenario(builder)
    # The order of the cast would give the odd one away.
    objects = tuple(replace(obj, id=id) for id, obj in enumerate(builder.shuffled(builder.objects), start=1))
    return Scene(scenario.__name__, height, width, builder.frames, ground, objects)


def _scaled(colour: tuple[int, int, int], factor: float) -> tuple[int, int, int]:
    red, green, blue = (round(channel * factor) for channel in colour)
    return red, green, blue
