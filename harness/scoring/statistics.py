"""How sure a mean is: bootstrap over videos, for one method and for the difference of two.

Expressions of one video share its frames and often its target, so they are not independent: whole videos are drawn
with replacement (cluster bootstrap), and the protocol's mean is taken of what was drawn. The interval is the
percentile interval. All methods on a dataset meet the same draws, because the draw depends on the seed and the
number of videos only.

Legend: V videos, G groups, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
"""Of every interval."""
TIE = 1e-9
"""Two scores (fractions) closer than this are a tie: less than rounding of sums can separate."""

_BLOCK = 1 << 22
"""Drawn indices held at a time."""


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """How intervals are drawn."""

    resamples: int = 1000
    seed: int = 0


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
class Spread:
    """A percentile interval."""

    low: float
    high: float
    level: float
    resamples: int
    """As drawn. Draws that left a group empty are not used."""
    seed: int


@dataclass(frozen=True, slots=True)
class Difference:
    """Second method minus first, on the items both have."""

    J: float
    F: float
    J_and_F: float
    interval: Spread | None
    """On J_and_F; None with fewer than two videos."""
    wins: int
    """Items where the second method's J_and_F is higher."""
    ties: int
    losses: int
    videos: int


def mean_of_groups(values: Sequence[float], groups: Sequence[str], wanted: Sequence[str]) -> float | None:
    """The mean over ``wanted`` of the mean of each group; None when a group is empty."""
    means = []
    for group in wanted:
        mine = [value for value, of in zip(values, groups, strict=True) if of == group]
        if not mine:
            return None
        means.append(float(np.mean(mine)))
    return float(np.mean(means)) if means else None


def bootstrap(items: Sequence[Item], groups: Sequence[str], *, resamples: int, seed: int) -> Spread | None:
    """The interval of J_and_F when videos are drawn with replacement.

    Returns:
        None with fewer than two videos, or when a group has no item.
    """
    return _interval(items, [item.J_and_F for item in items], groups, resamples, seed)


def difference(
    first: Sequence[Item], second: Sequence[Item], groups: Sequence[str], *, resamples: int, seed: int
) -> Difference | None:
    """Compares two methods item by item, videos drawn together.

    Returns:
        None when a group has no item that both have.
    """
    theirs = {(item.video, item.group, item.name): item for item in second}
    pairs = [
        (item, theirs[item.video, item.group, item.name])
        for item in first
        if (item.video, item.group, item.name) in theirs
    ]
    items = [item for item, _ in pairs]
    in_group = [item.group for item in items]
    in_j, in_f = [b.J - a.J for a, b in pairs], [b.F - a.F for a, b in pairs]
    in_both = [b.J_and_F - a.J_and_F for a, b in pairs]
    j, f = mean_of_groups(in_j, in_group, groups), mean_of_groups(in_f, in_group, groups)
    if j is None or f is None:
        return None
    return Difference(
        J=j,
        F=f,
        J_and_F=(j + f) / 2,
        interval=_interval(items, in_both, groups, resamples, seed),
        wins=sum(value > TIE for value in in_both),
        ties=sum(abs(value) <= TIE for value in in_both),
        losses=sum(value < -TIE for value in in_both),
        videos=len({item.video for item in items}),
    )


def _interval(
    items: Sequence[Item], values: Sequence[float], groups: Sequence[str], resamples: int, seed: int
) -> Spread | None:
    sums_VG, sizes_VG = _by_video(items, values, groups)
    if len(sums_VG) < 2 or not sizes_VG.sum(axis=0).all():
        return None
    means_R = _resampled_means(sums_VG, sizes_VG, resamples, seed)
    if not means_R.size:
        return None
    low, high = np.quantile(means_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Spread(float(low), float(high), LEVEL, resamples, seed)


def _by_video(
    items: Sequence[Item], values: Sequence[float], groups: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum of values and number of items, by video (name order) and group."""
    videos = {name: row for row, name in enumerate(sorted({item.video for item in items if item.group in groups}))}
    columns = {group: column for column, group in enumerate(groups)}
    sums_VG = np.zeros((len(videos), len(groups)))
    sizes_VG = np.zeros((len(videos), len(groups)))
    for item, value in zip(items, values, strict=True):
        if item.group in columns:
            place = videos[item.video], columns[item.group]
            sums_VG[place] += value
            sizes_VG[place] += 1
    return sums_VG, sizes_VG


def _resampled_means(
    sums_VG: NDArray[np.float64], sizes_VG: NDArray[np.float64], resamples: int, seed: int
) -> NDArray[np.float64]:
    """The mean of group means of every draw that leaves no group empty, (at most R,)."""
    rng = np.random.default_rng(seed)
    videos = len(sums_VG)
    block = max(1, _BLOCK // videos)
    means = []
    for start in range(0, resamples, block):
        drawn = min(block, resamples - start)
        picks_RV = rng.integers(videos, size=(drawn, videos))
        # How often each video was drawn: rows are told apart by an offset, so that one bincount does all.
        offsets_R1 = np.arange(drawn)[:, None] * videos
        times_RV = np.bincount((picks_RV + offsets_R1).reshape(-1), minlength=drawn * videos).reshape(drawn, videos)
        sizes_RG = times_RV @ sizes_VG
        sums_RG = times_RV @ sums_VG
        whole_R = (sizes_RG > 0).all(axis=1)
        means.append((sums_RG[whole_R] / sizes_RG[whole_R]).mean(axis=1))
    return np.concatenate(means)
