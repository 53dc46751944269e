"""Clips of the synthetic dataset at the size the network sees, rendered by a pool of processes. Imports no torch.

Shape legend: T frames, N objects, H W pixels, S side of the network's input.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import threading
from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rvosbench.harness.data.synthetic import make_clip


@dataclass(frozen=True, eq=False)
class RenderedClip:
    """A clip squashed to squares."""

    frames_TSS3: NDArray[np.uint8]
    """RGB, resized as ``rvosbench.methods.models.sam2.frames.preprocess`` does."""
    ids_TSS: NDArray[np.uint8]
    """Object ids, 0 = background."""

    @property
    def objects(self) -> int:
        return int(self.ids_TSS.max())

    def digest(self) -> str:
        """SHA-256 hex digest of pixels and ids."""
        return hashlib.sha256(self.frames_TSS3.tobytes() + self.ids_TSS.tobytes()).hexdigest()


def render_clip(seed: int, split: str, size: int, index: int) -> RenderedClip:
    """Clip ``index`` of a split of the synthetic dataset."""
    clip = make_clip(seed, split, index)
    frames = [np.asarray(Image.fromarray(frame).resize((size, size))) for frame in clip.images()]
    ids = [_resized_ids(ids_HW, len(clip.scene.objects), size) for ids_HW in clip.ids_THW]
    return RenderedClip(np.stack(frames), np.stack(ids))


def rendered_clips(seed: int, split: str, size: int, count: int, workers: int) -> Generator[RenderedClip, None, None]:
    """Clips 0..count-1 in order, rendered ahead of their use by ``workers`` processes; close it to end them early."""
    render = partial(render_clip, seed, split, size)
    # Fork would copy the parent's threads and, on a GPU, its CUDA context.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent)
    try:
        yield from pool.map(render, range(count), chunksize=2)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """A parent that is killed cannot end its workers, and they would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _resized_ids(ids_HW: NDArray[np.uint8], objects: int, size: int) -> NDArray[np.uint8]:
    """Each pixel goes to the id that covers most of it."""
    shares = np.stack(
        [
            np.asarray(
                Image.fromarray((ids_HW == id).astype(np.uint8) * 255).resize((size, size), Image.Resampling.BILINEAR)
            )
            for id in range(objects + 1)
        ]
    )
    return np.asarray(shares.argmax(axis=0), dtype=np.uint8)
