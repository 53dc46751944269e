"""Masks on grids and the two measures of a map, by hand.

Shape legend: T keyframes, t time slots, h w grid, H W pixels.
"""

from __future__ import annotations

import numpy as np
import pytest

from rvosbench.methods.steerseg.training.targets import concentration, in_slots, mask_fractions, points_inside


def test_cells_of_whole_pixels() -> None:
    mask_THW = np.zeros((1, 4, 6), dtype=bool)
    mask_THW[0, :2, :3] = True
    mask_THW[0, 3, 5] = True
    np.testing.assert_allclose(mask_fractions(mask_THW, (1, 2, 2)), [[[1, 0], [0, 1 / 6]]], atol=1e-7)


def test_cells_that_cut_through_pixels() -> None:
    # Three pixels across on two cells: the middle one belongs half to each, so it is a third of either.
    row = np.array([[[True, False, False]], [[False, True, False]], [[False, False, True]]])
    shares = mask_fractions(row, (3, 1, 2))
    np.testing.assert_allclose(shares[:, 0], [[2 / 3, 0], [1 / 3, 1 / 3], [0, 2 / 3]], atol=1e-7)
    # More cells than pixels.
    np.testing.assert_allclose(mask_fractions(row[:1], (1, 1, 6)), [[[1, 1, 0, 0, 0, 0]]], atol=1e-7)


def test_the_mean_is_kept_on_any_grid() -> None:
    rng = np.random.default_rng(0)
    masks = rng.random((4, 97, 131)) < 0.3
    for grid in ((4, 5, 7), (2, 14, 26), (4, 100, 200)):
        shares = mask_fractions(masks, grid)
        assert shares.shape == grid and shares.dtype == np.float32
        np.testing.assert_allclose(shares.mean((1, 2)), in_slots(masks.mean((1, 2)), grid[0]), rtol=1e-5)


def test_slots_hold_two_keyframes_and_the_last_perhaps_one() -> None:
    values = np.array([0.0, 1.0, 4.0], dtype=np.float32).reshape(3, 1, 1)
    assert in_slots(values, 3) is values
    np.testing.assert_array_equal(in_slots(values, 2).ravel(), [0.5, 4.0])
    with pytest.raises(ValueError, match="does not cover"):
        in_slots(values, 1)


def test_concentration_is_the_mass_inside() -> None:
    map_thw = np.array([[[1.0, 3.0], [0.0, 4.0]]], dtype=np.float32)
    shares = np.array([[[0.0, 0.5], [1.0, 1.0]]], dtype=np.float32)
    assert concentration(map_thw, shares) == pytest.approx((1.5 + 4) / 8)
    assert concentration(np.zeros_like(map_thw), shares) == 0.0


def test_pointing_looks_at_the_centre_of_the_highest_cell() -> None:
    map_thw = np.zeros((2, 2, 2), dtype=np.float32)
    map_thw[1, 0, 1] = 1.0
    # Two slots of two keyframes: the cell's centre is pixel (1, 4) of keyframes 2 and 3.
    for keyframe, inside in enumerate((False, False, True, True)):
        masks = np.zeros((4, 4, 6), dtype=bool)
        masks[keyframe, 1, 4] = True
        assert points_inside(map_thw, masks) is inside
        masks[keyframe, 1, 4], masks[keyframe, 1, 5] = False, True
        assert not points_inside(map_thw, masks)
    assert points_inside(map_thw[1:], np.ones((1, 4, 6), dtype=bool))
