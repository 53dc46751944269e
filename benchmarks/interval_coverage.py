"""What the 95% intervals cover, and how often a true null of the paired comparison is rejected.

``python benchmarks/interval_coverage.py`` draws benchmarks of a few videos from populations whose mean is known, lets
``rvosbench.harness.scoring.clusters`` estimate each, and counts. About a minute on one core.

Populations differ in what an interval finds hard: skew, two modes, clusters of very different sizes. Numbers of
expressions of a video are drawn too, so that sizes are unequal in every row but the one that says otherwise.

Shape legend: D draws, V videos, G groups, N items of a video at most.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from rvosbench.harness.scoring.clusters import ClusterEstimate, cluster_estimate
from rvosbench.harness.scoring.statistics import LEVEL, MIN_VIDEOS

FloatDVG = NDArray[np.float64]
VIDEOS = (5, MIN_VIDEOS, 15, 30, 90)
_BLOCK = 1 << 22
"""Items drawn at a time."""


@dataclass(frozen=True)
class Population:
    """Videos with a level each, and items around it."""

    name: str
    levels: Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.float64]]
    sizes: Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.int64]]
    groups: int = 1
    noise: float = 0.18
    """Standard deviation of items around the level of their video."""
    between: float = 0.0
    """Standard deviation of a group's level around that of its video."""
    paired: bool = False
    """Items are differences in [-1, 1] with mean 0, not scores in [0, 1]."""

    def draw(self, rng: np.random.Generator, draws: int, videos: int) -> tuple[FloatDVG, FloatDVG, FloatDVG]:
        """Sums, sums of squares and numbers of items, each (D, V, G)."""
        shape = (draws, videos, self.groups)
        levels_DVG = self.levels(rng, (draws, videos, 1)) + self.between * rng.standard_normal(shape)
        sizes_DVG = self.sizes(rng, shape)
        # Every group has an item, or there is nothing to average.
        sizes_DVG[:, :2] = np.maximum(sizes_DVG[:, :2], 1)
        places_N = np.arange(sizes_DVG.max())
        values_DVGN = levels_DVG[..., None] + self.noise * rng.standard_normal((*shape, len(places_N)))
        values_DVGN = np.clip(values_DVGN, -1.0 if self.paired else 0.0, 1.0)
        values_DVGN *= places_N < sizes_DVG[..., None]
        return values_DVGN.sum(axis=-1), (values_DVGN**2).sum(axis=-1), sizes_DVG.astype(np.float64)


@cache
def population_mean(population: Population) -> float:
    """The mean of a population: exact for differences, else from 200,000 videos."""
    if population.paired:
        return 0.0
    rng = np.random.default_rng(99)
    drawn = [population.draw(rng, 20, 1000) for _ in range(10)]
    sums_G = np.sum([sums.sum(axis=(0, 1)) for sums, _, _ in drawn], axis=0)
    sizes_G = np.sum([sizes.sum(axis=(0, 1)) for _, _, sizes in drawn], axis=0)
    return float(np.mean(sums_G / sizes_G))


def _objects(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """As in Ref-DAVIS17: four expressions of each of a few objects."""
    return 4 * (1 + rng.poisson(1.5, shape))


def _geometric(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Most videos have few expressions and some very many."""
    return rng.geometric(0.12, shape)


def _by_type(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """As in ReVOS: numbers of referring and of reasoning expressions."""
    return rng.poisson(np.array([12, 9]), shape)


def _eight(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.int64]:
    return np.full(shape, 8)


def _middling(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    return rng.beta(2.2, 1.2, shape)


def _skewed(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    return rng.beta(4, 0.8, shape)


def _low(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    return rng.beta(0.8, 4, shape)


def _two_modes(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Found or not found."""
    found = rng.random(shape) < 0.7
    return np.where(found, rng.uniform(0.7, 0.95, shape), rng.uniform(0.0, 0.2, shape))


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    return 0.1 * rng.standard_normal(shape)


def _heavy(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """A few videos make most of the difference."""
    return 0.05 * rng.standard_t(3, shape)


POPULATIONS = (
    Population("one group", _middling, _objects),
    Population("one group, equal sizes", _middling, _eight),
    Population("one group, very unequal sizes", _middling, _geometric),
    Population("one group, videos differ most", _middling, _objects, noise=0.05),
    Population("one group, expressions differ most", _middling, _objects, noise=0.35),
    Population("one group, high and skewed", _skewed, _objects),
    Population("one group, low and skewed", _low, _objects),
    Population("one group, two modes", _two_modes, _objects),
    Population("two groups", _middling, _by_type, groups=2, between=0.1),
    Population("two groups, very unequal sizes", _middling, _geometric, groups=2, between=0.1),
    Population("two groups, high and skewed", _skewed, _by_type, groups=2, between=0.1),
    Population("two groups, two modes", _two_modes, _by_type, groups=2, between=0.1),
    Population("difference", _normal, _objects, paired=True),
    Population("difference, very unequal sizes", _normal, _geometric, paired=True),
    Population("difference, heavy tails", _heavy, _objects, paired=True),
    Population("difference, two groups", _normal, _by_type, groups=2, between=0.05, paired=True),
    Population("difference, two groups, heavy tails", _heavy, _by_type, groups=2, between=0.02, paired=True),
)


def coverage(population: Population, videos: int, draws: int, seed: int) -> float:
    """The share of intervals that hold the population's mean. Of differences, 1 minus it is the share rejected."""
    truth = population_mean(population)
    rng = np.random.default_rng((seed, videos))
    block = max(1, _BLOCK // (videos * population.groups * 60))
    inside = 0
    for start in range(0, draws, block):
        estimate = cluster_estimate(*population.draw(rng, min(block, draws - start), videos))
        low_D, high_D = limits(population, estimate)
        inside += int(((low_D <= truth) & (truth <= high_D)).sum())
    return inside / draws


def limits(population: Population, estimate: ClusterEstimate) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The limits that the product prints for such items."""
    return estimate.difference_limits(LEVEL) if population.paired else estimate.score_limits(LEVEL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--videos", type=int, nargs="+", default=VIDEOS)
    given = parser.parse_args()
    table = Table("population", *(f"{videos} videos" for videos in given.videos))
    for population in POPULATIONS:
        covered = [coverage(population, videos, given.draws, given.seed) for videos in given.videos]
        cells = (f"{100 * (1 - share if population.paired else share):.1f}" for share in covered)
        table.add_row(population.name, *cells)
    console = Console(width=120)
    console.print(table)
    console.print(
        f"Percent of {given.draws} draws whose {100 * LEVEL:.0f}% interval holds the true mean; of differences, "
        f"percent that reject a true null. Below {MIN_VIDEOS} videos the product gives no interval."
    )


if __name__ == "__main__":
    main()
