"""Which tracklets make the result: DecAF's attention consistency, or SteerSeg's correlation with both maps.

Sources: DecAF (arXiv 2510.19592) and its released code. Of SteerSeg (arXiv 2605.14908) only the names are public:
"Pearson correlation" between a tracklet and the "rollout attention tensors" of frames and video, fused with weights
(``wf0.30`` in file names). What is correlated, and how, are the settings of ``PearsonSettings``.

Shape legend: N tracklets, T keyframes, t time slots of a clip map, h w map cells, n values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rvosbench.methods.ground import fusion
from rvosbench.methods.segment.from_points import Rank, Ranked, Tracklet
from rvosbench.methods.segment.settings import Domain, KeepSettings, PearsonSettings
from rvosbench.methods.segment.tracklets import attention_consistency, final_scores, pool_masks, select

WORST = -1.0
"""The correlation of what has none: a constant mask (empty, full, or the same fraction of every cell) or map."""


@dataclass(frozen=True, eq=False)
class ViewMaps:
    """What tracklets are compared with, each map on its own grid and on every keyframe; None: not looked at."""

    clip_Thw: fusion.Float32 | None
    frame_Thw: fusion.Float32 | None


def pearson(first_n: NDArray[np.floating], second_n: NDArray[np.floating]) -> float:
    """Pearson's correlation of two equally long lists of values in float64, within [-1, 1]; -1 where one is constant.

    It does not change when either is scaled by a positive number or shifted.

    Raises:
        ValueError: the lists differ in length, or are empty.
    """
    if first_n.shape != second_n.shape or not first_n.size:
        raise ValueError(f"no correlation of {first_n.shape} with {second_n.shape} values")
    if np.ptp(first_n) == 0 or np.ptp(second_n) == 0:
        return WORST
    # Scaled first: sums of squares of tiny attention values would underflow.
    first, second = (_unit(values.astype(np.float64).ravel()) for values in (first_n, second_n))
    return float(np.clip(first @ second, -1.0, 1.0))


def _unit(values_n: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centred, and of length 1."""
    scaled_n = (values_n - values_n.min()) / np.ptp(values_n)
    centred_n = scaled_n - scaled_n.mean()
    return np.asarray(centred_n / np.linalg.norm(centred_n))


def correlation(mask_Thw: fusion.Float32, map_Thw: fusion.Float32, domain: Domain) -> float:
    """A pooled mask's correlation with a map: over all keyframes and cells at once, or the mean of the keyframes' own.

    In the mean, a keyframe on which the mask or the map is constant counts -1 like any other.
    """
    if domain == "clip":
        return pearson(mask_Thw, map_Thw)
    return float(np.mean([pearson(mask_hw, map_hw) for mask_hw, map_hw in zip(mask_Thw, map_Thw, strict=True)]))


def view_maps(maps: fusion.RolloutMaps, how: fusion.FusionSettings, settings: PearsonSettings) -> ViewMaps:
    """The maps of the chosen views, on every keyframe.

    Args:
        maps: as rolled out.
        how: views, smoothing, and whether the background is subtracted.
        settings: ``maps`` "raw" leaves out smoothing and normalisation.

    Raises:
        ValueError: the clip map's time slots do not cover the keyframes.
    """
    keyframes = len(maps.object_frame_thw)
    if settings.maps == "normalised":
        clip_thw = fusion.normalise_clip(fusion.contrast_clip(maps, how))
        frame_Thw = fusion.normalise_frames(fusion.contrast_frame(maps, how))
    else:
        clip_thw = _unsmoothed(maps.object_clip_thw, maps.background_clip_thw, how)
        frame_Thw = _unsmoothed(maps.object_frame_thw, maps.background_frame_thw, how)
    return ViewMaps(
        None if how.views == "frame" else fusion.match_keyframes(clip_thw, keyframes),
        None if how.views == "clip" else frame_Thw,
    )


def _unsmoothed(
    object_thw: fusion.Float32, background_thw: fusion.Float32 | None, how: fusion.FusionSettings
) -> fusion.Float32:
    if not how.subtract_background:
        return object_thw
    if background_thw is None:
        raise ValueError("subtracting the background needs background maps")
    return fusion.contrast(object_thw, background_thw)


def by_pearson(views: ViewMaps, settings: PearsonSettings, keep: KeepSettings) -> Rank:
    """Ranks by ``w_f`` x the correlation with the frame map + (1 - ``w_f``) x that with the clip map.

    A map that is not looked at adds nothing. Masks are averaged over the area of each cell, the maps stay as they are.
    """
    maps = {"rho_frame": views.frame_Thw, "rho_clip": views.clip_Thw}
    weights = {"rho_frame": settings.w_f, "rho_clip": 1.0 - settings.w_f}
    seen = {name: map_Thw for name, map_Thw in maps.items() if map_Thw is not None}

    def rank(tracklets: Sequence[Tracklet]) -> Ranked:
        rho_N = {name: np.zeros(len(tracklets)) for name in seen}
        for i, tracklet in enumerate(tracklets):
            masks_THW = tracklet.masks.unpack()
            for name, map_Thw in seen.items():
                _, height, width = map_Thw.shape
                rho_N[name][i] = correlation(pool_masks(masks_THW, height, width), map_Thw, settings.domain)
        score_N = np.zeros(len(tracklets))
        for name, values_N in rho_N.items():
            score_N += weights[name] * values_N
        scores = {name: values_N.astype(np.float32) for name, values_N in {**rho_N, "score": score_N}.items()}
        return Ranked(kept(scores["score"], keep), scores)

    return rank


def by_consistency(fused_Thw: fusion.Float32, keep: KeepSettings) -> Rank:
    """Ranks by DecAF's final score: the mean of predicted IoU, map value and attention consistency."""

    def rank(tracklets: Sequence[Tracklet]) -> Ranked:
        consistency = attention_consistency(fused_Thw, [tracklet.masks for tracklet in tracklets])
        final = final_scores(np.array([tracklet.score for tracklet in tracklets], dtype=np.float32), consistency)
        return Ranked(kept(final, keep), {"consistency": consistency, "final_score": final})

    return rank


def kept(score_N: NDArray[np.float32], keep: KeepSettings) -> tuple[int, ...]:
    """Which tracklets make the result, ascending; none only where there is none.

    "winner": the best, of equals the first one found. "near_best": all with at least that fraction of the best score;
    where the best is not positive, a fraction of it means nothing, and it alone is kept. "threshold": all above it, the
    best where none is (DecAF).
    """
    if not len(score_N):
        return ()
    if keep.rule == "threshold":
        return select(score_N, keep.value)
    best = int(score_N.argmax())
    if keep.rule == "winner" or score_N[best] <= 0:
        return (best,)
    return tuple(int(i) for i in np.flatnonzero(score_N >= np.float32(keep.value) * score_N[best]))
