"""Decoding frames: every kind of image is converted or refused by name, never shown wrong."""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rvosbench.harness.data.caches import ArrayCache
from rvosbench.harness.data.frames import DecodedFrames
from rvosbench.harness.data.images import SizeError, image_size, read_binary, read_labels, read_mask, read_rgb
from rvosbench.harness.data.reader import open_dataset
from rvosbench.harness.data.types import Video
from rvosbench.harness.errors import SampleError


def clip(*paths: Path) -> Video:
    return Video("set", "valid", "clip", tuple(path.stem for path in paths), paths, ())


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def colours(size: tuple[int, int] = (32, 24)) -> Image.Image:
    """Four flat quarters: red, green, blue, white."""
    image = Image.new("RGB", size, "white")
    width, height = size[0] // 2, size[1] // 2
    for corner, colour in (((0, 0), "red"), ((width, 0), (0, 255, 0)), ((0, height), "blue")):
        image.paste(colour, (*corner, corner[0] + width, corner[1] + height))
    return image


def test_real_frames_equal_what_pillow_reads(samples: Path) -> None:
    video = open_dataset("ref_davis17", samples / "mini_ref_davis17").videos[0]
    frames = DecodedFrames(video)
    assert len(frames) == 50
    assert frames.size == (480, 854)
    with Image.open(video.frame_paths[7]) as image:
        assert np.array_equal(frames[7], np.asarray(image))
    assert frames[7] is frames[7], "decoded once"
    assert np.array_equal(frames[-1], frames[49])
    assert frames[7].dtype == np.uint8 and not frames[7].flags.writeable
    with pytest.raises(IndexError):
        frames[50]


def test_a_copy_for_another_process_carries_no_pixels(samples: Path) -> None:
    video = open_dataset("ref_davis17", samples / "mini_ref_davis17").videos[0]
    frames = DecodedFrames(video)
    first = frames[0]
    payload = pickle.dumps(frames)
    assert len(payload) < 20_000
    assert np.array_equal(pickle.loads(payload)[0], first)


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "YCbCr"])
def test_colour_modes_keep_their_colours(tmp_path: Path, mode: str) -> None:
    path = saved(tmp_path / "0.jpg", colours().convert(mode), quality=100, subsampling=0)
    with Image.open(path) as image:
        assert image.mode == ("CMYK" if mode == "CMYK" else "RGB")
    difference = read_rgb(path).astype(int) - np.asarray(colours()).astype(int)
    assert np.abs(difference).max() <= 12


def test_grey_palette_and_opaque_alpha_are_converted(tmp_path: Path) -> None:
    grey = saved(tmp_path / "grey.jpg", Image.new("L", (4, 3), 77))
    assert (read_rgb(grey) == 77).all() and read_rgb(grey).shape == (3, 4, 3)
    palette = saved(tmp_path / "palette.png", colours().quantize(4))
    assert np.array_equal(read_rgb(palette), np.asarray(colours()))
    alpha = saved(tmp_path / "alpha.png", colours().convert("RGBA"))
    assert np.array_equal(read_rgb(alpha), np.asarray(colours()))
    bits = saved(tmp_path / "bits.png", Image.new("1", (4, 3), 1))
    assert (read_rgb(bits) == 255).all()


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    values_HW = np.array([[0, 255, 256, 0x8000, 0xFFFF]], dtype=np.uint16)
    path = saved(tmp_path / "deep.png", Image.fromarray(values_HW))
    assert read_rgb(path)[0, :, 0].tolist() == [0, 0, 1, 128, 255]


def test_ambiguous_images_are_refused_by_name(tmp_path: Path) -> None:
    half = Image.new("RGBA", (4, 3), (255, 0, 0, 128))
    with pytest.raises(SampleError, match=r"half\.png has see-through pixels"):
        read_rgb(saved(tmp_path / "half.png", half))
    with pytest.raises(SampleError, match=r"float\.tif cannot be read as an image: it holds TIFF"):
        read_rgb(saved(tmp_path / "float.tif", Image.new("F", (4, 3))))
    keyed = colours().quantize(4)
    with pytest.raises(SampleError, match=r"keyed\.png has see-through pixels"):
        read_rgb(saved(tmp_path / "keyed.png", keyed, transparency=0))


@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_a_truncated_file_is_an_error_at_any_length(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    noise.save(buffer, "JPEG" if kind == "jpg" else "PNG")
    whole, path = buffer.getvalue(), tmp_path / f"cut.{kind}"
    # A PNG without its last chunks (16 bytes: checksum and end mark) still holds every pixel.
    for length in [0, 1, 10, *range(20, len(whole) - 20, max(1, len(whole) // 60))]:
        path.write_bytes(whole[:length])
        with pytest.raises(SampleError, match=rf"cut\.{kind}"):
            read_rgb(path)


@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_damaged_bytes_raise_nothing_but_a_sample_error(tmp_path: Path, kind: str) -> None:
    buffer = io.BytesIO()
    colours().save(buffer, "JPEG" if kind == "jpg" else "PNG")
    rng = np.random.default_rng(1)
    path, refused = tmp_path / f"bad.{kind}", 0
    for _ in range(300):
        content = bytearray(buffer.getvalue())
        for position in rng.integers(0, len(content), 3):
            content[position] = int(rng.integers(0, 256))
        path.write_bytes(content)
        for read in (read_rgb, read_labels, read_binary, image_size):
            try:
                read(path)
            except SampleError as error:
                assert f"bad.{kind}" in str(error)
                refused += 1
    assert refused > 100


def test_frames_of_differing_size_are_named(tmp_path: Path) -> None:
    video = clip(saved(tmp_path / "0.jpg", colours()), saved(tmp_path / "1.jpg", colours((30, 24))))
    frames = DecodedFrames(video)
    for use in (lambda: frames.size, lambda: frames[0]):
        with pytest.raises(SampleError, match=r"1\.jpg is 30x24 \(width x height\), but .*0\.jpg is 32x24"):
            use()


def test_missing_frames_and_empty_videos_are_named(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match=r"0\.jpg does not exist"):
        _ = DecodedFrames(clip(tmp_path / "0.jpg")).size
    with pytest.raises(SampleError, match="video 'clip' has no frames"):
        _ = DecodedFrames(clip()).size
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(SampleError, match=r"folder\.jpg cannot be read as an image"):
        _ = DecodedFrames(clip(tmp_path / "folder.jpg")).size


def test_masks_in_every_form_of_zero_and_not_zero(tmp_path: Path) -> None:
    truth_HW = np.array([[0, 1, 1, 0], [0, 0, 1, 0]], dtype=bool)
    forms = {
        "l255": Image.fromarray(truth_HW.astype(np.uint8) * 255),
        "l1": Image.fromarray(truth_HW.astype(np.uint8)),
        "bits": Image.fromarray(truth_HW.astype(np.uint8) * 255).convert("1"),
        "rgb": Image.fromarray(np.repeat(truth_HW.astype(np.uint8)[:, :, None] * 200, 3, axis=2)),
        "deep": Image.fromarray(truth_HW.astype(np.uint16) * 256),
    }
    for name, image in forms.items():
        assert np.array_equal(read_binary(saved(tmp_path / f"{name}.png", image)), truth_HW), name
    for mode in ("RGBA", "LA"):
        opaque = forms["l255"].convert(mode)
        assert np.array_equal(read_binary(saved(tmp_path / f"{mode}.png", opaque)), truth_HW)
        opaque.putalpha(128)
        with pytest.raises(SampleError, match="see-through"):
            read_binary(saved(tmp_path / f"{mode}.png", opaque))


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "EPS"])
@pytest.mark.parametrize("read", [read_binary, read_labels, read_rgb])
def test_other_formats_are_refused_whatever_the_file_is_called(
    tmp_path: Path, kind: str, read: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*arguments: object, **options: object) -> None:
        raise AssertionError("a decoder started another program")

    monkeypatch.setattr("subprocess.Popen.__init__", started)
    path = tmp_path / "mask.png"
    Image.new("L", (8, 6), 255).save(path, kind)
    if kind == "JPEG" and read is read_rgb:
        assert np.asarray(read(path)).shape == (6, 8, 3)
        return
    with pytest.raises(SampleError, match=r"mask\.png cannot be read as an image: it"):
        read(path)


def header_only(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9000, 13300, 50000])
def test_a_size_is_refused_from_the_header(tmp_path: Path, side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("pixels were decoded"))
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", lambda image: pytest.fail("pixels were decoded"))
    content = header_only(side, side)
    (tmp_path / "big.png").write_bytes(content)
    for read in (read_binary, read_labels, read_rgb, image_size):
        with pytest.raises(SampleError, match=r"big\.png"):
            read(tmp_path / "big.png")
    with pytest.raises(SampleError, match="mask"):
        read_mask(content, "mask", (480, 854))


def test_a_mask_of_another_size_says_which() -> None:
    with pytest.raises(SizeError, match="3x4") as caught:
        read_mask(header_only(4, 3), "mask", (4, 3))
    assert caught.value.found == (3, 4)


def test_what_a_masks_pixels_say_about_its_origin(tmp_path: Path) -> None:
    truth_HW = np.zeros((48, 64), dtype=bool)
    truth_HW[10:33, 12:37] = True
    sharp = Image.fromarray(truth_HW.astype(np.uint8) * 255)
    lossy = io.BytesIO()
    sharp.save(lossy, "JPEG", quality=75)
    white_first = Image.fromarray(truth_HW.astype(np.uint8), mode="P")
    white_first.putpalette([255, 255, 255, 0, 0, 0] + [7] * 762)
    forms = {
        "sharp": (sharp, (False, False, False)),
        "one bit": (sharp.convert("1"), (False, False, False)),
        "values 0 and 1": (Image.fromarray(truth_HW.astype(np.uint8)), (False, False, False)),
        "colour": (sharp.convert("RGB"), (False, False, False)),
        "through JPEG": (Image.open(lossy), (True, True, False)),
        "resized": (sharp.resize((16, 12), Image.Resampling.BILINEAR).resize((64, 48)), (True, False, False)),
        "white first": (white_first, (False, False, True)),
    }
    for name, (image, expected) in forms.items():
        found = read_mask(saved(tmp_path / f"{name}.png", image), name)
        assert (found.grey, found.noise, found.palette) == expected, name


def test_the_cache_forgets_the_least_used_first_and_never_the_newest() -> None:
    made: list[str] = []

    def make(name: str) -> Any:
        made.append(name)
        return np.zeros(40, dtype=np.uint8)

    cache: ArrayCache[Any] = ArrayCache(100)
    for name in ("a", "b", "a", "c", "a", "b"):
        cache.get(name, lambda name=name: make(name))
    # Two fit. "c" drops "b", not the "a" just used; the second "b" is made again.
    assert made == ["a", "b", "c", "b"]
    small: ArrayCache[Any] = ArrayCache(10)
    assert small.get("big", lambda: make("big")) is small.get("big", lambda: make("again"))
