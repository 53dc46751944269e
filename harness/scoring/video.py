"""Scores one video: the one scorer of ``rvosbench score`` and of ``rvosbench run``.

Shape legend: T frames, H W pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rvosbench.harness.data.types import Expression, GroundTruth, Video
from rvosbench.harness.errors import SampleError
from rvosbench.harness.scoring.kernel import CountsT6, GroundTruthFrame
from rvosbench.harness.scoring.oddities import misreading
from rvosbench.harness.scoring.predictions import Problem, VideoMasks, summed_up
from rvosbench.harness.scoring.provenance import MaskDigest
from rvosbench.harness.scoring.rules import PairCounts, Rule, ScoredMask
from rvosbench.harness.scoring.sample import Evaluated, Status, missing_frame
from rvosbench.harness.scoring.truths import FrameTruths


@dataclass(frozen=True)
class ExpressionScores:
    """How one expression of a video ended."""

    status: Status
    frames: tuple[str, ...]
    """Names of the frames that ``counts_T6`` has rows for."""
    counts_T6: CountsT6 | None
    """None: the expression's ground truth cannot be read."""
    evaluated: Evaluated
    missing_frames: int
    problems: tuple[Problem, ...]
    masks: str
    """Digest of the masks that were read."""
    oddities: Mapping[str, int] = field(default_factory=dict)
    """Masks that look as if they were something else, by kind."""
    recorded: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    """What the rules' recorders collected, by name."""


@dataclass(frozen=True)
class VideoScores:
    """What is known of a video after scoring."""

    expressions: tuple[ExpressionScores, ...]
    """Parallel to the expressions that were scored."""
    pairs: Mapping[str, PairCounts]
    """By protocol that records videos."""


def score_video(
    video: Video,
    ground_truth: GroundTruth,
    masks: VideoMasks,
    rules: Sequence[Rule],
    expressions: Sequence[Expression] | None = None,
) -> VideoScores:
    """Reads every mask once, frame by frame, so that expressions share ground truth and nothing accumulates.

    Args:
        rules: protocols whose recorders are to collect what they need beyond the six integers.
        expressions: those to score; None for all of the video.
    """
    chosen = video.expressions if expressions is None else expressions
    tallies = [_Tally(ground_truth, video, expression) for expression in chosen]
    recorders = {rule.id: recorder for rule in rules if (recorder := rule.recorder(video)) is not None}
    for frame in sorted({frame for tally in tallies for frame in tally.wanted}):
        truths = FrameTruths(video, ground_truth, frame)
        scored: dict[str, ScoredMask] = {}
        for tally in tallies:
            mask = tally.add(truths, masks) if frame in tally.wanted else None
            if mask is not None:
                scored[tally.expression.id] = mask
        for recorder in recorders.values():
            recorder.add(truths, scored)
    recorded = {name: recorder.result() for name, recorder in recorders.items()}
    arrays: dict[str, dict[str, NDArray[np.int64]]] = {}
    for collected in recorded.values():
        for name, by_name in collected.arrays.items():
            arrays.setdefault(name, {}).update(by_name)
    return VideoScores(
        tuple(tally.outcome(masks, arrays.get(tally.expression.id, {})) for tally in tallies),
        {name: collected.pairs for name, collected in recorded.items() if collected.pairs is not None},
    )


def first_problem(problems: Sequence[Problem]) -> str | None:
    """What went wrong with a sample, in one sentence; None for nothing."""
    if not problems:
        return None
    more = len(problems) - 1
    return str(problems[0]) + (f" and {more} more" if more else "")


class _Tally:
    """Collects one expression's integers and problems."""

    def __init__(self, ground_truth: GroundTruth, video: Video, expression: Expression) -> None:
        self.expression = expression
        self._video = video
        self._frames: list[str] = []
        self._rows: list[Sequence[int]] = []
        self._problems: list[Problem] = []
        self._oddities: Counter[str] = Counter()
        self._digest = MaskDigest()
        self._unreadable: Problem | None = None
        self._left_out = 0
        self.wanted: frozenset[int] = frozenset()
        try:
            self.wanted = frozenset(ground_truth.scored_frames(video, expression))
        except SampleError as error:
            self._fail(error)

    def add(self, truths: FrameTruths, masks: VideoMasks) -> ScoredMask | None:
        """Counts one frame; None where it is not scored: its ground truth is damaged, or it is no keyframe."""
        truth = truths.of(self.expression)
        if isinstance(truth, SampleError):
            self._fail(truth)
            return None
        mask = masks.read(self.expression, truths.frame, truth.shape)
        if isinstance(mask, Problem):
            if mask.kind == "no keyframe":
                self._left_out += 1
                return None
            self._problems.append(mask)
            scored = ScoredMask(None, missing_frame(truth))
        else:
            scored = ScoredMask(mask, truth.counts(mask))
            self._notice(truth, scored)
        self._digest.add(scored.mask_HW)
        self._frames.append(self._video.frames[truths.frame])
        self._rows.append(scored.counts)
        return scored

    def outcome(self, masks: VideoMasks, recorded: Mapping[str, NDArray[np.int64]]) -> ExpressionScores:
        """The tables' row and what was wrong."""
        evaluated: Evaluated = "keyframes" if self._left_out else "all"
        digest = self._digest.hexdigest()
        if self._unreadable is not None:
            problems = (self._unreadable, *summed_up(self._problems, len(self._rows)))
            return ExpressionScores("failed", (), None, evaluated, 0, problems, digest)
        unusable = len(self._problems)
        status: Status = "scored"
        if unusable == len(self._rows):
            status = "missing" if all(problem.kind == "missing" for problem in self._problems) else "failed"
        return ExpressionScores(
            status,
            tuple(self._frames),
            np.array(self._rows, dtype=np.int64).reshape(-1, 6),
            evaluated,
            unusable,
            tuple(summed_up(self._problems, len(self._rows))),
            digest,
            dict(self._oddities + Counter(masks.oddities(self.expression))),
            recorded,
        )

    def _notice(self, truth: GroundTruthFrame, scored: ScoredMask) -> None:
        assert scored.mask_HW is not None
        odd = misreading(truth, scored.mask_HW, scored.counts)
        if odd is not None:
            self._oddities[odd] += 1

    def _fail(self, error: SampleError) -> None:
        if self._unreadable is None:
            self._unreadable = Problem("ground truth", f"{self._video.name}/{self.expression.id}", str(error))
