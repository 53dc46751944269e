"""Tiny benchmarks and predictions, written in the official layouts. T frames, H W pixels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rvosbench.harness.data.masks import encode
from rvosbench.harness.data.reader import Dataset, open_dataset
from rvosbench.harness.data.types import BoolHW

SIZE = (12, 16)
Track = Sequence[BoolHW | None]


def square(y: int, x: int, side: int = 4, size: tuple[int, int] = SIZE) -> BoolHW:
    mask_HW = np.zeros(size, dtype=bool)
    mask_HW[y : y + side, x : x + side] = True
    return mask_HW


NOTHING = np.zeros(SIZE, dtype=bool)
FULL = ~NOTHING


@dataclass(frozen=True)
class Entry:
    """An expression with the names of its targets."""

    targets: tuple[str, ...] = ()
    type_id: int = 0
    text: str = "the thing"


@dataclass(frozen=True)
class Clip:
    """A video: its objects' tracks and its expressions."""

    objects: Mapping[str, Track]
    expressions: Mapping[str, Entry]
    length: int
    size: tuple[int, int] = SIZE
    frames: tuple[str, ...] = field(default=())

    @property
    def names(self) -> tuple[str, ...]:
        return self.frames or tuple(f"{index:05}" for index in range(self.length))


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def rle(mask_HW: BoolHW | None) -> dict[str, Any] | None:
    if mask_HW is None:
        return None
    counts = encode(mask_HW)
    if counts is None:
        from pycocotools import mask as coco

        counts = coco.encode(np.asfortranarray(mask_HW, dtype=np.uint8))["counts"].decode()
    return {"size": list(mask_HW.shape), "counts": counts}


def revos(root: Path, clips: Mapping[str, Clip]) -> Dataset:
    write_rle_benchmark(root / "ReVOS", clips, "meta_expressions_valid_.json", types=True)
    return open_dataset("revos", root, needs="masks")


def mevis(root: Path, clips: Mapping[str, Clip], split: str = "valid_u") -> Dataset:
    name = "meta_expressions_v2.json" if split.endswith("v2") else "meta_expressions.json"
    write_rle_benchmark(root / "mevis/valid_u", clips, name)
    return open_dataset("mevis", root, split, needs="masks")


def write_rle_benchmark(folder: Path, clips: Mapping[str, Clip], metadata: str, types: bool = False) -> None:
    ids: dict[tuple[str, str], int] = {}
    table: dict[str, list[dict[str, Any] | None]] = {}
    videos: dict[str, Any] = {}
    for video, clip in clips.items():
        for name, track in clip.objects.items():
            ids[video, name] = len(ids)
            table[str(ids[video, name])] = [rle(mask_HW) for mask_HW in track]
        expressions = {}
        for id_, entry in clip.expressions.items():
            found = [ids[video, target] for target in entry.targets]
            expressions[id_] = {"exp": entry.text, "obj_id": found, "anno_id": found}
            if types:
                expressions[id_]["type_id"] = entry.type_id
        videos[video] = {"frames": list(clip.names), "expressions": expressions}
        videos[video] |= {"height": clip.size[0], "width": clip.size[1]}
    write_json(folder / metadata, {"videos": videos})
    write_json(folder / "mask_dict.json", table)


def ref_davis(root: Path, labels: Mapping[str, Sequence[Any]], expressions: Mapping[str, Mapping[str, str]]) -> Dataset:
    """Palette masks: per video a list of (H, W) uint8 label maps, and expression id -> object id."""
    videos = {}
    for video, maps in labels.items():
        names = [f"{index:05}" for index in range(len(maps))]
        entries = {id_: {"exp": "it", "obj_id": target} for id_, target in expressions[video].items()}
        videos[video] = {"frames": names, "expressions": entries}
        for name, labels_HW in zip(names, maps, strict=True):
            path = root / "davis17/valid/Annotations" / video / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(np.asarray(labels_HW, dtype=np.uint8), mode="P")
            image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [0] * 759)
            image.save(path)
    write_json(root / "davis17/meta_expressions/valid/meta_expressions.json", {"videos": videos})
    return open_dataset("ref_davis17", root, needs="masks")


def hidden(root: Path, card: str, clips: Mapping[str, Clip]) -> Dataset:
    """Frames and expressions without ground truth, as the server splits have them."""
    folder = {"ref_youtube_vos": "ref-youtube-vos", "mevis": "mevis"}[card]
    metadata = "valid/meta_expressions.json" if card == "mevis" else "meta_expressions/valid/meta_expressions.json"
    videos = {}
    for video, clip in clips.items():
        entries = {id_: {"exp": entry.text} for id_, entry in clip.expressions.items()}
        videos[video] = {"frames": list(clip.names), "expressions": entries}
        for name in clip.names:
            path = root / folder / "valid/JPEGImages" / video / f"{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((*clip.size, 3), 90, dtype=np.uint8)).save(path)
    write_json(root / folder / metadata, {"videos": videos})
    return open_dataset(card, root, "valid", needs="frames")


def write_png(path: Path, mask_HW: BoolHW, value: int = 255) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask_HW.astype(np.uint8) * np.uint8(value)).save(path)


def write_predictions(folder: Path, dataset: Dataset, masks: Mapping[str, Sequence[BoolHW]]) -> Path:
    """``masks``: "video/expression" -> one mask per listed frame."""
    for sample in dataset.samples():
        name = f"{sample.video.name}/{sample.expression.id}"
        for frame, mask_HW in zip(sample.video.frames, masks[name], strict=True):
            write_png(folder / name / f"{frame}.png", mask_HW)
    return folder


def odd_names(root: Path) -> Dataset:
    """Names with slashes, blanks and letters of other alphabets; frames that step by five and ones that do not."""
    some = {"0": Entry(("x",)), "7": Entry(("x",)), "10": Entry(("x",))}
    mask_HW = square(2, 3)
    clips = {
        "UVO/all/-a": Clip({"x": [mask_HW] * 3}, some, 3, frames=("00000", "00005", "00010")),
        "b [1] für": Clip({"x": [mask_HW] * 2}, some, 2, frames=("frame_7", "frame_9")),
        "c": Clip({"x": [mask_HW] * 4}, {"0": Entry(("x",))}, 4),
    }
    return revos(root, clips)


def drawn_masks(dataset: Dataset, seed: int = 0) -> dict[str, list[BoolHW]]:
    """Random masks by ``<video>/<expression>``, some of them empty, the first ones not."""
    rng = np.random.default_rng(seed)
    return {
        f"{sample.video.name}/{sample.expression.id}": [
            rng.random(SIZE) < (0.4 if index == 0 else rng.choice([0.0, 0.3, 0.9]))
            for index in range(len(sample.video.frames))
        ]
        for sample in dataset.samples()
    }
