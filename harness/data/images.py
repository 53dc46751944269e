"""Opens image files with Pillow; whatever is wrong with one becomes a SampleError that names it.

H W: pixels. Pillow refuses truncated files by default; nothing here changes that.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rvosbench.harness.data.types import BoolHW, FrameHW3
from rvosbench.harness.errors import SampleError

Uint8HW = NDArray[np.uint8]

# What Pillow's decoders raise on damaged files (OSError covers "truncated" and "unidentified").
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    EOFError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_DIRECT = ("1", "L", "P", "RGB", "CMYK", "YCbCr")
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError as error:
        raise SampleError(f"{path} does not exist") from error
    except _DAMAGE as error:
        raise SampleError(f"{path} cannot be read as an image: {error}") from error


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) from the header alone.

    Raises:
        SampleError: missing or not an image.
    """
    with _opened(path) as image:
        return image.height, image.width


def read_rgb(path: Path) -> FrameHW3:
    """The image as (H, W, 3) uint8 RGB. An EXIF rotation is ignored, as masks are stored unrotated.

    Grey, palette, CMYK and 16-bit grey images are converted; opaque alpha is dropped.

    Raises:
        SampleError: missing, damaged or truncated, or of a kind whose conversion is ambiguous (see-through
            pixels, 32-bit or float values).
    """
    with _opened(path) as image:
        image.load()
        mode = image.mode
        if mode in _DIRECT and "transparency" not in image.info:
            return np.asarray(image.convert("RGB")).copy()
        if mode in _SIXTEEN_BIT:
            # Pillow's own conversion clips at 255 and turns such a frame white.
            grey_HW = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
            return np.repeat(grey_HW[:, :, None], 3, axis=2)
        if mode in (*_DIRECT, "LA", "RGBA", "PA"):
            rgba_HW4 = np.asarray(image.convert("RGBA"))
            if bool((rgba_HW4[:, :, 3] == 255).all()):
                return rgba_HW4[:, :, :3].copy()
            raise SampleError(f"{path} has see-through pixels; a frame must be opaque")
    raise SampleError(f"{path} has pixel format {mode}; a frame must be 8-bit RGB, grey, CMYK or 16-bit grey")


def read_labels(path: Path) -> Uint8HW:
    """Object ids of an index mask, (H, W) uint8; 0 background, 255 void.

    Pillow gives the palette index. OpenCV would give the luminance of the palette's colour (id 1 becomes 38).

    Raises:
        SampleError: missing, damaged, or a colour image without indices.
    """
    with _opened(path) as image:
        image.load()
        if image.mode not in ("P", "L", "1"):
            raise SampleError(f"{path} has pixel format {image.mode}; an index mask must be palette or 8-bit grey")
        return np.asarray(image).astype(np.uint8)


def read_binary(path: Path) -> BoolHW:
    """A mask where any non-zero value is the object, (H, W) bool.

    Raises:
        SampleError: missing, damaged, or of a pixel format that has no single meaning for "zero".
    """
    with _opened(path) as image:
        image.load()
        if image.mode in ("P", "L", "1", *_SIXTEEN_BIT):
            mask_HW: BoolHW = np.asarray(image) != 0
            return mask_HW
        if image.mode == "RGB":
            return np.asarray(np.asarray(image).any(axis=2), dtype=bool)
        raise SampleError(f"{path} has pixel format {image.mode}; a mask must be 1-bit, grey, palette or RGB")
