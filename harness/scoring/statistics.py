"""Confidence intervals over videos, for the score of one method and for the difference of two.

The estimator is that of ``rvosbench.harness.scoring.clusters``, made for few videos with different numbers of
expressions. Below ``MIN_VIDEOS`` videos no method keeps what "95%" promises, and there is no interval.

Legend: V videos, G groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rvosbench.harness.results.schema import ConfidenceInterval
from rvosbench.harness.scoring.clusters import ClusterEstimate, FloatVG, cluster_estimate

LEVEL = 0.95
"""Of every interval."""
MIN_VIDEOS = 10
"""With fewer videos there is no interval."""
MIN_VIDEOS_PER_GROUP = 5
"""The same for a group: the items of a group that fewer videos have say too little about other videos."""
NO_INTERVAL = (
    f"No interval: it takes {MIN_VIDEOS} videos, {MIN_VIDEOS_PER_GROUP} in each group, that do not all score the same."
)
TIE = 1e-9
"""Two scores (fractions) closer than this are a tie: less than rounding of sums can separate."""


@dataclass(frozen=True, slots=True)
class Item:
    """What a protocol averages: the score of one expression, or of one object."""

    video: str
    name: str
    """Unique within the video and group."""
    group: str
    """Items are averaged within groups, then the groups' means are averaged."""
    J: float
    F: float

    @property
    def J_and_F(self) -> float:  # noqa: N802  the column of the score tables
        return (self.J + self.F) / 2


@dataclass(frozen=True, slots=True)
class Difference:
    """Second method minus first, on the items both have."""

    J: float
    F: float
    J_and_F: float
    interval: ConfidenceInterval | None
    """On J_and_F; None with too few videos, or where all videos differ by the same amount."""
    wins: int
    """Items where the second method's J_and_F is higher."""
    ties: int
    losses: int
    videos: int


def mean_of_groups(values: Sequence[float], groups: Sequence[str], wanted: Sequence[str]) -> float | None:
    """The mean over ``wanted`` of the mean of each group; None when a group is empty."""
    means = []
    for group in wanted:
        members = [value for value, of in zip(values, groups, strict=True) if of == group]
        if not members:
            return None
        means.append(float(np.mean(members)))
    return float(np.mean(means)) if means else None


def score_interval(items: Sequence[Item], groups: Sequence[str]) -> ConfidenceInterval | None:
    """The interval of J_and_F, within [0, 1].

    Returns:
        None with too few videos, in all or in a group, and where all videos score the same.
    """
    estimated = _estimate(items, [item.J_and_F for item in items], groups)
    if estimated is None:
        return None
    estimate, videos = estimated
    return _interval(estimate, estimate.score_limits(LEVEL), videos)


def difference_interval(items: Sequence[Item], groups: Sequence[str]) -> ConfidenceInterval | None:
    """The interval of a mean of paired differences, which the items hold as J and F.

    Returns:
        None with too few videos, in all or in a group, and where all videos differ by the same amount.
    """
    estimated = _estimate(items, [item.J_and_F for item in items], groups)
    if estimated is None:
        return None
    estimate, videos = estimated
    return _interval(estimate, estimate.difference_limits(LEVEL), videos)


def difference(first: Sequence[Item], second: Sequence[Item], groups: Sequence[str]) -> Difference | None:
    """Compares two methods item by item.

    Returns:
        None when a group has no item that both have.
    """
    items_b = {(item.video, item.group, item.name): item for item in second}
    pairs = [
        (item, items_b[item.video, item.group, item.name])
        for item in first
        if (item.video, item.group, item.name) in items_b
    ]
    gaps = [Item(a.video, a.name, a.group, b.J - a.J, b.F - a.F) for a, b in pairs]
    in_group = [gap.group for gap in gaps]
    j = mean_of_groups([gap.J for gap in gaps], in_group, groups)
    f = mean_of_groups([gap.F for gap in gaps], in_group, groups)
    if j is None or f is None:
        return None
    return Difference(
        J=j,
        F=f,
        J_and_F=(j + f) / 2,
        interval=difference_interval(gaps, groups),
        wins=sum(gap.J_and_F > TIE for gap in gaps),
        ties=sum(abs(gap.J_and_F) <= TIE for gap in gaps),
        losses=sum(gap.J_and_F < -TIE for gap in gaps),
        videos=len({gap.video for gap in gaps}),
    )


def _interval(estimate: ClusterEstimate, limits: tuple[np.ndarray, np.ndarray], videos: int) -> ConfidenceInterval:
    low, high = limits
    return ConfidenceInterval(LEVEL, float(low), float(high), "video", videos, float(estimate.degrees_of_freedom))


def _estimate(
    items: Sequence[Item], values: Sequence[float], groups: Sequence[str]
) -> tuple[ClusterEstimate, int] | None:
    """The estimate and its number of videos; None where it would support no interval."""
    sums_VG, squares_VG, sizes_VG = _by_video(items, values, groups)
    per_group_G = (sizes_VG > 0).sum(axis=0)
    if len(sizes_VG) < MIN_VIDEOS or not per_group_G.size or per_group_G.min() < MIN_VIDEOS_PER_GROUP:
        return None
    estimate = cluster_estimate(sums_VG, squares_VG, sizes_VG)
    return None if estimate.error <= TIE else (estimate, len(sizes_VG))


def _by_video(
    items: Sequence[Item], values: Sequence[float], groups: Sequence[str]
) -> tuple[FloatVG, FloatVG, FloatVG]:
    """Sum of values, sum of their squares and number of items, by video (name order) and group."""
    videos = {name: row for row, name in enumerate(sorted({item.video for item in items if item.group in groups}))}
    columns = {group: column for column, group in enumerate(groups)}
    sums_VG, squares_VG, sizes_VG = (np.zeros((len(videos), len(groups))) for _ in range(3))
    for item, value in zip(items, values, strict=True):
        if item.group in columns:
            place = videos[item.video], columns[item.group]
            sums_VG[place] += value
            squares_VG[place] += value**2
            sizes_VG[place] += 1
    return sums_VG, squares_VG, sizes_VG
