from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rvosbench.harness.data.masks import decode, decode_runs, encode, run_lengths
from rvosbench.harness.data.types import BoolHW
from rvosbench.harness.errors import SampleError


@st.composite
def masks(draw: st.DrawFn) -> BoolHW:
    height, width = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mask_HW = rng.random((height, width)) < draw(st.sampled_from([0.0, 0.02, 0.5, 1.0]))
    if draw(st.booleans()):
        # Long runs need several groups of bits, and shrinking ones a sign.
        mask_HW[:, : width // 2] = True
    return mask_HW


@settings(max_examples=200, deadline=None)
@given(masks())
def test_decoding_inverts_pycocotools(mask_HW: BoolHW) -> None:
    counts = encode(mask_HW)
    decoded_HW = decode(counts, *mask_HW.shape)
    assert decoded_HW.dtype == np.bool_
    assert np.array_equal(decoded_HW, mask_HW)
    assert decoded_HW.T.flags.c_contiguous


def test_run_lengths_by_hand() -> None:
    # Plain small numbers: 3 background, 2 object, 1 background; the fourth is stored as the difference to the second.
    assert run_lengths("321").tolist() == [3, 2, 1]
    assert run_lengths("3211").tolist() == [3, 2, 1, 3]
    # "o" is 31 + 32: five ones and more to follow; "0" is the end: 31. "O" is 31 with the sign bit: -1.
    assert run_lengths("o0").tolist() == [31]
    assert run_lengths("321O").tolist() == [3, 2, 1, 1]
    assert run_lengths("").tolist() == []


@settings(max_examples=200, deadline=None)
@given(masks())
def test_plain_run_lengths_and_the_longest_text_are_read(mask_HW: BoolHW) -> None:
    counts = encode(mask_HW)
    assert len(counts or "") <= 2 * (mask_HW.size + 2)
    runs_R = np.array([mask_HW.size]) if counts is None else run_lengths(counts)
    assert np.array_equal(decode_runs(runs_R, *mask_HW.shape), mask_HW)


def test_a_checkerboard_needs_the_longest_text() -> None:
    board_HW = np.indices((31, 33)).sum(axis=0) % 2 == 1
    assert np.array_equal(decode(encode(board_HW), 31, 33), board_HW)


def test_runs_that_overflow_are_refused() -> None:
    with pytest.raises(SampleError, match="covers"):
        decode_runs(np.array([2**62, 2**62, 2**62, 2**62, 12], dtype=np.int64), 3, 4)


def test_null_is_empty() -> None:
    assert not decode(None, 3, 4).any()
    assert decode(None, 3, 4).shape == (3, 4)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ("1", "covers 1 pixels of a 3x4"),
        ("", "covers 0 pixels"),
        ("=0", "covers 13 pixels"),
        ("9O4", "negative"),
        ("o", "inside a number"),
        ("oooooooooo0", "larger than any frame"),
        ("é", "ASCII"),
        (" 4", "does not have"),
        ("~", "does not have"),
        ("0" * 29, "29 characters, more than any"),
    ],
)
def test_damaged_text_is_refused(counts: str, message: str) -> None:
    with pytest.raises(SampleError, match=message):
        decode(counts, 3, 4)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=12))
def test_any_text_gives_a_mask_or_a_sample_error(counts: str) -> None:
    try:
        mask_HW = decode(counts, 5, 7)
    except SampleError:
        return
    assert mask_HW.shape == (5, 7)
