"""Consistency and selection against the golden files and the plain definitions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rvosbench.methods.models.sam2.packed import PackedMasks
from rvosbench.methods.segment.tracklets import attention_consistency, final_scores, pool_masks, select

torch = pytest.importorskip("torch")


def cases(samples: Path, prefix: str) -> list[Path]:
    found = sorted((samples / "golden" / "decaf" / "sam_stage").glob(f"{prefix}_*.npz"))
    assert found
    return found


def test_consistency_is_the_released_one(samples: Path) -> None:
    for path in cases(samples, "ac"):
        file = np.load(path)
        tracklets = [PackedMasks.pack(track) for track in file["tracklets"].astype(bool)]
        scores = attention_consistency(file["fused_map"], tracklets)
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, file["ac_score"], rtol=0, atol=1e-5, err_msg=path.name)


def test_selection_is_the_released_one(samples: Path) -> None:
    for path in cases(samples, "select"):
        file = np.load(path)
        final = final_scores(file["score"], file["ac_score"])
        np.testing.assert_allclose(final, file["final_score"], rtol=0, atol=1e-5, err_msg=path.name)
        chosen = select(final, float(file["threshold"]))
        assert list(chosen) == file["selected"].tolist(), path.name
        frames = file["frame_idx"][list(chosen)]
        np.testing.assert_array_equal(file["key_frame_indices"][frames], file["prompt_frame_indices"])
        np.testing.assert_array_equal(file["tracklets"][list(chosen), frames], file["prompt_masks"])


@pytest.mark.parametrize("grid", [(4, 5), (7, 9), (13, 11), (40, 50)])
def test_pooling_is_adaptive_average_pooling(grid: tuple[int, int]) -> None:
    masks = np.random.default_rng(2).random((3, 37, 46)) > 0.5
    expected = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(masks).float(), grid).numpy()
    np.testing.assert_allclose(pool_masks(masks, *grid), expected, rtol=0, atol=1e-6)


def test_hand_worked_consistency() -> None:
    # One frame of 2x2 cells, each 2x2 pixels. Mean 0.5: only 1.0 and 0.8 stand above; the rest become -1.
    map_Thw = np.array([[[1.0, 0.2], [0.8, 0.0]]], dtype=np.float32)
    masks = np.zeros((3, 1, 4, 4), dtype=bool)
    masks[0, 0, :, :2] = True  # the two high cells: (1 + 0.8) / 1.8 = 1
    masks[1, 0, :2, :2] = True
    masks[1, 0, 0, 2:] = True  # one high cell and half a low one: (1 - 0.5) / 1.8
    masks[2, 0, 2:, 2:] = True  # a low cell: -1 / 1.8, not rescaled
    scores = attention_consistency(map_Thw, [PackedMasks.pack(mask) for mask in masks])
    np.testing.assert_allclose(scores, [1.0, 0.5 / 1.8, -1 / 1.8], rtol=0, atol=1e-6)


def test_a_constant_frame_counts_nothing() -> None:
    map_Thw = np.array([[[0.9, 0.3], [0.3, 0.3]], [[0.1, 0.1], [0.1, 0.1]]], dtype=np.float32)
    masks = np.zeros((1, 2, 4, 4), dtype=bool)
    masks[0, 0, 2:, 2:] = True  # one low cell of the first frame: -0.9 / 0.9
    expected = attention_consistency(map_Thw, [PackedMasks.pack(masks[0])])
    masks[0, 1] = True
    np.testing.assert_allclose(expected, [-1.0], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(attention_consistency(map_Thw, [PackedMasks.pack(masks[0])]), expected)


def test_without_tracklets_consistency_is_empty_and_selection_refuses() -> None:
    assert attention_consistency(np.ones((2, 3, 3), dtype=np.float32), []).shape == (0,)
    with pytest.raises(ValueError, match="no tracklet"):
        select(np.zeros(0, dtype=np.float32), 0.8)


def test_selection_is_strict_and_falls_back_to_the_best() -> None:
    assert select(np.array([0.8, 0.9, 0.81], dtype=np.float32), 0.8) == (1, 2)
    assert select(np.array([0.8, 0.1, 0.8], dtype=np.float32), 0.8) == (0,)
