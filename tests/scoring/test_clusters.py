"""The estimator against its definition, written item by item, and against what it promises."""

from __future__ import annotations

import numpy as np
import pytest
from interval_coverage import POPULATIONS, Population, coverage
from numpy.typing import NDArray
from scipy.stats import t

from rvosbench.harness.scoring.clusters import cluster_estimate

FloatArray = NDArray[np.float64]
BY_NAME = {population.name: population for population in POPULATIONS}


def items_of(seed: int, videos: int, groups: int) -> list[tuple[int, int, float]]:
    """(video, group, value) of a few items in most videos and groups."""
    rng = np.random.default_rng(seed)
    items = [(video, group, rng.random()) for video in range(2) for group in range(groups)]
    for video in range(videos):
        for group in range(groups):
            items += [(video, group, rng.random() * (1 + video) / videos) for _ in range(rng.integers(0, 6))]
    return items


def tables(items: list[tuple[int, int, float]], videos: int, groups: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    sums, squares, sizes = (np.zeros((videos, groups)) for _ in range(3))
    for video, group, value in items:
        sums[video, group] += value
        squares[video, group] += value**2
        sizes[video, group] += 1
    return sums, squares, sizes


def mean_of_means(items: list[tuple[int, int, float]], groups: int) -> float:
    return float(np.mean([np.mean([value for _, of, value in items if of == group]) for group in range(groups)]))


def slow_estimate(items: list[tuple[int, int, float]], videos: int, groups: int) -> tuple[float, float, float]:
    """Mean, standard error and degrees of freedom from matrices over items."""
    video_N, group_N = np.array([item[0] for item in items]), np.array([item[1] for item in items])
    mean = mean_of_means(items, groups)
    changes = [
        mean_of_means([item for item in items if item[0] != video], groups) - mean
        for video in range(videos)
        if (video_N == video).any()
    ]
    # The working model: one correlation between any two items of a video.
    value_N = np.array([item[2] for item in items])
    residual_N = value_N - np.array([value_N[group_N == group].mean() for group in range(groups)])[group_N]
    same_NN = (video_N[:, None] == video_N) & ~np.eye(len(items), dtype=bool)
    pairs = np.outer(residual_N, residual_N)[same_NN]
    rho = float(np.clip(pairs.mean() / np.mean(residual_N**2), 0, 1)) if pairs.size else 0.0
    covariance_NN = np.eye(len(items)) + rho * same_NN
    # The estimate, and each jackknife change, as a linear function of the items.
    identity = np.eye(len(items))

    def linear(kept_N: NDArray[np.bool_]) -> FloatArray:
        row = np.zeros(len(items))
        for group in range(groups):
            mine_N = kept_N & (group_N == group)
            row += mine_N / mine_N.sum() / groups
        return row @ identity

    whole_N = linear(np.ones(len(items), dtype=bool))
    change_VN = np.array([linear(video_N != video) - whole_N for video in np.unique(video_N)])
    model_VV = change_VN @ covariance_NN @ change_VN.T
    scale = (whole_N @ covariance_NN @ whole_N) / np.trace(model_VV)
    error = np.sqrt(np.sum(np.square(changes)) * scale)
    return mean, float(error), float(np.trace(model_VV) ** 2 / np.trace(model_VV @ model_VV))


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("seed", range(5))
def test_equals_the_definition(seed: int, groups: int) -> None:
    videos = 6 + seed
    items = items_of(seed, videos, groups)
    estimate = cluster_estimate(*tables(items, videos, groups))
    found = (float(estimate.mean), float(estimate.error), float(estimate.degrees_of_freedom))
    assert found == pytest.approx(slow_estimate(items, videos, groups), rel=1e-9)


def test_one_item_a_video_gives_the_t_interval() -> None:
    values = np.random.default_rng(3).random(12)
    one = np.ones((12, 1))
    estimate = cluster_estimate(values[:, None], values[:, None] ** 2, one)
    assert float(estimate.degrees_of_freedom) == pytest.approx(11)
    assert float(estimate.error) == pytest.approx(values.std(ddof=1) / np.sqrt(12))
    expected = t.interval(0.95, 11, loc=values.mean(), scale=values.std(ddof=1) / np.sqrt(12))
    assert [float(limit) for limit in estimate.difference_limits(0.95)] == pytest.approx(expected)


def test_repeated_items_add_no_information() -> None:
    values = np.random.default_rng(4).random((15, 1))
    once = cluster_estimate(values, values**2, np.ones((15, 1)))
    often = cluster_estimate(9 * values, 9 * values**2, np.full((15, 1), 9.0))
    assert float(often.error) == pytest.approx(float(once.error))
    assert float(often.degrees_of_freedom) == pytest.approx(14)


def test_one_large_video_leaves_few_degrees_of_freedom() -> None:
    rng = np.random.default_rng(5)
    sizes = np.full((30, 1), 2.0)
    sizes[0] = 300
    sums = sizes * rng.random((30, 1))
    assert float(cluster_estimate(sums, sums**2 / sizes, sizes).degrees_of_freedom) < 2


def test_leading_axes_are_separate_data_sets() -> None:
    drawn = BY_NAME["two groups"].draw(np.random.default_rng(0), 6, 11)
    together = cluster_estimate(*drawn)
    for index in range(6):
        alone = cluster_estimate(*(table[index] for table in drawn))
        assert float(alone.error) == pytest.approx(together.error[index], rel=1e-12)
        assert float(alone.degrees_of_freedom) == pytest.approx(together.degrees_of_freedom[index], rel=1e-12)


def test_limits_of_a_score_stay_between_0_and_1() -> None:
    values = np.array([[0.0]] * 11 + [[1.0]])
    estimate = cluster_estimate(values, values**2, np.ones((12, 1)))
    low, high = estimate.score_limits(0.95)
    assert 0 < low < 1 / 12 < high < 1
    assert estimate.difference_limits(0.95)[0] < 0


@pytest.mark.parametrize("videos", [10, 30])
@pytest.mark.parametrize("population", POPULATIONS, ids=lambda population: population.name)
def test_coverage(population: Population, videos: int) -> None:
    # The percentile bootstrap covers 87% of one group at 10 videos and 90% at 30.
    share = coverage(population, videos, draws=2000, seed=1)
    tolerance = 2 * np.sqrt(0.95 * 0.05 / 2000)
    assert 0.93 - tolerance <= share <= 0.97 + tolerance
