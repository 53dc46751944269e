"""The segment stage over a segmenter whose answers are known: points, candidates, the winner, and the empty cases.

Shape legend: T keyframes, H W pixels, h w map cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rvosbench.harness.data.masks import decode
from rvosbench.harness.data.types import Expression
from rvosbench.harness.stages import Request
from rvosbench.harness.store.artefacts import Artefact, to_bytes
from rvosbench.harness.store.tracks import mask_track
from rvosbench.methods.ground.fusion import FusionSettings
from rvosbench.methods.models.sam2.checkpoints import Sam2Settings
from rvosbench.methods.models.sam2.packed import PackedMasks
from rvosbench.methods.models.sam2.prompts import Masks, Prompt
from rvosbench.methods.models.sam2.segmenter import PointMasks, TrackedMasks
from rvosbench.methods.segment.from_map import (
    FALLBACK,
    NO_MASK,
    NO_POINT,
    PromptedMasks,
    RolloutMapSettings,
    rollout_reader,
)
from rvosbench.methods.segment.settings import KeepSettings, PearsonSettings, PromptSettings, SegmentSettings

HEIGHT, WIDTH, FRAMES = 8, 12, 6
KEYFRAMES = [0, 2, 5]
PLAIN = FusionSettings(subtract_background=False, clip_kernel=1, frame_kernel=1)


def array(values: object) -> Any:
    return np.array(values, dtype=np.float32)


class Thirds:
    """Three objects, each a third of the width wide; one that ``hides`` gives an empty mask on its point.

    Tracking keeps an object where it is, but the middle one is there on the first keyframe only.
    """

    def __init__(self, *hides: int) -> None:
        self.hides = hides
        self.asked: list[tuple[int, list[int]]] = []
        """(frame, thirds) of every prompt with points."""

    @property
    def size(self) -> tuple[int, int]:
        return HEIGHT, WIDTH

    def __len__(self) -> int:
        return FRAMES

    def masks_from_points(self, frame: int, points_N2: Any) -> PointMasks:
        thirds = [int(x * 3) for x, _ in points_N2]
        self.asked.append((frame, thirds))
        masks = np.zeros((len(thirds), HEIGHT, WIDTH), dtype=bool)
        for mask, third in zip(masks, thirds, strict=True):
            mask[:, 4 * third : 4 * third + 4] = third not in self.hides
        return PointMasks(PackedMasks.pack(masks), np.full(len(thirds), 0.9, dtype=np.float32))

    def propagate(self, frames: Sequence[int], prompt: Prompt) -> Iterator[TrackedMasks]:
        assert isinstance(prompt, Masks)
        masks_NHW = prompt.mask_NHW
        middle_N = masks_NHW[:, 0, 4]
        for position in range(len(frames)):
            gone_N = middle_N & (frames[position] > 0)
            yield TrackedMasks(position, slice(0, len(masks_NHW)), masks_NHW & ~gone_N[:, None, None])


STEERSEG = PromptSettings(
    empty_tracklets="drop",
    fallback="argmax",
    ranking=PearsonSettings(0.3, "clip", "normalised"),
    keep=KeepSettings("winner", 0.0),
    sam2=Sam2Settings("stand-in", "0"),
)


def stage(
    segmenter: Any, masks: PromptSettings, fusion: FusionSettings = PLAIN, points_from: Any = "fused"
) -> PromptedMasks:
    settings = SegmentSettings(RolloutMapSettings(fusion, points_from), masks)
    return PromptedMasks(masks, rollout_reader(settings), lambda _: segmenter)


def ground(clip: Any, frame: Any) -> Artefact:
    meta: dict[str, Any] = {"keyframes": KEYFRAMES, "prompts": {"object": "?"}, "attributes": []}
    return Artefact(meta, {"object_clip": array(clip), "object_frame": array(frame)})


LEFT_OR_MIDDLE = ground(
    clip=[[[0.9, 0.6, 0.0]], [[0.9, 0.0, 0.1]]],
    frame=[[[0.5, 1.0, 0.0]], [[0.9, 0.0, 0.1]], [[0.8, 0.1, 0.0]]],
)
"""On the first keyframe the frame map prefers the middle, otherwise everything prefers the left."""


def run(stage: Any, artefact: Artefact) -> Artefact:
    class Video:
        size = (HEIGHT, WIDTH)

    [(index, outcome)] = list(stage.run(Video(), [Request(Expression("0", "x"), {"ground": artefact})]))
    assert index == 0 and isinstance(outcome, Artefact), outcome
    return outcome


def masks(artefact: Artefact, segmenter: Thirds | None = None, **changes: Any) -> tuple[Artefact, Thirds]:
    segmenter = segmenter or Thirds()
    of_map = {name: changes.pop(name) for name in ("fusion", "points_from") if name in changes}
    return run(stage(segmenter, replace(STEERSEG, **changes), **of_map), artefact), segmenter


def thirds(artefact: Artefact) -> list[list[int]]:
    """Which thirds the mask track fills, frame by frame."""
    track = mask_track(artefact)
    assert track.frames == tuple(range(FRAMES))
    filled = [decode(rle, HEIGHT, WIDTH)[0, ::4] for rle in track.rles]
    return [np.flatnonzero(one).tolist() for one in filled]


def test_the_tracklet_that_fits_both_maps_is_tracked_through_the_video() -> None:
    artefact, segmenter = masks(LEFT_OR_MIDDLE)
    # Fused: left 0.75, 1, 1; middle 0.83, 0, ~0: the middle is prompted first, then the left on the second keyframe.
    assert segmenter.asked == [(0, [1]), (2, [0]), (5, [0])]
    assert thirds(artefact) == [[0]] * FRAMES
    middle, left = artefact.meta["tracklets"]
    assert (middle["selected"], left["selected"]) == (False, True)
    assert left["frame"] == 2 and middle["frame"] == 0
    assert left["score"] == pytest.approx(0.3 * left["rho_frame"] + 0.7 * left["rho_clip"], abs=1e-6)
    assert left["score"] > middle["score"]
    assert (artefact.meta["points"], artefact.meta["fallback"], artefact.meta["empty_because"]) == (3, "", None)
    np.testing.assert_allclose(
        artefact.arrays["points"][:, :3], [[0, 0.5, 0.5], [2, 0.5, 1 / 6], [5, 0.5, 1 / 6]], atol=1e-6
    )
    assert artefact.arrays["fused"].shape == (3, 1, 3)


def test_points_of_the_frame_map_are_on_every_keyframe() -> None:
    absent = ground(clip=[[[0.9, 0, 0]], [[0, 0, 0]]], frame=[[[0.9, 0, 0]], [[0.8, 0, 0]], [[0, 0, 0.001]]])
    _, from_fused = masks(absent)
    assert [frame for frame, _ in from_fused.asked] == [0, 2]
    artefact, from_frame = masks(absent, points_from="frame")
    assert from_frame.asked == [(0, [0]), (2, [0]), (5, [2])]
    assert artefact.arrays["points"][:, 0].tolist() == KEYFRAMES
    assert artefact.arrays["points"][:, 3].tolist() == [1, 1, 1], "the frame map's values"
    assert thirds(artefact) == [[0]] * FRAMES


def test_near_equals_are_united_on_request() -> None:
    both = ground(clip=[[[0.9, 0, 0.88]]] * 2, frame=[[[0.9, 0, 0.88]]] * 3)
    one, _ = masks(both)
    assert thirds(one) == [[0]] * FRAMES
    several, _ = masks(both, keep=KeepSettings("near_best", 0.9))
    assert thirds(several) == [[0, 2]] * FRAMES


def test_decaf_s_ranking_and_rule_give_decaf_s_masks() -> None:
    for artefact in (LEFT_OR_MIDDLE, ground([[[0.9, 0, 0.8]]] * 2, [[[0.9, 0.1, 0.8]]] * 3)):
        expected = run(stage(Thirds(), PromptSettings()), artefact)
        mine, _ = masks(artefact, ranking=None, keep=KeepSettings("threshold", 0.8), fallback="none")
        assert mask_track(mine) == mask_track(expected)
        assert mine.meta["tracklets"] == expected.meta["tracklets"]
        np.testing.assert_array_equal(mine.arrays["fused"], expected.arrays["fused"])


def test_a_constant_map_prompts_nothing_and_gives_empty_masks() -> None:
    artefact, segmenter = masks(ground(np.full((2, 1, 3), 0.2), np.full((3, 1, 3), 0.2)))
    assert segmenter.asked == [] and thirds(artefact) == [[]] * FRAMES
    assert (artefact.meta["fallback"], artefact.meta["empty_because"]) == ("", NO_POINT)
    assert artefact.meta["tracklets"] == [] and artefact.arrays["points"].shape == (0, 4)


# Left above the threshold on two keyframes; the single highest cell is on the right of the last one.
HIDDEN = ground(clip=[[[0.9, 0, 0]], [[0.8, 0, 0.95]]], frame=[[[0.9, 0, 0]], [[0.9, 0, 0]], [[0, 0, 0.9]]])


def test_without_any_mask_the_highest_cell_alone_prompts_again() -> None:
    fused = masks(HIDDEN)[0].arrays["fused"]
    assert np.unravel_index(fused.argmax(), fused.shape) == (2, 0, 2), "the case is what it says"

    class Shy(Thirds):
        """Gives no mask at first."""

        def masks_from_points(self, frame: int, points_N2: Any) -> PointMasks:
            found = super().masks_from_points(frame, points_N2)
            empty = PackedMasks.empty((len(points_N2),), HEIGHT, WIDTH)
            return PointMasks(empty, found.predicted_iou) if len(self.asked) <= 3 else found

    artefact, segmenter = masks(HIDDEN, Shy())
    assert segmenter.asked[-1] == (5, [2]) and len(segmenter.asked) == 4
    assert artefact.meta["fallback"] == FALLBACK and artefact.meta["empty_because"] is None
    assert artefact.meta["points"] == len(artefact.arrays["points"]) == 1
    assert thirds(artefact) == [[2]] * FRAMES


@pytest.mark.parametrize(("fallback", "prompts", "said"), [("argmax", 4, FALLBACK), ("none", 3, None)])
def test_where_that_gives_none_either_masks_are_empty(fallback: str, prompts: int, said: str | None) -> None:
    artefact, segmenter = masks(HIDDEN, Thirds(0, 1, 2), fallback=fallback)
    assert len(segmenter.asked) == prompts
    assert thirds(artefact) == [[]] * FRAMES
    assert (artefact.meta.get("fallback"), artefact.meta["empty_because"]) == (said, NO_MASK)


def test_a_candidate_without_a_mask_of_its_point_never_wins() -> None:
    artefact, _ = masks(HIDDEN, Thirds(0))
    assert thirds(artefact) == [[2]] * FRAMES
    assert [one["frame"] for one in artefact.meta["tracklets"]] == [5]
    assert artefact.meta["fallback"] == ""


def test_one_view_alone_gives_points_and_ranking() -> None:
    disagree = ground(clip=[[[0.9, 0, 0.1]]] * 2, frame=[[[0.1, 0, 0.9]]] * 3)
    for view, weight, third, rho in (("clip", 0.0, 0, "rho_clip"), ("frame", 1.0, 2, "rho_frame")):
        alone = replace(PLAIN, views=view)
        artefact, _ = masks(disagree, fusion=alone, ranking=PearsonSettings(weight, "clip", "normalised"))
        assert thirds(artefact) == [[third]] * FRAMES
        [winner] = artefact.meta["tracklets"]
        assert winner["score"] == winner[rho] and len({"rho_clip", "rho_frame"} & set(winner)) == 1


def test_the_same_maps_give_the_same_bytes() -> None:
    first, second = (to_bytes(masks(LEFT_OR_MIDDLE)[0]) for _ in range(2))
    assert first == second
