"""What Qwen2-VL, Qwen2.5-VL and Qwen3-VL share: the chat, sizes and order of frames, pixels.

Source: the released DecAF code and qwen-vl-utils for sizes and order (frames resized one by one with bicubic
filtering before the processor, an odd number of frames padded by repeating the last), the checkpoint for everything
else: chat template, normalisation, patch sizes, limits.

Shape legend: L sequence, T frames, t h w merged visual grid, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import PIL.Image

from rvosbench.harness.data.types import FrameHW3
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.methods.models.lvlm.base import Grid, LvlmOptions, LvlmSettings
from rvosbench.methods.models.lvlm.family import Family, Prepared
from rvosbench.methods.models.lvlm.messages import Clip, Image, Visual
from rvosbench.methods.models.lvlm.sizes import token_grid
from rvosbench.methods.models.lvlm.views import View, Views

if TYPE_CHECKING:
    from rvosbench.methods.models.lvlm.model import Lvlm


class Qwen(Family):
    """A Qwen vision-language family; the system turn is the chat template's."""

    model_class: ClassVar[str]
    """Name of the model's class in transformers."""
    processor_class: ClassVar[str]
    """Name of the processor's class in transformers."""

    def views(self, config: Any, options: LvlmOptions, frames: int, height: int, width: int) -> Views:
        vision = config.vision_config
        merge = vision.spatial_merge_size
        h, w = token_grid(height, width, vision.patch_size * merge, options.clip_min_tokens, options.clip_max_tokens)

        def view(t: int, scale: int) -> View:
            tokens = t * h * w * scale**2
            return View((t, h * scale, w * scale), tokens, tokens * merge**2)

        return Views(clip=view(-(-frames // vision.temporal_patch_size), 1), frame=view(1, options.frame_scale))

    def empty_model(self, config: Mapping[str, Any]) -> Any:
        import torch
        import transformers

        model_class = getattr(transformers, self.model_class)
        values = {name: value for name, value in config.items() if name != "model_type"}
        with torch.device("meta"):
            return model_class._from_config(model_class.config_class(**values))

    def load(self, folder: Path, settings: LvlmSettings) -> Lvlm:
        import transformers

        from rvosbench.methods.models.lvlm.loading import load_model, load_processor
        from rvosbench.methods.models.lvlm.model import Lvlm

        model = load_model(getattr(transformers, self.model_class), folder, settings)
        return Lvlm(self, model, load_processor(getattr(transformers, self.processor_class), folder), settings)

    def check(self, model: Any, processor: Any) -> None:
        vision = model.config.vision_config
        expected = (vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size)
        for part in (processor.image_processor, processor.video_processor):
            sizes = (part.patch_size, part.merge_size, part.temporal_patch_size)
            if sizes != expected:
                raise PrerequisiteError(
                    f"The checkpoint's {type(part).__name__} has patch, merge and temporal sizes {sizes}, its vision "
                    f"model {expected}.",
                    "Download the checkpoint again, all files.",
                )

    def vision_marks(self, model: Any, processor: Any) -> frozenset[int]:
        return frozenset((model.config.vision_start_token_id, model.config.vision_end_token_id))

    def placeholders(self, lvlm: Lvlm) -> tuple[str, ...]:
        config = lvlm.model.config
        ids = (config.image_token_id, config.video_token_id, config.vision_start_token_id)
        return tuple(lvlm.tokenizer.convert_ids_to_tokens(list(ids)))

    def prepare(self, lvlm: Lvlm, chat: str, visuals: Sequence[Visual]) -> Prepared:
        from rvosbench.methods.models.lvlm.model import visual_tokens

        config, processor = lvlm.model.config, lvlm.processor
        factor = _factor(vars(config.vision_config))
        step = int(config.vision_config.temporal_patch_size)
        images: list[PIL.Image.Image] = []
        vision: dict[str, Any] = {}
        cells: list[tuple[int, Grid]] = []
        for visual in visuals:
            if isinstance(visual, Image):
                h, w = _image_grid(visual, factor, lvlm.settings)
                _check_limits(processor.image_processor, h, w, factor)
                images.append(PIL.Image.fromarray(_resized(visual.frame_HW3, h, w, factor)))
                cells.append((config.image_token_id, (1, h, w)))
            else:
                h, w = _clip_grid(visual, factor, lvlm.settings)
                shown = [_resized(frame, h, w, factor) for frame in visual.frames]
                shown += [shown[-1]] * (-len(shown) % step)
                _check_limits(processor.video_processor, h, w, factor)
                vision |= _video(shown, step / lvlm.settings.seconds_per_grid)
                cells.append((config.video_token_id, (len(shown) // step, h, w)))
        if images:
            vision["images"] = images
        if visuals:
            vision["do_resize"] = False
        inputs = processor(text=[chat], return_tensors="pt", **vision)
        return Prepared(inputs, visual_tokens(inputs, cells))

    def server_clip(
        self, frames: Sequence[FrameHW3], config: Mapping[str, Any], options: LvlmOptions
    ) -> list[PIL.Image.Image]:
        factor = _factor(config["vision_config"])
        height, width = frames[0].shape[:2]
        h, w = token_grid(height, width, factor, options.clip_min_tokens, options.clip_max_tokens)
        images = [PIL.Image.fromarray(_resized(frame, h, w, factor)) for frame in frames]
        return images + [images[-1]] * (-len(images) % _temporal_patch(config))

    def server_frame_limit(self, options: LvlmOptions) -> int:
        return options.clip_max_tokens

    def server_frame_rate(self, config: Mapping[str, Any], options: LvlmOptions) -> float | None:
        return _temporal_patch(config) / options.seconds_per_grid


def _factor(vision: Mapping[str, Any]) -> int:
    """Side of a merged visual token in pixels."""
    return int(vision["patch_size"] * vision["spatial_merge_size"])


def _temporal_patch(config: Mapping[str, Any]) -> int:
    """Frames to one temporal grid step."""
    return int(config["vision_config"].get("temporal_patch_size", 2))


def _clip_grid(clip: Clip, factor: int, options: LvlmOptions) -> tuple[int, int]:
    least = options.clip_min_tokens if clip.min_tokens is None else clip.min_tokens
    most = options.clip_max_tokens if clip.max_tokens is None else clip.max_tokens
    height, width = clip.frames[0].shape[:2]
    return token_grid(height, width, factor, least, most)


def _image_grid(image: Image, factor: int, options: LvlmOptions) -> tuple[int, int]:
    size = image.size
    if size.grid is not None:
        return size.grid
    least = options.clip_min_tokens if size.min_tokens is None else size.min_tokens
    most = options.clip_max_tokens * options.frame_scale**2 if size.max_tokens is None else size.max_tokens
    height, width = image.frame_HW3.shape[:2]
    return token_grid(height, width, factor, least, most)


def _video(frames: Sequence[FrameHW3], rate: float) -> dict[str, Any]:
    """The processor's arguments for a video of already sampled frames, ``rate`` of them a second."""
    # Without an explicit frame rate the processor takes 24 a second, and all temporal positions fall together.
    metadata = {
        "fps": rate,
        "total_num_frames": len(frames),
        "duration": len(frames) / rate,
        "frames_indices": list(range(len(frames))),
    }
    return {"videos": [np.stack(frames)], "video_metadata": [metadata], "do_sample_frames": False}


def _resized(frame: FrameHW3, h: int, w: int, factor: int) -> FrameHW3:
    image = PIL.Image.fromarray(frame).resize((w * factor, h * factor), PIL.Image.Resampling.BICUBIC)
    return np.asarray(image)


def _check_limits(processor: Any, h: int, w: int, factor: int) -> None:
    least, most = int(processor.size["shortest_edge"]), int(processor.size["longest_edge"])
    pixels = h * w * factor**2
    if not least <= pixels <= most:
        raise PrerequisiteError(
            f"Frames would be shown to the model at {h * factor}x{w * factor}, {pixels} pixels, but the checkpoint's "
            f"{type(processor).__name__} takes {least} to {most}.",
            "Change clip_min_tokens, clip_max_tokens or frame_scale.",
        )
