"""Six integers per pair of masks, from which J (region) and F (boundary) follow.

The definition is the one of the DAVIS 2017 evaluation (Perazzi et al., CVPR 2016; Pont-Tuset et al., 2017):

* ``I = |G and P|``, ``U = |G or P|``; ``J = I / U``, 1 where U is 0.
* A pixel belongs to a mask's boundary when its label differs from its right, lower or lower-right neighbour; the
  last row compares with the right neighbour only, the last column with the lower one only, the last pixel with none.
* A boundary pixel matches when a boundary pixel of the other mask lies within ``r = ceil(0.008 * sqrt(H^2 + W^2))``
  pixels, in the Euclidean sense (``dx^2 + dy^2 <= r^2``). Precision is ``m_pred / n_pred``, recall ``m_gt / n_gt``,
  ``F = 2pr / (p + r)``; 1 where both boundaries are empty, 0 where exactly one is, or nothing matches.
* Void pixels are background in both masks before anything is counted.

How it is fast: a row of pixels is a few 64-bit words, pixel ``x`` being bit ``x % 64`` of word ``x // 64``. The
comparison with neighbours and the dilation with the disk are shifts and ORs of whole rows, cropped to where boundary
pixels are, and the counts are population counts. Nothing is rounded, so the integers are those of the definition.

Shape legend: T frames, H W pixels, R rows of the packed image, K 64-bit words per row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rvosbench.harness.data.types import BoolHW

WordsRK = NDArray[np.uint64]
CountsT6 = NDArray[np.int64]
"""The six integers of T frames, (T, 6) int64, columns as in ``PixelCounts``."""

WORD = 64
ONE = np.uint64(1)


class PixelCounts(NamedTuple):
    """What is kept of a pair of masks; every protocol is an aggregation of these."""

    I: int  # noqa: E741  the name of the score tables' column
    """Pixels in both masks."""
    U: int
    """Pixels in either mask."""
    n_gt: int
    """Boundary pixels of the ground truth."""
    n_pred: int
    """Boundary pixels of the prediction."""
    m_gt: int
    """Boundary pixels of the ground truth within the radius of some predicted boundary pixel."""
    m_pred: int
    """Predicted boundary pixels within the radius of some boundary pixel of the ground truth."""


def radius(height: int, width: int) -> int:
    """The matching distance in pixels for frames of height x width."""
    return math.ceil(0.008 * math.sqrt(height * height + width * width))


def j(counts_T6: CountsT6) -> NDArray[np.float64]:
    """J of T frames, (T,) float64 in [0, 1]."""
    intersection_T, union_T = counts_T6[:, 0], counts_T6[:, 1]
    return np.where(union_T == 0, 1.0, intersection_T / np.maximum(union_T, 1))


def f(counts_T6: CountsT6) -> NDArray[np.float64]:
    """F of T frames, (T,) float64 in [0, 1]."""
    n_gt_T, n_pred_T, m_gt_T, m_pred_T = counts_T6[:, 2:].T
    precision_T = m_pred_T / np.maximum(n_pred_T, 1)
    recall_T = m_gt_T / np.maximum(n_gt_T, 1)
    total_T = precision_T + recall_T
    harmonic_T = 2 * precision_T * recall_T / np.where(total_T == 0, 1.0, total_T)
    return np.where((n_gt_T == 0) & (n_pred_T == 0), 1.0, harmonic_T)


def gt_present(counts_T6: CountsT6) -> NDArray[np.bool_]:
    """Frames whose ground truth is not empty, (T,) bool.

    A mask has a boundary unless it is empty or fills the frame, and one that fills the frame meets any prediction that
    is not empty. So the integers tell, but for one pair: ground truth that fills the frame with an empty prediction
    reads like its mirror image, and both count as empty ground truth.
    """
    return (counts_T6[:, 2] > 0) | (counts_T6[:, 0] > 0)


def frame_counts(gt_HW: BoolHW, pred_HW: BoolHW, void_HW: BoolHW | None = None) -> PixelCounts:
    """The six integers of one pair of boolean masks of equal shape.

    Args:
        void_HW: pixels that count in neither mask.

    Raises:
        ValueError: shapes differ, or an array is not two-dimensional bool.
    """
    return GroundTruthFrame(gt_HW, void_HW).counts(pred_HW)


class GroundTruthFrame:
    """One ground-truth mask, prepared once and compared with many predictions.

    Masks in column-major order (as COCO RLE decodes) are packed along columns: the definition is the same for a
    transposed pair. The packed forms are computed on first use and cached.
    """

    def __init__(self, mask_HW: BoolHW, void_HW: BoolHW | None = None) -> None:
        _check(mask_HW, mask_HW.shape)
        if void_HW is not None:
            _check(void_HW, mask_HW.shape)
            mask_HW = mask_HW & ~void_HW
        self.mask_HW = mask_HW
        """Without void pixels."""
        self._void_HW = void_HW
        self._radius = radius(*mask_HW.shape)
        self._packed: dict[bool, _Packed] = {}

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        height, width = self.mask_HW.shape
        return height, width

    @property
    def area(self) -> int:
        """Pixels set."""
        return self._as_packed(_is_column_major(self.mask_HW)).area

    @property
    def boundary_size(self) -> int:
        """Boundary pixels."""
        return self._as_packed(_is_column_major(self.mask_HW)).boundary_size

    def counts(self, pred_HW: BoolHW) -> PixelCounts:
        """The six integers against a boolean prediction of the same shape.

        Raises:
            ValueError: the shape differs, or the prediction is not bool.
        """
        _check(pred_HW, self.mask_HW.shape)
        if self._void_HW is not None:
            pred_HW = pred_HW & ~self._void_HW
        column_major = _is_column_major(pred_HW)
        gt = self._as_packed(column_major)
        pred = _Packed(pred_HW.T if column_major else pred_HW, self._radius)
        intersection = gt.overlap(pred)
        return PixelCounts(
            intersection,
            gt.area + pred.area - intersection,
            gt.boundary_size,
            pred.boundary_size,
            gt.boundary_near(pred),
            pred.boundary_near(gt),
        )

    def _as_packed(self, column_major: bool) -> _Packed:
        packed = self._packed.get(column_major)
        if packed is None:
            packed = _Packed(self.mask_HW.T if column_major else self.mask_HW, self._radius)
            self._packed[column_major] = packed
        return packed


def _check(mask_HW: BoolHW, shape: tuple[int, ...]) -> None:
    if mask_HW.dtype != np.bool_ or mask_HW.ndim != 2:
        raise ValueError(f"a mask is (H, W) bool, not {mask_HW.dtype} {mask_HW.shape}")
    if mask_HW.shape != shape:
        raise ValueError(f"mask of shape {mask_HW.shape} against one of shape {shape}")


def _is_column_major(mask_HW: BoolHW) -> bool:
    return bool(mask_HW.flags.f_contiguous and not mask_HW.flags.c_contiguous)


class _Box(NamedTuple):
    """Rows and words, half-open."""

    top: int
    bottom: int
    left: int
    right: int


class _Packed:
    """A mask with its boundary and, on demand, the boundary's dilation, all cropped and packed."""

    def __init__(self, mask_RW: BoolHW, radius_: int) -> None:
        self._radius = radius_
        self._width = mask_RW.shape[1]
        words_RK = _pack(mask_RW)
        self._rows, words = words_RK.shape
        set_ = words_RK.reshape(-1) != 0
        first = int(set_.argmax())
        if not set_[first]:
            self.area = self.boundary_size = 0
            return
        last = set_.size - 1 - int(set_[::-1].argmax())
        seen_K = np.bitwise_or.reduce(words_RK[first // words : last // words + 1], axis=0)
        columns = np.flatnonzero(seen_K)
        left = int(columns[0])
        # The pixel above or to the left of the mask is boundary too; the latter may lie in the word before.
        self._box = _Box(
            max(first // words - 1, 0),
            last // words + 1,
            max(left - int(seen_K[left] & ONE), 0),
            int(columns[-1]) + 1,
        )
        self._mask_RK = words_RK[self._box.top : self._box.bottom, self._box.left : self._box.right]
        self.area = _count(self._mask_RK)
        self._boundary_RK = self._find_boundary()
        self.boundary_size = _count(self._boundary_RK)
        self._dilated: tuple[_Box, WordsRK] | None = None

    def overlap(self, other: _Packed) -> int:
        """Pixels set in both masks."""
        if not (self.area and other.area):
            return 0
        box = _common(self._box, other._box)
        return _count(_cut(self._mask_RK, self._box, box) & _cut(other._mask_RK, other._box, box))

    def boundary_near(self, other: _Packed) -> int:
        """Boundary pixels of this mask within the radius of one of the other's."""
        if not (self.boundary_size and other.boundary_size):
            return 0
        dilated_box, dilated_RK = other._dilation()
        box = _common(self._box, dilated_box)
        return _count(_cut(self._boundary_RK, self._box, box) & _cut(dilated_RK, dilated_box, box))

    def _find_boundary(self) -> WordsRK:
        here_RK = self._mask_RK
        beside_RK = here_RK >> ONE
        beside_RK[:, :-1] |= here_RK[:, 1:] << np.uint64(WORD - 1)
        if self._box.right * WORD >= self._width:
            # The last column has no right neighbour: it is its own.
            last = np.uint64((self._width - 1) % WORD)
            beside_RK[:, -1] |= here_RK[:, -1] & (ONE << last)
        boundary_RK = here_RK ^ beside_RK
        boundary_RK[:-1] |= (here_RK[:-1] ^ here_RK[1:]) | (here_RK[:-1] ^ beside_RK[1:])
        if self._box.bottom < self._rows:
            # Below the last row of the box everything is background, so its set pixels are boundary.
            boundary_RK[-1] |= here_RK[-1]
        return boundary_RK

    def _dilation(self) -> tuple[_Box, WordsRK]:
        if self._dilated is None:
            top, bottom, left, right = self._box
            reach, margin = self._radius, -(-self._radius // WORD)
            box = _Box(top - reach, bottom + reach, left - margin, right + margin)
            self._dilated = box, _dilate(self._boundary_RK, margin, reach)
        return self._dilated


def _pack(mask_RW: BoolHW) -> WordsRK:
    """Rows of pixels as 64-bit words in C order, independent of the memory order of the mask."""
    rows, width = mask_RW.shape
    # packbits keeps the order of its input, and only rows that lie in one piece can be read as words.
    padded_RB = np.zeros((rows, -(-width // WORD) * 8), dtype=np.uint8)
    padded_RB[:, : -(-width // 8)] = np.packbits(mask_RW, axis=1, bitorder="little")
    return padded_RB.view("<u8")


def _count(words_RK: WordsRK) -> int:
    return int(np.bitwise_count(words_RK).sum())


def _common(one: _Box, other: _Box) -> _Box:
    top, left = max(one.top, other.top), max(one.left, other.left)
    return _Box(top, max(top, min(one.bottom, other.bottom)), left, max(left, min(one.right, other.right)))


def _cut(words_RK: WordsRK, box: _Box, inner: _Box) -> WordsRK:
    return words_RK[inner.top - box.top : inner.bottom - box.top, inner.left - box.left : inner.right - box.left]


@cache
def _disk(radius_: int) -> tuple[tuple[list[tuple[np.uint64, np.uint64]], list[int]], ...]:
    """The rows of the disk by half width, narrowest first.

    Of each half width: the shifts that grow runs to it from the one before (bits, 64 - bits), and the disk's rows,
    counted from its top, that have it.
    """
    rows: dict[int, list[int]] = {}
    for row in range(2 * radius_ + 1):
        rows.setdefault(math.isqrt(radius_**2 - (row - radius_) ** 2), []).append(row)
    widths = sorted(rows)
    return tuple(
        ([(np.uint64(step), np.uint64(WORD - step)) for step in _growth(reached, width)], rows[width])
        for reached, width in zip([0, *widths], widths, strict=False)
    )


def _growth(reached: int, half_width: int) -> Iterator[int]:
    """Shifts that widen runs of half width ``reached`` to ``half_width``; a longer shift would leave a gap."""
    while reached < half_width:
        step = min(half_width - reached, 2 * reached + 1)
        yield step
        reached += step


def _dilate(boundary_RK: WordsRK, margin: int, radius_: int) -> WordsRK:
    """Dilation with the disk, ``radius_`` rows and ``margin`` words larger than the input on each side.

    The margin, empty at first, separates the rows, so that the whole array can be shifted as one string of bits.
    """
    rows, words = boundary_RK.shape
    stride = words + 2 * margin
    wide_RK = np.zeros((rows, stride), dtype=np.uint64)
    wide_RK[:, margin : margin + words] = boundary_RK
    wide = wide_RK.reshape(-1)
    out = np.zeros((rows + 2 * radius_) * stride, dtype=np.uint64)
    left, right, carry = np.empty_like(wide), np.empty_like(wide), np.empty_like(wide)
    left_in, right_in, carry_left, carry_right = left[1:], right[:-1], carry[:-1], carry[1:]
    for steps, starts in _disk(radius_):
        for by, back in steps:
            np.left_shift(wide, by, out=left)
            np.right_shift(wide, back, out=carry)
            np.bitwise_or(left_in, carry_left, out=left_in)
            np.right_shift(wide, by, out=right)
            np.left_shift(wide, back, out=carry)
            np.bitwise_or(right_in, carry_right, out=right_in)
            np.bitwise_or(wide, left, out=wide)
            np.bitwise_or(wide, right, out=wide)
        for start in starts:
            shifted = out[start * stride : start * stride + wide.size]
            np.bitwise_or(shifted, wide, out=shifted)
    return out.reshape(rows + 2 * radius_, stride)
