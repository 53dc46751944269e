"""Units as the model takes them, with their targets; frames are processed once and kept while there is room.

Shape legend: T keyframes, t h w a map's grid.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import RLock
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from rvosbench.harness.data.types import FrameHW3
from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.methods.ground.shared_prefix import PROBE, Tail, completed
from rvosbench.methods.models.lvlm.base import Grid, ModelInputs
from rvosbench.methods.models.lvlm.embedding import Seen, see
from rvosbench.methods.models.lvlm.model import Lvlm
from rvosbench.methods.models.lvlm.soft import by_token, vision_span
from rvosbench.methods.steerseg.prompts import attention_prompt
from rvosbench.methods.steerseg.training.recipe import View
from rvosbench.methods.steerseg.training.sampling import Sample, Unit, UnitSampler
from rvosbench.methods.steerseg.training.sources import BoolTHW, Source
from rvosbench.methods.steerseg.training.targets import Float32, mask_fractions

Item = TypeVar("Item")
_SMALL: FrameHW3 = np.zeros((64, 64, 3), dtype=np.uint8)


@dataclass(frozen=True, eq=False)
class Call:
    """One call with what its map should be."""

    name: str
    """Name of the call in messages."""
    shown: Hashable
    """Key of the images shown; calls with equal keys show the same images."""
    prompted: ModelInputs
    """Model inputs of the prompt, without soft tokens."""
    fractions_thw: Float32
    """Fraction of every cell that the mask covers."""
    masks_THW: BoolTHW
    """Target masks of the keyframes that the call shows."""
    frames: tuple[FrameHW3, ...]
    """Keyframes that the call shows."""


class CallBuilder:
    """Makes calls of units. Safe to use from two threads: one waits for the other."""

    def __init__(self, lvlm: Lvlm, source: Source, cache_bytes: int) -> None:
        self.lvlm = lvlm
        self.source = source
        self._frames: _LruCache[list[FrameHW3]] = _LruCache(cache_bytes // 4)
        self._masks: _LruCache[BoolTHW] = _LruCache(cache_bytes // 8)
        self._heads: _LruCache[ModelInputs] = _LruCache(cache_bytes // 4)
        self._seen: _LruCache[Seen] = _LruCache(cache_bytes // 4)
        self._tails: _LruCache[Tail] = _LruCache(cache_bytes // 8)
        self._grids: dict[tuple[int, ...], Grid] = {}
        self._lock = RLock()

    def calls(self, units: Iterable[Unit], sampler: UnitSampler) -> list[Call]:
        """The units' calls. A unit whose object is on none of the keyframes has none.

        Raises:
            PrerequisiteError: a file is damaged, or a prompt too long; names the sample.
        """
        made = []
        for unit in units:
            with self._lock, _naming(unit.sample):
                masks_THW = self.masks(unit.sample)
                if unit.view == "clip":
                    if masks_THW.any():
                        made.append(self.clip(unit.sample, unit.prompt))
                elif (keyframe := sampler.keyframe(unit, masks_THW)) is not None:
                    made.append(self.frame(unit.sample, keyframe, unit.prompt))
        return made

    def evaluation_calls(self, sample: Sample, view: View, keyframes: int) -> list[Call]:
        """The calls by which a held-out sample is evaluated, with its attributes: the clip, or some of the keyframes
        that show the object, evenly chosen.

        Raises:
            PrerequisiteError: as ``calls``.
        """
        prompt = attention_prompt(sample.text, sample.attributes)
        with self._lock, _naming(sample):
            shown = np.flatnonzero(self.masks(sample).any((1, 2)))
            if not len(shown):
                return []
            if view == "clip":
                return [self.clip(sample, prompt)]
            chosen = shown[np.unique(np.linspace(0, len(shown) - 1, min(keyframes, len(shown))).astype(int))]
            return [self.frame(sample, int(keyframe), prompt) for keyframe in chosen]

    def seen(self, call: Call) -> Seen:
        """Visual embeddings of the call's frames. To be called only by the thread that runs the model."""
        return self._seen.get(call.shown, lambda: see(self.lvlm, call.prompted), lambda seen: seen.nbytes)

    def masks(self, sample: Sample) -> BoolTHW:
        """The sample's target on its keyframes."""
        return self._masks.get(
            sample.id, lambda: self.source.masks(sample.video, sample.expression), lambda mask: mask.nbytes
        )

    def frames(self, video: str) -> list[FrameHW3]:
        """A video's keyframes."""
        return self._frames.get(
            video, lambda: self.source.frames(video), lambda frames: sum(frame.nbytes for frame in frames)
        )

    def clip(self, sample: Sample, prompt: str) -> Call:
        """The clip call of a sample."""
        frames = self.frames(sample.video)
        shown = (sample.video, "clip")
        prompted = self._prompted(shown, partial(self.lvlm.clip, frames), prompt, "clip")
        return _call(sample, "clip", shown, prompted, self.masks(sample), frames)

    def frame(self, sample: Sample, keyframe: int, prompt: str) -> Call:
        """The frame call of one of a sample's keyframes."""
        frame, shown = self.frames(sample.video)[keyframe], (sample.video, keyframe)
        show = partial(self.lvlm.frame, frame, clip_grid=self._clip_grid(frame))
        prompted = self._prompted(shown, show, prompt, "frame")
        return _call(sample, "frame", shown, prompted, self.masks(sample)[keyframe : keyframe + 1], [frame])

    def _clip_grid(self, frame: FrameHW3) -> Grid:
        if frame.shape not in self._grids:
            grid = self.lvlm.clip([frame], PROBE).grid
            assert grid is not None, "a clip has visual tokens"
            self._grids[frame.shape] = grid
        return self._grids[frame.shape]

    def _prompted(self, key: Hashable, show: Callable[[str], ModelInputs], prompt: str, view: View) -> ModelInputs:
        """The prompt on a view. Images are processed once a view, with the probe; what stands behind them once a
        prompt, on a small image."""
        head = self._heads.get(key, lambda: show(PROBE), _bytes)
        tail = self._tail(view, prompt)
        own, usual = _tail_of(head), self._tail(view, PROBE)
        if not torch.equal(own["input_ids"], usual["input_ids"]):
            # What stands behind the images depends on them: nothing can be put together.
            return show(prompt)
        return completed(self.lvlm, head, tail)

    def _tail(self, view: View, prompt: str) -> Tail:
        def make() -> Tail:
            if view == "clip":
                return _tail_of(self.lvlm.clip([_SMALL], prompt))
            return _tail_of(self.lvlm.frame(_SMALL, prompt, (1, 2, 2)))

        return self._tails.get((view, prompt), make, lambda tail: sum(value.nbytes for value in tail.values()))


def _call(
    sample: Sample,
    view: View,
    shown: Hashable,
    prompted: ModelInputs,
    masks_THW: BoolTHW,
    frames: Sequence[FrameHW3],
) -> Call:
    assert prompted.grid is not None, "a clip or a frame has visual tokens"
    name = f"video '{sample.video}', expression '{sample.expression}' ({view} call)"
    return Call(name, shown, prompted, mask_fractions(masks_THW, prompted.grid), masks_THW, tuple(frames))


def _tail_of(prompted: ModelInputs) -> Tail:
    end = vision_span(prompted)[1]
    return {name: value[:, end:] for name, value in by_token(prompted).items()}


def _bytes(prompted: ModelInputs) -> int:
    return sum(value.nbytes for value in prompted.inputs.values())


@contextmanager
def _naming(sample: Sample) -> Iterator[None]:
    try:
        yield
    except SampleError as error:
        raise PrerequisiteError(
            f"Training cannot use video '{sample.video}', expression '{sample.expression}': {error}.",
            "Correct the data, or leave the video out.",
        ) from error


def ahead(items: Iterator[Any], make: Callable[[Any], Item]) -> Iterator[Item]:
    """``make`` of every item in order; the next one is made while the last one is used."""
    with ThreadPoolExecutor(1) as pool:
        waiting: Future[Item] | None = None
        for item in items:
            following = pool.submit(make, item)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()


class _LruCache(Generic[Item]):
    """Cache bounded by bytes, least recently used first out. Not thread-safe."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: OrderedDict[Hashable, tuple[Item, int]] = OrderedDict()
        self._bytes = 0

    def get(self, key: Hashable, make: Callable[[], Item], size: Callable[[Item], int]) -> Item:
        if key in self._items:
            self._items.move_to_end(key)
            return self._items[key][0]
        item = make()
        self._items[key] = (item, size(item))
        self._bytes += size(item)
        while self._bytes > self._limit and len(self._items) > 1:
            _, (_, freed) = self._items.popitem(last=False)
            self._bytes -= freed
        return item
