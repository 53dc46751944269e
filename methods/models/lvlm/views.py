"""How many tokens a clip call and a frame call of each family take, from the model's configuration alone.

For estimates: nothing is loaded, and the text of the prompt is not counted.

Shape legend: t h w visual grid, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from transformers import LlavaOnevisionProcessor
from transformers.image_processing_utils import select_best_resolution

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.methods.models.lvlm.base import Grid, LvlmOptions
from rvosbench.methods.models.lvlm.internvl import most_tiles, tiling
from rvosbench.methods.models.lvlm.sizes import token_grid


@dataclass(frozen=True)
class View:
    """One call's picture side."""

    grid: Grid
    """Visual tokens (t, h, w) of the map."""
    tokens: int
    """In the sequence: those of the grid and what the family puts beside them."""
    patches: int
    """What the vision tower computes on."""


@dataclass(frozen=True)
class Views:
    """The clip call and one frame call."""

    clip: View
    frame: View


def views(config: Any, options: LvlmOptions, frames: int, height: int, width: int) -> Views:
    """The calls on ``frames`` H x W frames.

    Args:
        config: of the whole model, as transformers builds it.
        options: for the sizes that can be chosen.
        frames, height, width: of the sampled clip, in pixels.

    Raises:
        PrerequisiteError: the family is unknown.
    """
    count = _FAMILIES.get(config.model_type)
    if count is None:
        raise PrerequisiteError(
            f"The token counts of family '{config.model_type}' are not known.", f"Known: {', '.join(_FAMILIES)}."
        )
    return count(config, options, frames, height, width)


def _qwen(config: Any, options: LvlmOptions, frames: int, height: int, width: int) -> Views:
    vision = config.vision_config
    merge = vision.spatial_merge_size
    h, w = token_grid(height, width, vision.patch_size * merge, options.clip_min_tokens, options.clip_max_tokens)

    def view(t: int, scale: int) -> View:
        tokens = t * h * w * scale**2
        return View((t, h * scale, w * scale), tokens, tokens * merge**2)

    return Views(clip=view(-(-frames // vision.temporal_patch_size), 1), frame=view(1, options.frame_scale))


def _internvl(config: Any, options: LvlmOptions, frames: int, height: int, width: int) -> Views:
    tile, patch = config.vision_config.image_size[0], config.vision_config.patch_size[0]
    patches = (tile // patch) ** 2 + 1
    side = int(tile // patch * config.downsample_ratio)
    rows, columns = tiling(height, width, tile, most_tiles(options.frame_scale))
    # "Frame1: <img>...</img>" and a line break are 7 tokens or 8; an image has two around it and the line break.
    clip = View((frames, side, side), frames * (side**2 + 8), frames * patches)
    tiles = rows * columns
    return Views(clip, View((1, rows * side, columns * side), tiles * side**2 + 3, tiles * patches))


def _llava_onevision(config: Any, options: LvlmOptions, frames: int, height: int, width: int) -> Views:
    tile = config.vision_config.image_size
    side = tile // config.vision_config.patch_size
    pooled = -(-side // 2)
    if options.frame_scale == 1:
        height = width = tile
    resolutions = [tuple(resolution) for resolution in config.image_grid_pinpoints]
    best = select_best_resolution((height, width), resolutions)
    rows, columns = best[0] // tile, best[1] // tile
    counter: Any = SimpleNamespace(vision_aspect_ratio=config.vision_aspect_ratio)
    count: Callable[..., tuple[int, int]] = LlavaOnevisionProcessor._get_unpadded_features
    cells, h = count(counter, height, width, side, side, rows, columns)
    bare = options.extra_tokens == "drop"
    return Views(
        clip=View((frames, pooled, pooled), frames * pooled**2 + (not bare), frames * side**2),
        # The whole frame stands before the tiles, and a newline at the end of every row.
        frame=View((1, h, cells // h), cells + (0 if bare else side**2 + h), (1 + rows * columns) * side**2),
    )


def _llava(config: Any, options: LvlmOptions, frames: int, height: int, width: int) -> Views:
    side = config.vision_config.image_size // config.vision_config.patch_size
    frame = View((1, side, side), side**2, side**2 + 1)
    # It has no clip call.
    return Views(frame, frame)


_FAMILIES: Mapping[str, Callable[[Any, LvlmOptions, int, int, int], Views]] = {
    "internvl": _internvl,
    "llava": _llava,
    "llava_onevision": _llava_onevision,
    "qwen2_5_vl": _qwen,
    "qwen2_vl": _qwen,
}
