"""Scores the predictions of one video: the unit of work of ``rvosbench score``.

Shape legend: T frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rvosbench.harness.data.types import BoolHW, Expression, GroundTruth, Video
from rvosbench.harness.errors import SampleError
from rvosbench.harness.scoring.kernel import CountsT6, GroundTruthFrame
from rvosbench.harness.scoring.matching import ObjectMatcher
from rvosbench.harness.scoring.predictions import Problem, VideoMasks, summed_up
from rvosbench.harness.scoring.sample import Status, missing_frame
from rvosbench.harness.scoring.statistics import Item

Truths = dict[tuple[str, ...], GroundTruthFrame | SampleError]
"""The ground truth of one frame by targets, or why it cannot be read."""


@dataclass(frozen=True)
class VideoTask:
    """What a worker gets."""

    index: int
    """The video's place in the dataset."""
    video: Video
    masks: VideoMasks
    ground_truth: GroundTruth
    match_objects: bool
    """Also score under ``refdavis17/anno4``."""
    robustness: bool
    """Also measure ground truth and foreground areas."""


@dataclass(frozen=True)
class ExpressionOutcome:
    """How one expression of the video ended."""

    status: Status
    frames: tuple[str, ...]
    counts_T6: CountsT6 | None
    areas_T2: NDArray[np.int64] | None
    missing_frames: int
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class VideoOutcome:
    """What a worker returns."""

    index: int
    expressions: tuple[ExpressionOutcome, ...]
    """Parallel to the video's expressions."""
    matched: tuple[Item, ...]


def score_video(task: VideoTask) -> VideoOutcome:
    """Reads every mask once, frame by frame, so that expressions share ground truth and nothing accumulates."""
    video, ground_truth = task.video, task.ground_truth
    tallies = [_Tally(ground_truth, video, expression) for expression in video.expressions]
    frames = sorted({frame for tally in tallies for frame in tally.wanted})
    matcher = ObjectMatcher(video, ground_truth, len(frames)) if task.match_objects else None
    for frame in frames:
        truths: Truths = {}
        masks: dict[str, BoolHW | None] = {}
        for tally in tallies:
            if frame in tally.wanted:
                truth = _truth(truths, ground_truth, video, tally.expression, frame)
                masks[tally.expression.id] = tally.add(frame, truth, task.masks)
        known = [truth for truth in truths.values() if isinstance(truth, GroundTruthFrame)]
        if task.robustness and len(known) == len(truths) and known:
            foreground = int(np.logical_or.reduce([truth.mask_HW for truth in known]).sum())
            for tally in tallies:
                tally.measure(frame, truths, foreground)
        if matcher is not None and len(known) == len(truths):
            matcher.add(frame, masks)
    expressions = tuple(tally.outcome(task.robustness) for tally in tallies)
    return VideoOutcome(task.index, expressions, tuple(matcher.items()) if matcher is not None else ())


def _truth(
    known: Truths,
    ground_truth: GroundTruth,
    video: Video,
    expression: Expression,
    frame: int,
) -> GroundTruthFrame | SampleError:
    if expression.targets not in known:
        try:
            known[expression.targets] = GroundTruthFrame(ground_truth.mask(video, expression, frame))
        except SampleError as error:
            known[expression.targets] = error
    return known[expression.targets]


class _Tally:
    """Collects one expression's integers and problems."""

    def __init__(self, ground_truth: GroundTruth, video: Video, expression: Expression) -> None:
        self.expression = expression
        self._video = video
        self._rows: list[Sequence[int]] = []
        self._areas: list[tuple[int, int]] = []
        self._problems: list[Problem] = []
        self._broken = False
        self.wanted: frozenset[int] = frozenset()
        try:
            self.wanted = frozenset(ground_truth.scored_frames(video, expression))
        except SampleError as error:
            self._break(error)

    def add(self, frame: int, truth: GroundTruthFrame | SampleError, masks: VideoMasks) -> BoolHW | None:
        """Counts one frame; returns the mask where it is usable."""
        if isinstance(truth, SampleError):
            self._break(truth)
            return None
        mask = masks.read(self.expression, frame, truth.shape)
        if isinstance(mask, Problem):
            self._problems.append(mask)
            self._rows.append(missing_frame(truth))
            return None
        self._rows.append(truth.counts(mask))
        return mask

    def measure(self, frame: int, truths: Truths, foreground: int) -> None:
        """Keeps the areas that robustness needs."""
        truth = truths.get(self.expression.targets)
        if frame in self.wanted and isinstance(truth, GroundTruthFrame):
            self._areas.append((truth.area, foreground))

    def outcome(self, robustness: bool) -> ExpressionOutcome:
        """The tables' row and what was wrong."""
        if self._broken:
            return ExpressionOutcome("failed", (), None, None, 0, tuple(self._problems))
        unusable = len(self._problems)
        status: Status = "scored"
        if unusable == len(self._rows):
            status = "missing" if all(problem.kind == "missing" for problem in self._problems) else "failed"
        return ExpressionOutcome(
            status,
            tuple(self._video.frames[frame] for frame in sorted(self.wanted)),
            np.array(self._rows, dtype=np.int64).reshape(-1, 6),
            np.array(self._areas, dtype=np.int64).reshape(-1, 2) if robustness else None,
            unusable,
            tuple(summed_up(self._problems, len(self._rows))),
        )

    def _break(self, error: SampleError) -> None:
        if not self._broken:
            where = f"{self._video.name}/{self.expression.id}"
            self._problems = [Problem("ground truth", where, str(error))]
        self._broken = True
