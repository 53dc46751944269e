"""Inputs of the Qwen2-VL and Qwen2.5-VL models.

Source: the released DecAF code and qwen-vl-utils for sizes and order (frames resized one by one with bicubic
filtering before the processor, an odd number of frames padded by repeating the last), the checkpoint for everything
else: chat template, normalisation, patch sizes, limits.

Shape legend: L sequence, T frames, t h w merged visual grid, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from rvosbench.harness.data.types import FrameHW3
from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.methods.models.lvlm.base import Grid, LvlmSettings, Prompted
from rvosbench.methods.models.lvlm.running import RunningLvlm
from rvosbench.methods.models.lvlm.sizes import token_grid


class QwenLvlm(RunningLvlm):
    """A Qwen vision-language model with its processor."""

    def __init__(self, family: str, model: Any, processor: Any, settings: LvlmSettings) -> None:
        super().__init__(family, model, model.model.language_model, processor.tokenizer, settings)
        self.processor = processor
        config = model.config
        self.picture_marks = frozenset((config.vision_start_token_id, config.vision_end_token_id))
        vision = model.config.vision_config
        self.factor = int(vision.patch_size * vision.spatial_merge_size)
        """Side of a merged visual token in pixels."""
        self.step = int(vision.temporal_patch_size)
        """Frames to one temporal grid step."""
        for part in (processor.image_processor, processor.video_processor):
            sizes = (part.patch_size, part.merge_size, part.temporal_patch_size)
            if sizes != (vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size):
                raise PrerequisiteError(
                    f"The checkpoint's {type(part).__name__} has patch, merge and temporal sizes {sizes}, its vision "
                    f"model {(vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size)}.",
                    "Download the checkpoint again, all files.",
                )

    def clip(self, frames: Sequence[FrameHW3], prompt: str) -> Prompted:
        if not frames:
            raise SampleError("a clip needs at least one frame")
        height, width = frames[0].shape[:2]
        if any(frame.shape != frames[0].shape for frame in frames):
            raise SampleError("the frames of a clip differ in size")
        settings = self.settings
        h, w = token_grid(height, width, self.factor, settings.clip_min_tokens, settings.clip_max_tokens)
        shown = [self._resized(frame, h, w) for frame in frames]
        shown += [shown[-1]] * (-len(shown) % self.step)
        self._check_limits(self.processor.video_processor, h, w)
        # Without the frame rate in so many words the processor takes 24 a second, and all temporal positions
        # fall together.
        rate = self.step / settings.seconds_per_grid
        metadata = {
            "fps": rate,
            "total_num_frames": len(shown),
            "duration": len(shown) / rate,
            "frames_indices": list(range(len(shown))),
        }
        inputs = self._processed(
            {"type": "video"},
            prompt,
            videos=[np.stack(shown)],
            video_metadata=[metadata],
            do_sample_frames=False,
            do_resize=False,
        )
        return self._prompted(inputs, self.model.config.video_token_id, (len(shown) // self.step, h, w))

    def frame(self, frame: FrameHW3, prompt: str, clip_grid: Grid) -> Prompted:
        h, w = (self.settings.frame_scale * side for side in clip_grid[1:])
        self._check_limits(self.processor.image_processor, h, w)
        image = Image.fromarray(self._resized(frame, h, w))
        inputs = self._processed({"type": "image"}, prompt, images=[image], do_resize=False)
        return self._prompted(inputs, self.model.config.image_token_id, (1, h, w))

    def text(self, prompt: str) -> Prompted:
        inputs = self._processed(None, prompt)
        return self.checked(inputs, torch.zeros(inputs["input_ids"].shape[1], dtype=torch.bool), None)

    def forget(self) -> None:
        # The model keeps the last prompt's position offset and would apply it to the next one's continuation.
        self.model.model.rope_deltas = None

    def messages(self, visual: Mapping[str, str] | None, prompt: str) -> list[dict[str, Any]]:
        """The chat: the visual item first, then the text; the system turn is the template's."""
        text = {"type": "text", "text": prompt}
        return [{"role": "user", "content": [text] if visual is None else [dict(visual), text]}]

    def _processed(self, visual: Mapping[str, str] | None, prompt: str, **vision: Any) -> Mapping[str, torch.Tensor]:
        config = self.model.config
        for token in (config.image_token_id, config.video_token_id, config.vision_start_token_id):
            marker = self.tokenizer.convert_ids_to_tokens(token)
            if marker in prompt:
                raise SampleError(f"the prompt contains {marker}, which the model takes for an image")
        chat = self.processor.apply_chat_template(
            self.messages(visual, prompt), add_generation_prompt=True, tokenize=False
        )
        inputs: Mapping[str, torch.Tensor] = self.processor(text=[chat], return_tensors="pt", **vision)
        return inputs

    def _prompted(self, inputs: Mapping[str, torch.Tensor], token: int, grid: Grid) -> Prompted:
        return self.checked(inputs, inputs["input_ids"][0] == token, grid)

    def _resized(self, frame: FrameHW3, h: int, w: int) -> FrameHW3:
        image = Image.fromarray(frame).resize((w * self.factor, h * self.factor), Image.Resampling.BICUBIC)
        return np.asarray(image)

    def _check_limits(self, processor: Any, h: int, w: int) -> None:
        least, most = int(processor.size["shortest_edge"]), int(processor.size["longest_edge"])
        pixels = h * w * self.factor**2
        if not least <= pixels <= most:
            raise PrerequisiteError(
                f"Frames would be shown to the model at {h * self.factor}x{w * self.factor}, {pixels} pixels, but the "
                f"checkpoint's {type(processor).__name__} takes {least} to {most}.",
                "Change clip_min_tokens, clip_max_tokens or frame_scale.",
            )
