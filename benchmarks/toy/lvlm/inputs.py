"""Training examples as a model takes them: views of equal layout side by side, with one copy of what
precedes the question.

The processors are the checkpoint's own, through ``Lvlm.clip``, ``Lvlm.frame`` and ``Lvlm.text``, so that training
sees what the methods will show.

Shape legend: N views of a bucket, P tokens up to the last visual one, L sequence, t h w visual grid, T keyframes,
k objects, H W pixels.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rvosbench.harness.data.synthetic.scenarios import TEXTURES
from rvosbench.methods.models.lvlm.base import LvlmSettings, ModelInputs
from rvosbench.methods.models.lvlm.load import load_lvlm
from toy.lvlm.examples import TRAITS, Example
from toy.lvlm.questions import Question

ViewKind = Literal["clip", "picture", "text"]
Query = tuple[NDArray[np.int32], int]
"""A question's tokens behind the prefix with its answer's, and where the answer starts."""
MARK = "@@@"
"""Stands for the question where only its place is looked for."""
_NOT_PIXELS = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")
HEADINGS = ("still", "left", "right", "up", "down")
IGNORED = -1
LABELS = 7
TENTHS = 10


@dataclass(frozen=True, eq=False)
class Shown:
    """One view of a training example, processed."""

    kind: ViewKind
    prefix_P: NDArray[np.int64]
    tail: str
    """The chat behind the last visual token, with ``MARK`` where the question goes."""
    visual_P: NDArray[np.bool_]
    filled_P: NDArray[np.bool_]
    order_n: NDArray[np.int64] | None
    grid: tuple[int, int, int] | None
    pixels: dict[str, NDArray[np.generic]]
    cells_thwk: NDArray[np.int8]
    """Labels of the cells, see ``cell_labels``; ``IGNORED`` where none is clear."""
    fractions_kthw: NDArray[np.uint8]
    """How much of each cell each object fills, in 255ths."""
    queries: list[Query]
    questions: tuple[Question, ...]

    @property
    def layout(self) -> tuple[object, ...]:
        """Equal for views that can stand in one batch."""
        small = tuple((k, v.tobytes()) for k, v in sorted(self.pixels.items()) if v.dtype.kind == "i")
        shapes = tuple((k, v.shape) for k, v in sorted(self.pixels.items()))
        return self.kind, self.prefix_P.tobytes(), self.grid, self.tail, shapes, small


@dataclass(eq=False)
class Bucket:
    """Views of one layout."""

    kind: ViewKind
    prefix_P: Tensor
    visual_P: Tensor
    order_n: Tensor | None
    grid: tuple[int, int, int] | None
    pixels: dict[str, Tensor]
    """(N, ...), floats in half precision; flattened over the first two axes they are the model's inputs."""
    cells_Nthwk: Tensor
    fractions_Nkthw: NDArray[np.uint8]
    """As in ``Shown``; zeros where a clip has fewer objects than another."""
    queries: list[list[Query]]
    """Per view."""
    kinds: list[list[str]]
    """Per view: the kinds of its questions."""
    about: list[list[tuple[int, ...]]]
    """Per view: the objects its questions are about."""
    filled_P: Tensor
    """Which tokens of the prefix the vision tower fills in: the visual ones, newlines and base images."""
    seen_NfD: Tensor | None = None
    """What it fills in, once it learns no more."""
    position_3P: Tensor | None = None
    """Rotary positions of the prefix (Qwen); None: counted from 0."""
    next_position: int = 0

    def __len__(self) -> int:
        return len(self.queries)

    def inputs(self, views: Tensor) -> dict[str, Tensor]:
        """The model's visual inputs of some views (C,), on their device, floats in float32."""
        chosen = {name: value[views].flatten(0, 1) for name, value in self.pixels.items()}
        return {name: value.float() if value.is_floating_point() else value for name, value in chosen.items()}

    def to(self, device: torch.device) -> None:
        """Moves what every batch needs."""
        self.prefix_P, self.visual_P, self.filled_P = (
            tensor.to(device) for tensor in (self.prefix_P, self.visual_P, self.filled_P)
        )
        self.cells_Nthwk = self.cells_Nthwk.to(device)
        self.pixels = {name: value.to(device) for name, value in self.pixels.items()}
        if self.order_n is not None:
            self.order_n = self.order_n.to(device)
        if self.position_3P is not None:
            self.position_3P = self.position_3P.to(device)


def shown(lvlm: Any, example: Example) -> list[Shown]:
    """All views of a training example: the clip, the chosen images, and no image at all."""
    clip = lvlm.clip(list(example.frames_THW3), MARK)
    heads = _headings(example)
    views = [_shown(lvlm, "clip", clip, example, range(len(example.frames_THW3)), heads, example.clip)]
    for image, questions in zip(example.images, example.by_image, strict=True):
        if questions:
            frame = lvlm.frame(example.frames_THW3[image], MARK, clip.grid)
            views.append(_shown(lvlm, "picture", frame, example, [image], heads, questions))
    views.append(_shown(lvlm, "text", lvlm.text(MARK), example, [], heads, example.text))
    return views


def _shown(
    lvlm: Any,
    kind: ViewKind,
    prompted: ModelInputs,
    example: Example,
    frames: Sequence[int],
    heads: NDArray[np.int8],
    questions: tuple[Question, ...],
) -> Shown:
    visual_L = prompted.visual_L.numpy()
    ids_L = prompted.inputs["input_ids"][0].numpy()
    # Some families put newline tokens behind the cells; they belong to the image too.
    places = (lvlm.model.config.image_token_id, getattr(lvlm.model.config, "video_token_id", None))
    filled_L = np.isin(ids_L, [token for token in places if token is not None])
    length = int(np.flatnonzero(filled_L)[-1]) + 1 if filled_L.any() else 0
    pixels = {}
    if kind != "text":
        for name, value in prompted.inputs.items():
            if name not in _NOT_PIXELS:
                array = value.numpy()
                pixels[name] = array.astype(np.float16) if array.dtype.kind == "f" and array.ndim > 1 else array
    cells = np.zeros((0, 0, 0, LABELS), dtype=np.int8)
    fractions = np.zeros((0, 0, 0, 0), dtype=np.float32)
    if prompted.grid is not None:
        fractions = object_fractions(example, frames, prompted.grid)
        cells = cell_labels(example, frames, fractions, heads)
    tail = lvlm.tokenizer.decode(ids_L[length:], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return Shown(
        kind=kind,
        prefix_P=ids_L[:length],
        tail=tail,
        visual_P=visual_L[:length],
        filled_P=filled_L[:length],
        order_n=None if prompted.cell_order is None else prompted.cell_order.numpy(),
        grid=prompted.grid,
        pixels=pixels,
        cells_thwk=cells,
        fractions_kthw=np.rint(255 * fractions).astype(np.uint8),
        queries=tails(lvlm.tokenizer, tail, questions),
        questions=questions,
    )


def object_fractions(example: Example, frames: Sequence[int], grid: tuple[int, ...]) -> NDArray[np.float32]:
    """How much of each cell each object fills, (objects, t, h, w) float32 in [0, 1]: the mean over a slot's frames."""
    slots, height, width = grid
    each = -(-len(frames) // slots)
    fractions_kthw = np.zeros((len(example.labels), *grid), dtype=np.float32)
    for slot in range(slots):
        here = list(frames[slot * each : (slot + 1) * each])
        for frame in here:
            for obj, fractions_thw in enumerate(fractions_kthw):
                mask = (example.ids_THW[frame] == obj + 1).astype(np.float32)
                fractions_thw[slot] += cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA) / len(here)
    return fractions_kthw


def cell_labels(
    example: Example, frames: Sequence[int], fractions_kthw: NDArray[np.float32], headings: NDArray[np.int8]
) -> NDArray[np.int8]:
    """What each cell shows, (t, h, w, 7) int8: 0 or 1 + shape, colour, size, heading within the slot, ground, place.

    A cell shows an object that fills 30% of it and more than any other; background where objects fill less than 8%. The
    place, column and row in tenths, is the middle of what is seen of the object: towers that know only how far cells
    are from one another would not tell the language model where in the image each lies.
    """
    slots, height, width = fractions_kthw.shape[1:]
    column_w, row_h = ((TENTHS * (np.arange(size) + 0.5) / size) for size in (width, height))
    each = -(-len(frames) // slots)
    labels = np.full((*fractions_kthw.shape[1:], LABELS), IGNORED, dtype=np.int8)
    for slot in range(slots):
        here = list(frames[slot * each : (slot + 1) * each])
        fraction_Nhw = fractions_kthw[:, slot]
        most_hw = fraction_Nhw.argmax(0)
        empty_hw = fraction_Nhw.sum(0) < 0.08
        labels[slot][empty_hw, 0] = 0
        labels[slot][empty_hw, 4] = example.texture
        clear_hw = fraction_Nhw.max(0) > 0.3
        labelled = example.labels[most_hw[clear_hw]]
        labels[slot][clear_hw, 0] = 1 + labelled[:, 0]
        labels[slot][clear_hw, 1:3] = labelled[:, 1:]
        if each == 2 and len(here) == 2:
            labels[slot][clear_hw, 3] = headings[here[0], most_hw[clear_hw]]
        whole_N = fraction_Nhw.sum((1, 2)).clip(min=1e-6)
        labels[slot][clear_hw, 5] = (fraction_Nhw.sum(1) @ column_w / whole_N)[most_hw[clear_hw]]
        labels[slot][clear_hw, 6] = (fraction_Nhw.sum(2) @ row_h / whole_N)[most_hw[clear_hw]]
    return labels


def _headings(example: Example) -> NDArray[np.int8]:
    """Where each object moves from a keyframe to the next, (T - 1, objects) int8; ``IGNORED`` where it is not clear."""
    count, height, width = example.ids_THW.shape
    objects = len(example.labels)
    centre = np.full((count, objects, 2), np.nan)
    for frame in range(count):
        for obj in range(objects):
            rows, columns = np.nonzero(example.ids_THW[frame] == obj + 1)
            if len(rows) >= 12:
                centre[frame, obj] = columns.mean(), rows.mean()
    moved = np.diff(centre, axis=0) / min(height, width)
    out = np.full(moved.shape[:2], IGNORED, dtype=np.int8)
    with np.errstate(invalid="ignore"):
        ahead, aside = np.abs(moved).max(2), np.abs(moved).min(2)
        out[ahead < 0.008] = HEADINGS.index("still")
        clear = (ahead > 0.02) & (aside < 0.5 * ahead)
    across = np.abs(moved[..., 0]) > np.abs(moved[..., 1])
    out[clear & across] = np.where(moved[..., 0] < 0, 1, 2)[clear & across]
    out[clear & ~across] = np.where(moved[..., 1] < 0, 3, 4)[clear & ~across]
    return out


def buckets(folder: Path, examples: Sequence[Example], workers: int) -> list[Bucket]:
    """All views of the training examples, grouped by layout.

    Args:
        folder: a checkpoint with its processor.
        workers: processes that run the processor.
    """
    lvlm: Any = load_lvlm(training_settings(folder, "cpu"))
    groups: dict[tuple[object, ...], list[Shown]] = {}
    for view in _all_shown(folder, lvlm, examples, workers):
        groups.setdefault(view.layout, []).append(view)
    made = []
    # The same order whatever the processes did: examples come in order, layouts by their first example.
    for views in groups.values():
        made.append(_bucket(lvlm, views))
        views.clear()
    gc.collect()
    return made


def training_settings(folder: Path, device: str) -> LvlmSettings:
    """How checkpoints run while they are trained and judged."""
    return LvlmSettings(
        checkpoint=str(folder), digest="", dtype="float32", device=device, max_new_tokens=96, frame_batch=16
    )


def _all_shown(folder: Path, lvlm: Any, examples: Sequence[Example], workers: int) -> Iterable[Shown]:
    if workers < 2:
        for example in examples:
            yield from shown(lvlm, example)
        return
    with ProcessPoolExecutor(workers, initializer=_open, initargs=(folder,)) as pool:
        size = max(1, min(16, len(examples) // (4 * workers) or 1))
        for views in pool.map(_show_in_worker, examples, chunksize=size):
            yield from views


_here: dict[str, Any] = {}


def _open(folder: Path) -> None:
    torch.set_num_threads(1)
    _here["lvlm"] = load_lvlm(training_settings(folder, "cpu"))


def _show_in_worker(example: Example) -> list[Shown]:
    return shown(_here["lvlm"], example)


def _bucket(lvlm: Any, views: Sequence[Shown]) -> Bucket:
    first = views[0]
    bucket = Bucket(
        kind=first.kind,
        prefix_P=torch.from_numpy(first.prefix_P),
        visual_P=torch.from_numpy(first.visual_P),
        filled_P=torch.from_numpy(first.filled_P),
        order_n=None if first.order_n is None else torch.from_numpy(first.order_n),
        grid=first.grid,
        pixels={name: torch.from_numpy(np.stack([view.pixels[name] for view in views])) for name in first.pixels},
        cells_Nthwk=torch.from_numpy(np.stack([view.cells_thwk for view in views])),
        fractions_Nkthw=pad_sequence(
            [torch.from_numpy(view.fractions_kthw) for view in views], batch_first=True
        ).numpy(),
        queries=[view.queries for view in views],
        kinds=[[question.kind for question in view.questions] for view in views],
        about=[[question.targets for question in view.questions] for view in views],
    )
    if hasattr(lvlm.model.model, "get_rope_index") and len(first.prefix_P):
        _rotary(lvlm, bucket)
    return bucket


def _rotary(lvlm: Any, bucket: Bucket) -> None:
    """The family's own positions of the prefix and of one text token behind it."""
    # Any text token does: those behind the image count on from one place.
    ids_1L = torch.cat([bucket.prefix_P, bucket.prefix_P[:1]])[None]
    visual_1L = torch.cat([bucket.visual_P, torch.tensor([False])])[None]
    kind = 2 if bucket.kind == "clip" else 1
    grids = {name: value[0] for name, value in bucket.pixels.items() if name.endswith("grid_thw")}
    seconds = {name: value[0] for name, value in bucket.pixels.items() if name == "second_per_grid_ts"}
    position_31L, _ = lvlm.model.model.get_rope_index(
        ids_1L, mm_token_type_ids=visual_1L.int() * kind, attention_mask=torch.ones_like(ids_1L), **grids, **seconds
    )
    bucket.position_3P = position_31L[:, 0, :-1].clone()
    bucket.next_position = int(position_31L[0, 0, -1])


def tails(tokenizer: Any, tail: str, questions: Sequence[Question]) -> list[Query]:
    """Each question, as it stands behind the prefix."""
    before = [tail.replace(MARK, question.prompt) for question in questions]
    whole = [text + question.answer + tokenizer.eos_token for text, question in zip(before, questions, strict=True)]
    starts = tokenizer(before, add_special_tokens=False)["input_ids"]
    tokens = tokenizer(whole, add_special_tokens=False)["input_ids"]
    return [(np.array(ids, dtype=np.int32), len(start)) for ids, start in zip(tokens, starts, strict=True)]


def label_counts() -> tuple[int, ...]:
    """How many values each of a cell's labels has."""
    return 1 + len(TRAITS[0]), len(TRAITS[1]), len(TRAITS[2]), len(HEADINGS), len(TEXTURES), TENTHS, TENTHS
