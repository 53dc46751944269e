"""Rendered clips in device memory, and the batches of clip windows that training draws from them.

Shape legend: K windows, M objects of a window, B = K * M, T frames of a window, F frames of all clips, S side of the
network's input.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from methods.segmentation.frames import MEAN, STD
from methods.segmentation.training.rendering import RenderedClip

LONGEST_CLIP = 40
"""Frames; the most a clip of the bundled world has."""
LEAST_AREA = 12
"""Pixels of the network's input; a prompt is given on a frame that shows at least this much of the object."""
MOST_STRIDE = 6
"""Frames between neighbours of a window: keyframes of a method lie as far apart."""
BACKGROUND_SHARE = 0.05
"""Objects that are the background: methods also click beside objects, and SAM2 then segments what is there."""
VANISHING_WEIGHT = 3.0
"""How much likelier than others an object is drawn that is out of sight on some frame of the window."""
_TRIES = 1000


@dataclass(frozen=True, eq=False)
class Windows:
    """Which frames of which clips make a batch."""

    frame_KT: NDArray[np.int64]
    """Index into the bank's frames."""
    object_KM: NDArray[np.int64]
    """Ids within the clip; 0 is the background."""
    prompt: int
    """Position of the prompted frame in every window."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Objects through windows of clips, on the device."""

    images_KT3SS: torch.Tensor
    """Normalised as the network wants them."""
    masks_TBSS: torch.Tensor
    """Bool; objects of a window stand together."""
    click_B2: torch.Tensor
    """(x, y) in pixels of the input: a random place inside the object on the prompted frame."""
    prompt: int


class Bank:
    """Grows while clips arrive; what a batch may draw on depends on the number asked for, not on timing."""

    def __init__(self, clips: Iterator[RenderedClip], capacity: int, size: int, device: torch.device) -> None:
        self._source = clips
        shape = (capacity * LONGEST_CLIP, size, size)
        self._frames_FSS3 = torch.empty((*shape, 3), dtype=torch.uint8, device=device)
        self._ids_FSS = torch.empty(shape, dtype=torch.uint8, device=device)
        self._areas_TN: list[NDArray[np.int64]] = []
        self._first: list[int] = []
        self._digest = hashlib.sha256()
        self._mean = torch.tensor(MEAN, device=device)[:, None, None]
        self._std = torch.tensor(STD, device=device)[:, None, None]

    def __len__(self) -> int:
        return len(self._first)

    @property
    def digest(self) -> str:
        """SHA-256 hex digest over the digests of the clips so far."""
        return self._digest.hexdigest()

    def fill(self, count: int) -> None:
        """Waits until ``count`` clips are there.

        Raises:
            ValueError: the source ends before.
        """
        while len(self) < count:
            clip = next(self._source, None)
            if clip is None:
                raise ValueError(f"{count} clips asked for, the source gave {len(self)}")
            self._add(clip)

    def _add(self, clip: RenderedClip) -> None:
        first = self._first[-1] + len(self._areas_TN[-1]) if self._first else 0
        length, things = len(clip.ids_TSS), clip.things
        here = slice(first, first + length)
        self._frames_FSS3[here] = torch.from_numpy(clip.frames_TSS3).to(self._frames_FSS3.device)
        self._ids_FSS[here] = torch.from_numpy(clip.ids_TSS).to(self._ids_FSS.device)
        self._areas_TN.append(np.stack([np.bincount(ids.ravel(), minlength=things + 1) for ids in clip.ids_TSS]))
        self._first.append(first)
        self._digest.update(clip.digest().encode())

    def draw(self, rng: np.random.Generator, available: int, windows: int, objects: int, length: int) -> Windows:
        """Windows with an object in sight on the prompted frame, in both directions of time.

        Args:
            rng: decides everything.
            available: only the first clips, this many, are drawn from.
            windows: K.
            objects: M; an object may come twice (with other clicks).
            length: T.

        Raises:
            ValueError: no clip offers such a window.
        """
        self.fill(available)
        prompt = int(rng.integers(length))
        frame_KT = np.empty((windows, length), dtype=np.int64)
        object_KM = np.empty((windows, objects), dtype=np.int64)
        for k in range(windows):
            frame_KT[k], object_KM[k] = self._window(rng, available, objects, length, prompt)
        return Windows(frame_KT, object_KM, prompt)

    def _window(
        self, rng: np.random.Generator, available: int, objects: int, length: int, prompt: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        for _ in range(_TRIES):
            clip = int(rng.integers(available))
            areas_TN = self._areas_TN[clip]
            if len(areas_TN) < length:
                continue
            most = MOST_STRIDE if length == 1 else min(MOST_STRIDE, (len(areas_TN) - 1) // (length - 1))
            stride = int(rng.integers(1, most + 1))
            start = int(rng.integers(len(areas_TN) - stride * (length - 1)))
            frame_T = start + stride * np.arange(length)
            if rng.random() < 0.5:
                frame_T = frame_T[::-1]
            seen = np.flatnonzero(areas_TN[frame_T[prompt], 1:] >= LEAST_AREA) + 1
            if not len(seen):
                continue
            weight = np.where((areas_TN[frame_T][:, seen] == 0).any(axis=0), VANISHING_WEIGHT, 1.0)
            object_M = rng.choice(seen, size=objects, replace=len(seen) < objects, p=weight / weight.sum())
            object_M[rng.random(objects) < BACKGROUND_SHARE] = 0
            return self._first[clip] + frame_T, object_M
        raise ValueError(f"no window of {length} frames shows an object on its prompted frame")

    def gather(self, windows: Windows, generator: torch.Generator) -> Batch:
        """The pixels, masks and clicks of windows; ``generator`` (of the device) draws the clicks."""
        device = self._frames_FSS3.device
        frame_KT = torch.from_numpy(windows.frame_KT).to(device)
        object_KM = torch.from_numpy(windows.object_KM).to(device)
        pixels_KT3SS = self._frames_FSS3[frame_KT].movedim(-1, -3).float()
        images_KT3SS = (pixels_KT3SS / 255.0 - self._mean) / self._std
        ids_KTSS = self._ids_FSS[frame_KT]
        masks_KMTSS = ids_KTSS[:, None] == object_KM[:, :, None, None, None]
        masks_TBSS = masks_KMTSS.flatten(0, 1).transpose(0, 1)
        return Batch(images_KT3SS, masks_TBSS, _clicks(masks_TBSS[windows.prompt], generator), windows.prompt)


def _clicks(masks_BSS: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A random place inside each mask, (B, 2) float32 (x, y) in pixels from the corner."""
    side = masks_BSS.shape[-1]
    chosen_B = torch.multinomial(masks_BSS.flatten(1).float(), 1, generator=generator)[:, 0]
    corner_B2 = torch.stack([chosen_B % side, chosen_B // side], dim=1).float()
    return corner_B2 + torch.rand(corner_B2.shape, device=masks_BSS.device, generator=generator)
