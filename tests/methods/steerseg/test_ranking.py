"""Pearson ranking: its definition, what it does not depend on, cases worked out by hand, and what is kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rvosbench.methods.ground.fusion import FusionSettings, RolloutMaps
from rvosbench.methods.models.sam2.packed import PackedMasks
from rvosbench.methods.segment.from_points import Tracklet
from rvosbench.methods.segment.ranking import (
    ViewMaps,
    by_consistency,
    by_pearson,
    correlation,
    kept,
    pearson,
    view_maps,
)
from rvosbench.methods.segment.settings import KeepSettings, PearsonSettings

WINNER = KeepSettings("winner", 0.0)


def array(values: object) -> Any:
    return np.array(values, dtype=np.float32)


def slow_pearson(first: Sequence[float], second: Sequence[float]) -> float:
    """The definition: covariance over the product of standard deviations, in exact summation."""
    count = len(first)
    mean_first, mean_second = math.fsum(first) / count, math.fsum(second) / count
    covariance = math.fsum((a - mean_first) * (b - mean_second) for a, b in zip(first, second, strict=True))
    spread_first = math.fsum((a - mean_first) ** 2 for a in first)
    spread_second = math.fsum((b - mean_second) ** 2 for b in second)
    return covariance / math.sqrt(spread_first * spread_second)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e-25])
def test_pearson_is_its_definition_at_any_size_of_values(scale: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = rng.random((3, 4, 5))
        values = scale * (0.3 * mask + rng.random((3, 4, 5)))
        assert pearson(mask, values) == pytest.approx(slow_pearson(mask.ravel(), values.ravel()), abs=1e-12)


@given(
    st.lists(st.integers(-50, 50), min_size=2, max_size=12).filter(lambda values: len(set(values)) > 1),
    st.integers(0, 2**32 - 1),
    st.sampled_from([2.0**-20, 0.1, 3.0, 2.0**20]),
    st.integers(-1000, 1000),
)
def test_an_affine_change_of_either_side_changes_nothing(
    values: list[int], seed: int, scale: float, shift: int
) -> None:
    first, second = np.array(values, dtype=float), np.random.default_rng(seed).random(len(values))
    rho = pearson(first, second)
    assert -1 <= rho <= 1
    assert pearson(scale * first + shift, second) == pytest.approx(rho, abs=1e-9)
    assert pearson(second, scale * first + shift) == pytest.approx(rho, abs=1e-9)
    assert pearson(-scale * first, second) == pytest.approx(-rho, abs=1e-9)


def test_pearson_by_hand() -> None:
    mask = array([1, 1, 0, 0])
    # Deviations 1/2 1/2 -1/2 -1/2 with 5/4 -3/4 1/4 -3/4: 1/2 over sqrt(1 x 11/4).
    assert pearson(mask, array([2, 0, 1, 0])) == pytest.approx(0.5 / math.sqrt(2.75), abs=1e-12)
    assert pearson(mask, array([9, 9, 7, 7])) == 1.0
    assert pearson(mask, array([0, 0, 0.1, 0.1])) == -1.0
    assert pearson(mask, array([1, 0, 1, 0])) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("constant", [0.0, 1.0, 0.1])
def test_a_constant_mask_or_map_is_the_worst(constant: float) -> None:
    flat, other = np.full((2, 3, 3), constant, dtype=np.float32), np.arange(18, dtype=np.float32).reshape(2, 3, 3)
    assert pearson(flat, other) == pearson(other, flat) == pearson(flat, flat) == -1.0


def test_lists_that_do_not_fit_are_refused() -> None:
    for first, second in ((np.zeros(3), np.zeros(4)), (np.zeros(0), np.zeros(0))):
        with pytest.raises(ValueError, match="no correlation"):
            pearson(first, second)


def test_over_the_clip_differs_from_the_mean_over_keyframes() -> None:
    mask = array([[[1, 0]], [[1, 0]], [[0, 0]]])
    maps = array([[[0.2, 0.1]], [[0.5, 0.9]], [[0, 1]]])
    values = [0.2, 0.1, 0.5, 0.9, 0, 1]
    assert correlation(mask, maps, "clip") == pytest.approx(slow_pearson([1, 0, 1, 0, 0, 0], values), abs=1e-7)
    # Keyframe by keyframe: exactly along, exactly against, and no mask at all.
    assert correlation(mask, maps, "keyframe") == pytest.approx((1 - 1 - 1) / 3)


MAPS = RolloutMaps(
    array([[[0.4, 0.1], [0.0, 0.1]], [[0.1, 0.3], [0.2, 0.0]]]),
    array([[[0.5, 0.0]], [[0.2, 0.3]], [[0.1, 0.1]]]),
    array([[[0.0, 0.2], [0.0, 0.0]], [[0.0, 0.1], [0.0, 0.0]]]),
    array([[[0.1, 0.3]], [[0.0, 0.0]], [[0.1, 0.0]]]),
)
PLAIN = FusionSettings(subtract_background=False, clip_kernel=1, frame_kernel=1)


def ranking(w_f: float = 0.3, domain: Any = "clip", maps: Any = "normalised") -> PearsonSettings:
    return PearsonSettings(w_f, domain, maps)


def test_maps_keep_their_grid_and_slots_of_two_keyframes_count_for_both() -> None:
    views = view_maps(MAPS, PLAIN, ranking())
    expected = array([[[1.0, 0.25], [0.0, 0.25]]] * 2 + [[[0.25, 0.75], [0.5, 0.0]]])
    np.testing.assert_allclose(views.clip_Thw, expected, atol=1e-7)
    np.testing.assert_allclose(views.frame_Thw, array([[[1, 0]], [[0, 1]], [[0, 0]]]), atol=1e-6)


def test_raw_maps_are_as_rolled_out_and_may_have_the_background_subtracted() -> None:
    blurred = FusionSettings(subtract_background=False)
    views = view_maps(MAPS, blurred, ranking(maps="raw"))
    np.testing.assert_array_equal(views.frame_Thw, MAPS.object_frame_thw)
    np.testing.assert_array_equal(views.clip_Thw, MAPS.object_clip_thw[[0, 0, 1]])
    less = view_maps(MAPS, FusionSettings(), ranking(maps="raw"))
    np.testing.assert_allclose(less.frame_Thw, array([[[0.4, 0]], [[0.2, 0.3]], [[0, 0.1]]]), atol=1e-7)
    alone = RolloutMaps(MAPS.object_clip_thw, MAPS.object_frame_thw)
    with pytest.raises(ValueError, match="background"):
        view_maps(alone, FusionSettings(), ranking(maps="raw"))


@pytest.mark.parametrize(("view", "seen"), [("both", (True, True)), ("clip", (True, False)), ("frame", (False, True))])
def test_one_view_alone_is_all_that_is_looked_at(view: Any, seen: tuple[bool, bool]) -> None:
    views = view_maps(MAPS, FusionSettings(views=view, subtract_background=False), ranking())
    assert (views.clip_Thw is not None, views.frame_Thw is not None) == seen


def tracklet(masks_THW: Any, iou: float = 0.5, value: float = 0.9) -> Tracklet:
    packed = PackedMasks.pack(np.asarray(masks_THW, dtype=bool))
    return Tracklet(0, (0.5, 0.5), value, iou, np.float32(iou + value), packed)


def halves(*sides: str) -> Any:
    """A (T, 4, 6) mask track that fills the left ("l") or right ("r") half of each keyframe, or none of it ("-")."""
    masks_THW = np.zeros((len(sides), 4, 6), dtype=bool)
    for mask_HW, side in zip(masks_THW, sides, strict=True):
        mask_HW[:, {"l": slice(0, 3), "r": slice(3, 6), "-": slice(0, 0)}[side]] = True
    return masks_THW


VIEWS = ViewMaps(
    clip_Thw=array([[[0.9, 0.1]], [[0.8, 0.0]]]),
    frame_Thw=array([[[0, 0, 1, 1], [0, 0, 1, 1]], [[1, 1, 0, 0], [1, 1, 0, 0]]]),
)
"""The clip map sees the object on the left throughout, the frame map first on the right, then on the left."""


def test_the_weights_decide_between_the_views() -> None:
    tracklets = [tracklet(halves("l", "l")), tracklet(halves("r", "l")), tracklet(halves("-", "-"))]
    clip, frame = array([0.9, 0.1, 0.8, 0]), array([0, 0, 1, 1, 0, 0, 1, 1, 1, 1, 0, 0, 1, 1, 0, 0])
    left = array([1, 0, 1, 0])
    moved = array([0, 1, 1, 0])
    rho_clip = [slow_pearson(left, clip), slow_pearson(moved, clip), -1]
    rho_frame = [slow_pearson(array([1, 1, 0, 0] * 4), frame), 1, -1]
    assert rho_frame[0] == pytest.approx(0)
    for w_f, winner in ((0.0, 0), (0.3, 0), (0.7, 1), (1.0, 1)):
        ranked = by_pearson(VIEWS, ranking(w_f), WINNER)(tracklets)
        np.testing.assert_allclose(ranked.scores["rho_clip"], rho_clip, atol=1e-6)
        np.testing.assert_allclose(ranked.scores["rho_frame"], rho_frame, atol=1e-6)
        expected = w_f * np.array(rho_frame) + (1 - w_f) * np.array(rho_clip)
        np.testing.assert_allclose(ranked.scores["score"], expected, atol=1e-6)
        assert ranked.selected == (winner,)


def test_masks_are_averaged_over_cells_not_sampled() -> None:
    third = np.zeros((1, 4, 6), dtype=bool)
    third[:, :, :1] = True
    maps = ViewMaps(array([[[0.3, 0.1, 0.0]]]), None)
    [rho] = by_pearson(maps, ranking(0.0), WINNER)([tracklet(third)]).scores["rho_clip"]
    assert rho == pytest.approx(slow_pearson([0.5, 0, 0], [0.3, 0.1, 0.0]), abs=1e-6)


def test_a_view_left_out_gives_no_score() -> None:
    ranked = by_pearson(ViewMaps(None, VIEWS.frame_Thw), ranking(1.0), WINNER)([tracklet(halves("r", "l"))])
    assert sorted(ranked.scores) == ["rho_frame", "score"]
    assert ranked.scores["score"][0] == pytest.approx(1)


def test_without_tracklets_nothing_is_kept() -> None:
    for rule in (WINNER, KeepSettings("near_best", 0.9), KeepSettings("threshold", 0.8)):
        ranked = by_pearson(VIEWS, ranking(), rule)([])
        assert ranked.selected == ()
        assert {name: values.shape for name, values in ranked.scores.items()} == dict.fromkeys(
            ("rho_frame", "rho_clip", "score"), (0,)
        )
        assert by_consistency(array(np.ones((2, 1, 2))), rule)([]).selected == ()


@pytest.mark.parametrize(
    ("scores", "rule", "value", "expected"),
    [
        ([0.2, 0.5, 0.5], "winner", 0.0, (1,)),
        ([-1, -1], "winner", 0.0, (0,)),
        ([0.5, 0.44, 0.46, 0.45], "near_best", 0.9, (0, 2, 3)),
        ([0.5, 0.1], "near_best", 0.0, (0, 1)),
        ([0.5, 0.1, -0.1], "near_best", 0.0, (0, 1)),
        ([-0.5, -0.4, -0.41], "near_best", 0.9, (1,)),
        ([0.0, -0.1], "near_best", 0.9, (0,)),
        ([0.7, 0.9, 0.85, 0.8], "threshold", 0.8, (1, 2)),
        ([0.7, 0.75], "threshold", 0.8, (1,)),
    ],
)
def test_what_is_kept(scores: list[float], rule: Any, value: float, expected: tuple[int, ...]) -> None:
    assert kept(array(scores), KeepSettings(rule, value)) == expected


def test_decaf_s_ranking_keeps_what_decaf_keeps_or_its_best() -> None:
    map_Thw = array([[[1.0, 0.1]], [[0.9, 0.0]]])
    tracklets = [tracklet(halves("l", "l"), 0.9), tracklet(halves("l", "l"), 0.8), tracklet(halves("r", "r"), 1.0)]
    found = by_consistency(map_Thw, KeepSettings("threshold", 0.8))(tracklets)
    assert found.selected == (0, 1)
    mean = (found.scores["consistency"] + np.array([one.score for one in tracklets])) / 3
    np.testing.assert_allclose(found.scores["final_score"], mean, rtol=1e-6)
    assert by_consistency(map_Thw, WINNER)(tracklets).selected == (0,)
