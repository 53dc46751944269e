"""Expressions about a scene, each true of exactly its targets and clearly so (view.py, predicates.py).

Referring: appearance, place and motion in words. Reasoning: the claims of reasoning.py. No target: a description that
one attribute makes false of everything.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from rvosbench.harness.data.synthetic import predicates
from rvosbench.harness.data.synthetic.draw import pick, shuffled
from rvosbench.harness.data.synthetic.outlines import SHAPES
from rvosbench.harness.data.synthetic.reasoning import CLAIMS, Claim
from rvosbench.harness.data.synthetic.render import COLOURS
from rvosbench.harness.data.synthetic.view import Truth, View, answer, both

Subset = Literal["referring", "reasoning", "no_target"]
Style = Literal[0, 1]
"""Two annotators with their own words."""
When = Literal["first", "whole"]
"""What the annotator saw: the first frame (places, no motion) or the whole clip."""

NOUNS: dict[str, tuple[tuple[str, str], tuple[str, str]]] = {
    "circle": (("circle", "circles"), ("round shape", "round shapes")),
    "square": (("square", "squares"), ("square block", "square blocks")),
    "triangle": (("triangle", "triangles"), ("triangular shape", "triangular shapes")),
    "star": (("star", "stars"), ("pointed star", "pointed stars")),
    "cross": (("cross", "crosses"), ("plus sign", "plus signs")),
    "heart": (("heart", "hearts"), ("heart shape", "heart shapes")),
    "pillar": (("pillar", "pillars"), ("upright bar", "upright bars")),
}
ANY_NOUN = (("shape", "shapes"), ("thing", "things"))
SIZE_WORDS = {"small": ("small", "little"), "large": ("large", "big")}
PLACES = {
    "left": ("on the left", "at the left side"),
    "right": ("on the right", "at the right side"),
    "top": ("at the top", "in the upper part"),
    "bottom": ("at the bottom", "in the lower part"),
}
COUNTS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
MOST = {"event": 2, "relation": 2, "comparison": 1, "place": 1, "commonsense": 1}
"""Reasoning expressions per clip and kind, what must be watched first."""


@dataclass(frozen=True)
class Deed:
    """A motion fact with its words, one pair (singular, plural) per style."""

    predicate: partial[Truth]
    words: tuple[tuple[str, str], tuple[str, str]]


def _deed(predicate: partial[Truth], participle: str, verb: str, plural_verb: str) -> Deed:
    return Deed(predicate, ((participle, participle), (f"that {verb}", f"that {plural_verb}")))


DEEDS: tuple[Deed, ...] = (
    *(
        _deed(partial(predicates.heads, heading=heading), f"moving {way}", f"moves {way}", f"move {way}")
        for heading, way in (("left", "to the left"), ("right", "to the right"), ("up", "up"), ("down", "down"))
    ),
    _deed(partial(predicates.rests), "standing still", "does not move", "do not move"),
    _deed(partial(predicates.bounces), "bouncing up and down", "bounces up and down", "bounce up and down"),
    _deed(partial(predicates.circles), "going round in a circle", "goes round in a circle", "go round in a circle"),
    _deed(partial(predicates.spins), "spinning on the spot", "spins on the spot", "spin on the spot"),
    _deed(partial(predicates.returns), "moving out and back again", "turns round and comes back", "turn and come back"),
    _deed(
        partial(predicates.stops), "moving and then stopping", "moves first and then stops", "move first and then stop"
    ),
    _deed(partial(predicates.starts), "waiting before it moves", "waits and then moves", "wait and then move"),
    _deed(partial(predicates.speeds_up), "speeding up", "gets faster and faster", "get faster and faster"),
    _deed(partial(predicates.grows), "growing", "becomes larger", "become larger"),
    _deed(partial(predicates.shrinks), "shrinking", "becomes smaller", "become smaller"),
    _deed(
        partial(predicates.enters), "coming into the picture", "comes into the picture later", "come into the picture"
    ),
    _deed(partial(predicates.leaves), "leaving the picture", "leaves the picture", "leave the picture"),
)


@dataclass(frozen=True)
class Sentence:
    """An expression with its answer."""

    text: str
    targets: tuple[int, ...]
    """Object ids, ascending; empty for no target, several for a multi-target expression."""
    subset: Subset
    question: bool = False
    """A full sentence, not a noun phrase."""


class Writer:
    """Writes expressions about one scene; draws from its own generator."""

    def __init__(self, view: View, rng: np.random.Generator) -> None:
        self.view = view
        self.rng = rng
        everything = dict.fromkeys(view.ids, True)
        frames = {"first": slice(0, 1), "whole": slice(None)}
        self._sizes = {name: predicates.size(view, name) for name in SIZE_WORDS}
        self._colours = {name: predicates.colour(view, name) for name in COLOURS}
        self._shapes = {name: predicates.shape(view, name) for name in SHAPES}
        self._places = {
            when: {side: predicates.place(view, side, span) for side in PLACES} for when, span in frames.items()
        }
        self._deeds = [deed.predicate(view) for deed in DEEDS]
        self._all: Truth = everything

    def describe(
        self, targets: Sequence[int], *, style: Style, when: When, motion: bool | None, article: str = "the"
    ) -> str | None:
        """A noun phrase true of exactly ``targets``, or None where the words do not suffice.

        Args:
            motion: with motion words (True), without (False), or as it comes (None).
            article: before a single target; several are counted.
        """
        wanted = tuple(sorted(targets))
        plural = len(wanted) > 1
        sizes = [(name, truth) for name, truth in self._sizes.items() if _holds(truth, wanted)]
        colours = [(name, truth) for name, truth in self._colours.items() if _holds(truth, wanted)]
        shapes = [(name, truth) for name, truth in self._shapes.items() if _holds(truth, wanted)]
        places = [(name, truth) for name, truth in self._places[when].items() if _holds(truth, wanted)]
        deeds = [(str(index), truth) for index, truth in enumerate(self._deeds) if _holds(truth, wanted)]
        blank = ("", self._all)
        found: list[tuple[int, str]] = []
        for size, colour, shape, place, deed in itertools.product(
            [blank, *sizes], [blank, *colours], [blank, *shapes], [blank, *places],
            deeds if motion else [blank] if motion is False else [blank, *deeds],
        ):  # fmt: skip
            parts = (size, colour, shape, place, deed)
            used = sum(bool(name) for name, _ in parts)
            if used == 0 or (size[0] and not colour[0] and not shape[0]):
                continue
            if answer(both(*(truth for _, truth in parts))) != wanted:
                continue
            noun = NOUNS[shape[0]] if shape[0] else ANY_NOUN
            words = [
                (COUNTS[len(wanted)] if article == "the" else "") if plural else "",
                SIZE_WORDS[size[0]][style] if size[0] else "",
                colour[0],
                noun[style][plural],
                PLACES[place[0]][style] if place[0] else "",
                DEEDS[int(deed[0])].words[style][plural] if deed[0] else "",
            ]
            phrase = " ".join(word for word in words if word)
            # Shapes and colours come to mind before places; long-winded descriptions are rare.
            found.append((used + 2 * bool(place[0]) + (not shape[0]) + (not colour[0]), phrase))
        if not found:
            return None
        least = min(cost for cost, _ in found)
        good = sorted({phrase for cost, phrase in found if cost <= least + 1})
        phrase = pick(self.rng, good)
        if article == "a" and not plural:
            return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"
        return f"the {phrase}"

    def four(self, id: int) -> tuple[str, str, str, str] | None:
        """The Ref-DAVIS17 quartet of an object: annotator 1 first frame, whole clip, annotator 2 first frame, whole
        clip.

        First-frame expressions carry no motion words. None where a still image cannot single it out.
        """
        texts: list[str] = []
        for style in (0, 1):
            article = ("a", "the")[style]
            still = self.describe((id,), style=style, when="first", motion=False, article=article)
            moving = self.describe((id,), style=style, when="whole", motion=True, article=article)
            if still is None:
                return None
            # People who see the whole clip often write the same again.
            texts += [still, moving or still]
        return texts[0], texts[1], texts[2], texts[3]

    def referring(self) -> list[Sentence]:
        """One expression for each object that the words can single out, every second one with its motion."""
        out = []
        for place, id in enumerate(shuffled(self.rng, self.view.ids)):
            style = self._style()
            text = self.describe((id,), style=style, when="whole", motion=True if place % 2 == 0 else None)
            text = text or self.describe((id,), style=style, when="whole", motion=None)
            if text is not None:
                out.append(Sentence(text, (id,), "referring"))
        return out

    def several(self) -> list[Sentence]:
        """Groups that a shared attribute picks out, and one pair named by two descriptions."""
        out = []
        groups = [
            group
            for count in range(2, len(self.view.ids) + 1)
            for group in itertools.combinations(self.view.ids, count)
        ]
        for group in groups:
            motion = None if len(group) < len(self.view.ids) else False
            text = self.describe(group, style=self._style(), when="whole", motion=motion)
            if text is not None:
                out.append(Sentence(text, group, "referring"))
        pair = tuple(sorted(shuffled(self.rng, self.view.ids)[:2]))
        style = self._style()
        names = [
            self.describe((id,), style=style, when="whole", motion=False)
            or self.describe((id,), style=style, when="whole", motion=True)
            for id in pair
        ]
        if len(pair) == 2 and all(names):
            out.append(Sentence(f"{names[0]} and {names[1]}", pair, "referring"))
        return shuffled(self.rng, out)

    def reasoning(self) -> list[tuple[Claim, Sentence]]:
        """Every wording of every claim that has a clear answer in this scene."""
        out = []
        for claim in CLAIMS:
            targets = answer(claim.predicate(self.view))
            if targets is None or not 0 < len(targets) < len(self.view.ids):
                continue
            if len(targets) == 1:
                out += [(claim, Sentence(text, targets, "reasoning")) for text in claim.one]
                out += [(claim, Sentence(text, targets, "reasoning", question=True)) for text in claim.ask]
            else:
                out += [(claim, Sentence(text, targets, "reasoning")) for text in claim.many]
        return shuffled(self.rng, out)

    def nothing(self) -> list[Sentence]:
        """Descriptions and events that fit no object: mostly a real object with one wrong attribute."""
        out: dict[str, Sentence] = {}
        for _ in range(40):
            id = pick(self.rng, self.view.ids)
            obj = self.view.scene.object_by_id(id)
            style = self._style()
            colour, shape = obj.colour, obj.shape
            true_deeds = [index for index, truth in enumerate(self._deeds) if truth[id]]
            deed = pick(self.rng, true_deeds) if true_deeds else None
            wrong = pick(self.rng, ("colour", "shape", "deed"))
            if wrong == "colour":
                colour = pick(self.rng, [name for name in COLOURS if name != colour])
            elif wrong == "shape":
                shape = pick(self.rng, [name for name in SHAPES if name != shape])
            else:
                deed = pick(self.rng, [index for index, truth in enumerate(self._deeds) if truth[id] is False])
            mentioned = deed if wrong == "deed" or self.rng.random() < 0.4 else None
            truths = [self._colours[colour], self._shapes[shape]] + (
                [] if mentioned is None else [self._deeds[mentioned]]
            )
            if answer(both(*truths)) != ():
                continue
            tail = "" if mentioned is None else f" {DEEDS[mentioned].words[style][0]}"
            text = f"the {colour} {NOUNS[shape][style][0]}{tail}"
            out[text] = Sentence(text, (), "no_target")
        for claim in CLAIMS:
            if claim.kind == "event" and answer(claim.predicate(self.view)) == ():
                text = pick(self.rng, claim.one)
                out[text] = Sentence(text, (), "no_target")
        return shuffled(self.rng, list(out.values()))

    def _style(self) -> Style:
        return 0 if self.rng.random() < 0.65 else 1


def _holds(truth: Truth, targets: Sequence[int]) -> bool:
    return all(truth[id] for id in targets)


def choose(writer: Writer) -> tuple[Sentence, ...]:
    """A balanced handful for one clip: about four referring, two multi-target, five reasoning, two without target.

    No text occurs twice; reasoning takes one wording per claim and prefers what must be watched over what is known.
    """
    referring = writer.referring()[:4]
    several = writer.several()[:2]
    reasoning: list[Sentence] = []
    kinds: list[str] = []
    used: set[int] = set()
    rank = list(MOST)
    for claim, sentence in sorted(writer.reasoning(), key=lambda pair: rank.index(pair[0].kind)):
        same_kind = sum(kind == claim.kind for kind in kinds)
        if id(claim) not in used and same_kind < MOST[claim.kind] and len(reasoning) < 5:
            used.add(id(claim))
            kinds.append(claim.kind)
            reasoning.append(sentence)
    texts: dict[str, Sentence] = {}
    for sentence in [*referring, *several, *reasoning, *writer.nothing()[:2]]:
        if texts.setdefault(sentence.text, sentence).targets != sentence.targets:
            raise AssertionError(f"{sentence.text!r} has two answers in one scene")
    return tuple(shuffled(writer.rng, list(texts.values())))
