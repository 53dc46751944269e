"""Opens image files with Pillow; every fault of a file becomes a SampleError that names it.

Only the formats that a benchmark uses are opened: PNG for masks, JPEG and PNG for frames. Pillow knows dozens, and some
of them start other programs. An image's size is read from its header and checked before a pixel is decoded. Pillow
refuses truncated files by default; nothing here changes that.

H W: pixels.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from rvosbench.harness.data.types import BoolHW, FrameHW3
from rvosbench.harness.errors import SampleError

Uint8HW = NDArray[np.uint8]
Size = tuple[int, int]
"""(H, W)."""
Oddity = Literal["grey values", "noise", "palette"]
"""Why a file is no plain mask; see ``MaskImage``."""

MAX_PIXELS = 2**26
"""67 million: twice an 8K frame. A larger image is refused from its header."""

_FRAME_FORMATS = ("JPEG", "PNG")
_MASK_FORMATS = ("PNG",)

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
    Image.DecompressionBombWarning,
)
_DIRECT = ("1", "L", "P", "RGB", "CMYK", "YCbCr")
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG, whose compression changes pixel values"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"RIFF", "WebP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"%!PS", "PostScript"),
    (b"\x93NUMPY", "NumPy"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file itself"),
)

# Sizes are checked here, against a stricter limit than the one Pillow warns about.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class SizeError(SampleError):
    """A mask is of another size than its frame."""

    def __init__(self, message: str, found: Size) -> None:
        super().__init__(message)
        self.found = found


@dataclass(frozen=True, slots=True)
class MaskImage:
    """A decoded mask, and what its file's pixels say about how it was made."""

    mask_HW: BoolHW
    """True where the value, or the palette index, is not zero."""
    grey: bool
    """It holds more than two values, as a soft or a resized mask does."""
    noise: bool
    """Most of the values between the two are close to zero, as JPEG compression leaves them."""
    palette: bool
    """Palette index 0 is not black, so that a reader of colours sees another mask."""

    @property
    def oddities(self) -> tuple[Oddity, ...]:
        """What keeps the file from being a plain mask."""
        grey: Oddity = "noise" if self.noise else "grey values"
        return (*((grey,) if self.grey else ()), *(("palette",) if self.palette else ()))


@contextmanager
def _opened(
    source: Path | bytes, name: str, formats: tuple[str, ...], size: Size | None = None
) -> Iterator[Image.Image]:
    """An image whose header was read and whose size was checked; no pixel is decoded yet."""
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats) as image:
            found = image.height, image.width
            if size is not None and found != size:
                shapes = f"{found[0]}x{found[1]} (HxW), expected {size[0]}x{size[1]}"
                raise SizeError(f"{name} is {shapes}", found)
            if found[0] * found[1] > MAX_PIXELS:
                raise SampleError(f"{name} has {found[0]}x{found[1]} (HxW) pixels, more than the limit of {MAX_PIXELS}")
            yield image
    except FileNotFoundError as error:
        raise SampleError(f"{name} does not exist") from error
    except UnidentifiedImageError as error:
        raise SampleError(f"{name} cannot be read as an image: {_identified(source, formats)}") from error
    except _DAMAGE as error:
        raise SampleError(f"{name} cannot be read as an image: {error}") from error


def _identified(source: Path | bytes, formats: tuple[str, ...]) -> str:
    """What a file of another format is, in a few words."""
    if isinstance(source, Path):
        try:
            with source.open("rb") as file:
                start = file.read(64)
        except OSError as error:
            return str(error.strerror)
    else:
        start = source[:64]
    wanted = " or ".join(formats)
    if not start:
        return "the file is empty"
    for signature, title in _SIGNATURES:
        if start.startswith(signature):
            return f"it holds {title}; {wanted} is expected"
    return f"it is not {wanted}"


def image_size(path: Path) -> Size:
    """Size (H, W) in pixels, read from the header alone.

    Raises:
        SampleError: missing or not an image.
    """
    with _opened(path, str(path), _FRAME_FORMATS) as image:
        return image.height, image.width


def read_rgb(path: Path) -> FrameHW3:
    """The image as (H, W, 3) uint8 RGB. An EXIF rotation is ignored, as masks are stored unrotated.

    Grey, palette, CMYK and 16-bit grey images are converted; opaque alpha is dropped.

    Raises:
        SampleError: missing, damaged or truncated, or of a kind whose conversion is ambiguous (see-through
            pixels, 32-bit or float values).
    """
    with _opened(path, str(path), _FRAME_FORMATS) as image:
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


def read_labels(source: Path | bytes, name: str | None = None, size: Size | None = None) -> Uint8HW:
    """Object ids of an index mask, (H, W) uint8; 0 background, 255 void.

    Pillow gives the palette index. OpenCV would give the luminance of the palette's colour (id 1 becomes 38).

    Args:
        source: a file, or its bytes.
        name: what messages call it; default: the path.
        size: (H, W) that it must have; None for any.

    Raises:
        SizeError: of another size.
        SampleError: missing, damaged, or a colour image without indices.
    """
    name = name or str(source)
    with _opened(source, name, _MASK_FORMATS, size) as image:
        image.load()
        if image.mode not in ("P", "L", "1"):
            raise SampleError(f"{name} has pixel format {image.mode}; an index mask must be palette or 8-bit grey")
        return np.asarray(image).astype(np.uint8)


def read_binary(path: Path) -> BoolHW:
    """A mask where any non-zero value is the object, (H, W) bool.

    Raises:
        SampleError: as ``read_mask``.
    """
    return read_mask(path, str(path)).mask_HW


def read_mask(source: Path | bytes, name: str, size: Size | None = None) -> MaskImage:
    """A mask where any value, or palette index, but zero is the object. Opaque alpha is dropped.

    Args:
        source: a PNG file, or its bytes.
        name: what messages call it.
        size: (H, W) that it must have; None for any.

    Raises:
        SizeError: of another size; nothing was decoded.
        SampleError: missing, damaged, no PNG, or of a pixel format that has no single meaning for "zero".
    """
    with _opened(source, name, _MASK_FORMATS, size) as image:
        image.load()
        mode = image.mode
        if mode in ("LA", "RGBA", "PA"):
            if image.getchannel("A").getextrema() != (255, 255):
                raise SampleError(f"{name} has see-through pixels; a mask must be opaque")
            mode = mode.removesuffix("A")
            values = np.asarray(image)[:, :, :-1]
            if mode != "RGB":
                values = values[:, :, 0]
        elif mode in ("P", "L", "1", "I", "RGB", *_SIXTEEN_BIT):
            values = np.asarray(image)
        else:
            raise SampleError(f"{name} has pixel format {mode}; a mask must be 1-bit, grey, palette or RGB")
        palette = mode == "P" and (image.getpalette("RGB") or [])[:3] not in ([], [0, 0, 0])
    if mode == "RGB":
        values = values.max(axis=2)
    mask_HW: BoolHW = values != 0
    if mode == "1":
        return MaskImage(mask_HW, False, False, palette)
    between = mask_HW & (values != values.max())
    grey = bool(between.any())
    noise = grey and 2 * int((between & (values < 16)).sum()) > int(between.sum())
    return MaskImage(mask_HW, grey, noise, palette)
