"""Training examples: clips of the train split with their keyframes, masks and questions, ready to be shown to any
model.

Made once from (seed, number of clips) by a pool of processes and kept in a folder.

Shape legend: T keyframes, H W pixels.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from rvosbench.harness.data.synthetic.clip import Clip, make_clip
from rvosbench.harness.data.synthetic.outlines import SHAPES
from rvosbench.harness.data.synthetic.render import COLOURS
from rvosbench.harness.data.synthetic.scenarios import TEXTURES
from rvosbench.harness.data.synthetic.scene import SIZES
from rvosbench.methods.models.lvlm.keyframes import keyframe_indices
from toy.lvlm.questions import Question, clip_questions, image_questions, text_questions

KEYFRAMES = 8
"""Number of keyframes of a clip, as in the demo's recipe."""
IMAGES = 2
"""Keyframes of a clip that are also shown alone."""
CLIP_QUESTIONS, IMAGE_QUESTIONS, TEXT_QUESTIONS = 36, 14, 2
CHUNK = 100
"""Number of clips in a file."""
VERSION = 2
"""Raised when the same seed gives other training examples."""

TRAITS = (tuple(SHAPES), tuple(COLOURS), tuple(SIZES))
"""What a cell is labelled with: shape, colour, size."""


@dataclass(frozen=True, eq=False)
class Example:
    """One clip as it is shown to a model, with its questions and answers."""

    frames_THW3: NDArray[np.uint8]
    """The keyframes, uint8 RGB."""
    ids_THW: NDArray[np.uint8]
    """Which object is seen where, 0 = background."""
    labels: NDArray[np.int64]
    """(objects, 3): shape, colour and size of object i + 1, indices into ``TRAITS``."""
    texture: int
    """Texture of the ground, an index into ``scenarios.TEXTURES``."""
    images: tuple[int, ...]
    """Positions among the keyframes of those that are shown alone."""
    clip: tuple[Question, ...]
    by_image: tuple[tuple[Question, ...], ...]
    """Questions about each of the ``images``."""
    text: tuple[Question, ...]

    def all_questions(self) -> tuple[tuple[Question, ...], ...]:
        """All questions, view by view."""
        return self.clip, *self.by_image, self.text


def make_example(clip: Clip, rng: np.random.Generator, *, fraction: float = 1.0) -> Example:
    """The training example of a clip; ``fraction`` of the usual number of questions."""
    keyframes = keyframe_indices(clip.scene.frames, KEYFRAMES)
    chosen = tuple(sorted(int(k) for k in rng.choice(len(keyframes), size=IMAGES, replace=False)))
    objects = clip.scene.objects
    labels = [[TRAITS[0].index(t.shape), TRAITS[1].index(t.colour), TRAITS[2].index(t.size)] for t in objects]
    return Example(
        frames_THW3=np.stack(list(clip.images(keyframes))),
        ids_THW=clip.ids_THW[list(keyframes)],
        labels=np.array(labels, dtype=np.int64),
        texture=TEXTURES.index(clip.scene.backdrop.texture),
        images=chosen,
        clip=tuple(clip_questions(clip, int(CLIP_QUESTIONS * fraction), rng)),
        by_image=tuple(
            tuple(image_questions(clip, keyframes[k], int(IMAGE_QUESTIONS * fraction), rng)) for k in chosen
        ),
        text=tuple(text_questions(clip, TEXT_QUESTIONS, rng)),
    )


def examples(folder: Path, seed: int, clips: int, workers: int | None = None) -> list[Example]:
    """The first ``clips`` training examples of a seed; made where the folder lacks them.

    Args:
        workers: processes; default one per core.
    """
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, clips, CHUNK)
    missing = [start for start in starts if not _path(folder, seed, start).exists()]
    if missing:
        with ProcessPoolExecutor(workers or os.cpu_count()) as pool:
            for _ in pool.map(partial(_make, folder, seed), missing):
                pass
    return [example for start in starts for example in _read(_path(folder, seed, start))][:clips]


def held_out(seed: int, clips: int) -> list[Example]:
    """Examples of the valid split, for evaluation: fewer questions each."""
    return [
        make_example(make_clip(seed, "valid", index), np.random.default_rng([seed, 1, index]), fraction=0.5)
        for index in range(clips)
    ]


def _path(folder: Path, seed: int, start: int) -> Path:
    return folder / f"examples-v{VERSION}-{seed}-{start:06d}.npz"


def _make(folder: Path, seed: int, start: int) -> None:
    made = [
        make_example(make_clip(seed, "train", index), np.random.default_rng([seed, index]))
        for index in range(start, start + CHUNK)
    ]
    arrays: dict[str, NDArray[np.generic]] = {}
    questions = []
    for index, example in enumerate(made):
        arrays[f"frames{index}"], arrays[f"ids{index}"] = example.frames_THW3, example.ids_THW
        arrays[f"labels{index}"] = example.labels
        questions.append(
            {
                "texture": example.texture,
                "images": example.images,
                "clip": [asdict(question) for question in example.clip],
                "by_image": [[asdict(question) for question in some] for some in example.by_image],
                "text": [asdict(question) for question in example.text],
            }
        )
    path = _path(folder, seed, start)
    unfinished = path.with_name(f".{os.getpid()}-{path.name}")
    arrays["questions"] = np.frombuffer(json.dumps(questions).encode(), dtype=np.uint8)
    np.savez(unfinished, **cast(dict[str, Any], arrays))
    unfinished.replace(path)


def _read(path: Path) -> Iterator[Example]:
    with np.load(path) as file:
        questions = json.loads(file["questions"].tobytes())
        for index, entry in enumerate(questions):
            yield Example(
                frames_THW3=file[f"frames{index}"],
                ids_THW=file[f"ids{index}"],
                labels=file[f"labels{index}"],
                texture=entry["texture"],
                images=tuple(entry["images"]),
                clip=_questions(entry["clip"]),
                by_image=tuple(_questions(some) for some in entry["by_image"]),
                text=_questions(entry["text"]),
            )


def _questions(entries: Sequence[dict[str, Any]]) -> tuple[Question, ...]:
    return tuple(Question(e["kind"], e["prompt"], e["answer"], tuple(e["targets"])) for e in entries)
