"""Image sizes of the Qwen families: whole visual tokens, within limits, near the original shape.

Shape legend: H W pixels, h w merged visual tokens.
"""

from __future__ import annotations

import math

from rvosbench.harness.errors import SampleError

_LARGEST_RATIO = 200


def token_grid(height: int, width: int, factor: int, min_tokens: int, max_tokens: int) -> tuple[int, int]:
    """Visual tokens (h, w) of an H x W image after Qwen's "smart resize"; the image becomes (h factor, w factor).

    Each side is rounded to whole tokens. If that is more than ``max_tokens`` the image shrinks, sides rounded down;
    fewer than ``min_tokens`` and it grows, sides rounded up.

    Args:
        height, width: of the image, in pixels.
        factor: side of one merged token in pixels (patch x merge, 28 in the released models).
        min_tokens, max_tokens: limits on h w.

    Raises:
        SampleError: one side is more than 200 times the other.
    """
    if max(height, width) > _LARGEST_RATIO * min(height, width):
        raise SampleError(f"a frame of {height}x{width} is too narrow: at most {_LARGEST_RATIO} to 1 can be shown")
    h, w = max(1, round(height / factor)), max(1, round(width / factor))
    if h * w > max_tokens:
        shrink = math.sqrt(height * width / (max_tokens * factor**2))
        h, w = (max(1, math.floor(side / shrink / factor)) for side in (height, width))
    elif h * w < min_tokens:
        grow = math.sqrt(min_tokens * factor**2 / (height * width))
        h, w = (math.ceil(side * grow / factor) for side in (height, width))
    return h, w
