"""Precision, recall and F1 of predicted points against masks, with the tolerance in frames in the metric's name.

A prediction is a set of points, each on a frame of the video. What is to be found are the *appearances*: an object on a
scored frame where its mask is not empty. A point *hits* an appearance when it lies inside that mask and its frame is at
most K frames away (``points/tolK``; 0 asks for the frame itself). Points and appearances are assigned one to one so
that as many hits as possible are used. Then

* precision = used hits / points, recall = used hits / appearances, F1 = 2 x used hits / (points + appearances).

An object that appears on ten frames takes ten points, and a second point on it is a false one. Which mask a point lies
in decides, not how near it is to a reference point.

Nothing undefined becomes 1. Without points there is no precision, without appearances no recall; F1 is 0 when only one
of the two is there. Without both, all three are undefined: the query was rightly left without an answer, which
``PointSummary`` counts beside the means. A failed or missing prediction scores 0 and stays in the denominator.

No method of this package predicts points today, so ``rvosbench score`` does not call this. Entry points:
``score_points`` for a query, ``summarise_points`` for a set of them.

Shape legend: H W pixels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rvosbench.harness.data.types import BoolHW
from rvosbench.harness.errors import PrerequisiteError

Appearances = Mapping[tuple[str, int], BoolHW]
"""(object, frame) -> its mask, for every scored frame; an empty mask says that the object is not visible."""


@dataclass(frozen=True, slots=True)
class Point:
    """A predicted point in pixels: the pixel in column c and row r covers [c, c + 1) x [r, r + 1)."""

    frame: int
    """Index into the video's frames."""
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class PointScore:
    """The counts of one query and what follows from them, fractions in [0, 1]."""

    hits: int
    points: int
    appearances: int
    failed: bool = False
    """There is no prediction: every value that could be defined is 0."""

    @property
    def precision(self) -> float | None:
        """None without points."""
        if self.failed:
            return 0.0
        return self.hits / self.points if self.points else None

    @property
    def recall(self) -> float | None:
        """None without appearances."""
        if self.appearances:
            return self.hits / self.appearances
        return 0.0 if self.failed else None

    @property
    def f1(self) -> float | None:
        """None without points and appearances."""
        if self.failed:
            return 0.0
        total = self.points + self.appearances
        return 2 * self.hits / total if total else None


@dataclass(frozen=True, slots=True)
class PointSummary:
    """Means over the queries for which a value is defined."""

    metric: str
    precision: float | None
    recall: float | None
    f1: float | None
    queries: int
    failed: int
    rightly_empty: int
    """Queries without an appearance and without a point: in none of the means."""
    wrongly_empty: int
    """Queries with an appearance, but without a point: precision is undefined, recall and F1 are 0."""
    wrongly_answered: int
    """Queries without an appearance, but with a point: recall is undefined, precision and F1 are 0."""


def point_metric(tolerance: int) -> str:
    """The metric's name, e.g. "points/tol1".

    Raises:
        ValueError: the tolerance is negative.
    """
    if tolerance < 0:
        raise ValueError(f"a tolerance of {tolerance} frames")
    return f"points/tol{tolerance}"


def point_tolerance(metric: str) -> int:
    """The tolerance in frames that a metric's name states.

    Raises:
        PrerequisiteError: it is no name of a point metric.
    """
    found = re.fullmatch(r"points/tol(0|[1-9][0-9]{0,5})", metric)
    if found is None:
        raise PrerequisiteError(f"There is no point metric '{metric}'.", "Name the tolerance, e.g. points/tol0.")
    return int(found[1])


def score_points(points: Sequence[Point] | None, appearances: Appearances, tolerance: int) -> PointScore:
    """Counts the hits of one query.

    Args:
        points: None for a failed or missing prediction; an empty sequence says that nothing was found.
        appearances: masks of the query's objects on every scored frame.
        tolerance: K, in frames.

    Raises:
        ValueError: a coordinate is not finite, or the tolerance is negative.
    """
    if tolerance < 0:
        raise ValueError(f"a tolerance of {tolerance} frames")
    visible = {place: mask_HW for place, mask_HW in appearances.items() if mask_HW.any()}
    if points is None:
        return PointScore(0, 0, len(visible), failed=True)
    for point in points:
        if not (math.isfinite(point.x) and math.isfinite(point.y)):
            raise ValueError(f"the coordinates of a point on frame {point.frame} are not finite")
    return PointScore(_used_hits(points, visible, tolerance), len(points), len(visible))


def summarise_points(scores: Sequence[PointScore], tolerance: int) -> PointSummary:
    """The plain mean over queries of each value, where it is defined, and how many queries it is not defined for."""
    answered = [score for score in scores if not score.failed]
    return PointSummary(
        metric=point_metric(tolerance),
        precision=_mean(score.precision for score in scores),
        recall=_mean(score.recall for score in scores),
        f1=_mean(score.f1 for score in scores),
        queries=len(scores),
        failed=len(scores) - len(answered),
        rightly_empty=sum(not score.points and not score.appearances for score in answered),
        wrongly_empty=sum(not score.points and score.appearances > 0 for score in answered),
        wrongly_answered=sum(score.points > 0 and not score.appearances for score in answered),
    )


def _used_hits(points: Sequence[Point], visible: Appearances, tolerance: int) -> int:
    """The size of the largest one-to-one assignment of points to appearances they hit."""
    # scipy takes longer to import than most commands run.
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    by_frame: dict[int, list[tuple[int, BoolHW]]] = {}
    for column, ((_, frame), mask_HW) in enumerate(visible.items()):
        by_frame.setdefault(frame, []).append((column, mask_HW))
    rows, columns = [], []
    for row, point in enumerate(points):
        for frame in range(point.frame - tolerance, point.frame + tolerance + 1):
            for column, mask_HW in by_frame.get(frame, ()):
                if _inside(point, mask_HW):
                    rows.append(row)
                    columns.append(column)
    if not rows:
        return 0
    # All hits weigh the same, so the Hungarian assignment is a maximum matching, which needs no dense matrix.
    hits = csr_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(len(points), len(visible)))
    return int((maximum_bipartite_matching(hits, perm_type="column") >= 0).sum())


def _inside(point: Point, mask_HW: BoolHW) -> bool:
    height, width = mask_HW.shape
    if not (0 <= point.x < width and 0 <= point.y < height):
        return False
    return bool(mask_HW[math.floor(point.y), math.floor(point.x)])


def _mean(values: Iterable[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None
