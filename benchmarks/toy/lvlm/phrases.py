"""Descriptions of one object of a scene: its traits in words, and phrases that single it out.

Shape legend: T frames.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rvosbench.harness.data.synthetic.draw import pick
from rvosbench.harness.data.synthetic.language import DEEDS, NOUNS, PLACES
from rvosbench.harness.data.synthetic.view import View

TRAITS = ("colour", "size", "place", "deed")
"""In the order of a caption; ``noun`` is the fifth trait."""


@dataclass(frozen=True)
class Traits:
    """An object in words, each of which may also hold for other objects."""

    noun: str
    colour: str
    size: str
    place: str
    """Place on the first frame of a clip, or on the frame of an image."""
    deed: str
    """Motion of the object; "" in an image."""

    def value(self, trait: str) -> str:
        return str(getattr(self, trait))


def clip_traits(view: View) -> dict[int, Traits]:
    """Every object's traits over a whole clip."""
    deeds = [deed.predicate(view) for deed in DEEDS]
    # Events are rarer and are more specific than headings, which come first in the list.
    order = [*range(4, len(DEEDS)), *range(4)]
    traits = {}
    for id in view.ids:
        done = [DEEDS[index].words[0][0] for index in order if deeds[index][id]]
        seen = np.flatnonzero(view.seen_NT[id - 1])
        first = int(seen[0]) if len(seen) else 0
        traits[id] = _traits(view, id, first, done[0] if done else "moving about")
    return traits


def image_traits(view: View, frame: int) -> dict[int, Traits]:
    """The traits of the objects seen on one frame."""
    return {id: _traits(view, id, frame, "") for id in view.ids if view.visible_fraction_NT[id - 1, frame] >= 0.5}


def _traits(view: View, id: int, frame: int, deed: str) -> Traits:
    obj = view.scene.object_by_id(id)
    return Traits(NOUNS[obj.shape][0][0], obj.colour, obj.size, _place(view, id, frame), deed)


def _place(view: View, id: int, frame: int) -> str:
    """Where an object is: the nearest side, or the middle."""
    x, y = view.centre_NT2[id - 1, frame] / (view.scene.width, view.scene.height)
    side = min({"left": x, "right": 1 - x, "top": y, "bottom": 1 - y}.items(), key=lambda item: item[1])
    return PLACES[side[0]][0] if side[1] < 0.35 else "in the middle"


def position(view: View, id: int, frame: int) -> str:
    """Column and row of an object's centre on a 10 x 10 grid."""
    x, y = view.centre_NT2[id - 1, frame] / (view.scene.width, view.scene.height)
    return f"{_tenth(x)} {_tenth(y)}"


def _tenth(fraction: float) -> int:
    return int(np.clip(fraction * 10, 0, 9))


def singling_out(traits: dict[int, Traits], id: int, rng: np.random.Generator, without: str = "") -> str | None:
    """A phrase that is true of one object only, made of a random choice of its traits; None where there is none.

    Args:
        traits: of all objects that are seen.
        without: a trait that must not be mentioned.
    """
    own = traits[id]
    usable = [trait for trait in ("noun", *TRAITS) if trait != without and own.value(trait)]
    found = []
    for count in (1, 2, 3):
        for chosen in itertools.combinations(usable, count):
            alike = [other for other in traits.values() if all(other.value(t) == own.value(t) for t in chosen)]
            if len(alike) == 1 and chosen != ("size",):
                found.append(chosen)
        if len(found) >= 2:
            break
    return phrase(own, pick(rng, found)) if found else None


def phrase(traits: Traits, chosen: Sequence[str]) -> str:
    """The chosen traits as a noun phrase: "the small red circle on the left moving up"."""
    noun = traits.noun if "noun" in chosen else "shape"
    words = [traits.value(trait) for trait in ("size", "colour") if trait in chosen]
    tail = [traits.value(trait) for trait in ("place", "deed") if trait in chosen]
    return " ".join(["the", *words, noun, *tail])


def caption(traits: Traits, first: str) -> str:
    """All traits of an object, one of them first: "red: circle, small, on the left, moving up"."""
    rest = [trait for trait in ("noun", *TRAITS) if trait != first and traits.value(trait)]
    return f"{traits.value(first)}: {', '.join(traits.value(trait) for trait in rest)}"
