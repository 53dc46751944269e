from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rvosbench.harness.data.types import BoolHW
from rvosbench.harness.scoring.kernel import (
    GroundTruthFrame,
    PixelCounts,
    _Packed,
    f,
    frame_counts,
    gt_present,
    j,
    radius,
)

from . import plain


def rectangle(height: int, width: int, top: int, bottom: int, left: int, right: int) -> BoolHW:
    mask_HW = np.zeros((height, width), dtype=bool)
    mask_HW[top:bottom, left:right] = True
    return mask_HW


@st.composite
def masks(draw: st.DrawFn, height: int, width: int) -> BoolHW:
    """Empty, full, one pixel, noise, rectangles that may touch borders, and their exclusive ors."""
    kind = draw(st.sampled_from(["empty", "full", "pixel", "noise", "rectangles"]))
    mask_HW = np.zeros((height, width), dtype=bool)
    if kind == "full":
        mask_HW[:] = True
    elif kind == "pixel":
        mask_HW[draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))] = True
    elif kind == "noise":
        density = draw(st.sampled_from([0.01, 0.2, 0.5, 0.95]))
        mask_HW = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).random((height, width)) < density
    elif kind == "rectangles":
        for _ in range(draw(st.integers(1, 3))):
            top, bottom = sorted(draw(st.tuples(st.integers(0, height), st.integers(0, height))))
            left, right = sorted(draw(st.tuples(st.integers(0, width), st.integers(0, width))))
            mask_HW ^= rectangle(height, width, top, bottom, left, right)
    return mask_HW


@st.composite
def pairs(draw: st.DrawFn) -> tuple[BoolHW, BoolHW, BoolHW | None]:
    # Widths around multiples of 64 put the last pixel first and last in a word.
    width = draw(st.one_of(st.integers(1, 40), st.sampled_from([63, 64, 65, 127, 128, 129])))
    height = draw(st.integers(1, 24))
    void = draw(st.booleans())
    return (
        draw(masks(height, width)),
        draw(masks(height, width)),
        draw(masks(height, width)) if void else None,
    )


@settings(max_examples=250, deadline=None)
@given(pairs())
def test_counts_equal_the_definition(case: tuple[BoolHW, BoolHW, BoolHW | None]) -> None:
    gt_HW, pred_HW, void_HW = case
    expected = plain.counts(gt_HW, pred_HW, void_HW)
    assert frame_counts(gt_HW, pred_HW, void_HW) == expected
    transposed = None if void_HW is None else np.asfortranarray(void_HW)
    column_major = frame_counts(np.asfortranarray(gt_HW), np.asfortranarray(pred_HW), transposed)
    assert column_major == expected


@settings(max_examples=60, deadline=None)
@given(pairs(), st.integers(1, 90))
def test_dilation_is_exact_for_every_radius(case: tuple[BoolHW, BoolHW, BoolHW | None], reach: int) -> None:
    # Small frames have radius 1 or 2, so larger disks are tested on the packed form itself.
    gt_HW, pred_HW, _ = case
    gt, pred = _Packed(gt_HW, reach), _Packed(pred_HW, reach)
    gt_edge_HW, pred_edge_HW = plain.boundary(gt_HW), plain.boundary(pred_HW)
    assert gt.boundary_near(pred) == plain.near(gt_edge_HW, pred_edge_HW, reach)
    assert pred.boundary_near(gt) == plain.near(pred_edge_HW, gt_edge_HW, reach)


def test_every_pair_of_two_by_two_masks() -> None:
    every = [np.array(bits, dtype=bool).reshape(2, 2) for bits in product([0, 1], repeat=4)]
    for gt_HW, pred_HW in product(every, every):
        assert frame_counts(gt_HW, pred_HW) == plain.counts(gt_HW, pred_HW)


def test_a_ground_truth_frame_serves_many_predictions_in_both_orders() -> None:
    rng = np.random.default_rng(0)
    gt_HW = rectangle(50, 130, 10, 30, 60, 70)
    frame = GroundTruthFrame(gt_HW)
    for _ in range(5):
        pred_HW = np.roll(gt_HW, rng.integers(-8, 9, size=2), axis=(0, 1))
        expected = plain.counts(gt_HW, pred_HW)
        assert frame.counts(pred_HW) == expected
        assert frame.counts(np.asfortranarray(pred_HW)) == expected


ORDERS = (np.ascontiguousarray, np.asfortranarray)
REAL_SIDES = (480, 512, 540, 576, 640, 704, 720, 768, 960, 1024, 1080, 1280, 1920)
REAL_SIZES = sorted({size for a, b in product(REAL_SIDES, REAL_SIDES) if a < b for size in ((a, b), (b, a))})


def in_every_order(gt_HW: BoolHW, pred_HW: BoolHW, void_HW: BoolHW | None = None) -> set[PixelCounts]:
    """The counts of a pair in every combination of memory orders, read-only and as views of larger arrays."""

    def forms(mask_HW: BoolHW) -> list[BoolHW]:
        height, width = mask_HW.shape
        found = []
        for order in ORDERS:
            plain_HW = order(mask_HW)
            plain_HW.flags.writeable = False
            inside_HW = order(np.ones((height + 3, width + 5), dtype=bool))
            inside_HW[1 : height + 1, 2 : width + 2] = mask_HW
            strided_HW = order(np.ones((2 * height, 3 * width), dtype=bool))
            strided_HW[::2, ::-3] = mask_HW
            found += [plain_HW, inside_HW[1 : height + 1, 2 : width + 2], strided_HW[::2, ::-3]]
        return found

    voids: list[BoolHW | None] = [None] if void_HW is None else [order(void_HW) for order in ORDERS]
    return {frame_counts(*pair, void) for pair in product(forms(gt_HW), forms(pred_HW)) for void in voids}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 2**32 - 1), st.booleans())
def test_memory_order_never_matters(height: int, width: int, seed: int, void: bool) -> None:
    rng = np.random.default_rng(seed)
    gt_HW, pred_HW, void_HW = (rng.random((height, width)) < density for density in (0.3, 0.3, 0.1))
    assert len(in_every_order(gt_HW, pred_HW, void_HW if void else None)) == 1


@pytest.mark.parametrize("remainder", [0, *range(57, 64)])
@pytest.mark.parametrize("words", [1, 2])
def test_sides_whose_rows_fill_their_words_equal_the_definition(words: int, remainder: int) -> None:
    side = 64 * words + remainder if remainder else 64 * words
    rng = np.random.default_rng(side)
    for shape in ((side, 9), (9, side)):
        gt_HW, pred_HW = rng.random(shape) < 0.3, rng.random(shape) < 0.3
        assert in_every_order(gt_HW, pred_HW) == {PixelCounts(*plain.counts(gt_HW, pred_HW))}


@pytest.mark.parametrize(("height", "width"), REAL_SIZES)
def test_memory_order_never_matters_at_real_frame_sizes(height: int, width: int) -> None:
    gt_HW = rectangle(height, width, height // 4, height // 2, width // 4, width // 2)
    pred_HW = np.roll(gt_HW, (3, -5), axis=(0, 1))
    found = {frame_counts(a(gt_HW), b(pred_HW)) for a, b in product(ORDERS, ORDERS)}
    assert len(found) == 1
    # Two rectangles of one size overlap in all but the shift.
    tall, wide = height // 2 - height // 4, width // 2 - width // 4
    assert (tall - 3) * (wide - 5) == next(iter(found)).I


def test_views_and_strides_do_not_matter() -> None:
    big_HW = np.random.default_rng(1).random((60, 80)) < 0.3
    view_HW, flipped_HW = big_HW[::2, ::2], big_HW[1::2, ::-2]
    assert frame_counts(view_HW, flipped_HW) == plain.counts(view_HW.copy(), flipped_HW.copy())


def test_a_hand_worked_square() -> None:
    # A 2x2 square at (1,1) in 5x5. The row above and the column to the left see it; of its own pixels only (1,1) sees
    # nothing but the square. So the boundary is the 3x3 block at (0,0) without its centre.
    mask_HW = rectangle(5, 5, 1, 3, 1, 3)
    edge_HW = rectangle(5, 5, 0, 3, 0, 3)
    edge_HW[1, 1] = False
    assert (plain.boundary(mask_HW) == edge_HW).all()
    assert frame_counts(mask_HW, mask_HW) == PixelCounts(4, 4, 8, 8, 8, 8)


def test_radius_of_the_usual_sizes() -> None:
    sizes = {(480, 854): 8, (480, 910): 9, (480, 1152): 10, (720, 1280): 12, (1080, 1920): 18}
    assert {size: radius(*size) for size in sizes} == sizes


def rows(*counts: tuple[int, ...]) -> NDArray[np.int64]:
    return np.array(counts, dtype=np.int64).reshape(-1, 6)


def test_j_and_f_by_hand() -> None:
    counts_T6 = rows(
        (0, 0, 0, 0, 0, 0),  # both empty: 1 and 1
        (0, 9, 4, 0, 0, 0),  # object, empty prediction: 0 and 0
        (0, 9, 0, 4, 0, 0),  # no object, a prediction: 0 and 0
        (3, 12, 8, 4, 4, 2),  # p = r = 1/2
        (6, 12, 10, 5, 10, 1),  # p = 1/5, r = 1: 2/5 / (6/5) = 1/3
        (5, 50, 6, 6, 0, 0),  # nothing matches: F 0
        (0, 99, 0, 0, 0, 0),  # full frame against nothing: no boundaries at all
    )
    assert j(counts_T6).tolist() == pytest.approx([1, 0, 0, 0.25, 0.5, 0.1, 0])
    assert f(counts_T6).tolist() == pytest.approx([1, 0, 0, 0.5, 1 / 3, 0, 1])


def test_no_frames_give_no_values() -> None:
    empty_T6 = np.zeros((0, 6), dtype=np.int64)
    assert j(empty_T6).shape == f(empty_T6).shape == (0,)


@given(st.lists(st.tuples(*[st.integers(0, 50)] * 6), max_size=8))
def test_j_and_f_equal_the_definition(raw: list[tuple[int, ...]]) -> None:
    possible = [
        (min(i, u), u, n_gt, n_pred, min(m_gt, n_gt) if n_pred else 0, min(m_pred, n_pred) if n_gt else 0)
        for i, u, n_gt, n_pred, m_gt, m_pred in raw
    ]
    counts_T6 = rows(*possible)
    assert j(counts_T6).tolist() == pytest.approx([plain.j(row) for row in possible], abs=1e-15)
    assert f(counts_T6).tolist() == pytest.approx([plain.f(row) for row in possible], abs=1e-15)
    assert not any(math.isnan(value) for value in f(counts_T6))


def test_presence_of_the_ground_truth() -> None:
    object_HW, nothing_HW = rectangle(8, 8, 2, 4, 2, 4), np.zeros((8, 8), dtype=bool)
    full_HW = ~nothing_HW
    cases = [(object_HW, nothing_HW), (object_HW, full_HW), (full_HW, object_HW), (full_HW, full_HW)]
    present = [frame_counts(*case) for case in cases]
    absent = [frame_counts(nothing_HW, pred_HW) for pred_HW in (nothing_HW, object_HW, full_HW)]
    assert gt_present(rows(*present)).all()
    assert not gt_present(rows(*absent)).any()


def test_unequal_shapes_and_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4, 5\)"):
        frame_counts(np.zeros((4, 4), dtype=bool), np.zeros((4, 5), dtype=bool))
    with pytest.raises(ValueError, match="uint8"):
        frame_counts(np.zeros((4, 4), dtype=bool), np.zeros((4, 4), dtype=np.uint8))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        frame_counts(np.zeros((4, 4), dtype=bool), np.zeros((4, 4), dtype=bool), np.zeros((2, 2), dtype=bool))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 200), (200, 1)])
def test_degenerate_frames(height: int, width: int) -> None:
    rng = np.random.default_rng(height * 7 + width)
    for density in (0.0, 0.3, 1.0):
        gt_HW, pred_HW = rng.random((height, width)) < density, rng.random((height, width)) < 0.5
        assert frame_counts(gt_HW, pred_HW) == plain.counts(gt_HW, pred_HW)
