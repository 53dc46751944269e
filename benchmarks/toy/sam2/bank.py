"""Rendered clips in device memory, and the batches of clip windows that training draws from them.

Shape legend: C clips, N objects of a clip, F frames of all clips; K windows, M objects of a window, B = K * M, T
frames of a window, n candidates for windows; S side of the network's input.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from rvosbench.methods.models.sam2.frames import MEAN, STD
from toy.sam2.rendering import RenderedClip

LONGEST_CLIP = 40
"""Frames; the most a clip of the synthetic dataset has."""
MOST_OBJECTS = 12
"""More than any clip of the synthetic dataset has."""
LEAST_AREA = 12
"""Pixels of the network's input; a prompt is given on a frame that shows at least this much of the object."""
MOST_STRIDE = 6
"""Frames between neighbours of a window: keyframes of a method lie as far apart."""
BACKGROUND_SHARE = 0.05
"""Objects that are the background: methods also click beside objects, and SAM2 then segments what is there."""
VANISHING_WEIGHT = 3.0
"""How much likelier than others an object is drawn that is out of sight on some frame of the window."""
STEADY_SHARE = 0.4
"""Of the windows in which no object goes out of sight, this share is used."""
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
        self._area_CTN = np.zeros((capacity, LONGEST_CLIP, MOST_OBJECTS), dtype=np.int64)
        self._length_C = np.zeros(capacity, dtype=np.int64)
        self._first_C = np.zeros(capacity, dtype=np.int64)
        self._count = self._used = 0
        self._digest = hashlib.sha256()
        self._mean = torch.tensor(MEAN, device=device)[:, None, None]
        self._std = torch.tensor(STD, device=device)[:, None, None]

    def __len__(self) -> int:
        return self._count

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
                raise ValueError(f"{count} clips requested, the source gave {len(self)}")
            self._add(clip)

    def _add(self, clip: RenderedClip) -> None:
        length = len(clip.ids_TSS)
        if length > LONGEST_CLIP or clip.objects > MOST_OBJECTS:
            raise ValueError(f"a clip has {length} frames and {clip.objects} objects")
        here = slice(self._used, self._used + length)
        self._frames_FSS3[here] = torch.from_numpy(clip.frames_TSS3).to(self._frames_FSS3.device)
        self._ids_FSS[here] = torch.from_numpy(clip.ids_TSS).to(self._ids_FSS.device)
        for t, ids in enumerate(clip.ids_TSS):
            self._area_CTN[self._count, t] = np.bincount(ids.ravel(), minlength=MOST_OBJECTS + 1)[1:]
        self._length_C[self._count], self._first_C[self._count] = length, self._used
        self._count += 1
        self._used += length
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
        drawn: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        count = 0
        for _ in range(_TRIES):
            drawn.append(self._candidates(rng, available, 2 * windows, objects, length, prompt))
            count += len(drawn[-1][0])
            if count >= windows:
                frame_KT, object_KM = (np.concatenate(parts)[:windows] for parts in zip(*drawn, strict=True))
                return Windows(frame_KT, object_KM, prompt)
        raise ValueError(f"no window of {length} frames shows an object on its prompted frame")

    def _candidates(
        self, rng: np.random.Generator, available: int, count: int, objects: int, length: int, prompt: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Random windows, n of them, at most ``count``: those that fit their clip and show an object."""
        clip_n = rng.integers(available, size=count)
        clip_n = clip_n[self._length_C[clip_n] >= length]
        length_n = self._length_C[clip_n]
        most_n = np.minimum(MOST_STRIDE, (length_n - 1) // max(1, length - 1))
        stride_n = rng.integers(1, np.maximum(1, most_n) + 1)
        start_n = rng.integers(length_n - stride_n * (length - 1))
        frame_nT = start_n[:, None] + stride_n[:, None] * np.arange(length)
        frame_nT = np.where(rng.random((len(clip_n), 1)) < 0.5, frame_nT[:, ::-1], frame_nT)
        area_nTN = self._area_CTN[clip_n[:, None], frame_nT]
        seen_nN = area_nTN[:, prompt] >= LEAST_AREA
        # The first M of a random order of what is in sight, and again from its front where there are fewer than M.
        vanishing_nN = seen_nN & (area_nTN == 0).any(axis=1)
        weight_nN = np.where(vanishing_nN, VANISHING_WEIGHT, 1.0)
        key_nN = np.where(seen_nN, rng.exponential(size=seen_nN.shape) / weight_nN, np.inf)
        place_nM = np.arange(objects) % np.maximum(1, seen_nN.sum(axis=1, keepdims=True))
        object_nM = np.take_along_axis(key_nN.argsort(axis=1), place_nM, axis=1) + 1
        object_nM[rng.random(object_nM.shape) < BACKGROUND_SHARE] = 0
        wanted_n = vanishing_nN.any(axis=1) | (length == 1) | (rng.random(len(clip_n)) < STEADY_SHARE)
        fits_n = seen_nN.any(axis=1) & wanted_n
        return (self._first_C[clip_n, None] + frame_nT)[fits_n], object_nM[fits_n]

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
