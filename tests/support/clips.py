"""Small real clips on disk for tests of the harness: a bright square that moves over a dark gradient."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from rvosbench.harness.data import masks
from rvosbench.harness.data.types import Expression, Video

HEIGHT, WIDTH = 48, 64


def write_clip(folder: Path, name: str, texts: list[str], frames: int = 4) -> Video:
    """Writes JPEG frames below ``folder/name`` and returns the video with one expression per text."""
    (folder / name).mkdir(parents=True)
    paths = []
    for index in range(frames):
        path = folder / name / f"{index:05d}.jpg"
        Image.fromarray(picture(index)).save(path, quality=95)
        paths.append(path)
    expressions = tuple(Expression(str(i), text, targets=("1",)) for i, text in enumerate(texts))
    return Video("shapes", "valid", name, tuple(path.stem for path in paths), tuple(paths), expressions)


def picture(index: int) -> np.ndarray:
    """Frame ``index``: (H, W, 3) uint8."""
    frame = np.repeat(np.linspace(10, 60, WIDTH, dtype=np.uint8)[None, :, None], HEIGHT, axis=0).repeat(3, axis=2)
    frame[square(index)] = 220
    return frame


def square(index: int) -> np.ndarray:
    """The square's mask on frame ``index``, (H, W) bool."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[10:30, 5 + 4 * index : 25 + 4 * index] = True
    return mask


def write_dataset(root: Path, videos: Mapping[str, list[str]], frames: int = 4) -> None:
    """A ``shapes`` data root: video name -> expressions, all about the square."""
    folder = root / "shapes" / "valid"
    entries: dict[str, object] = {}
    dictionary: dict[str, object] = {}
    for number, (name, texts) in enumerate(videos.items()):
        video = write_clip(folder / "JPEGImages", name, texts, frames)
        dictionary[str(number)] = [{"size": [HEIGHT, WIDTH], "counts": masks.encode(square(i))} for i in range(frames)]
        entries[name] = {
            "vid_id": number,
            "frames": list(video.frames),
            "expressions": {
                e.id: {"exp": e.text, "obj_id": [0], "anno_id": [number], "subset": "referring"}
                for e in video.expressions
            },
        }
    (folder / "meta_expressions.json").write_text(json.dumps({"videos": entries}))
    (folder / "mask_dict.json").write_text(json.dumps(dictionary))
