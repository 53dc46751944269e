"""tIoU and vIoU against hand-worked cases and the definition on masks; the Long-RVOS card from end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rvosbench.harness.data.reader import open_dataset
from rvosbench.harness.scoring.kernel import frame_counts
from rvosbench.harness.scoring.score import score_predictions
from rvosbench.harness.scoring.temporal import overlaps

from .builders import write_json, write_png

SIZE = (12, 16)


def rectangle(y: int, x: int, height: int, width: int) -> Any:
    mask_HW = np.zeros(SIZE, dtype=bool)
    mask_HW[y : y + height, x : x + width] = True
    return mask_HW


def counts(pairs: list[tuple[Any, Any]]) -> Any:
    return np.array([frame_counts(truth, predicted) for truth, predicted in pairs], dtype=np.int64)


NOTHING, LEFT, HALF, EVERYTHING = (
    rectangle(0, 0, 0, 0),
    rectangle(2, 2, 4, 4),
    rectangle(2, 2, 4, 2),
    np.ones(SIZE, bool),
)


@pytest.mark.parametrize(
    ("pairs", "tiou", "viou"),
    [
        ([(NOTHING, NOTHING)] * 3, 1.0, 1.0),
        ([(LEFT, LEFT), (LEFT, HALF), (NOTHING, NOTHING)], 1.0, 0.75),
        # Found in one of two frames, and once where it is not: S has 1 frame, E has 3.
        ([(LEFT, HALF), (LEFT, NOTHING), (NOTHING, HALF), (NOTHING, NOTHING)], 1 / 3, 0.5 / 3),
        ([(LEFT, NOTHING)], 0.0, 0.0),
        ([(NOTHING, LEFT)], 0.0, 0.0),
        ([(LEFT, EVERYTHING)], 1.0, 16 / 192),
        ([(EVERYTHING, LEFT)], 1.0, 16 / 192),
        ([(EVERYTHING, NOTHING), (EVERYTHING, EVERYTHING)], 0.5, 0.5),
    ],
)
def test_hand_worked_cases(pairs: list[tuple[Any, Any]], tiou: float, viou: float) -> None:
    assert overlaps(counts(pairs)) == (pytest.approx(tiou), pytest.approx(viou))


def test_equal_to_the_definition_on_masks() -> None:
    random = np.random.default_rng(7)

    def mask() -> Any:
        y, x = random.integers(0, 10, 2)
        return rectangle(int(y), int(x), *map(int, random.integers(0, 7, 2)))

    for _ in range(200):
        pairs = [(mask(), mask()) for _ in range(int(random.integers(1, 8)))]
        both = [t.any() and p.any() for t, p in pairs]
        either = sum(t.any() or p.any() for t, p in pairs)
        ious = [(t & p).sum() / max((t | p).sum(), 1) for t, p in pairs]
        expected = (
            (sum(both) / either, sum(iou for iou, b in zip(ious, both, strict=True) if b) / either)
            if either
            else (1.0, 1.0)
        )
        assert overlaps(counts(pairs)) == pytest.approx(expected)


@pytest.fixture
def long_rvos(tmp_path: Path) -> Path:
    """One video of four frames: object 3 is in two of them, object 5 in one; and predictions."""
    from PIL import Image

    frames = [f"{index:05d}" for index in range(4)]
    expressions = {
        "0": {"exp": "the grey one", "obj_id": "3", "type": "static"},
        "1": {"exp": "it leaves", "obj_id": 3, "type": "dynamic"},
        "2": {"exp": "the small one that comes", "obj_id": "5", "type": "hybrid"},
    }
    folder = tmp_path / "data/long_rvos/valid"
    for frame in frames:
        path = folder / f"JPEGImages/v/{frame}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*SIZE, 3), 90, dtype=np.uint8)).save(path)
    write_json(folder / "meta_expressions.json", {"videos": {"v": {"frames": frames, "expressions": expressions}}})
    for frame in frames[:2]:
        write_png(folder / f"Annotations/v/3/{frame}.png", LEFT)
    write_png(folder / "Annotations/v/5/00003.png", LEFT)
    predicted = {"0": [LEFT, HALF, NOTHING, NOTHING], "1": [LEFT, NOTHING, LEFT, NOTHING], "2": [NOTHING] * 3 + [LEFT]}
    for id_, masks in predicted.items():
        for frame, mask in zip(frames, masks, strict=True):
            write_png(tmp_path / f"predictions/v/{id_}/{frame}.png", mask)
    return tmp_path


def test_long_rvos_counts_frames_without_a_png_as_empty(long_rvos: Path) -> None:
    dataset = open_dataset("long_rvos", long_rvos / "data", needs="masks")
    score_predictions(long_rvos / "predictions", dataset, out=long_rvos / "out", workers=1)
    rows = {row["subset"]: row for row in json.loads((long_rvos / "out/scores.json").read_text())["scores"]}
    # J by frame: 1, 1/2, 1, 1; then 1, 0, 0, 1; then all 1.
    assert {name: row["J"] for name, row in rows.items()} == pytest.approx(
        {"all": (0.875 + 0.5 + 1) / 3, "static": 0.875, "dynamic": 0.5, "hybrid": 1.0}
    )
    assert {name: (row["extra"]["tIoU"], row["extra"]["vIoU"]) for name, row in rows.items()} == {
        "static": pytest.approx((1.0, 0.75)),
        "dynamic": pytest.approx((1 / 3, 1 / 3)),
        "hybrid": pytest.approx((1.0, 1.0)),
        "all": pytest.approx((7 / 9, (0.75 + 1 / 3 + 1) / 3)),
    }


def test_a_missing_mask_is_never_found(long_rvos: Path) -> None:
    (long_rvos / "predictions/v/2/00003.png").unlink()
    dataset = open_dataset("long_rvos", long_rvos / "data", needs="masks")
    score_predictions(
        long_rvos / "predictions", dataset, out=long_rvos / "out", workers=1, strictness="lenient"
    )  # fmt: skip
    rows = {row["subset"]: row for row in json.loads((long_rvos / "out/scores.json").read_text())["scores"]}
    assert (rows["hybrid"]["extra"]["tIoU"], rows["hybrid"]["extra"]["vIoU"]) == (0.0, 0.0)
