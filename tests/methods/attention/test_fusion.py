"""Fusion against the golden maps of the reference, a slow plain definition, and hand-worked cases."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.recipes import method_settings
from rvosbench.methods.ground import fusion

Arrays = Mapping[str, NDArray[Any]]
CASES = (
    "clamp_upper",
    "constant_equal",
    "constant_object_zero_background",
    "internvl_one_tile",
    "internvl_tiles_2x3",
    "llava",
    "qwen_even",
    "qwen_odd",
    "qwen_single_frame",
)
SETTINGS = fusion.FusionSettings()


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, samples: Path) -> Arrays:
    return dict(np.load(samples / "golden/decaf/maps" / f"{request.param}.npz"))


@pytest.fixture(scope="module")
def ops(samples: Path) -> Arrays:
    return dict(np.load(samples / "golden/decaf/maps/ops.npz"))


def row_to_map(case: Arrays, prompt: str, view: str) -> fusion.Float32:
    """Visual columns of a golden row on the token grid, as the model families lay them out."""
    row, mask = case[f"in_{prompt}_{view}_row"], case[f"in_{prompt}_{view}_mask"]
    tokens = np.stack([r[m] for r, m in zip(row, mask, strict=True)])
    frames, height, width = (int(n) for n in case[f"in_{prompt}_{view}_grid_thw"][0])
    merge = len(tokens[0]) * 4 == frames * height * width  # Qwen's grids are given before the 2x2 merge
    height, width = (height // 2, width // 2) if merge else (height, width)
    tiling = case.get(f"in_{prompt}_{view}_tiling_hw")
    if tiling is None:
        return tokens.reshape(-1, height, width)
    down, across = (int(n) for n in tiling)
    tiles = tokens.reshape(-1, down, across, height, width).transpose(0, 1, 3, 2, 4)
    return tiles.reshape(-1, down * height, across * width)


def raw_maps(case: Arrays) -> fusion.RolloutMaps:
    return fusion.RolloutMaps(
        *(row_to_map(case, prompt, view) for prompt in ("obj", "bg") for view in ("clip", "frame"))
    )


def close(actual: fusion.Float32, expected: NDArray[Any], atol: float) -> None:
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)


def test_smoothing_of_the_golden_rows(case: Arrays) -> None:
    for prompt in ("obj", "bg"):
        for view, size in (("clip", 3), ("frame", 7)):
            expected = case[f"smooth_{prompt}_{view}"]
            close(fusion.smooth(row_to_map(case, prompt, view), size, 1.0), expected, 2e-6 * float(expected.max()))


def test_every_step_up_to_the_fused_map(case: Arrays) -> None:
    maps = raw_maps(case)
    clip, frame = fusion.contrast_clip(maps, SETTINGS), fusion.contrast_frame(maps, SETTINGS)
    for actual, name in ((clip, "contrast_clip"), (frame, "contrast_frame")):
        close(actual, case[name], 2e-6 * max(float(case[name].max()), float(case["smooth_obj_frame"].max())))
    norm_clip = fusion.normalise_clip(clip)
    close(norm_clip, case["norm_clip"], 5e-6)
    close(fusion.normalise_frames(frame), case["norm_frame"], 5e-6)
    at_keyframes = fusion.match_keyframes(norm_clip, len(frame))
    close(at_keyframes, case["clip_at_T"], 5e-6)
    close(fusion.resize(at_keyframes, tuple(frame.shape[1:])), case["clip_upsampled"], 5e-6)
    close(fusion.fuse(maps, SETTINGS), case["fused"], 5e-6)


def test_points_are_the_same_set_in_the_same_order(case: Arrays) -> None:
    points = fusion.points_above(fusion.fuse(raw_maps(case), SETTINGS), 0.8)
    assert points.keyframe_n.tolist() == case["point_frame"].tolist()
    assert points.xy_n2.dtype == np.float32
    np.testing.assert_array_equal(points.xy_n2, case["point_xy"])
    np.testing.assert_allclose(points.value_n, case["point_value"], rtol=0, atol=5e-6)
    counts = np.bincount(points.keyframe_n, minlength=len(case["point_count_per_frame"]))
    assert counts.tolist() == case["point_count_per_frame"].tolist()


def test_attention_masks(case: Arrays) -> None:
    fused = fusion.fuse(raw_maps(case), SETTINGS)
    size = (int(case["orig_size"][0]), int(case["orig_size"][1]))
    image = fusion.to_uint8(fusion.resize(fused, size))
    differs = np.abs(image.astype(int) - case["resized_u8"].astype(int))
    assert differs.max(initial=0) <= 1
    assert (differs > 0).mean() <= 0.005
    assert (np.stack(fusion.attention_masks(fused, size)) != (case["otsu_mask"] > 0)).mean() <= 0.005
    check_otsu(case, "resized_u8")


def check_otsu(expected: Arrays, image: str) -> None:
    thresholds, masks = zip(*(fusion.otsu(frame.astype(np.uint8)) for frame in expected[image]), strict=True)
    assert list(thresholds) == expected["otsu_threshold"].tolist()
    np.testing.assert_array_equal(np.stack(masks), expected["otsu_mask"] > 0)


@pytest.mark.parametrize("name", ["internvl_one_tile", "internvl_tiles_2x3", "llava", "qwen_even"])
def test_keypoints_are_the_highest_cells(name: str, samples: Path) -> None:
    case = dict(np.load(samples / f"golden/decaf/maps/{name}.npz"))
    keyframes = tuple(int(index) for index in case["key_frame_indices"])
    rows = fusion.top_cells(case["fused"], keyframes)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, case["keypoints_top100"], rtol=0, atol=1e-6)


def test_single_steps(ops: Arrays) -> None:
    for size in (3, 7):
        close(fusion.gaussian_kernel(size, 1.0), ops[f"kernel_{size}"], 1e-7)
        for name in ("0", "1", "2"):
            expected = ops[f"smooth_k{size}_out_{name}"]
            close(fusion.smooth(ops[f"smooth_in_{name}"], size, 1.0), expected, 2e-6 * expected.max())
        for name in ("constant", "impulse", "corner_impulse"):
            expected = ops[f"smooth_{name}_k{size}_out"]
            close(fusion.smooth(ops[f"smooth_{name}_in"], size, 1.0), expected, 2e-6 * expected.max())
    for name in ("normalise", "normalise_constant"):
        given = ops[f"{name}_in"]
        close(fusion.normalise_clip(given), ops[f"{name}_clip_out"], 5e-6)
        close(fusion.normalise_frames(given), ops[f"{name}_frame_out"], 5e-6)
    for height, width in ((8, 12), (11, 17), (29, 32)):
        given = ops["upsample_in"]
        close(fusion.resize(given, (height, width)), ops[f"upsample_out_{height}x{width}"], 5e-6)


def test_the_threshold_is_compared_in_float32(ops: Arrays) -> None:
    points = fusion.points_above(ops["points_in"], 0.8)
    assert points.keyframe_n.tolist() == ops["points_frame"].tolist()
    np.testing.assert_array_equal(points.xy_n2, ops["points_xy"])
    np.testing.assert_array_equal(points.value_n, ops["points_value"])
    # The pack holds float32(0.8) and its two neighbours: exactly one of the three is left out.
    assert (np.abs(ops["points_in"].astype(np.float64) - 0.8) < 1e-6).sum() == 3


def test_otsu_of_the_single_step(ops: Arrays) -> None:
    check_otsu(ops, "otsu_u8")
    size = (int(ops["otsu_size"][0]), int(ops["otsu_size"][1]))
    masks = np.stack(fusion.attention_masks(ops["otsu_in"].astype(np.float32), size))
    assert (masks != (ops["otsu_mask"] > 0)).mean() <= 0.005


def plain_fusion(
    object_clip: NDArray[np.float64],
    object_frame: NDArray[np.float64],
    background_clip: NDArray[np.float64],
    background_frame: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The definition, cell by cell in float64."""

    def blur(image: NDArray[np.float64], size: int) -> NDArray[np.float64]:
        half, out = size // 2, np.zeros_like(image)
        steps = range(-half, half + 1)
        weight = {(a, b): math.exp(-(a * a + b * b) / 2) for a in steps for b in steps}
        total = sum(weight.values())
        for t, i, j in np.ndindex(*image.shape):
            for (a, b), w in weight.items():
                if 0 <= i + a < image.shape[1] and 0 <= j + b < image.shape[2]:
                    out[t, i, j] += w / total * image[t, i + a, j + b]
        return out

    def min_max(image: NDArray[np.float64]) -> NDArray[np.float64]:
        span = image.max() - image.min()
        return (image - image.min()) / (span if span > 0 else 1.0)

    def sample(image: NDArray[np.float64], i: float, j: float) -> float:
        height, width = image.shape
        i, j = min(max(i, 0.0), height - 1.0), min(max(j, 0.0), width - 1.0)
        top, left = min(int(i), height - 1), min(int(j), width - 1)
        bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
        v, u = i - top, j - left
        upper = (1 - u) * image[top, left] + u * image[top, right]
        lower = (1 - u) * image[bottom, left] + u * image[bottom, right]
        return float((1 - v) * upper + v * lower)

    clip = min_max(np.clip(blur(object_clip, 3) - blur(background_clip, 3), 0, 1))
    frame = np.clip(blur(object_frame, 7) - blur(background_frame, 7), 0, 1)
    mean = np.zeros_like(frame)
    for t, i, j in np.ndindex(*frame.shape):
        slot = clip[t // 2 if len(clip) != len(frame) else t]
        y = (i + 0.5) * slot.shape[0] / frame.shape[1] - 0.5
        x = (j + 0.5) * slot.shape[1] / frame.shape[2] - 0.5
        mean[t, i, j] = (sample(slot, y, x) + min_max(frame[t])[i, j]) / 2
    return min_max(mean)


@pytest.mark.parametrize(("slots", "keyframes"), [(2, 4), (2, 3), (3, 3), (1, 1)])
def test_fusion_equals_the_plain_definition(slots: int, keyframes: int) -> None:
    random = np.random.default_rng(7)
    clip_shape, frame_shape = (slots, 3, 4), (keyframes, 6, 8)
    given = [random.random(shape) * 1e-3 for shape in (clip_shape, frame_shape, clip_shape, frame_shape)]
    maps = fusion.RolloutMaps(*(array.astype(np.float32) for array in given))
    np.testing.assert_allclose(fusion.fuse(maps, SETTINGS), plain_fusion(*given), rtol=0, atol=5e-6)


def test_one_view_alone_keeps_its_own_grid() -> None:
    random = np.random.default_rng(1)
    maps = fusion.RolloutMaps(random.random((2, 3, 4), np.float32), random.random((3, 6, 8), np.float32))
    clip = fusion.fuse(maps, fusion.FusionSettings(views="clip", subtract_background=False))
    frame = fusion.fuse(maps, fusion.FusionSettings(views="frame", subtract_background=False))
    expected = fusion.normalise_clip(fusion.smooth(maps.object_clip_thw, 3, 1.0))
    np.testing.assert_array_equal(clip, np.stack([expected[0], expected[0], expected[1]]))
    assert frame.shape == (3, 6, 8)
    assert frame.max((1, 2)).tolist() == [1.0, 1.0, 1.0]
    np.testing.assert_array_equal(frame, fusion.normalise_frames(fusion.smooth(maps.object_frame_thw, 7, 1.0)))


def test_without_background_maps_nothing_is_subtracted_silently() -> None:
    maps = fusion.RolloutMaps(np.ones((1, 3, 4), np.float32), np.ones((1, 6, 8), np.float32))
    with pytest.raises(ValueError, match="background"):
        fusion.fuse(maps, SETTINGS)


@pytest.mark.parametrize("slots", [1, 4, 5])
def test_a_clip_map_that_does_not_cover_the_keyframes_is_refused(slots: int) -> None:
    with pytest.raises(ValueError, match="6 keyframes"):
        fusion.match_keyframes(np.zeros((slots, 2, 2), np.float32), 6)


def test_equal_cells_keep_their_order_and_small_maps_give_all() -> None:
    fused = np.array([[[0.5, 1.0], [0.5, 0.0]], [[1.0, 0.5], [0.0, 0.0]]], np.float32)
    rows = fusion.top_cells(fused, (4, 9))
    assert rows.shape == (8, 4)
    assert rows[:5].tolist() == [
        [4, 0.25, 0.75, 1.0],
        [9, 0.25, 0.25, 1.0],
        [4, 0.25, 0.25, 0.5],
        [4, 0.75, 0.25, 0.5],
        [9, 0.25, 0.75, 0.5],
    ]


@pytest.mark.parametrize(
    "wrong", [{"views": "video"}, {"sigma": 0.0}, {"clip_kernel": 4}, {"frame_kernel": 0}, {"sigma": math.nan}]
)
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(PrerequisiteError, match=next(iter(wrong))):
        method_settings(fusion.FusionSettings, wrong, "toy")
