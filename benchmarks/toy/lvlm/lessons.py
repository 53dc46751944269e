"""Lessons: clips of the train split with their keyframes, masks and questions, ready to be shown to any model.

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
from rvosbench.harness.data.synthetic.stories import TEXTURES
from rvosbench.harness.data.synthetic.world import SIZES
from rvosbench.methods.models.lvlm.keyframes import keyframe_indices
from toy.lvlm.questions import Question, clip_questions, picture_questions, text_questions

KEYFRAMES = 8
"""As in the demo's recipe."""
PICTURES = 2
"""Keyframes of a clip that are also shown alone."""
CLIP_QUESTIONS, PICTURE_QUESTIONS, TEXT_QUESTIONS = 36, 14, 2
CHUNK = 100
"""Clips to a file."""
VERSION = 2
"""Raised when the same seed gives other lessons."""

TRAITS = (tuple(SHAPES), tuple(COLOURS), tuple(SIZES))
"""What a cell is labelled with: shape, colour, size."""


@dataclass(frozen=True, eq=False)
class Lesson:
    """One clip as it is shown."""

    frames_THW3: NDArray[np.uint8]
    """The keyframes."""
    ids_THW: NDArray[np.uint8]
    """Which thing is seen where, 0 = background."""
    labels: NDArray[np.int64]
    """(things, 3): shape, colour and size of thing i + 1, indices into ``TRAITS``."""
    texture: int
    """Of the ground, an index into ``stories.TEXTURES``."""
    pictures: tuple[int, ...]
    """Positions among the keyframes of those that are shown alone."""
    clip: tuple[Question, ...]
    alone: tuple[tuple[Question, ...], ...]
    """One list per picture."""
    text: tuple[Question, ...]

    def asked(self) -> tuple[tuple[Question, ...], ...]:
        """All questions, view by view."""
        return self.clip, *self.alone, self.text


def lesson_of(clip: Clip, rng: np.random.Generator, *, share: float = 1.0) -> Lesson:
    """The lesson of a clip; ``share`` of the usual number of questions."""
    keyframes = keyframe_indices(clip.scene.frames, KEYFRAMES)
    chosen = tuple(sorted(int(k) for k in rng.choice(len(keyframes), size=PICTURES, replace=False)))
    things = clip.scene.things
    labels = [[TRAITS[0].index(t.shape), TRAITS[1].index(t.colour), TRAITS[2].index(t.size)] for t in things]
    return Lesson(
        frames_THW3=np.stack(list(clip.pictures(keyframes))),
        ids_THW=clip.ids_THW[list(keyframes)],
        labels=np.array(labels, dtype=np.int64),
        texture=TEXTURES.index(clip.scene.backdrop.texture),
        pictures=chosen,
        clip=tuple(clip_questions(clip, int(CLIP_QUESTIONS * share), rng)),
        alone=tuple(tuple(picture_questions(clip, keyframes[k], int(PICTURE_QUESTIONS * share), rng)) for k in chosen),
        text=tuple(text_questions(clip, TEXT_QUESTIONS, rng)),
    )


def lessons(folder: Path, seed: int, clips: int, workers: int | None = None) -> list[Lesson]:
    """The first ``clips`` lessons of a seed; made where the folder lacks them.

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
    return [lesson for start in starts for lesson in _read(_path(folder, seed, start))][:clips]


def held_out(seed: int, clips: int) -> list[Lesson]:
    """Lessons of the valid split, for evaluation: fewer questions each."""
    return [
        lesson_of(make_clip(seed, "valid", index), np.random.default_rng([seed, 1, index]), share=0.5)
        for index in range(clips)
    ]


def _path(folder: Path, seed: int, start: int) -> Path:
    return folder / f"lessons-v{VERSION}-{seed}-{start:06d}.npz"


def _make(folder: Path, seed: int, start: int) -> None:
    made = [
        lesson_of(make_clip(seed, "train", index), np.random.default_rng([seed, index]))
        for index in range(start, start + CHUNK)
    ]
    arrays: dict[str, NDArray[np.generic]] = {}
    told = []
    for index, lesson in enumerate(made):
        arrays[f"frames{index}"], arrays[f"ids{index}"] = lesson.frames_THW3, lesson.ids_THW
        arrays[f"labels{index}"] = lesson.labels
        told.append(
            {
                "texture": lesson.texture,
                "pictures": lesson.pictures,
                "clip": [asdict(question) for question in lesson.clip],
                "alone": [[asdict(question) for question in some] for some in lesson.alone],
                "text": [asdict(question) for question in lesson.text],
            }
        )
    path = _path(folder, seed, start)
    unfinished = path.with_name(f".{os.getpid()}-{path.name}")
    arrays["told"] = np.frombuffer(json.dumps(told).encode(), dtype=np.uint8)
    np.savez(unfinished, **cast(dict[str, Any], arrays))
    unfinished.replace(path)


def _read(path: Path) -> Iterator[Lesson]:
    with np.load(path) as file:
        told = json.loads(file["told"].tobytes())
        for index, entry in enumerate(told):
            yield Lesson(
                frames_THW3=file[f"frames{index}"],
                ids_THW=file[f"ids{index}"],
                labels=file[f"labels{index}"],
                texture=entry["texture"],
                pictures=tuple(entry["pictures"]),
                clip=_questions(entry["clip"]),
                alone=tuple(_questions(some) for some in entry["alone"]),
                text=_questions(entry["text"]),
            )


def _questions(entries: Sequence[dict[str, Any]]) -> tuple[Question, ...]:
    return tuple(Question(e["kind"], e["prompt"], e["answer"], tuple(e["targets"])) for e in entries)
