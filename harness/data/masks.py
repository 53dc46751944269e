"""COCO RLE in and out of boolean masks; the Fortran order and bytes/str traps live here.

Encoding is pycocotools'. Decoding is our own and checked: pycocotools leaves the rest of the mask as it finds it in
memory when the runs are too short, so a damaged file would score differently every time.

The text form (as pycocotools writes it): each run length, from the fourth on minus the one two before, is cut into
groups of five bits, low group first; a character is 48 plus the group, plus 32 when another group follows. The
highest bit of the last group is the sign. Runs go down columns and alternate, background first.

Legend: H W pixels, C characters, R runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rvosbench.harness.data.types import BoolHW, MaskTrack
from rvosbench.harness.errors import SampleError

_FIRST, _GROUP, _SIGN, _MORE = 48, 0x1F, 0x10, 0x20
_MAX_GROUPS = 8
"""Forty bits: longer than any frame has pixels."""


def encode(mask_HW: BoolHW) -> str | None:
    """COCO ``counts`` of a boolean mask; ``None`` for an empty one."""
    # Here, so that masks can be decoded where it is not installed.
    from pycocotools import mask as coco

    if not mask_HW.any():
        return None
    counts = coco.encode(np.asfortranarray(mask_HW, dtype=np.uint8))["counts"]
    return counts.decode("ascii") if isinstance(counts, bytes) else str(counts)


def decode(counts: str | bytes | None, height: int, width: int) -> BoolHW:
    """The (height, width) boolean mask, in column-major order; ``None`` gives an empty one.

    Raises:
        SampleError: not the text form of run lengths, or they do not add up to height x width.
    """
    if counts is None:
        return np.zeros((height, width), dtype=bool, order="F")
    # A run of one pixel takes one character, a longer one fewer characters than pixels: what is longer than this is
    # refused before it costs memory.
    if len(counts) > 2 * (height * width + 2):
        raise SampleError(f"the RLE has {len(counts)} characters, more than any {height}x{width} (HxW) mask needs")
    return decode_runs(
        run_lengths(counts if isinstance(counts, str) else counts.decode("ascii", errors="replace")), height, width
    )


def decode_runs(runs_R: NDArray[np.int64], height: int, width: int) -> BoolHW:
    """The (height, width) boolean mask of alternating runs, background first, in column-major order.

    Raises:
        SampleError: a run is negative, or they do not add up to height x width.
    """
    if runs_R.size and int(runs_R.min()) < 0:
        raise SampleError("the RLE has a run of negative length")
    # A run that is longer than the mask is refused first, so that the sum cannot overflow.
    total = int(runs_R.max()) if runs_R.size and int(runs_R.max()) > height * width else int(runs_R.sum())
    if total != height * width:
        raise SampleError(f"the RLE covers {total} pixels of a {height}x{width} (HxW) mask, which has {height * width}")
    values_R = np.zeros(len(runs_R), dtype=bool)
    values_R[1::2] = True
    return np.repeat(values_R, runs_R).reshape(width, height).T


def run_lengths(counts: str) -> NDArray[np.int64]:
    """Lengths of the alternating runs, background first, (R,) int64.

    Raises:
        SampleError: a character that the form does not have, or an unfinished number.
    """
    try:
        codes_C = np.frombuffer(counts.encode("ascii"), dtype=np.uint8).astype(np.int64) - _FIRST
    except UnicodeEncodeError as error:
        raise SampleError("the RLE holds characters outside ASCII") from error
    if not codes_C.size:
        return codes_C
    if int(codes_C.min()) < 0 or int(codes_C.max()) > _GROUP + _MORE:
        raise SampleError("the RLE holds characters that its form does not have")
    ends_R = np.flatnonzero((codes_C & _MORE) == 0)
    if not ends_R.size or ends_R[-1] != codes_C.size - 1:
        raise SampleError("the RLE ends inside a number")
    starts_R = np.concatenate([[0], ends_R[:-1] + 1])
    groups_R = ends_R - starts_R + 1
    if int(groups_R.max()) > _MAX_GROUPS:
        raise SampleError("the RLE holds a number larger than any frame")
    place_C = np.arange(codes_C.size) - np.repeat(starts_R, groups_R)
    runs_R: NDArray[np.int64] = np.add.reduceat((codes_C & _GROUP) << (5 * place_C), starts_R)
    runs_R -= np.where(codes_C[ends_R] & _SIGN, np.int64(1) << (5 * groups_R), 0)
    # Differences to the run two before, from the fourth run on: two interleaved running sums.
    runs_R[1::2] = np.cumsum(runs_R[1::2])
    runs_R[2::2] = np.cumsum(runs_R[2::2])
    return runs_R


def track_from_masks(masks_THW: Sequence[BoolHW], frames: Sequence[int], height: int, width: int) -> MaskTrack:
    """A mask track from one boolean mask per frame index in ``frames``."""
    return MaskTrack(height, width, tuple(frames), tuple(encode(mask) for mask in masks_THW))
