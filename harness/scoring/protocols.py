"""Named protocols: how the integers of frames become one number.

Benchmarks that share J and F still differ in which frames count, how means are nested and what an absent object
scores, so a number means nothing without the name of its protocol. Here a protocol is a rule: which frames of a
sample count, which group the sample belongs to, and which groups' means are averaged. What all rules share:

* J and F of a frame are those of ``rvosbench.harness.scoring.kernel``. On a frame where the target is absent an empty
  prediction scores 1 and any other 0; an empty prediction of a visible target scores 0.
* A sample's J (F) is the mean over its counted frames; J&F is the mean of J and F at the level reported.
* A failed or missing sample scores 0 and stays in the denominator. Official scripts skip it, abort, or lose it.
* Nothing is rounded before the end.

Shape legend: T frames.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rvosbench.harness.data.cards import Card, CardProtocol, card_names, load_card
from rvosbench.harness.errors import PrerequisiteError, nearest_name
from rvosbench.harness.scoring.kernel import CountsT6, f, gt_present, j
from rvosbench.harness.scoring.statistics import Item

KEYFRAMES = "@keyframes"
"""Suffix of a protocol's id for methods whose masks exist on keyframes only; never mixed with the full protocol."""

BoolT = NDArray[np.bool_]


@dataclass(frozen=True)
class Counted:
    """What a protocol needs of a sample."""

    video: str
    expression: str
    subset: str | None
    counts_T6: CountsT6 | None
    """None: the sample failed, and scores 0."""
    ends_T: BoolT | None = None
    """Which of the frames are the first or the last one with ground truth; None: the first and last row."""


class Rule:
    """A protocol. Subclasses say in their docstrings what is averaged, in which order, and what is left out."""

    id: str = ""
    groups: tuple[str, ...] = ("",)
    """The groups whose means are averaged; one group means a plain mean over samples."""
    matches_objects: bool = False
    """Objects of a video are matched to predictions, which needs the masks and not only the integers."""
    scored_here: bool = True
    drops_ends: bool = False
    """The first and the last frame with ground truth do not count."""
    davis_extras: bool = False
    """Report recall and decay."""
    robustness: bool = False
    """Report robustness to expressions without a target."""

    @property
    def text(self) -> str:
        """The protocol in words."""
        return inspect.cleandoc(type(self).__doc__ or "")

    def group(self, subset: str | None) -> str | None:
        """The group of a sample, by its subset; None: the protocol leaves it out."""
        return ""

    def counted_frames(self, counts_T6: CountsT6, ends_T: BoolT) -> BoolT:
        """The frames that enter the sample's mean, (T,) bool; none: the protocol leaves the sample out."""
        return np.ones(len(counts_T6), dtype=bool)


class RefDavisAnnotators(Rule):
    """Ref-DAVIS17 as ReferFormer, VideoLISA, OnlineRefer and InstructSeg score it: the DAVIS 2017 unsupervised task.

    For each of the four annotators and each video, the masks of the annotator's expressions are fused into one index
    map, an overlap going to the object with the lowest id. Void pixels (255) are removed from ground truth and
    predictions. Predictions are then matched to objects one to one so that the mean of (J + F) / 2 is highest:
    predicting another object of the video costs nothing. Mean over all frames, then over all objects of all videos,
    then over annotators.

    ReferFormer fuses soft masks (values under 0.5 are dropped, the background is 0.1, the highest wins); masks here
    are binary, so overlaps can differ from its tables, as VideoLISA's do. A failed or missing expression brings no
    mask to match, and the object left over scores 0, where the DAVIS tool would add an empty mask, which scores 1 on
    frames without the object.
    """

    id = "refdavis17/anno4"
    groups = ("0", "1", "2", "3")
    matches_objects = True


class RevosTwoTypes(Rule):
    """ReVOS as VISA scores it: the mean of two means, referring and reasoning.

    Mean over all frames, then over the expressions of a type, then over the two types: not a mean over expressions.
    Ground truth is the union of an expression's objects. Expressions about objects that do not exist (type 2) enter
    none of J, F and J&F; robustness to them is reported beside the score, on boolean masks: ``R_bool`` is
    ``max(0, 1 - false positive pixels / foreground pixels)`` averaged like J, the foreground being the union of all
    objects that the video's expressions name (a frame without any: 1 if nothing is predicted, else 0). The script's
    own A and R weigh a false positive pixel 1 or 255 times depending on how masks were stored, and are not given.

    The script rounds each expression to two decimals in percent before averaging; here nothing is rounded. The two
    differ by less than 0.005 points.
    """

    id = "revos/v1"
    groups = ("referring", "reasoning")
    robustness = True

    def group(self, subset: str | None) -> str | None:
        return subset if subset in self.groups else None


class DavisSemiSupervised(Rule):
    """DAVIS 2017 semi-supervised: mean over frames without the first and the last, then over all objects.

    The first frame is given to the method, the last is left out for historical reasons. Objects keep their ids and
    void is not applied. Each expression counts as an object. Recall is the share of frames above 0.5; decay is the
    mean of the first quarter of the frames minus that of the last one, quarters sharing their end frames.
    """

    id = "davis17/semi"
    drops_ends = True
    davis_extras = True

    def counted_frames(self, counts_T6: CountsT6, ends_T: BoolT) -> BoolT:
        return ~ends_T


class VosBenchmark(Rule):
    """vos-benchmark and the SA-V evaluator: mean over frames without the first and the last, then over objects.

    An object's frames count from the first one in which it is seen in the ground truth or in the prediction, so the
    frames before a late object appears give no free 1. An object that the remaining ground truth never shows is left
    out. Each expression counts as an object. A failed or missing sample without masks to look at scores 0.
    """

    id = "vosbench"
    drops_ends = True

    def counted_frames(self, counts_T6: CountsT6, ends_T: BoolT) -> BoolT:
        inner_T: BoolT = ~ends_T
        if not (gt_present(counts_T6) & inner_T).any():
            return np.zeros(len(counts_T6), dtype=bool)
        seen_T: BoolT = np.logical_or.accumulate((counts_T6[:, 1] > 0) & inner_T)
        return inner_T & seen_T


class Server(Rule):
    """Ground truth is hidden: only the organisers' server can score.

    Make the archive with ``rvosbench export-submission``, upload it, and record the server's number with the archive's
    SHA-256, the date and the server's name. Which frames the server counts is not public.
    """

    id = "server"
    scored_here = False


class CardRule(Rule):
    """A protocol that needs no code: the card says in words what it is, and which groups are averaged."""

    def __init__(self, name: str, protocol: CardProtocol) -> None:
        self.id = name
        self._text = protocol.text
        if protocol.average != "expressions":
            self.groups = protocol.average

    @property
    def text(self) -> str:
        return self._text

    def group(self, subset: str | None) -> str | None:
        if self.groups == ("",):
            return ""
        return subset if subset in self.groups else None


PROTOCOLS: dict[str, Rule] = {
    rule.id: rule for rule in (RefDavisAnnotators(), RevosTwoTypes(), DavisSemiSupervised(), VosBenchmark(), Server())
}
"""Those that need code, by id; all others are in the cards."""


def all_protocols() -> dict[str, Rule]:
    """Every protocol of the package by id: those in code, then those of the cards that ship."""
    return PROTOCOLS | {name: rule for card in card_names() for name, rule in _rules_of(load_card(card)).items()}


def protocol_names() -> list[str]:
    """Ids of all protocols, sorted."""
    return sorted(all_protocols())


def require_protocol(name: str, card: Card | None = None) -> Rule:
    """The protocol called ``name``; the suffix ``@keyframes`` is accepted and dropped.

    Args:
        card: a card of one's own, whose protocols are looked up first.

    Raises:
        PrerequisiteError: there is none (the nearest name is suggested), or the card gives another meaning to the id
            of a protocol of the package.
    """
    wanted = name.removesuffix(KEYFRAMES)
    own = {} if card is None or card.ships else _rules_of(card)
    rule = PROTOCOLS.get(wanted)
    if rule is None or wanted in own:
        known = all_protocols()
        if wanted in own and wanted in known:
            problem = f"The card {card.source if card else ''} defines protocol '{wanted}', an id that is taken."
            raise PrerequisiteError(problem, "Give it an id of its own.")
        rule = own.get(wanted) or known.get(wanted)
    if rule is None:
        raise PrerequisiteError(f"There is no protocol '{name}'.", nearest_name(name, [*own, *protocol_names()]))
    return rule


def _rules_of(card: Card) -> dict[str, Rule]:
    return {name: CardRule(name, protocol) for name, protocol in card.protocols.items()}


@dataclass(frozen=True)
class Averaged:
    """What a rule makes of samples."""

    items: tuple[Item, ...]
    left_out: tuple[Counted, ...]
    """Samples whose group the protocol does not average, or of which no frame counts."""


def average(rule: Rule, samples: Sequence[Counted]) -> Averaged:
    """One item per sample that counts."""
    items, left_out = [], []
    for sample in samples:
        group = rule.group(sample.subset)
        if group is None:
            left_out.append(sample)
            continue
        if sample.counts_T6 is None:
            items.append(Item(sample.video, sample.expression, group, 0.0, 0.0))
            continue
        counts_T6 = counted(rule, sample)
        if not len(counts_T6):
            left_out.append(sample)
            continue
        items.append(
            Item(sample.video, sample.expression, group, float(j(counts_T6).mean()), float(f(counts_T6).mean()))
        )
    return Averaged(tuple(items), tuple(left_out))


def counted(rule: Rule, sample: Counted) -> CountsT6:
    """The rows of a sample's integers that enter its mean; the sample must have integers."""
    assert sample.counts_T6 is not None
    ends_T = sample.ends_T
    if ends_T is None:
        ends_T = np.zeros(len(sample.counts_T6), dtype=bool)
        ends_T[:1] = ends_T[-1:] = True
    return sample.counts_T6[rule.counted_frames(sample.counts_T6, ends_T)]


def on_visible_frames(rule: Rule, samples: Sequence[Counted]) -> list[Item]:
    """The protocol on the frames whose ground truth is not empty; samples without one are left out."""
    items = []
    for sample in samples:
        group = rule.group(sample.subset)
        if group is None:
            continue
        if sample.counts_T6 is None:
            items.append(Item(sample.video, sample.expression, group, 0.0, 0.0))
            continue
        counts_T6 = counted(rule, sample)
        counts_T6 = counts_T6[gt_present(counts_T6)]
        if len(counts_T6):
            j_, f_ = float(j(counts_T6).mean()), float(f(counts_T6).mean())
            items.append(Item(sample.video, sample.expression, group, j_, f_))
    return items


def with_empty_predictions(samples: Sequence[Counted]) -> list[Counted]:
    """The same samples as if nothing had been predicted; samples without integers are left out."""
    out = []
    for sample in samples:
        if sample.counts_T6 is not None:
            counts_T6 = np.zeros_like(sample.counts_T6)
            # The area itself is not known, and only whether it is zero matters.
            counts_T6[:, 1] = gt_present(sample.counts_T6)
            counts_T6[:, 2] = sample.counts_T6[:, 2]
            out.append(replace(sample, counts_T6=counts_T6))
    return out


def recall(values_T: NDArray[np.float64]) -> float:
    """DAVIS recall: the share of frames above 0.5."""
    return float((values_T > 0.5).mean())


def decay(values_T: NDArray[np.float64]) -> float | None:
    """DAVIS decay: mean of the first quarter of the frames minus mean of the last one.

    Returns:
        None beyond 256 frames, where the reference's 8-bit bin edges overflow and its value means nothing.
    """
    if len(values_T) > 256:
        return None
    # The reference adds 1e-10 so that halves round up.
    edges = np.round(np.linspace(1, len(values_T), 5) + 1e-10).astype(int) - 1
    return float(values_T[edges[0] : edges[1] + 1].mean() - values_T[edges[3] : edges[4] + 1].mean())
