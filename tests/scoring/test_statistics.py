from __future__ import annotations

import numpy as np
import pytest

from rvosbench.harness.scoring.statistics import Item, bootstrap, difference, mean_of_groups


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


def slow_interval(items: list[Item], groups: tuple[str, ...], resamples: int, seed: int) -> tuple[float, float]:
    """Draws videos one resample at a time and averages the drawn items."""
    rng = np.random.default_rng(seed)
    videos = sorted({item.video for item in items})
    draws = rng.integers(len(videos), size=(resamples, len(videos)))
    means = []
    for draw in draws:
        drawn = [item for pick in draw for item in items if item.video == videos[pick]]
        per_group = [[item.J_and_F for item in drawn if item.group == group] for group in groups]
        if all(per_group):
            means.append(np.mean([np.mean(values) for values in per_group]))
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


@pytest.mark.parametrize("groups", [("",), ("referring", "reasoning")])
def test_interval_equals_the_slow_definition(groups: tuple[str, ...]) -> None:
    items = made_items(7, seed=3, groups=groups)
    spread = bootstrap(items, groups, resamples=200, seed=11)
    assert spread is not None
    assert (spread.low, spread.high) == pytest.approx(slow_interval(items, groups, 200, 11), abs=1e-12)


def test_a_draw_without_a_group_is_not_used() -> None:
    # Only one of three videos has reasoning expressions: 8 of 27 draws leave it out.
    items = [Item("a", "0", "x", 0.2, 0.2), Item("b", "0", "x", 0.6, 0.6), Item("c", "0", "y", 1.0, 1.0)]
    spread = bootstrap(items, ("x", "y"), resamples=500, seed=0)
    assert spread is not None
    assert (spread.low, spread.high) == pytest.approx(slow_interval(items, ("x", "y"), 500, 0))
    assert spread.low == pytest.approx(0.6)
    assert spread.high == pytest.approx(0.8)


def test_width_equals_the_closed_form_standard_error() -> None:
    # Standard error of a ratio of cluster sums: sqrt(sum_v (S_v - m n_v)^2) / N.
    items = made_items(120, seed=5)
    values = {}
    for item in items:
        values.setdefault(item.video, []).append(item.J_and_F)
    mean = np.mean([item.J_and_F for item in items])
    residuals = [sum(video) - mean * len(video) for video in values.values()]
    error = np.sqrt(np.sum(np.square(residuals))) / len(items)
    spread = bootstrap(items, ("",), resamples=20000, seed=1)
    assert spread is not None
    assert (spread.high - spread.low) / (2 * 1.959964) == pytest.approx(error, rel=0.04)
    # Treating expressions as independent would claim far too much.
    independent = np.std([item.J_and_F for item in items]) / np.sqrt(len(items))
    assert error > 1.5 * independent


def test_blocks_of_draws_are_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    items = made_items(9, seed=2)
    whole = bootstrap(items, ("",), resamples=300, seed=4)
    monkeypatch.setattr("rvosbench.harness.scoring.statistics._BLOCK", 9 * 7)
    assert bootstrap(items, ("",), resamples=300, seed=4) == whole
    assert bootstrap(items, ("",), resamples=300, seed=5) != whole


def test_order_of_items_does_not_matter() -> None:
    items = made_items(9, seed=2)
    one = bootstrap(items, ("",), resamples=100, seed=0)
    other = bootstrap(items[::-1], ("",), resamples=100, seed=0)
    assert one is not None and other is not None
    assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=1e-12)


def test_no_interval_from_one_video_or_an_empty_group() -> None:
    one = [Item("a", "0", "", 0.5, 0.5), Item("a", "1", "", 0.7, 0.7)]
    assert bootstrap(one, ("",), resamples=10, seed=0) is None
    two = [Item("a", "0", "x", 0.5, 0.5), Item("b", "0", "x", 0.5, 0.5)]
    assert bootstrap(two, ("x", "y"), resamples=10, seed=0) is None
    assert bootstrap([], ("",), resamples=10, seed=0) is None


def test_mean_of_groups() -> None:
    assert mean_of_groups([0.0, 0.2, 1.0], ["x", "x", "y"], ("x", "y")) == pytest.approx(0.55)
    assert mean_of_groups([0.0, 0.2, 1.0], ["x", "x", "y"], ("x",)) == pytest.approx(0.1)
    assert mean_of_groups([0.0], ["x"], ("x", "y")) is None
    assert mean_of_groups([], [], ()) is None


def test_difference_by_hand() -> None:
    first = [Item("a", "0", "", 0.5, 0.5), Item("a", "1", "", 0.9, 0.7), Item("b", "0", "", 0.3, 0.3)]
    second = [Item("a", "0", "", 0.6, 0.6), Item("a", "1", "", 0.7, 0.9), Item("b", "0", "", 0.1, 0.1)]
    result = difference(first, second, ("",), resamples=50, seed=0)
    assert result is not None
    assert (result.wins, result.ties, result.losses, result.videos) == (1, 1, 1, 2)
    assert pytest.approx((-0.3 / 3, 0.1 / 3)) == (result.J, result.F)
    assert result.J_and_F == pytest.approx(-0.1 / 3)


def test_difference_interval_equals_the_slow_definition() -> None:
    first = made_items(8, seed=0)
    rng = np.random.default_rng(1)
    second = [Item(i.video, i.name, i.group, float(rng.random()), float(rng.random())) for i in first]
    result = difference(first, second, ("",), resamples=150, seed=9)
    assert result is not None and result.interval is not None
    apart = [Item(a.video, a.name, "", b.J - a.J, b.F - a.F) for a, b in zip(first, second, strict=True)]
    low, high = slow_interval(apart, ("",), 150, 9)
    assert (result.interval.low, result.interval.high) == pytest.approx((low, high), abs=1e-12)
    # Pairing matters: the two intervals drawn apart do not give this one.
    assert difference(first, first, ("",), resamples=50, seed=0) == difference(
        first, list(reversed(first)), ("",), resamples=50, seed=0
    )


def test_difference_uses_common_items_only() -> None:
    first = [Item("a", "0", "", 0.5, 0.5), Item("b", "0", "", 0.5, 0.5)]
    second = [Item("a", "0", "", 0.8, 0.8), Item("c", "0", "", 0.0, 0.0)]
    result = difference(first, second, ("",), resamples=10, seed=0)
    assert result is not None
    assert result.J_and_F == pytest.approx(0.3)
    assert result.interval is None
    assert difference(first[:1], second[1:], ("",), resamples=10, seed=0) is None
