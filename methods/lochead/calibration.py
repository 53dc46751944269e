"""Which heads localise: attention sum, spatial entropy, selection frequency (Loc-Head, arXiv 2503.06287, section 3).

On every pair of image and expression each head has a map. Criterion 1 keeps heads whose attention sum is large;
criterion 2 prefers those whose map has few components. Of the heads that pass the first, the ``top`` best by the second
are selected on that pair; the heads most often selected over many pairs are the model's localization heads.

Pure numpy; what the paper and its code do differently is a setting (``CalibrationSettings``).

Shape legend: N layers looked at, A heads of a layer, M = N A heads counted layer by layer, h w map cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

from rvosbench.methods.lochead.settings import CalibrationSettings
from rvosbench.methods.models.lvlm.family import Edge

Float64 = NDArray[np.float64]
_ROUNDING = 1e-12
_NEIGHBOURS = np.zeros((3, 3, 3), dtype=np.int8)
_NEIGHBOURS[1] = 1  # eight neighbours within a map, none in the neighbouring maps of the array


@dataclass(frozen=True, eq=False)
class PairHeads:
    """What is kept of every head's map on one pair."""

    sum_M: Float64
    """Attention sum over the image."""
    entropy_M: Float64
    """Spatial entropy; infinite where nothing exceeds."""
    sink_M: NDArray[np.bool_]
    """A cell on one of the sink edges has too much."""


def read_maps(maps_NAhw: NDArray[np.float32], settings: CalibrationSettings, edges: Sequence[Edge]) -> PairHeads:
    """The three numbers of every head."""
    maps_Mhw = maps_NAhw.reshape(-1, *maps_NAhw.shape[2:]).astype(np.float64)
    return PairHeads(
        maps_Mhw.sum((1, 2)), spatial_entropy(maps_Mhw, settings), _sinks(maps_Mhw, edges, settings.sink_above)
    )


def spatial_entropy(maps_Mhw: Float64, settings: CalibrationSettings) -> Float64:
    """Entropy over the 8-connected components of what exceeds the map's mean, (M,): -sum P log P.

    One component gives 0, however it is weighed by area. A map without a component gives infinity: nothing stands out.
    """
    over_Mhw = np.maximum(maps_Mhw - settings.over_mean * maps_Mhw.mean((1, 2), keepdims=True), 0.0)
    # The mean of equal values may come out below them; such a map would be one component, and the best of all.
    rounding_M11 = _ROUNDING * maps_Mhw.max((1, 2), keepdims=True)
    components_Mhw, count = label(over_Mhw > np.maximum(settings.cut, rounding_M11), structure=_NEIGHBOURS)
    cells = np.flatnonzero(components_Mhw)
    component = components_Mhw.ravel()[cells] - 1
    by_area = settings.weight == "area"
    amount = np.ones(len(cells)) if by_area else over_Mhw.ravel()[cells]
    weight_c = np.bincount(component, amount, minlength=count)
    map_c = np.zeros(count, dtype=np.int64)
    map_c[component] = cells // (maps_Mhw.shape[1] * maps_Mhw.shape[2])
    heads = len(maps_Mhw)
    whole_M = np.bincount(map_c, weight_c, minlength=heads) if by_area else over_Mhw.sum((1, 2))
    fraction_c = weight_c / whole_M[map_c]
    entropy_M = np.bincount(map_c, -fraction_c * np.log(fraction_c), minlength=heads)
    return np.where(np.bincount(map_c, minlength=heads) > 0, entropy_M, np.inf)


def elbow(values: Float64) -> int:
    """Index of the value where the sorted values bend most: the farthest one from the chord between the ends.

    >>> elbow(np.array([0.9, 0.0, 0.1, 0.05]))
    2
    """
    order = np.argsort(values, kind="stable")
    y = values[order]
    x = np.arange(len(y))
    # Twice the area of a triangle over the chord: proportional to the distance from it.
    distance = np.abs((y[-1] - y[0]) * x - (len(y) - 1) * (y - y[0]))
    return int(order[distance.argmax()])


def select(pair: PairHeads, settings: CalibrationSettings, passing_M: NDArray[np.bool_]) -> NDArray[np.intp]:
    """The heads selected on one pair, at most ``top``: lowest entropy first, of those that pass and are no sinks."""
    candidates = np.flatnonzero(passing_M & ~pair.sink_M & np.isfinite(pair.entropy_M))
    if settings.ties == "sum":
        candidates = candidates[np.argsort(-pair.sum_M[candidates], kind="stable")]
    order = np.argsort(pair.entropy_M[candidates], kind="stable")
    return candidates[order[: settings.top]]


@dataclass(frozen=True, eq=False)
class Trial:
    """The outcome of one draw of pairs."""

    frequency_M: Float64
    """Fraction of the pairs on which a head was selected."""
    threshold: float | None
    """The attention sum at the elbow; None where every pair has its own."""


def run_trial(pairs: Sequence[PairHeads], settings: CalibrationSettings) -> Trial:
    """How often each head is selected over a trial's pairs.

    Raises:
        ValueError: no pairs.
    """
    if not pairs:
        raise ValueError("a trial needs at least one pair")
    threshold: float | None = None
    common_M: NDArray[np.bool_] | None = None
    if settings.threshold == "mean_sums":
        mean_M = np.mean([pair.sum_M for pair in pairs], axis=0)
        threshold = float(mean_M[elbow(mean_M)])
        common_M = mean_M >= threshold
    count_M = np.zeros(len(pairs[0].sum_M))
    for pair in pairs:
        passing_M = _passing(pair, settings) if common_M is None else common_M
        count_M[select(pair, settings, passing_M)] += 1
    return Trial(count_M / len(pairs), threshold)


def most_frequent(trials: Sequence[Trial], count: int) -> list[int]:
    """The heads with the highest frequency averaged over trials; equals in the order they are counted.

    Heads that were never selected are left out, so there may be fewer than ``count``.
    """
    mean_M = np.mean([trial.frequency_M for trial in trials], axis=0)
    order = np.argsort(-mean_M, kind="stable")
    return [int(head) for head in order[:count] if mean_M[head] > 0]


def _passing(pair: PairHeads, settings: CalibrationSettings) -> NDArray[np.bool_]:
    """Criterion 1 with a pair's own sums."""
    at = elbow(pair.sum_M)
    if settings.threshold == "head_index":
        return np.asarray(np.arange(len(pair.sum_M)) >= at)
    return np.asarray(pair.sum_M >= pair.sum_M[at])


def _sinks(maps_Mhw: Float64, edges: Sequence[Edge], above: float) -> NDArray[np.bool_]:
    lines = {
        "bottom": maps_Mhw[:, -1],
        "top": maps_Mhw[:, 0],
        "left": maps_Mhw[:, :, 0],
        "right": maps_Mhw[:, :, -1],
    }
    sink_M = np.zeros(len(maps_Mhw), dtype=np.bool_)
    for edge in edges:
        sink_M |= (lines[edge] > above).any(1)
    return sink_M
