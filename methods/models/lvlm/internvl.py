"""InternVL3 (arXiv 2504.10479) in its transformers form: OpenGVLab/InternVL3-1B-hf, -2B-, -8B-, -14B-, -38B-, -78B-.

A clip shows every frame as one square tile, with text between the frames (``Frame1: <img>...</img>`` and a line
break), so visual tokens are not contiguous; T is not padded. A frame call cuts the frame into up to 12 tiles whose
arrangement is nearest to the frame's shape, without a thumbnail; tokens come tile by tile and are put back on one
grid. The tile's side and its tokens are the checkpoint's: 448 pixels and 16 x 16 tokens in the released ones. With
``frame_scale: 1`` a frame is one tile, as in the clip. The settings for token counts and ``seconds_per_grid`` have no
effect here. No attention sinks are published for the family.

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

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image

from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.methods.models.lvlm.base import LvlmOptions, LvlmSettings, VisualTokens
from rvosbench.methods.models.lvlm.family import Family, Prepared
from rvosbench.methods.models.lvlm.messages import Image, Visual
from rvosbench.methods.models.lvlm.views import View, Views

if TYPE_CHECKING:
    from torch import Tensor

    from rvosbench.methods.models.lvlm.model import Lvlm

MAX_TILES = 12
"""Largest number of tiles of a frame call, in all of the reference's scripts."""


class InternVl(Family):
    """The InternVL3 family; its chat template inserts no system turn."""

    model_type = "internvl"
    title = "InternVL3"
    system_turn = (
        "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
    )
    cuts_into_tiles = True

    def views(self, config: Any, options: LvlmOptions, frames: int, height: int, width: int) -> Views:
        tile, patch = config.vision_config.image_size[0], config.vision_config.patch_size[0]
        patches = (tile // patch) ** 2 + 1
        side = int(tile // patch * config.downsample_ratio)
        rows, columns = tiling(height, width, tile, _most_tiles(options.frame_scale != 1))
        # "Frame1: <img>...</img>" and a line break are 7 tokens or 8; an image has two around it and the line break.
        clip = View((frames, side, side), frames * (side**2 + 8), frames * patches)
        tiles = rows * columns
        return Views(clip, View((1, rows * side, columns * side), tiles * side**2 + 3, tiles * patches))

    def load(self, folder: Path, settings: LvlmSettings) -> Lvlm:
        from transformers import InternVLForConditionalGeneration, InternVLProcessor

        from rvosbench.methods.models.lvlm.loading import load_model, load_processor
        from rvosbench.methods.models.lvlm.model import Lvlm

        model = load_model(InternVLForConditionalGeneration, folder, settings)
        try:
            processor = load_processor(InternVLProcessor, folder)
        except PrerequisiteError as error:
            # The processor looks the tokens up as attributes of the tokenizer.
            if not isinstance(error.__cause__, AttributeError):
                raise
            raise PrerequisiteError(
                f"The tokenizer of {folder} does not name InternVL's image tokens: {error.__cause__}.",
                "Download the latest revision of the checkpoint, all files.",
            ) from error
        return Lvlm(self, model, processor, settings)

    def check(self, model: Any, processor: Any) -> None:
        tile = tile_pixels(model.config)
        square = (tile, tile)
        sizes = [
            (part.size["height"], part.size["width"]) for part in (processor.image_processor, processor.video_processor)
        ]
        vision = tuple(model.config.vision_config.image_size)
        found = (*sizes, vision, processor.image_seq_length, processor.image_token_id)
        expected = (square, square, square, tile_tokens(model.config) ** 2, model.config.image_token_id)
        if found != expected:
            raise PrerequisiteError(
                f"The checkpoint's processor and model disagree: tile sizes of image processor, video processor and "
                f"vision model, tokens of a tile and id of the visual token are {found}, not {expected}.",
                "Download the checkpoint again, all files.",
            )

    def vision_marks(self, model: Any, processor: Any) -> frozenset[int]:
        return frozenset((processor.start_image_token_id, processor.end_image_token_id))

    def placeholders(self, lvlm: Lvlm) -> tuple[str, ...]:
        named = lvlm.processor
        return (named.image_token, named.video_token, named.start_image_token, named.end_image_token)

    def prepare(self, lvlm: Lvlm, chat: str, visuals: Sequence[Visual]) -> Prepared:
        import torch

        from rvosbench.methods.models.lvlm.model import token_places

        config = lvlm.model.config
        side, vision = tile_tokens(config), _vision(visuals, lvlm.settings)
        inputs = dict(lvlm.processor(text=[chat], return_tensors="pt", **vision))
        places_n = token_places(inputs, config.image_token_id)
        kept_L = torch.ones(inputs["input_ids"].shape[1], dtype=torch.bool)
        kept_tiles: list[int] = []
        cells: list[VisualTokens] = []
        # Images and the video share one token id and one batch of tiles, both in the chat's order.
        tile = 0
        for visual in visuals:
            first = places_n[tile * side**2 :]
            if isinstance(visual, Image):
                height, width = visual.frame_HW3.shape[:2]
                rows, columns = tiling(height, width, tile_pixels(config), int(vision["max_patches"]))
                count = rows * columns
                cells_n = first[: count * side**2]
                cells_n = cells_n[tile_order(rows, columns, side)] if len(cells_n) == count * side**2 else cells_n
                cells.append(VisualTokens(cells_n, (1, rows * side, columns * side)))
                thumbnail = int(count > 1)
                kept_L[first[count * side**2 : (count + thumbnail) * side**2]] = False
            else:
                count, thumbnail = len(visual.frames), 0
                cells.append(VisualTokens(first[: count * side**2], (count, side, side)))
            kept_tiles += range(tile, tile + count)
            tile += count + thumbnail
        if len(places_n) != tile * side**2:
            raise SampleError(f"the prompt holds {len(places_n)} visual tokens where {tile} tiles were expected")
        if len(kept_tiles) != tile:
            moved_L = kept_L.cumsum(0) - 1
            cells = [VisualTokens(moved_L[visual.cells_n], visual.grid) for visual in cells]
            pixels = inputs.pop("pixel_values")[kept_tiles]
            inputs = {name: value[:, kept_L] for name, value in inputs.items()} | {"pixel_values": pixels}
        return Prepared(inputs, tuple(cells))


def _vision(visuals: Sequence[Visual], options: LvlmOptions) -> dict[str, Any]:
    """The processor's arguments for the images and the video of a chat."""
    vision: dict[str, Any] = {}
    images = [visual for visual in visuals if isinstance(visual, Image)]
    if images:
        tiled = {options.frame_scale != 1 if image.size.tiles is None else image.size.tiles for image in images}
        if len(tiled) > 1:
            raise SampleError("this family shows all images of a chat in tiles, or none")
        vision = {
            "images": [PIL.Image.fromarray(image.frame_HW3) for image in images],
            "crop_to_patches": True,
            "min_patches": 1,
            "max_patches": _most_tiles(tiled.pop()),
        }
    for visual in visuals:
        if not isinstance(visual, Image):
            vision |= {"videos": [np.stack(visual.frames)], "do_sample_frames": False}
    return vision


def tile_pixels(config: Any) -> int:
    """Side of a tile in pixels."""
    return int(config.vision_config.image_size[0])


def tile_tokens(config: Any) -> int:
    """Side of a tile in visual tokens."""
    return int(tile_pixels(config) // config.vision_config.patch_size[0] * config.downsample_ratio)


def _most_tiles(tiled: bool) -> int:
    return MAX_TILES if tiled else 1


def tiling(height: int, width: int, tile: int, most: int = MAX_TILES) -> tuple[int, int]:
    """Rows and columns of the tiles that an H x W frame is cut into, as the image processor decides."""
    from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

    columns, rows = get_optimal_tiled_canvas((height, width), (tile, tile), 1, most)
    return rows, columns


def tile_order(rows: int, columns: int, side: int) -> Tensor:
    """Which token, counted tile by tile, shows each cell of the whole grid, row by row: (n,) int64.

    Args:
        rows, columns: of tiles, which come row by row.
        side: of a tile in tokens, which come row by row too.
    """
    import torch

    token_n = torch.arange(rows * columns * side**2)
    return token_n.view(rows, columns, side, side).permute(0, 2, 1, 3).flatten()


FAMILY = InternVl()
