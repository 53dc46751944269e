from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import t

from rvosbench.harness.results.schema import ConfidenceInterval
from rvosbench.harness.scoring.statistics import (
    MIN_VIDEOS,
    Item,
    difference,
    difference_interval,
    mean_of_groups,
    score_interval,
)


def made_items(videos: int, seed: int, groups: tuple[str, ...] = ("",)) -> list[Item]:
    """Items whose videos differ more than the items within one, several per video."""
    rng = np.random.default_rng(seed)
    items = []
    for video in range(videos):
        level = rng.uniform(0.2, 0.8)
        for index in range(int(rng.integers(1, 7))):
            j, f = np.clip(level + rng.normal(0, 0.05, size=2), 0, 1)
            group = groups[int(rng.integers(len(groups)))]
            items.append(Item(f"v{video:03}", str(index), group, float(j), float(f)))
    return items


def ten(value: float, group: str = "", videos: int = MIN_VIDEOS, first: int = 0) -> list[Item]:
    """One item in each of some videos, a little apart from each other."""
    return [
        Item(f"v{video:03}", "0", group, value + 0.001 * video, value - 0.002 * video)
        for video in range(first, first + videos)
    ]


def limits(interval: ConfidenceInterval | None) -> tuple[float, float]:
    assert interval is not None
    return interval.low, interval.high


def test_an_interval_by_hand() -> None:
    items = ten(0.5)
    values = np.array([item.J_and_F for item in items])
    half = t.ppf(0.975, 9) * values.std(ddof=1) / np.sqrt(10)
    mean = values.mean()
    width = half / (mean * (1 - mean))
    interval = score_interval(items, ("",))
    assert limits(interval) == pytest.approx((expit(logit(mean) - width), expit(logit(mean) + width)))
    assert interval is not None
    assert (interval.level, interval.unit, interval.videos) == (0.95, "video", 10)
    assert interval.degrees_of_freedom == pytest.approx(9)
    assert limits(difference_interval(items, ("",))) == pytest.approx((mean - half, mean + half))


def test_expressions_of_a_video_are_not_independent() -> None:
    items = made_items(120, seed=5)
    interval = score_interval(items, ("",))
    independent = np.std([item.J_and_F for item in items]) / np.sqrt(len(items))
    low, high = limits(interval)
    assert high - low > 1.5 * 2 * 1.96 * independent


def test_order_of_items_does_not_matter() -> None:
    items = made_items(12, seed=2)
    assert limits(score_interval(items[::-1], ("",))) == pytest.approx(limits(score_interval(items, ("",))), abs=1e-12)


def test_no_interval_with_too_few_videos() -> None:
    assert score_interval([], ("",)) is None
    assert score_interval([], ()) is None
    assert score_interval(ten(0.5), ("",)) is not None
    assert score_interval(ten(0.5, videos=9), ("",)) is None
    assert difference_interval(ten(0.5, videos=9), ("",)) is None
    # Many expressions of few videos are few videos.
    many = [Item(f"v{index % 9}", str(index), "", index / 500, 0.5) for index in range(400)]
    assert score_interval(many, ("",)) is None


def test_no_interval_with_too_few_videos_in_a_group() -> None:
    both = ten(0.5, "x"), ten(0.7, "y", videos=5)
    assert score_interval([*both[0], *both[1]], ("x", "y")) is not None
    assert score_interval([*both[0], *both[1][:4]], ("x", "y")) is None
    assert score_interval(both[0], ("x", "y")) is None
    # Items of groups that are not averaged are not videos of the score.
    assert score_interval([*ten(0.5, "x", videos=6), *ten(0.7, "y", first=6)], ("x",)) is None


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_no_interval_where_all_videos_score_the_same(value: float) -> None:
    same = [Item(f"v{video}", str(index), "", value, value) for video in range(12) for index in range(1 + video % 3)]
    assert score_interval(same, ("",)) is None
    assert difference_interval(same, ("",)) is None


def test_mean_of_groups() -> None:
    assert mean_of_groups([0.0, 0.2, 1.0], ["x", "x", "y"], ("x", "y")) == pytest.approx(0.55)
    assert mean_of_groups([0.0, 0.2, 1.0], ["x", "x", "y"], ("x",)) == pytest.approx(0.1)
    assert mean_of_groups([0.0], ["x"], ("x", "y")) is None
    assert mean_of_groups([], [], ()) is None


def test_difference_by_hand() -> None:
    first = [Item("a", "0", "", 0.5, 0.5), Item("a", "1", "", 0.9, 0.7), Item("b", "0", "", 0.3, 0.3)]
    second = [Item("a", "0", "", 0.6, 0.6), Item("a", "1", "", 0.7, 0.9), Item("b", "0", "", 0.1, 0.1)]
    result = difference(first, second, ("",))
    assert result is not None
    assert (result.wins, result.ties, result.losses, result.videos) == (1, 1, 1, 2)
    assert pytest.approx((-0.3 / 3, 0.1 / 3)) == (result.J, result.F)
    assert result.J_and_F == pytest.approx(-0.1 / 3)


def test_difference_interval_is_that_of_the_gaps() -> None:
    first = made_items(18, seed=0)
    rng = np.random.default_rng(1)
    second = [Item(i.video, i.name, i.group, float(rng.random()), float(rng.random())) for i in first]
    result = difference(first, second, ("",))
    assert result is not None
    gaps = [Item(a.video, a.name, "", b.J - a.J, b.F - a.F) for a, b in zip(first, second, strict=True)]
    assert limits(result.interval) == pytest.approx(limits(difference_interval(gaps, ("",))))
    low, high = limits(result.interval)
    assert low < result.J_and_F < high


def test_a_method_does_not_differ_from_itself() -> None:
    items = made_items(18, seed=0)
    result = difference(items, list(reversed(items)), ("",))
    assert result is not None
    assert (result.J_and_F, result.interval, result.ties) == (0.0, None, len(items))


def test_difference_uses_common_items_only() -> None:
    first = [Item("a", "0", "", 0.5, 0.5), Item("b", "0", "", 0.5, 0.5)]
    second = [Item("a", "0", "", 0.8, 0.8), Item("c", "0", "", 0.0, 0.0)]
    result = difference(first, second, ("",))
    assert result is not None
    assert result.J_and_F == pytest.approx(0.3)
    assert result.interval is None
    assert difference(first[:1], second[1:], ("",)) is None
