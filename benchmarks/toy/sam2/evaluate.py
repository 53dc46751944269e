"""``python -m toy.sam2.evaluate CHECKPOINT``: a SAM2 on held-out videos, oracle prompts.

Every object of a clip of the valid split is tracked. On the frame that shows most of it, it is prompted in three
ways, and the mask is tracked through the whole clip in both directions, by the code that the methods use:

* ``click``: one click at the place deepest inside its mask; the mask of the click is tracked;
* ``cell_click``: the same with a click at the centre of another cell of a grid, chosen at random among the cells whose
  centre lies inside the mask, which is how attention maps prompt;
* ``mask``: its true mask is tracked.

J, F and J&F are means over frames, then over objects; a frame without the object scores 1 if nothing is predicted on it
and 0 otherwise. ``hidden`` are the objects that are out of sight on some frame, or mostly covered or cut on one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rvosbench.harness.data.synthetic import Clip, make_clip
from rvosbench.harness.data.synthetic.view import View
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.scoring import kernel
from rvosbench.methods.models.sam2.checkpoints import Sam2Settings
from rvosbench.methods.models.sam2.model import Sam2, load
from rvosbench.methods.models.sam2.packed import BoolTHW
from rvosbench.methods.models.sam2.prompts import Masks
from rvosbench.methods.models.sam2.segmenter import Segmenter
from rvosbench.methods.models.sam2.tracking import Sam2Video
from toy.sam2.card import add_quality

CELLS = 8
"""Cells of the grid per side."""
MOSTLY_HIDDEN = 0.4
"""Visible fraction of an object below which a frame makes its object a hidden one."""


@dataclass(frozen=True)
class Tracked:
    """One object with one kind of prompt."""

    j: float
    f: float
    hidden: bool
    prompt_iou: float
    """IoU of the prompted frame's mask with the truth."""
    predicted_iou: float
    """What the network says of that; 1 for a mask prompt."""
    presence: float
    """Fraction of frames on which a mask is predicted exactly if the object is in sight."""


def interior(mask_HW: NDArray[np.bool_]) -> tuple[float, float]:
    """The centre of the pixel deepest inside a mask, (x, y) relative to width and height; borders count as outside."""
    padded = np.pad(mask_HW, 1).astype(np.uint8)
    depth_HW = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth_HW.argmax()), depth_HW.shape)
    return (float(x) + 0.5) / mask_HW.shape[1], (float(y) + 0.5) / mask_HW.shape[0]


def cell_centres(mask_HW: NDArray[np.bool_], cells: int = CELLS) -> list[tuple[float, float]]:
    """Centres of the grid's cells that lie inside a mask, (x, y) relative."""
    height, width = mask_HW.shape
    centres = [((column + 0.5) / cells, (row + 0.5) / cells) for row in range(cells) for column in range(cells)]
    return [(x, y) for x, y in centres if mask_HW[int(y * height), int(x * width)]]


def evaluate_clip(segmenter: Segmenter, clip: Clip, rng: np.random.Generator) -> dict[str, list[Tracked]]:
    """Every object of a clip, by kind of prompt; ``rng`` chooses the cells."""
    view = View(clip.scene, clip.ids_THW)
    found: dict[str, list[Tracked]] = {"click": [], "cell_click": [], "mask": []}
    for obj in clip.scene.objects:
        true_THW = clip.ids_THW == obj.id
        hidden = bool((view.visible_fraction_NT[obj.id - 1] < MOSTLY_HIDDEN).any())
        frame = int(true_THW.sum(axis=(1, 2)).argmax())
        clicks = {"click": interior(true_THW[frame])}
        if centres := cell_centres(true_THW[frame]):
            clicks["cell_click"] = centres[int(rng.integers(len(centres)))]
        for kind, click in clicks.items():
            answer = segmenter.masks_from_points(frame, np.array([click], dtype=np.float32))
            mask_1HW = answer.masks.unpack()
            track_THW = _track(segmenter, frame, mask_1HW)
            found[kind].append(_score(track_THW, true_THW, frame, float(answer.predicted_iou[0]), hidden))
        found["mask"].append(_score(_track(segmenter, frame, true_THW[frame][None]), true_THW, frame, 1.0, hidden))
    return found


def evaluate(model: Sam2, seed: int, split: str, clips: int) -> dict[str, Any]:
    """Quality on the first clips of a split, rounded, ready for a card."""
    found: dict[str, list[Tracked]] = {}
    for index, clip in enumerate(_clips(seed, split, clips)):
        tracked = evaluate_clip(Sam2Video(model, list(clip.images())), clip, np.random.default_rng([seed, index]))
        for kind, objects in tracked.items():
            found.setdefault(kind, []).extend(objects)
    prompts = {
        kind: _means(objects) | {"hidden": _means([o for o in objects if o.hidden])} for kind, objects in found.items()
    }
    return {"split": split, "data_seed": seed, "clips": clips, **prompts}


def _clips(seed: int, split: str, count: int) -> Iterator[Clip]:
    for index in range(count):
        yield make_clip(seed, split, index)


def _track(segmenter: Segmenter, frame: int, mask_1HW: NDArray[np.bool_]) -> BoolTHW:
    track_THW = np.zeros((len(segmenter), *segmenter.size), dtype=bool)
    for tracked in segmenter.propagate(range(len(segmenter)), Masks(frame, mask_1HW)):
        track_THW[tracked.position] = tracked.masks[0]
    return track_THW


def _score(track_THW: BoolTHW, true_THW: BoolTHW, frame: int, predicted_iou: float, hidden: bool) -> Tracked:
    counts_T6 = np.array([kernel.frame_counts(true, track) for true, track in zip(true_THW, track_THW, strict=True)])
    j_T = kernel.j(counts_T6)
    agrees_T = track_THW.any(axis=(1, 2)) == true_THW.any(axis=(1, 2))
    return Tracked(
        float(j_T.mean()), float(kernel.f(counts_T6).mean()), hidden, float(j_T[frame]), predicted_iou,
        float(agrees_T.mean()),
    )  # fmt: skip


def _means(objects: Sequence[Tracked]) -> dict[str, float]:
    """Means over objects, with their number; only the number where there is none."""
    if not objects:
        return {"objects": 0}
    j, f = (float(np.mean([getattr(o, name) for o in objects])) for name in ("j", "f"))
    error = np.mean([abs(o.predicted_iou - o.prompt_iou) for o in objects])
    values = {
        "J": j, "F": f, "J_and_F": (j + f) / 2,
        "prompt_iou": float(np.mean([o.prompt_iou for o in objects])),
        "predicted_iou_error": float(error),
        "presence_accuracy": float(np.mean([o.presence for o in objects])),
    }  # fmt: skip
    return {"objects": len(objects)} | {name: round(value, 4) for name, value in values.items()}


def main(arguments: list[str] | None = None) -> None:
    """Measures a checkpoint, prints the result, and adds it to the model card where there is one."""
    import yaml

    parser = argparse.ArgumentParser(prog="python -m toy.sam2.evaluate", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--clips", type=int, default=40, help="of the valid split")
    parser.add_argument("--data-seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args(arguments)
    try:
        model = load(Sam2Settings(checkpoint=str(given.checkpoint), device=given.device))
        quality = evaluate(model, given.data_seed, "valid", given.clips)
        print(yaml.safe_dump(quality, sort_keys=False), end="")
        add_quality(given.checkpoint, quality)
    except PrerequisiteError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
