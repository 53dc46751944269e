"""Packed masks give back what they were given, and count overlaps exactly."""

from __future__ import annotations

import numpy as np
import pytest

from rvosbench.methods.models.sam2.packed import PackedMasks


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (8, 8), (60, 80), (33, 65)])
def test_masks_survive_packing(size: tuple[int, int]) -> None:
    masks = np.random.default_rng(0).random((3, 4, *size)) > 0.5
    packed = PackedMasks.pack(masks)
    np.testing.assert_array_equal(packed.unpack(), masks)
    np.testing.assert_array_equal(packed.take(1).unpack(), masks[1])
    np.testing.assert_array_equal(packed.areas(), masks.sum(axis=(-1, -2)))
    np.testing.assert_array_equal(packed.any(), masks.any(axis=(-1, -2)))


def test_empty_masks_have_the_words_of_packed_ones() -> None:
    packed = PackedMasks.empty((2, 3), 33, 65)
    assert packed.words.shape == PackedMasks.pack(np.zeros((2, 3, 33, 65), dtype=bool)).words.shape
    assert not packed.unpack().any()


def test_iou_is_the_pixel_definition() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random((5, 30, 41)) > 0.4, rng.random((4, 30, 41)) > 0.7
    a[2] = b[1] = False
    expected = np.zeros((5, 4))
    for i in range(5):
        for j in range(4):
            union = (a[i] | b[j]).sum()
            expected[i, j] = (a[i] & b[j]).sum() / union if union else 0.0
    assert expected[2, 1] == 0.0
    np.testing.assert_array_equal(PackedMasks.pack(a).iou(PackedMasks.pack(b)), expected)


def test_iou_without_masks_has_the_right_shape() -> None:
    none, two = PackedMasks.empty((0,), 4, 5), PackedMasks.empty((2,), 4, 5)
    assert none.iou(two).shape == (0, 2)
    assert two.iou(none).shape == (2, 0)


def test_packing_takes_one_bit_per_pixel() -> None:
    assert PackedMasks.empty((1,), 1080, 1920).words.nbytes == 1080 * 1920 // 8
