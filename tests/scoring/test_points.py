from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from rvosbench.harness.data.types import BoolHW
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.scoring.points import (
    Point,
    PointScore,
    point_metric,
    point_tolerance,
    score_points,
    summarise_points,
)

LEFT, RIGHT, EMPTY = np.zeros((4, 6), bool), np.zeros((4, 6), bool), np.zeros((4, 6), bool)
LEFT[:, :2] = True
RIGHT[:, 4:] = True


def values(score: PointScore) -> tuple[float | None, float | None, float | None]:
    return score.precision, score.recall, score.f1


def test_precision_recall_and_f1_by_hand() -> None:
    truth = {("a", 0): LEFT, ("a", 1): LEFT, ("b", 0): RIGHT, ("b", 1): EMPTY}
    # Right on a, twice right on b (one too many), and beside everything.
    points = [Point(0, 0.5, 0.5), Point(0, 4.0, 3.9), Point(0, 5.9, 0.0), Point(1, 3.0, 1.0)]
    score = score_points(points, truth, 0)
    assert (score.hits, score.points, score.appearances) == (2, 4, 3)
    assert values(score) == pytest.approx((2 / 4, 2 / 3, 4 / 7))


def test_a_pixel_ends_where_the_next_begins() -> None:
    truth = {("a", 0): LEFT}
    for x, y, hit in ((1.999, 0.0, 1), (2.0, 0.0, 0), (-0.001, 0.0, 0), (0.0, 3.999, 1), (0.0, 4.0, 0), (9.0, 9.0, 0)):
        assert score_points([Point(0, x, y)], truth, 0).hits == hit


def test_the_tolerance_is_in_frames() -> None:
    # Ground truth on every fifth frame, the answer one frame late.
    truth = {("a", 0): LEFT, ("a", 5): LEFT, ("a", 10): LEFT}
    points = [Point(frame, 1, 1) for frame in (1, 6, 11)]
    assert values(score_points(points, truth, 0)) == (0, 0, 0)
    assert values(score_points(points, truth, 1)) == (1, 1, 1)
    # One point is not the answer for two frames.
    assert score_points([Point(1, 1, 1)], {("a", 0): LEFT, ("a", 1): LEFT, ("a", 2): LEFT}, 1).hits == 1


def test_the_assignment_is_the_best_one() -> None:
    both = LEFT | RIGHT
    truth: dict[tuple[str, int], BoolHW] = {("a", 0): both, ("b", 0): LEFT}
    # The first point could be either object's; given to b it leaves nothing for the second but a.
    assert score_points([Point(0, 1, 1), Point(0, 5, 1)], truth, 0).hits == 2


@pytest.mark.parametrize("seed", range(6))
def test_equals_the_hungarian_assignment(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = {(name, frame): rng.random((5, 5)) < 0.3 for name in "abc" for frame in range(4)}
    points = [Point(int(rng.integers(5)), *rng.uniform(-1, 6, 2)) for _ in range(14)]
    for tolerance in (0, 1, 2):
        table = np.zeros((len(points), len(truth)))
        for row, point in enumerate(points):
            for column, ((_, frame), mask) in enumerate(truth.items()):
                x, y = int(np.floor(point.x)), int(np.floor(point.y))
                inside = 0 <= x < 5 and 0 <= y < 5 and mask[y, x]
                table[row, column] = inside and abs(frame - point.frame) <= tolerance
        assert score_points(points, truth, tolerance).hits == table[linear_sum_assignment(table, maximize=True)].sum()


def test_what_is_not_defined_is_not_1() -> None:
    there, absent = {("a", 0): LEFT}, {("a", 0): EMPTY}
    point = [Point(0, 5, 1)]
    assert values(score_points([], there, 0)) == (None, 0, 0)
    assert values(score_points(point, absent, 0)) == (0, None, 0)
    assert values(score_points(point, {}, 0)) == (0, None, 0)
    assert values(score_points([], absent, 0)) == (None, None, None)
    # No prediction at all is not an empty one.
    assert values(score_points(None, there, 0)) == (0, 0, 0)
    assert values(score_points(None, absent, 0)) == (0, 0, 0)


def test_means_are_over_what_is_defined_and_the_rest_is_counted() -> None:
    there, absent = {("a", 0): LEFT}, {("a", 0): EMPTY}
    answers = [([Point(0, 1, 1)], there), ([], there), ([Point(0, 1, 1)], absent), ([], absent), (None, there)]
    summary = summarise_points([score_points(points, truth, 2) for points, truth in answers], 2)
    assert summary.metric == "points/tol2"
    assert summary.precision == pytest.approx((1 + 0 + 0) / 3)
    assert summary.recall == pytest.approx((1 + 0 + 0) / 3)
    assert summary.f1 == pytest.approx((1 + 0 + 0 + 0) / 4)
    assert (summary.queries, summary.failed) == (5, 1)
    assert (summary.rightly_empty, summary.wrongly_empty, summary.wrongly_answered) == (1, 1, 1)
    assert summarise_points([], 0).f1 is None


def test_names_of_metrics() -> None:
    assert [point_tolerance(point_metric(tolerance)) for tolerance in (0, 1, 25)] == [0, 1, 25]
    for name in (
        "points",
        "points/tol",
        "points/tol-1",
        "points/tol01",
        "points/tol1 ",
        "tol1",
        "points/tol" + "9" * 20,
    ):
        with pytest.raises(PrerequisiteError):
            point_tolerance(name)
    with pytest.raises(ValueError, match="-1"):
        point_metric(-1)
    with pytest.raises(ValueError, match="-1"):
        score_points([], {}, -1)
    with pytest.raises(ValueError, match="finite"):
        score_points([Point(0, float("nan"), 0)], {}, 0)
