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

import numpy as np

from rvosbench.harness.data.cards import Card, CardProtocol, card_names, load_card
from rvosbench.harness.data.types import Video
from rvosbench.harness.errors import PrerequisiteError, nearest_name
from rvosbench.harness.scoring.extras import davis_extras
from rvosbench.harness.scoring.kernel import CountsT6, gt_present
from rvosbench.harness.scoring.matching import ObjectMatcher, annotated_objects
from rvosbench.harness.scoring.robustness import AreaRecorder, robustness
from rvosbench.harness.scoring.rules import (
    KEYFRAMES,
    WHOLE,
    BoolT,
    Extra,
    Part,
    ProtocolScore,
    Recorder,
    Records,
    Rule,
)
from rvosbench.harness.scoring.temporal import temporal_overlap


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
    frames without the object. The objects of a video are those that any annotator names: one that an annotator has no
    expression for is left over in the same way, and a note names it.
    """

    id = "refdavis17/anno4"
    groups = ("0", "1", "2", "3")
    records: Records = "videos"

    def require_fit(self, card: Card) -> None:
        if card.annotators is None:
            raise PrerequisiteError(
                f"Protocol '{self.id}' needs expressions by annotator, and {card.title} has none.",
                "Use a protocol of the benchmark: see its card.",
            )

    def recorder(self, video: Video) -> Recorder:
        return ObjectMatcher(video)

    def score(self, part: Part) -> ProtocolScore:
        if part.pairs is None:
            note = "No score: matching objects needs the masks, which were not given."
            return ProtocolScore((), self.groups, notes=(note,))
        items, notes = annotated_objects(part.videos, part.pairs)
        return ProtocolScore(items, self.groups, notes=notes)


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
    records: Records = "expressions"

    def recorder(self, video: Video) -> Recorder:
        return AreaRecorder(video)

    def extras(self, part: Part, notes: list[str]) -> Extra:
        return robustness(part.samples, self.groups, notes) if part.subset == WHOLE else {}

    def group(self, subset: str | None) -> str | None:
        return subset if subset in self.groups else None


class DavisSemiSupervised(Rule):
    """DAVIS 2017 semi-supervised: mean over frames without the first and the last, then over all objects.

    The first frame is given to the method, the last is left out for historical reasons. Objects keep their ids and
    void is not applied. Each expression counts as an object. Recall is the fraction of frames above 0.5; decay is the
    mean of the first quarter of the frames minus that of the last one, quarters sharing their end frames.
    """

    id = "davis17/semi"
    drops_ends = True

    def frame_mask(self, counts_T6: CountsT6, ends_T: BoolT) -> BoolT:
        return ~ends_T

    def extras(self, part: Part, notes: list[str]) -> Extra:
        return davis_extras(self, part.samples, notes)


class VosBenchmark(Rule):
    """vos-benchmark and the SA-V evaluator: mean over frames without the first and the last, then over objects.

    An object's frames count from the first one in which it is seen in the ground truth or in the prediction, so the
    frames before a late object appears give no free 1. An object that the remaining ground truth never shows is left
    out. Each expression counts as an object. A failed or missing sample without masks to look at scores 0.
    """

    id = "vosbench"
    drops_ends = True

    def frame_mask(self, counts_T6: CountsT6, ends_T: BoolT) -> BoolT:
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
        self._temporal = protocol.temporal
        if protocol.average != "expressions":
            self.groups = protocol.average

    @property
    def text(self) -> str:
        return self._text

    def group(self, subset: str | None) -> str | None:
        if self.groups == ("",):
            return ""
        return subset if subset in self.groups else None

    def extras(self, part: Part, notes: list[str]) -> Extra:
        if not self._temporal:
            return {}
        groups = self.groups if part.subset == WHOLE else [g for g in self.groups if g == self.group(part.subset)]
        return temporal_overlap(self, part.samples, groups)


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
