"""Visual token grids against the reference's, and at the limits."""

from __future__ import annotations

import pytest

from rvosbench.harness.errors import SampleError
from rvosbench.methods.models.lvlm.sizes import token_grid

# (H, W) of the frames -> (h, w) of the reference's clip grid with its pinned processors.
REFERENCE = {
    (480, 854): (14, 26),
    (480, 910): (14, 27),
    (720, 1280): (14, 26),
    (1080, 1920): (14, 26),
    (360, 640): (13, 23),
    (640, 360): (23, 13),
    (480, 480): (17, 17),
    (240, 426): (9, 15),
}


@pytest.mark.parametrize("size", list(REFERENCE))
def test_clip_grids_of_the_reference(size: tuple[int, int]) -> None:
    assert token_grid(*size, factor=28, min_tokens=4, max_tokens=400) == REFERENCE[size]


def test_limits() -> None:
    # 56x56 is 2x2 tokens, exactly the fewest; a pixel less is rounded up to it.
    assert token_grid(56, 56, 28, 4, 400) == (2, 2)
    assert token_grid(20, 20, 28, 4, 400) == (2, 2)
    assert token_grid(10, 100, 28, 4, 400) == (1, 4)
    assert token_grid(10, 60, 28, 4, 400) == (1, 5)
    assert token_grid(10, 2000, 28, 4, 400) == (1, 71)
    assert token_grid(560, 560, 28, 4, 400) == (20, 20)
    assert token_grid(580, 580, 28, 4, 400) == (20, 20)
    assert token_grid(560, 560, 28, 4, 399) == (19, 19)
    # Half a token rounds to the even number, as Python does.
    assert token_grid(70, 98, 28, 4, 400) == (2, 4)


def test_a_sliver_is_refused() -> None:
    assert token_grid(10, 2000, 28, 4, 400)[0] == 1
    with pytest.raises(SampleError, match="10x2001 is too narrow"):
        token_grid(10, 2001, 28, 4, 400)
