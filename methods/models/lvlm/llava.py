"""LLaVA-1.5 (arXiv 2310.03744): released as llava-hf/llava-1.5-7b-hf and -13b-hf.

It sees single images, so a chat holds no video and ``clip`` is refused. That is enough for methods that read every
keyframe alone, such as localization heads (Loc-Head, arXiv 2503.06287).

Frames: the checkpoint's processor scales the shorter side to 336 and cuts out the centre, so a wide frame would lose
both ends and its map would not cover the frame. Here the whole frame is squashed to 336x336 before the processor
(which then only normalises), as LLaVA-OneVision does with clip frames: cell (y, x) of the 24x24 grid covers exactly
1/24 of the frame's height and width. What the published video numbers did is not stated; the original model was
trained on frames padded to a square.

Side of the image, patch, normalisation, chat template and resampling come from the checkpoint. The template holds the
roles (``USER: <image>\\n... ASSISTANT:``) and no system text; Loc-Head's own image code used none of the roles.
Attention sinks: the bottom row (Loc-Head's paper).

transformers 4.52.1 against 5.19, run on the same small checkpoint and the same squashed frame: equal token ids; pixels
differ by 2e-7 (scaling and normalisation are one step in 5.19), logits by 4e-6 in float32 with eager attention on a
CPU.

Shape legend: L sequence, h w visual grid, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image

from rvosbench.harness.data.types import FrameHW3
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.methods.models.lvlm.base import Grid, LvlmOptions, LvlmSettings
from rvosbench.methods.models.lvlm.family import Family, Prepared, template_item
from rvosbench.methods.models.lvlm.messages import Clip, Image, Part, Text, Visual
from rvosbench.methods.models.lvlm.views import View, Views

if TYPE_CHECKING:
    from rvosbench.methods.models.lvlm.model import Lvlm


class Llava(Family):
    """The LLaVA-1.5 family, of which only the models with CLIP are supported."""

    model_type = "llava"
    title = "LLaVA-1.5"
    takes_videos = False
    lochead_prompt = "role_free"
    sink_edges = ("bottom",)

    def views(self, config: Any, options: LvlmOptions, frames: int, height: int, width: int) -> Views:
        side = patches_per_side(config)
        frame = View((1, side, side), side**2, side**2 + 1)
        # It has no clip call.
        return Views(frame, frame)

    def load(self, folder: Path, settings: LvlmSettings) -> Lvlm:
        from transformers import LlavaForConditionalGeneration, LlavaProcessor

        from rvosbench.methods.models.lvlm.loading import load_model, load_processor
        from rvosbench.methods.models.lvlm.model import Lvlm

        model = load_model(LlavaForConditionalGeneration, folder, settings)
        return Lvlm(self, model, load_processor(LlavaProcessor, folder), settings)

    def check(self, model: Any, processor: Any) -> None:
        from transformers.image_utils import SizeDict

        vision, selection = model.config.vision_config, model.config.vision_feature_select_strategy
        if vision.model_type != "clip_vision_model":
            raise PrerequisiteError(
                f"The checkpoint's vision model is a {vision.model_type}; of the 'llava' models only those with CLIP "
                "(LLaVA-1.5) are supported.",
                "Use llava-hf/llava-1.5-7b-hf or llava-hf/llava-1.5-13b-hf.",
            )
        crop = processor.image_processor.crop_size or SizeDict()
        check_agreement(
            {
                "patch size": (processor.patch_size, vision.patch_size),
                "image size": ((crop.height, crop.width), (vision.image_size, vision.image_size)),
                "feature selection": (processor.vision_feature_select_strategy, selection),
                # CLIP's class token, which "default" selection drops again.
                "number of additional tokens": (processor.num_additional_image_tokens, 1),
                "selection of patches": (selection, "default"),
            }
        )

    def placeholders(self, lvlm: Lvlm) -> tuple[str, ...]:
        return llava_placeholders(lvlm)

    def template_content(self, parts: Sequence[Part], processor: Any) -> list[dict[str, str]]:
        return images_first(parts, processor)

    def prepare(self, lvlm: Lvlm, chat: str, visuals: Sequence[Visual]) -> Prepared:
        from rvosbench.methods.models.lvlm.model import visual_tokens

        config = lvlm.model.config
        vision: dict[str, Any] = {}
        if visuals:
            images = [_square(visual.frame_HW3, lvlm) for visual in visuals if isinstance(visual, Image)]
            vision = {"images": images, "do_resize": False, "do_center_crop": False}
        inputs = processed(lvlm, chat, vision)
        side = patches_per_side(config)
        cells: list[tuple[int, Grid]] = [(config.image_token_id, (1, side, side))] * len(visuals)
        return Prepared(inputs, visual_tokens(inputs, cells))


def images_first(parts: Sequence[Part], processor: Any) -> list[dict[str, str]]:
    """A turn in the form that LLaVA's chat templates take, which render images, then videos, then texts.

    Parts in another order become one text with the placeholders in it, which the processor fills all the same.
    """
    kinds = [{Image: 0, Clip: 1, Text: 2}[type(part)] for part in parts]
    if kinds == sorted(kinds):
        return [template_item(part) for part in parts]
    texts = [
        part.text if isinstance(part, Text) else getattr(processor, f"{template_item(part)['type']}_token")
        for part in parts
    ]
    return [{"type": "text", "text": "".join(texts)}]


def _square(frame: FrameHW3, lvlm: Lvlm) -> FrameHW3:
    """The frame squashed to the vision tower's square."""
    pixels = int(lvlm.model.config.vision_config.image_size)
    resample = PIL.Image.Resampling(lvlm.processor.image_processor.resample)
    return np.array(PIL.Image.fromarray(frame).resize((pixels, pixels), resample))


def patches_per_side(config: Any) -> int:
    """Patches along one side of the vision tower's square image."""
    return int(config.vision_config.image_size // config.vision_config.patch_size)


def llava_placeholders(lvlm: Lvlm) -> tuple[str, ...]:
    """The texts that a LLaVA processor takes for an image or a video."""
    found = (getattr(lvlm.processor, name, None) for name in ("image_token", "video_token"))
    return tuple(text for text in found if text)


def processed(lvlm: Lvlm, chat: str, vision: Mapping[str, Any]) -> Mapping[str, Any]:
    """A LLaVA processor's output for a chat; ``vision`` are its arguments for images and videos."""
    # Without an explicit layout a frame of 1 or 3 rows is taken for channels first.
    layout = {"input_data_format": "channels_last"} if vision else {}
    inputs: Mapping[str, Any] = lvlm.processor(text=[chat], return_tensors="pt", **layout, **vision)
    return inputs


def check_agreement(found: Mapping[str, tuple[object, object]]) -> None:
    """Compares the processor's values with the model's, name by name.

    Raises:
        PrerequisiteError: they differ.
    """
    for name, (processor, model) in found.items():
        if processor != model:
            raise PrerequisiteError(
                f"The checkpoint's processor has {name} {processor}, its model {model}.",
                "Download the checkpoint again, all files.",
            )


FAMILY = Llava()
