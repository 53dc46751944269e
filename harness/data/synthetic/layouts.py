"""The synthetic dataset in the official layouts, with the peculiarities that the real releases have.

Each function fills an empty benchmark folder for one split. Frame names, ids and file names follow the releases:
palette PNGs with ids as pixels, mask dictionaries with null for an absent object, slashes in video names, repeated
expression ids, clips that do not start at frame 00000.

Shape legend: H W pixels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rvosbench.harness.data import cards
from rvosbench.harness.data.synthetic.clip import Clip, make_clip
from rvosbench.harness.data.synthetic.language import Sentence
from rvosbench.harness.data.types import BoolHW

JPEG_QUALITY = 92


@dataclass(frozen=True)
class Batch:
    """The clips of one split: ``videos`` of them, made from ``seed`` one after the other."""

    split: str
    seed: int
    videos: int

    def clips(self) -> Iterator[Clip]:
        return (make_clip(self.seed, self.split, index) for index in range(self.videos))


@dataclass(frozen=True)
class Layout:
    """An official layout."""

    folder: str
    """Name of the benchmark's folder under the data root."""
    splits: tuple[str, ...]
    write: Callable[[Path, Batch], None]


def _write_shapes(folder: Path, batch: Batch) -> None:
    """MeViS v2 form with a subset per expression."""
    root = folder / batch.split
    tables = _MaskTables(first=0)
    videos: dict[str, Any] = {}
    for clip in batch.clips():
        names = _five_digits(clip)
        _jpegs(root / "JPEGImages" / clip.name, clip, names)
        annotations = tables.add(clip)
        videos[clip.name] = {
            "vid_id": clip.index,
            "frames": names,
            "expressions": _numbered(
                {**_targets(sentence, annotations), "subset": sentence.subset} for sentence in clip.sentences
            ),
        }
    _json(root / "meta_expressions.json", {"videos": videos})
    _json(root / "mask_dict.json", tables.masks)


def _write_davis17(folder: Path, batch: Batch) -> None:
    """ReferFormer's conversion: objects that a first frame singles out are annotated, the others are background."""
    videos: dict[str, Any] = {}
    objects: dict[str, Any] = {}
    for clip in batch.clips():
        names = _five_digits(clip)
        annotated = sorted(clip.quartets)
        palette_ids = {obj: number for number, obj in enumerate(annotated, start=1)}
        _jpegs(folder / batch.split / "JPEGImages" / clip.name, clip, names)
        _palettes(folder / batch.split / "Annotations" / clip.name, clip, names, palette_ids)
        videos[clip.name] = {
            "expressions": _numbered(
                {"exp": text, "obj_id": str(palette_ids[obj])} for obj in annotated for text in clip.quartets[obj]
            ),
            "frames": names,
        }
        objects[clip.name] = {"objects": {str(palette_ids[t]): {"category": _category(clip, t)} for t in annotated}}
    _json(folder / "meta_expressions" / batch.split / "meta_expressions.json", {"videos": videos})
    _json(folder / batch.split / "meta.json", {"videos": objects})


def _write_reasonvos(folder: Path, batch: Batch) -> None:
    """The authors' release: reasoning only, a list of expressions, one folder of binary PNGs per object.

    In every third clip the ids start again with each object, so they repeat within the video; in every second one
    frame names follow another source; every fourth one is annotated on every second frame only.
    """
    videos: dict[str, Any] = {}
    for clip in batch.clips():
        source = ("SHAPES", "MOVING_SHAPES")[clip.index % 2]
        names = _five_digits(clip) if clip.index % 2 == 0 else [f"frame{4 * t + 1:07d}" for t in _times(clip)]
        _jpegs(folder / "JPEGImages" / clip.name, clip, names)
        expressions: list[dict[str, Any]] = []
        for obj in sorted({sentence.targets[0] for sentence in clip.reasons}):
            selected = [sentence for sentence in clip.reasons if sentence.targets == (obj,)][:4]
            first = 0 if clip.index % 3 == 1 else len(expressions)
            expressions += [
                {"obj_id": obj, "exp_id": first + place, "exp_text": sentence.text, "is_sent": sentence.question}
                for place, sentence in enumerate(selected)
            ]
            for time in range(0, clip.scene.frames, 2 if clip.index % 4 == 3 else 1):
                mask_HW = clip.mask((obj,), time).astype(np.uint8) * 255
                _png(folder / "Annotations" / f"{source}_{clip.name}_{obj}" / f"{names[time]}.png", mask_HW)
        if clip.index % 3 == 2 and len(expressions) > 1:
            expressions[-1]["exp_id"] = expressions[-2]["exp_id"]
        videos[clip.name] = {"source": source, "frames": names, "expressions": expressions}
    _json(folder / "meta_expressions.json", {"videos": videos})


def _write_revos(folder: Path, batch: Batch) -> None:
    """The authors' release: slashes in names, sources whose last parts collide, one mask file for both splits."""
    types = {"referring": 0, "reasoning": 1, "no_target": 2}
    tables = _MaskTables(first={"train": 0, "valid": 100_000}[batch.split])
    videos: dict[str, Any] = {}
    foreground: dict[str, Any] = {}
    for clip in batch.clips():
        source, stride = (("SHAPES/all", 1), ("SHAPES-SLOW/clips", 5))[clip.index % 2]
        key = f"{source}/{batch.split}-{clip.index // 2:04d}"
        names = [f"{stride * time:05d}" for time in _times(clip)]
        _jpegs(folder / "JPEGImages" / key, clip, names)
        annotations = tables.add(clip)
        videos[key] = {
            "vid_id": clip.index,
            "height": clip.scene.height,
            "width": clip.scene.width,
            "frames": names,
            "expressions": _numbered(
                {**_targets(sentence, annotations), "type_id": types[sentence.subset]} for sentence in clip.sentences
            ),
        }
        named = tuple(sorted({obj for sentence in clip.sentences for obj in sentence.targets}))
        union = [clip.mask(named, time) for time in _times(clip)]
        foreground[key] = {
            "masks_rle": [_rle(mask_HW) for mask_HW in union],
            "foreground_ratio": [float(mask_HW.mean()) for mask_HW in union],
        }
    _json(folder / f"meta_expressions_{batch.split}_.json", {"videos": videos})
    _json(folder / "mask_dict.json", tables.masks)
    _json(folder / "mask_dict_foreground.json", foreground)


def _write_mevis(folder: Path, batch: Batch) -> None:
    """Both releases beside each other: without and with no-target expressions; the valid split without answers."""
    root = folder / batch.split
    hidden = batch.split == "valid"
    tables = _MaskTables(first=0)
    releases: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    for clip in batch.clips():
        name, names = _hashed(clip, batch, 12), _five_digits(clip)
        _jpegs(root / "JPEGImages" / name, clip, names)
        annotations = tables.add(clip)
        with_target = [sentence for sentence in clip.sentences if sentence.targets]
        for videos, sentences in zip(releases, (with_target, clip.sentences), strict=True):
            videos[name] = {
                "vid_id": clip.index,
                "frames": names,
                "expressions": _numbered(
                    {"exp": sentence.text} if hidden else _targets(sentence, annotations) for sentence in sentences
                ),
            }
    _json(root / "meta_expressions.json", {"videos": releases[0]})
    _json(root / "meta_expressions_v2.json", {"videos": releases[1]})
    if not hidden:
        _json(root / "mask_dict.json", tables.masks)


def _write_ref_youtube_vos(folder: Path, batch: Batch) -> None:
    """Every fifth frame of a longer video; valid metadata holds the test videos too and gives no answers.

    The card limits the valid split to 202 known ids, so valid clips borrow these, in sorted order.
    """
    if batch.split == "train":
        videos = _youtube_videos(folder / "train", batch, [_hashed(clip, batch, 10) for clip in batch.clips()])
        _json(folder / "meta_expressions" / "train" / "meta_expressions.json", {"videos": videos})
        return
    known = sorted(cards.video_ids(cards.load_card("ref_youtube_vos"), "valid") or ())
    valid = _youtube_videos(folder / "valid", batch, known[: batch.videos])
    rest = Batch("test", batch.seed, max(1, batch.videos // 2))
    test = _youtube_videos(folder / "valid", rest, [_hashed(clip, rest, 10) for clip in rest.clips()])
    _json(folder / "meta_expressions" / "valid" / "meta_expressions.json", {"videos": {**valid, **test}})
    _json(folder / "meta_expressions" / "test" / "meta_expressions.json", {"videos": test})


def _youtube_videos(root: Path, batch: Batch, keys: Sequence[str]) -> dict[str, Any]:
    public = batch.split == "train"
    videos: dict[str, Any] = {}
    objects: dict[str, Any] = {}
    for clip, key in zip(batch.clips(), keys, strict=True):
        # Some clips start late, some have a gap, as in the real set.
        start, gap = 85 if clip.index % 4 == 1 else 0, 10 if clip.index % 4 == 3 else 0
        names = [f"{start + 5 * time + (gap if time > clip.scene.frames // 2 else 0):05d}" for time in _times(clip)]
        _jpegs(root / "JPEGImages" / key, clip, names)
        single = [sentence for sentence in clip.sentences if len(sentence.targets) == 1]
        videos[key] = {
            "expressions": _numbered(
                {"exp": sentence.text, "obj_id": str(sentence.targets[0])} if public else {"exp": sentence.text}
                for sentence in single
            ),
            "frames": names,
        }
        if public:
            ids = [obj.id for obj in clip.scene.objects]
            _palettes(root / "Annotations" / key, clip, names, {obj: obj for obj in ids})
            seen = {obj: [names[t] for t in _times(clip) if clip.mask((obj,), t).any()] for obj in ids}
            objects[key] = {"objects": {str(t): {"category": _category(clip, t), "frames": seen[t]} for t in ids}}
    if public:
        _json(root / "meta.json", {"videos": objects})
    return videos


LAYOUTS: dict[str, Layout] = {
    "shapes": Layout("shapes", ("train", "valid"), _write_shapes),
    "davis17": Layout("davis17", ("train", "valid"), _write_davis17),
    "reasonvos": Layout("ReasonVOS", ("valid",), _write_reasonvos),
    "revos": Layout("ReVOS", ("train", "valid"), _write_revos),
    "mevis": Layout("mevis", ("train", "valid_u", "valid"), _write_mevis),
    "ref_youtube_vos": Layout("ref-youtube-vos", ("train", "valid"), _write_ref_youtube_vos),
}


class _MaskTables:
    """A mask dictionary that grows clip by clip: annotation id -> one COCO RLE or null per frame."""

    def __init__(self, first: int) -> None:
        self._next = first
        self.masks: dict[str, list[dict[str, Any] | None]] = {}

    def add(self, clip: Clip) -> dict[int, int]:
        """Adds every object of a clip; returns its annotation id by object id."""
        annotations = {}
        for obj in clip.scene.objects:
            masks = [clip.mask((obj.id,), time) for time in _times(clip)]
            self.masks[str(self._next)] = [_rle(mask_HW) if mask_HW.any() else None for mask_HW in masks]
            annotations[obj.id] = self._next
            self._next += 1
        return annotations


def _targets(sentence: Sentence, annotations: Mapping[int, int]) -> dict[str, Any]:
    # Object ids count from 0 within the video, as in MeViS.
    return {
        "exp": sentence.text,
        "obj_id": [obj - 1 for obj in sentence.targets],
        "anno_id": [annotations[obj] for obj in sentence.targets],
    }


def _numbered(entries: Iterator[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {str(number): entry for number, entry in enumerate(entries)}


def _times(clip: Clip) -> range:
    return range(clip.scene.frames)


def _five_digits(clip: Clip) -> list[str]:
    return [f"{time:05d}" for time in _times(clip)]


def _category(clip: Clip, obj: int) -> str:
    return clip.scene.object_by_id(obj).shape


def _hashed(clip: Clip, batch: Batch, digits: int) -> str:
    return hashlib.sha256(f"{batch.seed}/{clip.name}".encode()).hexdigest()[:digits]


def _rle(mask_HW: BoolHW) -> dict[str, Any]:
    """COCO RLE of a mask, also of an empty one."""
    # Here, so that clips can be made where it is not installed.
    from pycocotools import mask as coco

    rle = coco.encode(np.asfortranarray(mask_HW, dtype=np.uint8))
    return {"size": list(mask_HW.shape), "counts": rle["counts"].decode("ascii")}


def _jpegs(folder: Path, clip: Clip, names: Sequence[str]) -> None:
    folder.mkdir(parents=True)
    for name, image_HW3 in zip(names, clip.images(), strict=True):
        # No chroma subsampling: colours must stay sharp on objects a few pixels wide.
        Image.fromarray(image_HW3).save(folder / f"{name}.jpg", quality=JPEG_QUALITY, subsampling=0)


def _palettes(folder: Path, clip: Clip, names: Sequence[str], palette_ids: Mapping[int, int]) -> None:
    lookup = np.zeros(256, dtype=np.uint8)
    for obj, palette_id in palette_ids.items():
        lookup[obj] = palette_id
    for time, name in enumerate(names):
        _png(folder / f"{name}.png", lookup[clip.ids_THW[time]], palette=True)


def _png(path: Path, pixels_HW: NDArray[np.uint8], *, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels_HW)
    if palette:
        image.putpalette(voc_palette())
    image.save(path)


def voc_palette() -> list[int]:
    """The PASCAL-VOC colour map, 256 RGB triples in a row: bits of the id spread over the channels."""
    colours = []
    for index in range(256):
        channels = [0, 0, 0]
        for bit in range(8):
            channels[bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
        colours += channels
    return colours


def _json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value) + "\n", encoding="utf-8")
