"""Sentences whose answer must be worked out: commonsense, events, comparisons, relations.

Each claim names a fact and ways to say it: as a phrase ("the one that would roll"), for several objects, and as a
question. Words never name the shape or colour that the fact is about.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from rvosbench.harness.data.synthetic import predicates
from rvosbench.harness.data.synthetic.view import Truth, View


@dataclass(frozen=True)
class Claim:
    """A fact with its wordings; ``many`` is empty where several answers would read oddly."""

    kind: str
    """"event", "relation", "comparison", "place" or "commonsense"."""
    predicate: Callable[[View], Truth]
    one: tuple[str, ...]
    ask: tuple[str, ...]
    many: tuple[str, ...] = ()


def _tint(colour: str, phrase: str) -> Claim:
    return Claim(
        "commonsense",
        partial(predicates.colour, name=colour),
        (f"the one with {phrase}", f"the shape with {phrase}"),
        (f"Which shape has {phrase}?",),
        (f"the ones with {phrase}",),
    )


def _kind(shape: str, one: str, ask: str, many: str) -> Claim:
    return Claim("commonsense", partial(predicates.shape, name=shape), (one,), (ask,), (many,))


def _end(side: str, words: str) -> Claim:
    return Claim(
        "place",
        partial(predicates.ends_nearest, side=side),
        (f"the one that ends up nearest to the {words}",),
        (f"Which shape is closest to the {words} in the end?",),
    )


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "commonsense",
        predicates.rolls,
        ("the one that would roll", "the one that could serve as a wheel"),
        ("Which shape would roll down a slope?", "Which one could you use as a wheel?"),
        ("the ones that would roll", "the ones that could serve as wheels"),
    ),
    Claim(
        "commonsense",
        predicates.topples,
        ("the one that would fall over if pushed",),
        ("Which shape would fall over most easily if you pushed it?",),
        ("the ones that would fall over if pushed",),
    ),
    _kind(
        "star", "the one that belongs on top of a Christmas tree", "What would you put on top of a Christmas tree?",
        "the ones that belong on top of a Christmas tree",
    ),
    _kind(
        "heart", "the one people draw to show love", "Which shape would you draw on a Valentine card?",
        "the ones people draw to show love",
    ),
    _kind("triangle", "the one with exactly three corners", "Which shape has exactly three corners?",
          "the ones with exactly three corners"),
    _kind("cross", "the one that looks like a plus sign", "Which shape stands for adding numbers?",
          "the ones that look like plus signs"),
    _kind("square", "the one whose four sides are equally long", "Which shape has four sides of equal length?",
          "the ones whose four sides are equally long"),
    _tint("red", "the colour of blood"),
    _tint("green", "the colour of grass"),
    _tint("blue", "the colour of the sea"),
    _tint("yellow", "the colour of a lemon"),
    _tint("purple", "the colour of an aubergine"),
    _tint("orange", "the colour of a carrot"),
    _tint("white", "the colour of snow"),
    _tint("black", "the colour of coal"),
    Claim(
        "event",
        predicates.stops,
        ("the one that stops", "the one that runs out of energy half-way"),
        ("Which shape stops before the end?",),
        ("the ones that stop",),
    ),
    Claim(
        "event",
        predicates.starts,
        ("the one that waits before it sets off", "the one that sets off late"),
        ("Which shape waits at first and moves only later?",),
    ),
    Claim(
        "event",
        predicates.returns,
        ("the one that changes its mind and comes back", "the one that returns to where it started"),
        ("Which shape goes away and comes back?",),
    ),
    Claim(
        "event",
        predicates.bounces,
        ("the one that behaves like a rubber ball",),
        ("Which shape behaves like a rubber ball?",),
        ("the ones that behave like rubber balls",),
    ),
    Claim(
        "event",
        predicates.circles,
        ("the one that moves like a planet around the sun",),
        ("Which shape moves like a planet on its orbit?",),
    ),
    Claim("event", predicates.spins, ("the one that turns like a propeller",),
          ("Which shape turns like a propeller?",)),
    Claim(
        "event",
        predicates.grows,
        ("the one that swells like a balloon being filled",),
        ("Which shape is larger in the end than at first?",),
    ),
    Claim(
        "event",
        predicates.shrinks,
        ("the one that loses size like a leaking balloon",),
        ("Which shape is smaller in the end than at first?",),
    ),
    Claim("event", predicates.speeds_up, ("the one that gains speed",), ("Which shape gets faster and faster?",)),
    Claim(
        "event",
        predicates.enters,
        ("the one that arrives late", "the one that is missing at first"),
        ("Which shape is missing at the beginning?",),
        ("the ones that are missing at first",),
    ),
    Claim(
        "event",
        predicates.leaves,
        ("the one that goes away for good", "the one that is missing at the end"),
        ("Which shape is gone at the end?",),
        ("the ones that are missing at the end",),
    ),
    Claim(
        "event",
        predicates.hides,
        ("the one that is hidden for a while", "the one that plays hide and seek"),
        ("Which shape cannot be seen for a while?",),
    ),
    Claim("comparison", predicates.largest, ("the largest one", "the one that needs the most paint"),
          ("Which shape is the largest?", "Which shape would need the most paint?")),
    Claim("comparison", predicates.smallest, ("the smallest one", "the one that fits through the narrowest gap"),
          ("Which shape is the smallest?",)),
    Claim("comparison", predicates.fastest, ("the fastest one", "the one that would win a race"),
          ("Which shape would win a race?",)),
    _end("left", "left edge"),
    _end("right", "right edge"),
    _end("top", "top edge"),
    _end("bottom", "bottom edge"),
    Claim(
        "relation",
        partial(predicates.target_of_others, away=True),
        ("what the others move away from", "the one the others flee from"),
        ("What are the others running away from?",),
    ),
    Claim(
        "relation",
        partial(predicates.target_of_others, away=False),
        ("what the others move towards", "the one that attracts the others"),
        ("What do all the others want to reach?",),
    ),
    Claim(
        "relation",
        predicates.against_others,
        ("the one that goes against the others", "the one going the wrong way"),
        ("Which shape moves in the opposite direction to all the others?",),
    ),
    Claim("relation", predicates.follows, ("the one that follows another", "the pursuer"),
          ("Which shape is chasing another one?",)),
    Claim("relation", predicates.is_followed, ("the one that is being followed",), ("Which shape is being chased?",)),
    Claim(
        "relation",
        predicates.covers,
        ("the one that hides another shape for a while", "what another shape passes behind"),
        ("Behind which shape does another one disappear?",),
    ),
    Claim(
        "relation",
        partial(predicates.odd_trait, trait="colour"),
        ("the odd one out in colour",),
        ("Which shape does not match the others in colour?",),
    ),
    Claim(
        "relation",
        partial(predicates.odd_trait, trait="shape"),
        ("the odd one out in shape",),
        ("Which one has a different form from all the others?",),
    ),
    Claim(
        "relation",
        lambda view: predicates.only(view, predicates.moves(view)),
        ("the only one that is on the move",),
        ("Which shape is the only one that moves?",),
    ),
    Claim(
        "relation",
        lambda view: predicates.only(view, predicates.rests(view)),
        ("the one that would not blur in a long exposure", "the only one that keeps its place"),
        ("Which shape is the only one that keeps its place?",),
    ),
)  # fmt: skip
