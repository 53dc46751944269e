"""LLaVA-1.5 (arXiv 2310.03744): released as llava-hf/llava-1.5-7b-hf and -13b-hf.

It sees single images, so it has frame calls only; ``clip`` is refused. That is enough for methods that read every
keyframe alone, such as localization heads (Loc-Head, arXiv 2503.06287).

Frames: the checkpoint's processor scales the shorter side to 336 and cuts out the centre, so a wide frame would lose
both ends and its map would not cover the frame. Here the whole frame is squashed to 336x336 before the processor
(which then only normalises), as LLaVA-OneVision does with clip frames: cell (y, x) of the 24x24 grid covers exactly
1/24 of the frame's height and width. What the published video numbers did is not stated; the original model was
trained on frames padded to a square.

Side of the picture, patch, normalisation, chat template and resampling come from the checkpoint. The template holds
the roles (``USER: <image>\\n... ASSISTANT:``) and no system text; Loc-Head's own image code used none of the roles.

transformers 4.52.1 against 5.19, run on the same small checkpoint and the same squashed frame: equal token ids; pixels
differ by 2e-7 (scaling and normalisation are one step in 5.19), logits by 4e-6 in float32 with eager attention on a
CPU.

Shape legend: L sequence, h w visual grid, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration, LlavaProcessor
from transformers.image_utils import SizeDict

from rvosbench.harness.data.types import FrameHW3
from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.methods.models.lvlm.base import Grid, Lvlm, LvlmSettings, Prompted
from rvosbench.methods.models.lvlm.running import RunningLvlm, load_model, load_processor


class LlavaChat(RunningLvlm):
    """What the LLaVA families share: the chat through the checkpoint's template, and no memory between calls."""

    def __init__(self, family: str, model: Any, processor: Any, settings: LvlmSettings) -> None:
        super().__init__(family, model, model.model.language_model, processor.tokenizer, settings)
        self.processor = processor
        self.side = int(model.config.vision_config.image_size // model.config.vision_config.patch_size)
        """Patches along one side of the vision tower's square picture."""

    def text(self, prompt: str) -> Prompted:
        inputs = self.processed(None, prompt)
        return self.checked(inputs, torch.zeros(inputs["input_ids"].shape[1], dtype=torch.bool), None)

    def forget(self) -> None:
        """Nothing: these models keep no state outside the cache of a call."""

    def messages(self, visual: Mapping[str, str] | None, prompt: str) -> list[dict[str, Any]]:
        """The chat: the visual item first, then the text; no system turn."""
        text = {"type": "text", "text": prompt}
        return [{"role": "user", "content": [text] if visual is None else [dict(visual), text]}]

    def processed(self, visual: Mapping[str, str] | None, prompt: str, **vision: Any) -> Mapping[str, torch.Tensor]:
        """Inputs of one prompt; ``vision`` are the processor's arguments for the picture.

        Raises:
            SampleError: the prompt holds a token that stands for a picture.
        """
        for name in ("image_token", "video_token"):
            marker = getattr(self.processor, name, None)
            if marker and marker in prompt:
                raise SampleError(f"the prompt contains {marker}, which the model takes for an image")
        chat = self.processor.apply_chat_template(
            self.messages(visual, prompt), add_generation_prompt=True, tokenize=False
        )
        return self.tokenized(chat, **vision)

    def tokenized(self, chat: str, **vision: Any) -> Mapping[str, torch.Tensor]:
        """Inputs of a whole chat, whose picture token the processor multiplies."""
        # Without the layout in so many words a frame of 1 or 3 rows is taken for channels first.
        layout = {"input_data_format": "channels_last"} if vision else {}
        inputs: Mapping[str, torch.Tensor] = self.processor(text=[chat], return_tensors="pt", **layout, **vision)
        return inputs


class LlavaLvlm(LlavaChat):
    """A LLaVA-1.5 model with its processor."""

    def __init__(self, model: Any, processor: Any, settings: LvlmSettings) -> None:
        super().__init__("llava", model, processor, settings)
        vision = model.config.vision_config
        if vision.model_type != "clip_vision_model":
            raise PrerequisiteError(
                f"The checkpoint's vision model is a {vision.model_type}; of the 'llava' models only those with CLIP "
                "(LLaVA-1.5) are supported.",
                "Use llava-hf/llava-1.5-7b-hf or llava-hf/llava-1.5-13b-hf.",
            )
        self.pixels = int(vision.image_size)
        """Side of the square picture."""
        crop = processor.image_processor.crop_size or SizeDict()
        check_agreement(
            {
                "patch size": (processor.patch_size, vision.patch_size),
                "picture size": ((crop.height, crop.width), (self.pixels, self.pixels)),
                "feature selection": (
                    processor.vision_feature_select_strategy,
                    model.config.vision_feature_select_strategy,
                ),
                # CLIP's class token, which "default" selection drops again.
                "number of additional tokens": (processor.num_additional_image_tokens, 1),
                "selection of patches": (model.config.vision_feature_select_strategy, "default"),
            }
        )

    def clip(self, frames: Sequence[FrameHW3], prompt: str) -> NoReturn:
        """Refused: the family has no clip view.

        Raises:
            PrerequisiteError: always.
        """
        raise PrerequisiteError(
            "LLaVA-1.5 has no clip view: it sees single images, not videos.",
            "Use a method that makes frame calls only, or a model that takes videos (Qwen2-VL, Qwen2.5-VL, "
            "LLaVA-OneVision).",
        )

    def frame(self, frame: FrameHW3, prompt: str, clip_grid: Grid) -> Prompted:
        """One frame, squashed to the vision tower's square; ``clip_grid`` has no effect on this family."""
        return self._shown(self.processed({"type": "image"}, prompt, **self._picture(frame)))

    def frame_without_roles(self, frame: FrameHW3, before: str, prompt: str) -> Prompted:
        """One frame in a chat without roles: ``before``, the picture and the prompt, a line each, nothing after it.

        Raises:
            SampleError: the prompt holds the token that stands for a picture.
        """
        marker = self.processor.image_token
        if marker in prompt:
            raise SampleError(f"the prompt contains {marker}, which the model takes for an image")
        return self._shown(self.tokenized(f"{before}\n{marker}\n{prompt}", **self._picture(frame)))

    def _picture(self, frame: FrameHW3) -> dict[str, Any]:
        """The processor's arguments for a frame."""
        square = (self.pixels, self.pixels)
        resample = Image.Resampling(self.processor.image_processor.resample)
        image = np.array(Image.fromarray(frame).resize(square, resample))
        return {"images": [image], "do_resize": False, "do_center_crop": False}

    def _shown(self, inputs: Mapping[str, torch.Tensor]) -> Prompted:
        visual_L = inputs["input_ids"][0] == self.model.config.image_token_id
        return self.checked(inputs, visual_L, (1, self.side, self.side))


def check_agreement(found: Mapping[str, tuple[object, object]]) -> None:
    """Compares what the processor says with what the model says, name by name.

    Raises:
        PrerequisiteError: they differ.
    """
    for name, (processor, model) in found.items():
        if processor != model:
            raise PrerequisiteError(
                f"The checkpoint's processor has {name} {processor}, its model {model}.",
                "Download the checkpoint again, all files.",
            )


def load(folder: Path, settings: LvlmSettings) -> Lvlm:
    """The checkpoint in ``folder``. Clip settings, ``frame_scale`` and ``seconds_per_grid`` have no effect."""
    model = load_model(LlavaForConditionalGeneration, folder, settings)
    return LlavaLvlm(model, load_processor(LlavaProcessor, folder), settings)
