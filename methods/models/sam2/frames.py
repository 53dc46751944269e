"""Video frames in memory as SAM2 wants them.

Shape legend: H W pixels, S model image size.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from PIL import Image

from rvosbench.harness.data.types import FrameHW3

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class FrameSource(Protocol):
    """Frames of one size: a list of arrays, or ``rvosbench.harness.stages.VideoFrames``."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> FrameHW3: ...


def preprocess(frame_HW3: FrameHW3, image_size: int) -> torch.Tensor:
    """The network's input for an RGB frame, (3, S, S) float32, bit for bit what the package's loader makes of a file.

    Squashed to a square with PIL's default (bicubic) filter, divided by 255 in float64, rounded to float32, then
    normalised with ImageNet's mean and deviation.
    """
    resized = np.asarray(Image.fromarray(frame_HW3).resize((image_size, image_size)))
    image = torch.from_numpy(resized / 255.0).permute(2, 0, 1).to(torch.float32).contiguous()
    image -= torch.tensor(MEAN)[:, None, None]
    image /= torch.tensor(STD)[:, None, None]
    return image
