"""Suppression against the golden cases of the released code, and where ours departs from it on purpose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rvosbench.methods.models.sam2.packed import PackedMasks
from rvosbench.methods.segment.nms import DeletionRule, Suppression, suppress

CASES = [
    "double_kill",
    "double_kill_nothing_kept",
    "double_kill_order_swapped",
    "dropped_still_suppresses",
    "empty_masks",
    "equal_score_keeps_previous",
    "iou_exactly_at_threshold",
    "one_beats_several_previous",
    "random_no_previous",
    "random_with_previous",
    "random_with_previous_2",
    "random_with_previous_3",
    "random_with_previous_4",
    "single_mask",
]
DOUBLE_KILLS = ["double_kill", "double_kill_nothing_kept"]


def run(
    masks: NDArray[np.bool_],
    scores: list[float] | NDArray[np.float32],
    previous: NDArray[np.bool_],
    previous_scores: list[float] | NDArray[np.float32],
    deletion: DeletionRule,
) -> Suppression:
    return suppress(
        PackedMasks.pack(masks),
        np.asarray(scores, dtype=np.float32),
        PackedMasks.pack(previous),
        np.asarray(previous_scores, dtype=np.float32),
        iou_threshold=0.7,
        deletion=deletion,
    )


def golden(samples: Path, case: str, deletion: DeletionRule) -> tuple[Suppression, list[int], list[int]]:
    file = np.load(samples / "golden" / "decaf" / "sam_stage" / f"nms_{case}.npz")
    masks = file["masks"]
    previous = file["previous_masks"] if "previous_masks" in file else np.zeros((0, *masks.shape[1:]), dtype=bool)
    scores = file["previous_scores"] if "previous_scores" in file else np.zeros(0, dtype=np.float32)
    return (
        run(masks, file["scores"], previous, scores, deletion),
        file["keep"].tolist(),
        file["delete_previous"].tolist(),
    )


@pytest.mark.parametrize("case", CASES)
def test_by_any_is_the_released_code(samples: Path, case: str) -> None:
    outcome, keep, delete = golden(samples, case, "by_any")
    assert outcome == Suppression(tuple(keep), tuple(delete))


def test_every_golden_case_is_covered(samples: Path) -> None:
    found = {path.stem.removeprefix("nms_") for path in (samples / "golden" / "decaf" / "sam_stage").glob("nms_*.npz")}
    assert found == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_by_kept_keeps_the_same_masks_and_differs_only_in_double_kills(samples: Path, case: str) -> None:
    outcome, keep, delete = golden(samples, case, "by_kept")
    assert outcome.keep == tuple(keep)
    assert outcome.delete_previous == (() if case in DOUBLE_KILLS else tuple(delete))


def bar(start: int, stop: int) -> NDArray[np.bool_]:
    mask = np.zeros((4, 20), dtype=bool)
    mask[:, start:stop] = True
    return mask


def test_a_tracklet_beaten_by_two_survivors_is_reported_once_by_kept_and_twice_by_any() -> None:
    # The two new masks overlap each other by 8/12 and the old one by 8/10 each.
    new, old = np.stack([bar(0, 9), bar(3, 12)]), bar(1, 11)[None]
    assert run(new, [1.6, 1.5], old, [1.0], "by_any") == Suppression((0, 1), (0, 0))
    assert run(new, [1.6, 1.5], old, [1.0], "by_kept") == Suppression((0, 1), (0,))


def test_a_double_kill_deletes_only_under_by_any() -> None:
    # The first new mask beats the first tracklet and loses to the second; the other one is far away and survives.
    new = np.stack([bar(0, 10), bar(14, 20)])
    old = np.stack([bar(0, 10), bar(0, 10)])
    assert run(new, [1.3, 1.1], old, [1.2, 1.4], "by_any") == Suppression((1,), (0,))
    assert run(new, [1.3, 1.1], old, [1.2, 1.4], "by_kept") == Suppression((1,), ())


def plain(
    masks: NDArray[np.bool_], scores: NDArray[np.float32], old: NDArray[np.bool_], old_scores: NDArray[np.float32]
) -> Suppression:
    """The released rules, mask by mask."""

    def overlap(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> bool:
        union = int((a | b).sum())
        return union > 0 and int((a & b).sum()) / union > 0.7

    alive = list(np.argsort(-scores, kind="stable"))
    keep, delete = [], []
    while alive:
        i = alive.pop(0)
        alive = [j for j in alive if not overlap(masks[i], masks[j])]
        for k in range(len(old)):
            if overlap(masks[i], old[k]):
                if scores[i] > old_scores[k]:
                    delete.append(k)
                else:
                    break
        else:
            keep.append(int(i))
    return Suppression(tuple(keep), tuple(delete))


@pytest.mark.parametrize("seed", range(8))
def test_by_any_is_the_plain_definition_on_crowded_masks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 6, 22)
    masks = np.stack([bar(s, s + 12) for s in base])
    scores = (0.8 + 0.05 * rng.integers(0, 20, 22)).astype(np.float32)
    expected = plain(masks[:14], scores[:14], masks[14:], scores[14:])
    outcome = run(masks[:14], scores[:14], masks[14:], scores[14:], "by_any")
    assert outcome == expected
    fixed = run(masks[:14], scores[:14], masks[14:], scores[14:], "by_kept")
    assert fixed.keep == expected.keep
    assert set(fixed.delete_previous) <= set(expected.delete_previous)
