"""Judging a trained SAM2: clicks lie inside objects, and a perfect segmenter scores one."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("sam2")

from toy.sam2.evaluate import cell_centres, evaluate_clip, interior

from rvosbench.harness.data.synthetic import make_clip
from rvosbench.methods.models.sam2.packed import PackedMasks
from rvosbench.methods.models.sam2.segmenter import PointMasks, TrackedMasks


def test_clicks_of_the_evaluation_lie_inside() -> None:
    mask = np.zeros((40, 80), dtype=bool)
    mask[10:31, 20:61] = True
    x, y = interior(mask)
    assert y == pytest.approx(20.5 / 40)
    assert 30 / 80 <= x <= 51 / 80
    assert cell_centres(mask, cells=4) == [((c + 0.5) / 4, (r + 0.5) / 4) for r in (1, 2) for c in (1, 2)]
    corner = np.zeros((10, 10), dtype=bool)
    corner[:7, :7] = True
    # Inside the image, not at its border: deepest is the centre.
    assert interior(corner) == (0.35, 0.35)


def test_a_perfect_segmenter_scores_one() -> None:
    clip = next(c for c in map(partial(make_clip, 0, "valid"), range(12)) if c.scene.scenario == "screen")
    found = evaluate_clip(_Truth(clip), clip, np.random.default_rng(0))
    assert len(found["click"]) == len(found["mask"]) == len(clip.scene.objects)
    for objects in found.values():
        for tracked in objects:
            assert (tracked.j, tracked.f, tracked.prompt_iou, tracked.presence) == (1.0, 1.0, 1.0, 1.0)
    # In this clip a small object passes behind a large one.
    assert [o.hidden for o in found["click"]].count(True) in range(1, len(found["click"]))


class _Truth:
    """A segmenter that knows the clip: a click or mask gives the object under it, everywhere."""

    def __init__(self, clip: Any) -> None:
        self._ids = clip.ids_THW
        self.size = clip.ids_THW.shape[1:]

    def __len__(self) -> int:
        return len(self._ids)

    def masks_from_points(self, frame: int, points_N2: Any) -> Any:
        height, width = self.size
        hit = [self._ids[frame][int(y * height), int(x * width)] for x, y in points_N2]
        masks = np.stack([self._ids[frame] == obj for obj in hit])
        return PointMasks(PackedMasks.pack(masks), np.full(len(hit), 0.9, dtype=np.float32))

    def propagate(self, frames: Any, prompt: Any) -> Any:
        hit = [np.bincount(self._ids[frames[prompt.position]][mask]).argmax() for mask in prompt.mask_NHW]
        for position, frame in enumerate(frames):
            yield TrackedMasks(position, slice(0, len(hit)), np.stack([self._ids[frame] == obj for obj in hit]))
