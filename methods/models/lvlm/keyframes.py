"""Which frames of a video a vision-language model looks at.

Shared by every method here. Source: DecAF (arXiv 2510.19592) section 4, and its released sampling.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Keyframes = Annotated[int, Field(ge=2)]
"""How many keyframes a setting asks for: the first and the last frame at least."""


def keyframe_indices(frames: int, count: int) -> tuple[int, ...]:
    """``count`` indices spread evenly over ``frames``, first and last included; all of them when there are no more.

    Fractions are cut off, so the gaps differ by at most one:

    >>> keyframe_indices(17, 4)
    (0, 5, 10, 16)
    >>> keyframe_indices(3, 16)
    (0, 1, 2)

    Raises:
        ValueError: a video without frames, or fewer than two keyframes asked of a longer video.
    """
    if frames < 1:
        raise ValueError("a video has at least one frame")
    if frames <= count:
        return tuple(range(frames))
    if count < 2:
        raise ValueError(f"{count} keyframes cannot include the first and the last of {frames} frames")
    # Integer arithmetic: the same indices as truncated float spacing, and no rounding to depend on.
    return tuple((frames - 1) * k // (count - 1) for k in range(count))
