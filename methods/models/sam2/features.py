"""Frames of one video, each encoded once and kept for all prompts, directions and expressions.

The reference keeps the features of one frame only, and so encodes a video again for every keyframe, direction and
expression.

Shape legend: B objects, C channels, H W feature grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from rvosbench.harness.errors import SampleError
from rvosbench.methods.models.sam2.frames import FrameSource, preprocess
from rvosbench.methods.models.sam2.model import Sam2


@dataclass(frozen=True, eq=False)
class VisionInputs:
    """What ``SAM2Base.track_step`` takes of a frame, repeated for B objects without copying."""

    features: list[torch.Tensor]
    """Per level, (H * W, B, C)."""
    positions: list[torch.Tensor]
    """Position encodings, same shapes."""
    sizes: list[tuple[int, int]]
    """Per level, (H, W)."""


class FrameFeatures:
    """Encodes on demand. The first frames stay on the device until the budget is used up, later ones in host memory.

    A fixed split suits the access pattern: tracking walks through the frames in order, so that evicting the least
    recent one would move every frame on every pass.
    """

    def __init__(self, model: Sam2, frames: FrameSource) -> None:
        self._model = model
        self._frames = frames
        self._kept: dict[int, list[torch.Tensor]] = {}
        self._positions: list[torch.Tensor] = []
        self._current: tuple[int, list[torch.Tensor]] | None = None
        self._size: tuple[int, int] | None = None
        self._bytes_on_device = 0
        self.encoder_calls = 0
        """Frames that went through the image encoder so far."""
        self.spilled: set[int] = set()
        """Frames whose features are in host memory because the budget is used up."""

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the video.

        Raises:
            SampleError: the video has no frame, or its first frame cannot be read.
        """
        if self._size is None:
            if not len(self._frames):
                raise SampleError("the video has no frames")
            height, width = self._frames[0].shape[:2]
            self._size = (int(height), int(width))
        return self._size

    @torch.inference_mode()
    def inputs(self, frame: int, objects: int) -> VisionInputs:
        """The features of a frame, for a batch of objects.

        Raises:
            SampleError: the frame cannot be read or has another size than the first.
        """
        levels = self._levels(frame)
        expanded = {
            "backbone_fpn": [level.expand(objects, -1, -1, -1) for level in levels],
            "vision_pos_enc": [position.expand(objects, -1, -1, -1) for position in self._positions],
        }
        _, features, positions, sizes = self._model.network._prepare_backbone_features(expanded)
        return VisionInputs(features, positions, sizes)

    def _levels(self, frame: int) -> list[torch.Tensor]:
        if self._current is not None and self._current[0] == frame:
            return self._current[1]
        if frame in self._kept:
            levels = [level.to(self._model.device, non_blocking=True) for level in self._kept[frame]]
        else:
            levels = self._encode(frame)
            self._keep(frame, levels)
        self._current = (frame, levels)
        return levels

    def _encode(self, frame: int) -> list[torch.Tensor]:
        pixels_HW3 = self._frames[frame]
        if pixels_HW3.shape != (*self.size, 3):
            raise SampleError(f"frame {frame} has shape {pixels_HW3.shape}, the first one {(*self.size, 3)}")
        network = self._model.network
        image = preprocess(pixels_HW3, network.image_size).to(self._model.device)[None]
        with self._model.precision():
            encoded: dict[str, Any] = network.forward_image(image)
        self.encoder_calls += 1
        if not self._positions:
            self._positions = list(encoded["vision_pos_enc"])
        return list(encoded["backbone_fpn"])

    def _keep(self, frame: int, levels: list[torch.Tensor]) -> None:
        needed = sum(level.nbytes for level in levels)
        if self._bytes_on_device + needed <= self._model.settings.feature_budget_bytes:
            self._bytes_on_device += needed
            self._kept[frame] = levels
        else:
            self.spilled.add(frame)
            self._kept[frame] = [level.cpu() for level in levels]
