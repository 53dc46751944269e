"""The sam2 package's own video predictor behind the ``Segmenter`` interface, driven the way DecAF's code drives it.

This is the yardstick for parity checks and for the benchmark, not a second backend: it encodes a frame again for
every keyframe and direction, and tracks objects one by one.

Shape legend: N objects, H W pixels, S model image size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray

from rvosbench.methods.models.sam2.checkpoints import resolve
from rvosbench.methods.models.sam2.frames import FrameSource, preprocess
from rvosbench.methods.models.sam2.model import Sam2, build, post_processing
from rvosbench.methods.models.sam2.packed import PackedMasks
from rvosbench.methods.models.sam2.prompts import Boxes, Masks, Points, Prompt
from rvosbench.methods.models.sam2.segmenter import PointMasks, TrackedMasks


def stock_predictor(model: Sam2) -> Any:
    """``SAM2VideoPredictor`` with the weights, the post-processing and the device of ``model``."""
    overrides = [
        *resolve(model.settings.checkpoint).overrides,
        *post_processing(model.settings),
        f"model.fill_hole_area={model.settings.fill_hole_area}",
    ]
    config = resolve(model.settings.checkpoint).config
    predictor = build(config, overrides, target="sam2.sam2_video_predictor.SAM2VideoPredictor")
    predictor.load_state_dict(model.network.state_dict(), strict=True)
    return predictor.to(model.device).eval()


class StockVideo:
    """One video, opened for one expression: a state over the keyframes and, when asked for, one over all frames."""

    def __init__(self, model: Sam2, predictor: Any, frames: FrameSource, keyframes: Sequence[int]) -> None:
        self._model = model
        self._predictor = predictor
        self._frames = frames
        self._keyframes = tuple(keyframes)
        self._states: dict[tuple[int, ...], Any] = {}
        self.encoder_calls = 0
        """Frames that went through the image encoder so far."""

    @property
    def size(self) -> tuple[int, int]:
        height, width = self._frames[0].shape[:2]
        return int(height), int(width)

    def __len__(self) -> int:
        return len(self._frames)

    def masks_from_points(self, frame: int, points_N2: NDArray[np.float32]) -> PointMasks:
        """See ``Segmenter``; ``frame`` must be a keyframe."""
        logits_N1HW, predicted_iou = self.logits_from_points(frame, points_N2)
        return PointMasks(PackedMasks.pack((logits_N1HW[:, 0] > 0).cpu().numpy()), predicted_iou)

    def logits_from_points(
        self, frame: int, points_N2: NDArray[np.float32]
    ) -> tuple[torch.Tensor, NDArray[np.float32]]:
        """Logits (N, 1, H, W) and predicted IoUs (N,); one object after the other, all re-rendered each time."""
        predictor, position = self._predictor, self._keyframes.index(frame)
        state = self._state(self._keyframes)
        predicted: list[float] = []

        def record(_module: Any, _inputs: Any, outputs: Any) -> None:
            predicted.append(float(outputs[1].max()))

        hook = predictor.sam_mask_decoder.register_forward_hook(record)
        try:
            with self._running():
                predictor.reset_state(state)
                for j, point in enumerate(points_N2):
                    _, _, logits_N1HW = predictor.add_new_points_or_box(
                        state, position, j, points=point[None], labels=[1], normalize_coords=False
                    )
        finally:
            hook.remove()
        return logits_N1HW, np.array(predicted, dtype=np.float32)

    def propagate(self, frames: Sequence[int], prompt: Prompt) -> Iterator[TrackedMasks]:
        """See ``Segmenter``; the prompted frame comes once."""
        for position, logits_N1HW in self.propagate_logits(frames, prompt):
            yield TrackedMasks(position, slice(0, len(prompt)), (logits_N1HW[:, 0] > 0).cpu().numpy())

    def propagate_logits(self, frames: Sequence[int], prompt: Prompt) -> Iterator[tuple[int, torch.Tensor]]:
        """(position, logits (N, 1, H, W)): forward, then in reverse in the same state.

        Raises:
            TypeError: a prompt of tokens, which the package's predictor does not take.
        """
        predictor = self._predictor
        state = self._state(tuple(frames))
        predictor.reset_state(state)
        with self._running(), patch("sam2.sam2_video_predictor.tqdm", lambda positions, desc: positions):
            for i in range(len(prompt)):
                self._add(state, prompt, i)
            forward = list(predictor.propagate_in_video(state, start_frame_idx=prompt.position))
            backward = list(predictor.propagate_in_video(state, start_frame_idx=prompt.position, reverse=True))
        for position, _, logits_N1HW in [*forward, *backward[1:]]:
            yield position, logits_N1HW

    def _add(self, state: Any, prompt: Prompt, index: int) -> None:
        predictor, position = self._predictor, prompt.position
        if isinstance(prompt, Masks):
            predictor.add_new_mask(state, position, 100 + index, prompt.mask_NHW[index])
            return
        if isinstance(prompt, Points):
            given = {"points": prompt.xy_NP2[index], "labels": prompt.label_NP[index]}
        elif isinstance(prompt, Boxes):
            given = {"box": prompt.xyxy_N4[index]}
        else:
            raise TypeError("the package's predictor takes no tokens")
        predictor.add_new_points_or_box(state, position, 100 + index, normalize_coords=False, **given)

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Counts encoder calls, at the model's precision."""

        def count(_module: Any, _inputs: Any) -> None:
            self.encoder_calls += 1

        hook = self._predictor.image_encoder.register_forward_pre_hook(count)
        try:
            with self._model.precision():
                yield
        finally:
            hook.remove()

    def _state(self, frames: tuple[int, ...]) -> Any:
        if frames not in self._states:
            size = self._predictor.image_size
            images = torch.stack([preprocess(self._frames[frame], size) for frame in frames]).to(self._model.device)
            # The package reads files only; what it would read is put in their place.
            with (
                self._running(),
                patch("sam2.sam2_video_predictor.load_video_frames", lambda **_: (images, *self.size)),
            ):
                self._states[frames] = self._predictor.init_state(video_path="")
        return self._states[frames]
