"""LLaVA-OneVision (arXiv 2408.03326): released as llava-hf/llava-onevision-qwen2-0.5b-ov-hf, -7b-, -72b-.

Clip call: every frame is squashed to 384x384 and gives 27x27 patches, which the model pools to 14x14 (bilinear); time
is not merged, so the grid is (T, 14, 14). The model puts one newline token after the last frame.

Frame call: the frame is scaled into the best of the checkpoint's resolutions ("any-res"), padded, cut into 384x384
tiles of 27x27 patches; the model joins the tiles, removes the padding in whole patches, and shrinks what is larger
than 1.1^2 times 9 tiles (bilinear). The sequence holds 27x27 patches of the whole frame first (the "base" picture),
then the rows of that grid, each with a newline token at its end.

The map is made of the grid's cells alone: base picture and newline tokens are in the sequence, as the model makes it,
but they are no visual tokens here, neither in the map nor for "own" head weights ("reference_span" of a frame runs
from its first cell to its last one and so takes in the newlines between). The released DecAF code goes further and
changes the model: base picture and newline tokens do not enter the sequence at all, the clip's last newline included.
Its attention is therefore distributed over fewer tokens; the grids are the same. ``extra_tokens: drop`` does that too.

``frame_scale: 1`` shows a frame without tiles, squashed to one: 27x27 patches of the whole frame. With ``drop`` that is
the whole sequence, as in the reference's branch for frames that are not cut.

Padding is removed to the patch below, so the outermost rows or columns of a grid may hold up to a patch of padding;
the map is laid over the whole frame all the same, as in the reference.

Sizes, resolutions, normalisation and chat template come from the checkpoint; the system turn is the reference's.

transformers 4.52.1 (the papers') against 5.19, compared function by function and run on the same small checkpoint:
token ids, pixels and logits of a clip call and of a frame call are equal, bit for bit in float32 with eager attention
on a CPU. One thing had to be set for that: 4.52.1 resizes frames with Pillow, 5.19 with torchvision unless told
otherwise (up to 2 grey levels apart); here Pillow is used. Clips go through torchvision in both. Without consequence
here: 5.19 passes the number of images along (``batch_num_images``), because several images in one prompt are no longer
cut into tiles (one image still is), and it reads the vision tower's last layer before its norm, as 4.52.1 did.

Shape legend: T frames, L sequence, h w visual grid, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import LlavaOnevisionForConditionalGeneration, LlavaOnevisionProcessor
from transformers.image_processing_utils import select_best_resolution
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

from rvosbench.harness.data.types import FrameHW3
from rvosbench.harness.errors import SampleError
from rvosbench.methods.models.lvlm.base import Grid, Lvlm, LvlmSettings, Prompted
from rvosbench.methods.models.lvlm.llava import LlavaChat, check_agreement
from rvosbench.methods.models.lvlm.running import load_model, load_processor

SYSTEM = "You are a helpful assistant."


class LlavaOnevisionLvlm(LlavaChat):
    """A LLaVA-OneVision model with its processor."""

    def __init__(self, model: Any, processor: Any, settings: LvlmSettings) -> None:
        super().__init__("llava_onevision", model, processor, settings)
        config = model.config
        self.tile = int(config.vision_config.image_size)
        """Side of a tile in pixels."""
        self.pooled = -(-self.side // 2)
        """Cells along one side of a clip frame."""
        self.bare = settings.extra_tokens == "drop"
        """Whether nothing but cells stands in the sequence."""
        if self.bare:
            _show_cells_alone(model.model, self.side**2)
        images, videos = processor.image_processor, processor.video_processor
        check_agreement(
            {
                "number of patches": (processor.num_image_tokens, self.side**2),
                "any-res limit": (processor.vision_aspect_ratio, config.vision_aspect_ratio),
                "resolutions": (_pairs(images.image_grid_pinpoints), _pairs(config.image_grid_pinpoints)),
                "image size": ((images.size.height, images.size.width), (self.tile, self.tile)),
                "video size": ((videos.size.height, videos.size.width), (self.tile, self.tile)),
                "feature selection": (processor.vision_feature_select_strategy, config.vision_feature_select_strategy),
                # With "default" a patch would be taken for a class token and dropped.
                "selection of patches": (config.vision_feature_select_strategy, "full"),
            }
        )

    def clip(self, frames: Sequence[FrameHW3], prompt: str) -> Prompted:
        if not frames:
            raise SampleError("a clip needs at least one frame")
        if any(frame.shape != frames[0].shape for frame in frames):
            raise SampleError("the frames of a clip differ in size")
        inputs = self.processed({"type": "video"}, prompt, videos=[np.stack(frames)], do_sample_frames=False)
        grid = (len(frames), self.pooled, self.pooled)
        columns_n = _columns(inputs, self.model.config.video_token_id)
        # The last one is the newline.
        return self._prompted(inputs, columns_n, columns_n[:-1], grid)

    def frame(self, frame: FrameHW3, prompt: str, clip_grid: Grid) -> Prompted:
        """One frame in tiles; its grid follows from its size, so ``clip_grid`` has no effect on this family."""
        if self.settings.frame_scale == 1:
            frame = self._as_one_tile(frame)
        height, width = frame.shape[:2]
        h, w = self.frame_grid(height, width)
        inputs = self.processed({"type": "image"}, prompt, images=[frame])
        columns_n = _columns(inputs, self.model.config.image_token_id)
        base = self.side**2
        if len(columns_n) != base + h * (w + 1):
            raise SampleError(
                f"a frame of {height}x{width} holds {len(columns_n)} image tokens where a base picture of {base} and a "
                f"grid of {h}x{w} with newlines was expected"
            )
        rows_hw = columns_n[base:].view(h, w + 1)
        return self._prompted(inputs, columns_n, rows_hw[:, :w].flatten(), (1, h, w))

    def frame_grid(self, height: int, width: int) -> tuple[int, int]:
        """The grid (h, w) of an H x W frame, as the checkpoint's processor counts it."""
        best = select_best_resolution((height, width), self.processor.image_processor.image_grid_pinpoints)
        cells, rows = self.processor._get_unpadded_features(
            height, width, self.side, self.side, best[0] // self.tile, best[1] // self.tile
        )
        return rows, cells // rows

    def messages(self, visual: Mapping[str, str] | None, prompt: str) -> list[dict[str, Any]]:
        """The chat: a system turn in so many words, then the visual item, then the text."""
        system = {"role": "system", "content": [{"type": "text", "text": SYSTEM}]}
        return [system, *super().messages(visual, prompt)]

    def _as_one_tile(self, frame: FrameHW3) -> FrameHW3:
        resample = Image.Resampling(self.processor.image_processor.resample)
        return np.asarray(Image.fromarray(frame).resize((self.tile, self.tile), resample))

    def _prompted(
        self, inputs: Mapping[str, torch.Tensor], picture_n: torch.Tensor, cells_n: torch.Tensor, grid: Grid
    ) -> Prompted:
        """The prompt whose tokens at ``picture_n`` stand for the picture, those at ``cells_n`` for cells of the map."""
        visual_L = torch.zeros(inputs["input_ids"].shape[1], dtype=torch.bool)
        visual_L[cells_n] = True
        if self.bare:
            kept_L = torch.ones_like(visual_L).index_fill_(0, picture_n, False) | visual_L
            by_token = ("input_ids", "attention_mask")
            inputs = {name: value[:, kept_L] if name in by_token else value for name, value in inputs.items()}
            visual_L = visual_L[kept_L]
        return self.checked(inputs, visual_L, grid)


def load(folder: Path, settings: LvlmSettings) -> Lvlm:
    """The checkpoint in ``folder``. Its sizes are fixed: clip settings and ``seconds_per_grid`` have no effect."""
    model = load_model(LlavaOnevisionForConditionalGeneration, folder, settings)
    processor = load_processor(LlavaOnevisionProcessor, folder)
    images: Any = LlavaOnevisionImageProcessorPil
    processor.image_processor = images.from_pretrained(folder)
    return LlavaOnevisionLvlm(model, processor, settings)


def _show_cells_alone(model: Any, base: int) -> None:
    """Makes the model give features for cells alone: no base picture, the first ``base`` tokens of a frame, and no
    newlines."""
    pack, videos = model.pack_image_features, model.get_video_features

    @wraps(pack)
    def cells_of_images(features: Any, sizes: Any, image_newline: Any = None, **options: Any) -> Any:
        packed, lengths = pack(features, sizes, image_newline=None, **options)
        return [one[base:] for one in packed], lengths - base

    # generate() reads the argument names.
    @wraps(videos)
    def cells_of_videos(*pixels: Any, **options: Any) -> Any:
        found = videos(*pixels, **options)
        found.pooler_output = found.pooler_output[:, :-1]
        return found

    model.pack_image_features, model.get_video_features = cells_of_images, cells_of_videos


def _columns(inputs: Mapping[str, torch.Tensor], token: int) -> torch.Tensor:
    return (inputs["input_ids"][0] == token).nonzero().flatten()


def _pairs(resolutions: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    return [tuple(resolution) for resolution in resolutions]
