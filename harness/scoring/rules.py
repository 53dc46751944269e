"""What a protocol is: a rule from the integers of frames to one number, with what it needs beyond them.

Shape legend: T frames.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from rvosbench.harness.data.cards import Card
from rvosbench.harness.data.types import BoolHW, Video
from rvosbench.harness.scoring.kernel import CountsT6, PixelCounts, f, gt_present, j
from rvosbench.harness.scoring.statistics import Item, mean_of_groups
from rvosbench.harness.scoring.truths import FrameTruths

KEYFRAMES = "@keyframes"
"""Suffix of a protocol's id for methods whose masks exist on keyframes only; never mixed with the full protocol."""
WHOLE = "all"
"""The subset that holds every sample."""

BoolT = NDArray[np.bool_]
Extra = dict[str, float | None]
"""Numbers beside a score, by name."""
Records = Literal["nothing", "expressions", "videos"]


@dataclass(frozen=True)
class SampleCounts:
    """What a protocol needs of a sample."""

    video: str
    expression: str
    subset: str | None
    counts_T6: CountsT6 | None
    """The six integers by frame; None: the sample failed, and scores 0."""
    ends_T: BoolT | None = None
    """Which of the frames are the first or the last one with ground truth; None: the first and last row."""
    missing_frames: int = 0
    """How many of the frames have no usable mask."""
    recorded: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    """What recorders collected of the sample, by name."""


@dataclass(frozen=True)
class ScoredMask:
    """One frame of one expression."""

    mask_HW: BoolHW | None
    """The prediction; None where there is no usable one."""
    counts: PixelCounts


@dataclass(frozen=True)
class PairCounts:
    """Every object of a video compared with every prediction. O objects, P predictions of an annotator."""

    objects: tuple[str, ...]
    """Names of the objects."""
    counts_OPT6: Mapping[str, NDArray[np.int64]]
    """The six integers of every pair, by annotator."""
    unreadable: frozenset[str] = frozenset()
    """Objects whose ground truth cannot be read on some frame."""


@dataclass(frozen=True)
class Recorded:
    """What a recorder collected in one video."""

    arrays: Mapping[str, Mapping[str, NDArray[np.int64]]] = field(default_factory=dict)
    """By expression id, then by name: one row per scored frame of the expression."""
    pairs: PairCounts | None = None
    """What depends on all masks of the video."""


class Recorder(Protocol):
    """Collects, while a video is scored frame by frame, what a protocol needs beyond the six integers."""

    def add(self, truths: FrameTruths, scored: Mapping[str, ScoredMask]) -> None:
        """The next frame: its ground truth, and the expressions scored on it, by id.

        An expression whose ground truth cannot be read there is not among them.
        """
        ...

    def result(self) -> Recorded:
        """What was collected, after the last frame."""
        ...


@dataclass(frozen=True)
class Part:
    """The samples of one method on one dataset, or on a subset of it."""

    subset: str
    """The subset's name, or "all"."""
    samples: tuple[SampleCounts, ...]
    videos: tuple[Video, ...] = ()
    """The samples' videos."""
    pairs: Mapping[str, PairCounts] | None = None
    """By video, for a rule that records videos; None where the masks were not given."""


@dataclass(frozen=True)
class ProtocolScore:
    """What a rule makes of a part."""

    items: tuple[Item, ...]
    groups: tuple[str, ...]
    """The groups whose means are averaged."""
    left_out: tuple[SampleCounts, ...] = ()
    """Samples whose group the protocol does not average, or of which no frame counts."""
    extra: Mapping[str, float | None] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Rule:
    """A protocol. Subclasses say in their docstrings what is averaged, in which order, and what is left out."""

    id: str = ""
    groups: tuple[str, ...] = ("",)
    """The groups whose means are averaged; one group means a plain mean over samples."""
    scored_here: bool = True
    drops_ends: bool = False
    """The first and the last frame with ground truth do not count."""
    records: Records = "nothing"
    """What ``recorder`` collects. "expressions": arrays of single expressions, which depend on no other prediction.
    "videos": pair counts, which depend on all masks of a video, so that the tables cannot give them again."""

    @property
    def text(self) -> str:
        """The protocol in words."""
        return inspect.cleandoc(type(self).__doc__ or "")

    def require_fit(self, card: Card) -> None:
        """Checks that the protocol can be used on a benchmark.

        Raises:
            PrerequisiteError: it needs what the benchmark does not have.
        """

    def group(self, subset: str | None) -> str | None:
        """The group of a sample, by its subset; None: the protocol leaves it out."""
        return ""

    def frame_mask(self, counts_T6: CountsT6, ends_T: BoolT) -> BoolT:
        """The frames that enter the sample's mean, (T,) bool; none: the protocol leaves the sample out."""
        return np.ones(len(counts_T6), dtype=bool)

    def recorder(self, video: Video) -> Recorder | None:
        """A recorder for one video, where six integers per frame are not all that the protocol needs."""
        return None

    def score(self, part: Part) -> ProtocolScore:
        """The items to average, the numbers beside them, and what a reader must know."""
        groups = self.groups
        if part.subset != WHOLE:
            groups = tuple(group for group in groups if group == self.group(part.subset))
        averaged = average(self, part.samples)
        notes = []
        if averaged.left_out:
            notes.append(f"{len(averaged.left_out)} samples enter no mean of this protocol.")
        if not averaged.items:
            notes.append("No score: no sample enters this protocol.")
        extra = visible_and_empty(self, part.samples, groups) | self.extras(part, notes)
        return ProtocolScore(averaged.items, groups, averaged.left_out, extra, tuple(notes))

    def extras(self, part: Part, notes: list[str]) -> Extra:
        """Further numbers that the protocol reports; ``notes`` gets what a reader must know of them."""
        return {}


@dataclass(frozen=True)
class Averaged:
    """What a rule makes of samples."""

    items: tuple[Item, ...]
    left_out: tuple[SampleCounts, ...]
    """Samples whose group the protocol does not average, or of which no frame counts."""


def average(rule: Rule, samples: Sequence[SampleCounts]) -> Averaged:
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
        counts_T6 = select_frames(rule, sample)
        if not len(counts_T6):
            left_out.append(sample)
            continue
        items.append(
            Item(sample.video, sample.expression, group, float(j(counts_T6).mean()), float(f(counts_T6).mean()))
        )
    return Averaged(tuple(items), tuple(left_out))


def select_frames(rule: Rule, sample: SampleCounts) -> CountsT6:
    """The rows of a sample's integers that enter its mean; the sample must have integers."""
    assert sample.counts_T6 is not None
    ends_T = sample.ends_T
    if ends_T is None:
        ends_T = np.zeros(len(sample.counts_T6), dtype=bool)
        ends_T[:1] = ends_T[-1:] = True
    return sample.counts_T6[rule.frame_mask(sample.counts_T6, ends_T)]


def visible_and_empty(rule: Rule, samples: Sequence[SampleCounts], groups: Sequence[str]) -> Extra:
    """J&F on frames where the target is visible, and J&F of predicting nothing at all.

    Frames without the target are free points for a prediction that is empty there; these two numbers show how many.
    """
    visible = _on_visible_frames(rule, samples)
    nothing = average(rule, _with_empty_predictions(samples)).items
    return {"J_and_F_visible": _j_and_f(visible, groups), "J_and_F_all_empty": _j_and_f(nothing, groups)}


def _on_visible_frames(rule: Rule, samples: Sequence[SampleCounts]) -> list[Item]:
    """The protocol on the frames whose ground truth is not empty; samples without one are left out."""
    items = []
    for sample in samples:
        group = rule.group(sample.subset)
        if group is None:
            continue
        if sample.counts_T6 is None:
            items.append(Item(sample.video, sample.expression, group, 0.0, 0.0))
            continue
        counts_T6 = select_frames(rule, sample)
        counts_T6 = counts_T6[gt_present(counts_T6)]
        if len(counts_T6):
            j_, f_ = float(j(counts_T6).mean()), float(f(counts_T6).mean())
            items.append(Item(sample.video, sample.expression, group, j_, f_))
    return items


def _with_empty_predictions(samples: Sequence[SampleCounts]) -> list[SampleCounts]:
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


def _j_and_f(items: Sequence[Item], groups: Sequence[str]) -> float | None:
    return mean_of_groups([item.J_and_F for item in items], [item.group for item in items], groups)
