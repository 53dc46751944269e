"""InternVL3 (arXiv 2504.10479) in its transformers form: OpenGVLab/InternVL3-1B-hf, -2B-, -8B-, -14B-, -38B-, -78B-.

A clip shows every frame as one square tile, with text between the frames (``Frame1: <img>...</img>`` and a line
break), so visual tokens are not contiguous; T is not padded. A frame call cuts the frame into up to 12 tiles whose
arrangement is nearest to the frame's shape, without a thumbnail; tokens come tile by tile and are put back on one
grid. The tile's side and its tokens are the checkpoint's: 448 pixels and 16 x 16 tokens in the released ones. With
``frame_scale: 1`` a frame is one tile, as in the clip. The settings for token counts and ``seconds_per_grid`` have no
effect here.

Head weights look at each item's own visual columns, as the reference does for this family; that is the default of
``RolloutSpec.visual_columns``. Its "reference_span" would take in the text between the frames.

Source: the released DecAF code (commit 6c9766c, transformers 4.52.1) for system prompt, order and tiling, the
checkpoint for everything else. Run on the same small checkpoint and frames, token ids and pixels of a clip call and of
a frame call equal those of 4.52.1 with the reference's change, bit for bit. The processors, 4.52.1 against 5.19:

* thumbnail: both add one behind two or more tiles and neither has an option against it. The reference replaces the
  image processor's method; here the last tile and its tokens are cut off the processor's output.
* tiles: the image processor alone does not cut (``crop_to_patches`` false in the class and in the released files); the
  processor around it turns it on, in both. ``max_patches`` is 12 in both; the reference passes 12 too.
* frame text: the same.
* frames of a clip: 4.52.1 takes a list of image files as it is. 5.19 samples again where the checkpoint's video
  processor says so, which is switched off here.
* the torchvision image processor, ``GotOcr2ImageProcessorFast`` in 4.52.1, has lost its suffix; both names load.

Shape legend: L sequence, T frames, t h w visual grid, n visual tokens, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import InternVLForConditionalGeneration, InternVLProcessor
from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

from rvosbench.harness.data.types import FrameHW3
from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.methods.models.lvlm.base import Grid, Lvlm, LvlmSettings, Prompted
from rvosbench.methods.models.lvlm.running import RunningLvlm, load_model, load_processor

SYSTEM = "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
"""The family's system turn; the chat template inserts none."""
MAX_TILES = 12
"""Most tiles of a frame call, in all of the reference's scripts."""


def load(folder: Path, settings: LvlmSettings) -> Lvlm:
    """The checkpoint in ``folder``.

    Raises:
        PrerequisiteError: it is damaged, or its tokenizer does not name the image tokens.
    """
    model = load_model(InternVLForConditionalGeneration, folder, settings)
    try:
        processor = load_processor(InternVLProcessor, folder)
    except AttributeError as error:
        # The processor looks the tokens up as attributes of the tokenizer.
        raise PrerequisiteError(
            f"The tokenizer of {folder} does not name InternVL's image tokens: {error}.",
            "Download the latest revision of the checkpoint, all files.",
        ) from error
    return InternVlLvlm(model, processor, settings)


class InternVlLvlm(RunningLvlm):
    """An InternVL3 model with its processor.

    Raises:
        PrerequisiteError: model and processor disagree about tiles or their tokens.
    """

    def __init__(self, model: Any, processor: Any, settings: LvlmSettings) -> None:
        super().__init__("internvl", model, model.model.language_model, processor.tokenizer, settings)
        self.processor = processor
        self.picture_marks = frozenset((processor.start_image_token_id, processor.end_image_token_id))
        config, vision = model.config, model.config.vision_config
        self.tile = int(vision.image_size[0])
        """Side of a tile in pixels."""
        self.side = int(self.tile // vision.patch_size[0] * config.downsample_ratio)
        """Side of a tile in visual tokens."""
        sizes = [
            (part.size["height"], part.size["width"]) for part in (processor.image_processor, processor.video_processor)
        ]
        told = (*sizes, tuple(vision.image_size), processor.image_seq_length, processor.image_token_id)
        square = (self.tile, self.tile)
        expected = (square, square, square, self.side**2, config.image_token_id)
        if told != expected:
            raise PrerequisiteError(
                f"The checkpoint's processor and model disagree: tile sizes of image processor, video processor and "
                f"vision model, tokens of a tile and id of the visual token are {told}, not {expected}.",
                "Download the checkpoint again, all files.",
            )

    def clip(self, frames: Sequence[FrameHW3], prompt: str) -> Prompted:
        if not frames:
            raise SampleError("a clip needs at least one frame")
        if any(frame.shape != frames[0].shape for frame in frames):
            raise SampleError("the frames of a clip differ in size")
        inputs = self._processed({"type": "video"}, prompt, videos=[np.stack(frames)], do_sample_frames=False)
        return self.checked(inputs, self._visual(inputs), (len(frames), self.side, self.side))

    def frame(self, frame: FrameHW3, prompt: str, clip_grid: Grid) -> Prompted:
        most = most_tiles(self.settings.frame_scale)
        rows, columns = tiling(frame.shape[0], frame.shape[1], self.tile, most)
        inputs = self._processed(
            {"type": "image"},
            prompt,
            images=[Image.fromarray(frame)],
            crop_to_patches=True,
            min_patches=1,
            max_patches=most,
        )
        inputs = self._first_tiles(inputs, rows * columns)
        grid = (1, rows * self.side, columns * self.side)
        return self.checked(inputs, self._visual(inputs), grid, tile_order(rows, columns, self.side))

    def text(self, prompt: str) -> Prompted:
        inputs = self._processed(None, prompt)
        return self.checked(inputs, self._visual(inputs), None)

    def forget(self) -> None:
        """This model keeps nothing."""

    def messages(self, visual: Mapping[str, str] | None, prompt: str) -> list[dict[str, Any]]:
        """The chat: the system turn, then the visual item, then the text."""
        text = {"type": "text", "text": prompt}
        return [
            {"role": "system", "content": [{"type": "text", "text": SYSTEM}]},
            {"role": "user", "content": [text] if visual is None else [dict(visual), text]},
        ]

    def _processed(self, visual: Mapping[str, str] | None, prompt: str, **vision: Any) -> Mapping[str, Tensor]:
        processor = self.processor
        markers = (processor.image_token, processor.video_token, processor.start_image_token, processor.end_image_token)
        for marker in markers:
            if marker in prompt:
                raise SampleError(f"the prompt contains {marker}, which the model takes for an image")
        chat = processor.apply_chat_template(self.messages(visual, prompt), add_generation_prompt=True, tokenize=False)
        inputs: Mapping[str, Tensor] = processor(text=[chat], return_tensors="pt", **vision)
        return inputs

    def _first_tiles(self, inputs: Mapping[str, Tensor], tiles: int) -> Mapping[str, Tensor]:
        """The inputs without what comes after the first ``tiles`` tiles: the thumbnail, where there is one."""
        visual_L = self._visual(inputs)
        kept_L = ~visual_L | (visual_L.cumsum(0) <= tiles * self.side**2)
        text = {name: value[:, kept_L] for name, value in inputs.items() if name != "pixel_values"}
        return {**text, "pixel_values": inputs["pixel_values"][:tiles]}

    def _visual(self, inputs: Mapping[str, Tensor]) -> Tensor:
        visual_L: Tensor = inputs["input_ids"][0] == self.model.config.image_token_id
        return visual_L


def most_tiles(frame_scale: int) -> int:
    """Most tiles of a frame call."""
    return 1 if frame_scale == 1 else MAX_TILES


def tiling(height: int, width: int, tile: int, most: int = MAX_TILES) -> tuple[int, int]:
    """Rows and columns of the tiles that an H x W frame is cut into, as the image processor decides."""
    columns, rows = get_optimal_tiled_canvas((height, width), (tile, tile), 1, most)
    return rows, columns


def tile_order(rows: int, columns: int, side: int) -> Tensor:
    """Which token, counted tile by tile, shows each cell of the whole grid, row by row: (n,) int64.

    Args:
        rows, columns: of tiles, which come row by row.
        side: of a tile in tokens, which come row by row too.
    """
    token_n = torch.arange(rows * columns * side**2)
    return token_n.view(rows, columns, side, side).permute(0, 2, 1, 3).flatten()
