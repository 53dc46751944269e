"""What is true of the objects of a scene, measured on its paths and visible masks.

Distances are compared with the image's shorter side; thresholds leave a gap between True and False, which is None.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from rvosbench.harness.data.synthetic.motion import HEADINGS, OPPOSITE
from rvosbench.harness.data.synthetic.outlines import extent
from rvosbench.harness.data.synthetic.view import Truth, View, answer, between

# Appearance.


def shape(view: View, name: str) -> Truth:
    return view.truth(lambda id: view.scene.object_by_id(id).shape == name)


def colour(view: View, name: str) -> Truth:
    return view.truth(lambda id: view.scene.object_by_id(id).colour == name)


def size(view: View, name: str) -> Truth:
    """Small or large; a medium object and one that changes its size are arguable."""

    def holds(id: int) -> bool | None:
        obj = view.scene.object_by_id(id)
        return None if obj.size == "medium" or obj.motion in ("grows", "shrinks") else obj.size == name

    return view.truth(holds)


def place(view: View, side: str, frames: slice) -> Truth:
    """On the left, on the right, at the top or at the bottom on all of ``frames``.

    An object that is not seen on them is nowhere (False).
    """
    axis, extent = (0, view.scene.width) if side in ("left", "right") else (1, view.scene.height)

    def holds(id: int) -> bool | None:
        seen = view.inside_NT[id - 1, frames] & (view.visible_fraction_NT[id - 1, frames] > 0.02)
        if not seen.any():
            return False
        where = view.centre_NT2[id - 1, frames, axis][seen] / extent
        where = 1 - where if side in ("right", "bottom") else where
        if where.max() <= 0.37:
            return True
        return False if where.min() >= 0.52 else None

    return view.truth(holds)


# Motion.


def heads(view: View, heading: str) -> Truth:
    """Moves left, right, up or down, on a straight line and never back."""
    step = np.array(HEADINGS[heading])
    cross = np.array([step[1], step[0]])

    def holds(id: int) -> bool | None:
        moved = np.diff(view.path(id), axis=0) / view.side
        ahead, aside = moved @ step, np.abs(moved @ cross)
        if ahead.sum() >= 0.2 and ahead.min(initial=0) >= -0.005 and aside.sum() <= 0.3 * ahead.sum():
            return True
        return False if np.maximum(ahead, 0).sum() <= 0.04 else None

    return view.truth(holds)


def moves(view: View) -> Truth:
    """Changes its place; turning and growing on the spot is arguable."""

    def holds(id: int) -> bool | None:
        if view.motion(id) in ("spins", "grows", "shrinks"):
            return None
        return between(view.length(id), no=0.02, yes=0.15)

    return view.truth(holds)


def rests(view: View) -> Truth:
    """Does not move at all."""
    return {id: None if value is None else not value for id, value in moves(view).items()}


def does(view: View, motion: str, arguable: tuple[str, ...] = ()) -> Truth:
    """Has a motion that its path has by construction; ``arguable`` motions could be called the same."""
    return view.truth(lambda id: None if view.motion(id) in arguable else view.motion(id) == motion)


def bounces(view: View) -> Truth:
    return does(view, "bounces", arguable=("returns",))


def circles(view: View) -> Truth:
    return does(view, "circles")


def spins(view: View) -> Truth:
    return does(view, "spins")


def returns(view: View) -> Truth:
    return does(view, "returns", arguable=("bounces", "circles"))


def speeds_up(view: View) -> Truth:
    return does(view, "speeds_up", arguable=("starts", "bounces"))


def grows(view: View) -> Truth:
    return does(view, "grows")


def shrinks(view: View) -> Truth:
    return does(view, "shrinks")


def stops(view: View) -> Truth:
    """Moves, then stands for at least the last third of the clip."""
    return _half(view, last=True)


def starts(view: View) -> Truth:
    """Stands for at least the first third of the clip, then moves; not one that is outside at first."""
    return _half(view, last=False)


def _half(view: View, *, last: bool) -> Truth:
    def holds(id: int) -> bool | None:
        if view.motion(id) in ("bounces", "enters", "leaves"):
            # One that comes in late could also be called one that starts late.
            return None if view.motion(id) == "enters" and not last else False
        steps = np.hypot(*np.diff(view.centre_NT2[id - 1], axis=0).T) / view.side
        third = len(steps) // 3
        calm = steps[-third:].sum() if last else steps[:third].sum()
        if calm > 0.03:
            return False
        return True if steps.sum() >= 0.2 and calm <= 0.001 else False if steps.sum() <= 0.02 else None

    return view.truth(holds)


def enters(view: View) -> Truth:
    """Is outside at first and comes in later."""
    return view.truth(lambda id: _visit(view, id, 0))


def leaves(view: View) -> Truth:
    """Is inside at first and outside at the end."""
    return view.truth(lambda id: _visit(view, id, -1))


def _visit(view: View, id: int, end: int) -> bool | None:
    absent, inside = view.visible_fraction_NT[id - 1] <= 0.02, view.inside_NT[id - 1]
    if not inside[end] and absent[end]:
        return bool(view.visible_fraction_NT[id - 1].max() >= 0.8)
    return False if view.visible_fraction_NT[id - 1, end] >= 0.5 else None


def hides(view: View) -> Truth:
    """Disappears behind another object and comes out again."""

    def holds(id: int) -> bool | None:
        fraction, inside = view.visible_fraction_NT[id - 1], view.inside_NT[id - 1]
        inner = np.flatnonzero(inside)
        least = fraction[inner].min()
        if least >= 0.6:
            return False
        if least <= 0.06 and fraction[inner[0]] >= 0.7 and fraction[inner[-1]] >= 0.7:
            return True
        # Cut by the border, or hidden in part: nobody would call that hiding, unless most of it is gone.
        return False if least >= 0.35 or view.motion(id) in ("enters", "leaves") else None

    return view.truth(holds)


def covers(view: View) -> Truth:
    """The object behind which another one hides."""
    hidden = answer(hides(view))
    if hidden is None:
        return dict.fromkeys(view.ids)
    tops = {view.over(id) for id in hidden}
    return view.truth(lambda id: id in tops)


# Comparisons.


def extreme(view: View, high: Mapping[int, float], low: Mapping[int, float], ratio: float) -> Truth:
    """The object whose low value beats every other's high value ``ratio`` times; all None where there is none."""
    best = max(view.ids, key=lambda id: low[id])
    others = max((high[id] for id in view.ids if id != best), default=math.inf)
    if low[best] >= ratio * others:
        return view.truth(lambda id: id == best)
    return dict.fromkeys(view.ids)


def largest(view: View) -> Truth:
    """Clearly larger than all others, in area and in the box it fills: a thin star looks larger than its area."""
    return _size_extreme(view, 1)


def smallest(view: View) -> Truth:
    """Clearly smaller than all others, in area and in the box it fills."""
    return _size_extreme(view, -1)


def _size_extreme(view: View, power: int) -> Truth:
    truths = []
    for ratio, of_box in ((1.25, False), (1.15, True)):
        sizes = {}
        for obj in view.scene.objects:
            sizes[obj.id] = (obj.radius_T * (math.hypot(*extent(obj.shape)) if of_box else 1.0)) ** power
        high, low = ({id: float(pick(size)) for id, size in sizes.items()} for pick in (np.max, np.min))
        truths.append(extreme(view, high, low, ratio))
    # Where area and box name different objects, it is arguable which one is meant.
    return truths[0] if truths[0] == truths[1] else dict.fromkeys(view.ids)


UNEVEN = ("bounces", "circles", "returns", "speeds_up", "starts", "stops")
"""Motions whose speed cannot be compared by eye."""


def fastest(view: View) -> Truth:
    """Fastest on average, among at least two that move and with only even motions in the scene."""
    if any(view.motion(id) in UNEVEN for id in view.ids):
        return dict.fromkeys(view.ids)
    if sum(view.length(id) >= 0.15 for id in view.ids) < 2:
        return dict.fromkeys(view.ids)
    speed = {id: view.speed(id) for id in view.ids}
    return extreme(view, speed, speed, 1.6)


def ends_nearest(view: View, side: str) -> Truth:
    """Nearest to a side of the image at the end, by a clear margin; objects that have left do not count."""
    axis, extent = (0, view.scene.width) if side in ("left", "right") else (1, view.scene.height)
    gap: dict[int, float] = {}
    for id in view.ids:
        if not view.inside_NT[id - 1, -1]:
            continue
        if view.visible_fraction_NT[id - 1, -1] < 0.5:
            return dict.fromkeys(view.ids)
        where = float(view.centre_NT2[id - 1, -1, axis])
        gap[id] = (where if side in ("left", "top") else extent - 1 - where) / view.side
    ranked = sorted(gap, key=lambda id: gap[id])
    if len(ranked) < 2 or gap[ranked[1]] - gap[ranked[0]] < 0.2:
        return dict.fromkeys(view.ids)
    return view.truth(lambda id: id == ranked[0])


# Relations between objects.


def target_of_others(view: View, *, away: bool) -> Truth:
    """The one that stands still while all others (two or more) move away from it, or towards it."""
    still, sign = rests(view), 1 if away else -1

    def holds(id: int) -> bool | None:
        if still[id] is not True or len(view.ids) < 3:
            return False
        for other in view.ids:
            if other == id:
                continue
            path = view.path(other) - view.centre_NT2[id - 1, 0]
            distance = np.hypot(*path.T) / view.side
            straight = float(np.hypot(*(path[-1] - path[0]))) / view.side
            gained = sign * (distance[-1] - distance[0])
            if gained < 0.1 or gained < 0.85 * straight or (sign * np.diff(distance)).min(initial=0) < -0.005:
                return False
        return True

    return view.truth(holds)


def against_others(view: View) -> Truth:
    """Every other object (two or more) moves one way, this one the opposite way."""
    ways = {heading: heads(view, heading) for heading in HEADINGS}

    def holds(id: int) -> bool | None:
        others = [other for other in view.ids if other != id]
        return len(others) >= 2 and any(
            ways[heading][id] and all(ways[OPPOSITE[heading]][other] for other in others) for heading in HEADINGS
        )

    return view.truth(holds)


def follows(view: View) -> Truth:
    """Runs along another object's path some frames later."""
    pairs = _pursuits(view)
    return view.truth(lambda id: any(id == follower for follower, _ in pairs))


def is_followed(view: View) -> Truth:
    pairs = _pursuits(view)
    return view.truth(lambda id: any(id == leader for _, leader in pairs))


def _pursuits(view: View) -> set[tuple[int, int]]:
    found = set()
    frames = view.scene.frames
    movers = [id for id in view.ids if view.motion(id) == "steady" and view.length(id) >= 0.25]
    for follower in movers:
        for leader in movers:
            for lag in range(1, frames * 2 // 3):
                ahead, behind = view.centre_NT2[leader - 1, : frames - lag], view.centre_NT2[follower - 1, lag:]
                if follower != leader and np.hypot(*(ahead - behind).T).max() <= 0.06 * view.side:
                    found.add((follower, leader))
                    break
    return found


def odd_trait(view: View, trait: str) -> Truth:
    """All others (two or more) share a shape or colour; this one has another."""
    values = {id: str(getattr(view.scene.object_by_id(id), trait)) for id in view.ids}

    def holds(id: int) -> bool | None:
        others = {values[other] for other in view.ids if other != id}
        return len(view.ids) >= 3 and len(others) == 1 and values[id] not in others

    return view.truth(holds)


def only(view: View, truth: Truth) -> Truth:
    """The only one of three or more for which something holds; all None where it is not exactly one."""
    holders = answer(truth)
    if holders is None or len(holders) != 1 or len(view.ids) < 3:
        return dict.fromkeys(view.ids)
    return truth


def rolls(view: View) -> Truth:
    """Would roll when pushed."""
    return shape(view, "circle")


def topples(view: View) -> Truth:
    """Would fall over when pushed: tall and narrow. A heart, star or cross stands on a small foot: arguable."""

    def holds(id: int) -> bool | None:
        obj = view.scene.object_by_id(id)
        return None if obj.shape in ("heart", "star", "cross") or obj.motion == "spins" else obj.shape == "pillar"

    return view.truth(holds)
