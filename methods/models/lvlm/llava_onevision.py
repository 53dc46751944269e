"""LLaVA-OneVision (arXiv 2408.03326): released as llava-hf/llava-onevision-qwen2-0.5b-ov-hf, -7b-, -72b-.

Clip call: every frame is squashed to 384x384 and gives 27x27 patches, which the model pools to 14x14 (bilinear); time
is not merged, so the grid is (T, 14, 14). The model puts one newline token after the last frame.

Frame call: the frame is scaled into the best of the checkpoint's resolutions ("any-res"), padded, cut into 384x384
tiles of 27x27 patches; the model joins the tiles, removes the padding in whole patches, and shrinks what is larger
than 1.1^2 times 9 tiles (bilinear). The sequence holds 27x27 patches of the whole frame first (the "base" image),
then the rows of that grid, each with a newline token at its end.

The map is made of the grid's cells alone: base image and newline tokens are in the sequence, as the model makes it,
but they are no visual tokens here, neither in the map nor for "own" head weights ("reference_span" of a frame runs
from its first cell to its last one and so takes in the newlines between). The released DecAF code goes further and
changes the model: base image and newline tokens do not enter the sequence at all, the clip's last newline included.
Its attention is therefore distributed over fewer tokens; the grids are the same. ``extra_tokens: drop`` does that too.

``frame_scale: 1`` shows a frame without tiles, squashed to one: 27x27 patches of the whole frame. With ``drop`` that is
the whole sequence, as in the reference's branch for frames that are not cut.

Several images in one chat are shown without tiles, 27x27 patches and a newline each, as the model does since it was
released; ``extra_tokens: drop`` takes one image a chat. Sizes are the checkpoint's: the settings for token counts and
``seconds_per_grid`` have no effect. Attention sinks: the bottom row (Loc-Head's paper) and, in addition, the left-most
column (DecAF, appendix C).

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

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image

from rvosbench.harness.data.types import FrameHW3
from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.methods.models.lvlm.base import LvlmOptions, LvlmSettings, VisualTokens
from rvosbench.methods.models.lvlm.family import Family, Prepared
from rvosbench.methods.models.lvlm.llava import (
    check_agreement,
    images_first,
    llava_placeholders,
    patches_per_side,
    processed,
)
from rvosbench.methods.models.lvlm.messages import Image, Part, Visual
from rvosbench.methods.models.lvlm.views import View, Views

if TYPE_CHECKING:
    from torch import Tensor

    from rvosbench.methods.models.lvlm.model import Lvlm


class LlavaOnevision(Family):
    """The LLaVA-OneVision family."""

    model_type = "llava_onevision"
    title = "LLaVA-OneVision"
    system_turn = "You are a helpful assistant."
    cuts_into_tiles = True
    sink_edges = ("bottom", "left")

    def views(self, config: Any, options: LvlmOptions, frames: int, height: int, width: int) -> Views:
        tile, side, pooled = config.vision_config.image_size, patches_per_side(config), cells_per_clip_side(config)
        if options.frame_scale == 1:
            height = width = tile
        tiles_hw, (h, w) = frame_grid(config, height, width)
        bare = options.extra_tokens == "drop"
        return Views(
            clip=View((frames, pooled, pooled), frames * pooled**2 + (not bare), frames * side**2),
            # The whole frame stands before the tiles, and a newline at the end of every row.
            frame=View((1, h, w), h * w + (0 if bare else side**2 + h), (1 + tiles_hw[0] * tiles_hw[1]) * side**2),
        )

    def load(self, folder: Path, settings: LvlmSettings) -> Lvlm:
        from transformers import LlavaOnevisionForConditionalGeneration, LlavaOnevisionProcessor
        from transformers.models.llava_onevision import image_processing_pil_llava_onevision as pillow

        from rvosbench.methods.models.lvlm.loading import load_model, load_processor
        from rvosbench.methods.models.lvlm.model import Lvlm

        model = load_model(LlavaOnevisionForConditionalGeneration, folder, settings)
        processor = load_processor(LlavaOnevisionProcessor, folder)
        images: Any = pillow.LlavaOnevisionImageProcessorPil
        processor.image_processor = images.from_pretrained(folder)
        lvlm = Lvlm(self, model, processor, settings)
        if settings.extra_tokens == "drop":
            _show_cells_alone(model.model, patches_per_side(model.config) ** 2)
        return lvlm

    def check(self, model: Any, processor: Any) -> None:
        config, images, videos = model.config, processor.image_processor, processor.video_processor
        tile, selection = config.vision_config.image_size, config.vision_feature_select_strategy
        check_agreement(
            {
                "number of patches": (processor.num_image_tokens, patches_per_side(config) ** 2),
                "any-res limit": (processor.vision_aspect_ratio, config.vision_aspect_ratio),
                "resolutions": (_pairs(images.image_grid_pinpoints), _pairs(config.image_grid_pinpoints)),
                "image size": ((images.size.height, images.size.width), (tile, tile)),
                "video size": ((videos.size.height, videos.size.width), (tile, tile)),
                "feature selection": (processor.vision_feature_select_strategy, selection),
                # With "default" a patch would be taken for a class token and dropped.
                "selection of patches": (selection, "full"),
            }
        )

    def placeholders(self, lvlm: Lvlm) -> tuple[str, ...]:
        return llava_placeholders(lvlm)

    def template_content(self, parts: Sequence[Part], processor: Any) -> list[dict[str, str]]:
        return images_first(parts, processor)

    def prepare(self, lvlm: Lvlm, chat: str, visuals: Sequence[Visual]) -> Prepared:
        from rvosbench.methods.models.lvlm.model import token_places

        config, bare = lvlm.model.config, lvlm.settings.extra_tokens == "drop"
        shown = [_shown(visual, lvlm) for visual in visuals if isinstance(visual, Image)]
        if bare and len(shown) > 1:
            raise PrerequisiteError(
                "With extra_tokens drop LLaVA-OneVision takes one image in a chat.", "Set extra_tokens to keep."
            )
        # In a list of their own, several images are those of one chat, which are not cut into tiles.
        vision: dict[str, Any] = {"images": [shown] if len(shown) > 1 else shown} if shown else {}
        for visual in visuals:
            if not isinstance(visual, Image):
                vision |= {"videos": [np.stack(visual.frames)], "do_sample_frames": False}
        inputs = processed(lvlm, chat, vision)
        image_places = iter(_by_image(token_places(inputs, config.image_token_id), shown, config))
        cells: list[VisualTokens] = []
        for visual in visuals:
            if isinstance(visual, Image):
                cells.append(next(image_places))
            else:
                pooled = cells_per_clip_side(config)
                # The last token of a video is the newline.
                places_n = token_places(inputs, config.video_token_id)[:-1]
                cells.append(VisualTokens(places_n, (len(visual.frames), pooled, pooled)))
        return _cells_alone(inputs, cells, config) if bare else Prepared(inputs, tuple(cells))


def _shown(image: Image, lvlm: Lvlm) -> FrameHW3:
    """The frame as the processor is given it: whole, or squashed to one tile."""
    tiled = lvlm.settings.frame_scale != 1 if image.size.tiles is None else image.size.tiles
    if tiled:
        return image.frame_HW3
    tile = int(lvlm.model.config.vision_config.image_size)
    resample = PIL.Image.Resampling(lvlm.processor.image_processor.resample)
    return np.asarray(PIL.Image.fromarray(image.frame_HW3).resize((tile, tile), resample))


def _by_image(places_n: Tensor, shown: Sequence[FrameHW3], config: Any) -> list[VisualTokens]:
    """The cells of every image, from the positions of all image tokens."""
    side = patches_per_side(config)
    made, start = [], 0
    for frame in shown:
        if len(shown) > 1:
            grid, cells, count = (1, side, side), places_n[start : start + side**2], side**2 + 1
        else:
            _, (h, w) = frame_grid(config, *frame.shape[:2])
            grid, count = (1, h, w), side**2 + h * (w + 1)
            if len(places_n) != count:
                raise SampleError(
                    f"a frame of {frame.shape[0]}x{frame.shape[1]} holds {len(places_n)} image tokens where a base "
                    f"image of {side**2} and a grid of {h}x{w} with newlines was expected"
                )
            cells = places_n[side**2 :].view(h, w + 1)[:, :w].flatten()
        made.append(VisualTokens(cells, grid))
        start += count
    if start != len(places_n):
        raise SampleError(f"{len(shown)} images hold {len(places_n)} image tokens where {start} were expected")
    return made


def _cells_alone(inputs: Mapping[str, Tensor], cells: Sequence[VisualTokens], config: Any) -> Prepared:
    """The inputs without the tokens of images and videos that are no cell of a map."""
    ids_L = inputs["input_ids"][0]
    kept_L = (ids_L != config.image_token_id) & (ids_L != config.video_token_id)
    for visual in cells:
        kept_L[visual.cells_n] = True
    moved_L = kept_L.cumsum(0) - 1
    by_token = ("input_ids", "attention_mask")
    cut = {name: value[:, kept_L] if name in by_token else value for name, value in inputs.items()}
    return Prepared(cut, tuple(VisualTokens(moved_L[visual.cells_n], visual.grid) for visual in cells))


def cells_per_clip_side(config: Any) -> int:
    """Cells along one side of a clip frame, after pooling."""
    return -(-patches_per_side(config) // 2)


def frame_grid(config: Any, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Tiles (rows, columns) and the grid (h, w) of an H x W frame, as the checkpoint's processor counts them."""
    from transformers import LlavaOnevisionProcessor
    from transformers.image_processing_utils import select_best_resolution

    tile, side = config.vision_config.image_size, patches_per_side(config)
    best = select_best_resolution((height, width), _pairs(config.image_grid_pinpoints))
    rows, columns = best[0] // tile, best[1] // tile
    counter: Any = SimpleNamespace(vision_aspect_ratio=config.vision_aspect_ratio)
    count: Callable[..., tuple[int, int]] = LlavaOnevisionProcessor._get_unpadded_features
    cells, h = count(counter, height, width, side, side, rows, columns)
    return (rows, columns), (h, cells // h)


def _show_cells_alone(model: Any, base: int) -> None:
    """Makes the model give features for cells alone: no base image, the first ``base`` tokens of a frame, and no
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


def _pairs(resolutions: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    return [tuple(resolution) for resolution in resolutions]


FAMILY = LlavaOnevision()
