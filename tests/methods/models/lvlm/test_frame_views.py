"""Other ways to show a frame: without LLaVA-OneVision's extra tokens, and in one tile.

Shape legend: A attention heads, L sequence, h w visual grid.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from toy.tiny_qwen import write_small

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.methods.ground.shared_prefix import clip_and_frame_rollouts
from rvosbench.methods.models.lvlm.base import LvlmOptions, LvlmSettings, ModelInputs
from rvosbench.methods.models.lvlm.load import load_lvlm
from rvosbench.methods.models.lvlm.model import Lvlm

from .conftest import noise
from .parity import SPEC, row_from_attentions

PROMPT = "the dog. \nWhat is it? "
ANY = (1, 1, 1)
Load = Callable[..., Lvlm]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    root = tmp_path_factory.mktemp("checkpoints")
    folders: dict[str, Path] = {}

    def of(family: str, **changes: Any) -> Lvlm:
        folder = folders.get(family) or folders.setdefault(family, write_small(family, root / family, seed=0))
        given = {"dtype": "float32", "device": "cpu", "max_new_tokens": 4, **changes}
        model = load_lvlm(LvlmSettings(checkpoint=str(folder), digest="x", **given))
        return model

    return of


@pytest.fixture(scope="module")
def kept(load: Load) -> Lvlm:
    return load("llava_onevision", attention="eager")


@pytest.fixture(scope="module")
def bare(load: Load) -> Lvlm:
    return load("llava_onevision", extra_tokens="drop")


def asked(model: Lvlm, view: str) -> ModelInputs:
    return model.clip(noise(3), PROMPT) if view == "clip" else model.frame(noise(1)[0], PROMPT, ANY)


@pytest.mark.parametrize("view", ["clip", "frame"])
def test_nothing_but_cells_stands_for_a_picture(kept: Lvlm, bare: Lvlm, view: str) -> None:
    whole, cells = asked(kept, view), asked(bare, view)
    assert cells.grid == whole.grid is not None
    config = bare.model.config
    token = config.video_token_id if view == "clip" else config.image_token_id
    assert int((cells.inputs["input_ids"] == token).sum()) == np.prod(cells.grid) == int(cells.visual_L.sum())
    assert int((whole.inputs["input_ids"] == token).sum()) > np.prod(whole.grid)
    # The text around is the same.
    for prompted in (whole, cells):
        ids_L = prompted.inputs["input_ids"][0]
        text = ids_L[ids_L != token].tolist()
        assert text == (whole.inputs["input_ids"][whole.inputs["input_ids"] != token]).tolist()
        assert prompted.inputs["attention_mask"].shape == prompted.inputs["input_ids"].shape


@pytest.mark.parametrize("view", ["clip", "frame"])
@torch.no_grad()
def test_maps_are_those_of_the_sequence_without_extra_tokens(kept: Lvlm, bare: Lvlm, view: str) -> None:
    """By hand: what the unchanged model embeds, less the columns that are no cell, through its language model."""
    whole = asked(kept, view)
    seen: dict[str, torch.Tensor] = {}
    hook = kept.text_model.register_forward_pre_hook(
        lambda _module, _args, given: seen.update(embeds=given["inputs_embeds"]), with_kwargs=True
    )
    kept.model.model(**whole.inputs, use_cache=False)
    hook.remove()
    ids_L = whole.inputs["input_ids"][0]
    pictures = torch.tensor([kept.model.config.image_token_id, kept.model.config.video_token_id])
    left_L = ~torch.isin(ids_L, pictures) | whole.visual_L
    assert int((~left_L).sum()) == (1 if view == "clip" else 25 + whole.grid[1])  # type: ignore[index]
    out = kept.text_model(inputs_embeds=seen["embeds"][:, left_L], use_cache=False, output_attentions=True)
    visual_L = whole.visual_L[left_L]
    expected = row_from_attentions(out.attentions[1:], visual_L)[visual_L].numpy().reshape(whole.grid)

    cells = asked(bare, view)
    map_thw = bare.rollout(cells, SPEC)
    np.testing.assert_allclose(map_thw, expected, rtol=0, atol=1e-6)
    # The extra tokens do take attention away where they are kept.
    assert np.abs(kept.rollout(whole, SPEC) - map_thw).max() > 1e-4


def test_cells_alone_in_batches_answers_and_shared_prefixes(bare: Lvlm) -> None:
    frames = noise(3)
    prompted = [bare.frame(frame, PROMPT, ANY) for frame in frames]
    together = bare.rollouts(prompted, SPEC)
    for one, map_thw in zip(prompted, together, strict=True):
        np.testing.assert_allclose(bare.rollout(one, SPEC), map_thw, rtol=0, atol=1e-6)
    assert bare.answers(prompted) == [bare.answer(one) for one in prompted]
    shared = clip_and_frame_rollouts(bare, frames, [PROMPT, "it runs. "], SPEC)[PROMPT]
    assert isinstance(shared, tuple)
    np.testing.assert_allclose(shared[0], bare.rollout(bare.clip(frames, PROMPT), SPEC), rtol=0, atol=1e-6)
    np.testing.assert_allclose(shared[1], np.concatenate(together), rtol=0, atol=1e-6)


def test_extra_tokens_are_identity_and_have_two_ways() -> None:
    with pytest.raises(PrerequisiteError, match="extra_tokens is 'none'"):
        LvlmOptions(extra_tokens="none")  # type: ignore[arg-type]


@pytest.mark.parametrize("extra", ["keep", "drop"])
def test_one_tile_of_llava_onevision_is_the_whole_frame_squashed(load: Load, extra: str) -> None:
    model = load("llava_onevision", frame_scale=1, extra_tokens=extra)
    frame = noise(1, 90, 150)[0]
    prompted = model.frame(frame, PROMPT, ANY)
    assert prompted.grid == (1, 5, 5)
    tokens = int((prompted.inputs["input_ids"] == model.model.config.image_token_id).sum())
    assert tokens == (25 if extra == "drop" else 25 + 5 * 6)
    squashed = np.asarray(Image.fromarray(frame).resize((76, 76), Image.Resampling.BICUBIC))
    pixels = prompted.inputs["pixel_values"][0]
    # The base picture and the one tile are the same picture.
    for crop in pixels:
        np.testing.assert_allclose(crop.numpy(), (squashed / 255 - 0.5).transpose(2, 0, 1) / 0.5, atol=1e-6)
    assert model.rollout(prompted, SPEC).shape == (1, 5, 5)


def test_one_tile_of_internvl_is_the_clips_grid(load: Load) -> None:
    model = load("internvl", frame_scale=1)
    frame = noise(1, 90, 150)[0]
    clip, prompted = model.clip([frame], PROMPT), model.frame(frame, PROMPT, ANY)
    assert prompted.grid == clip.grid == (1, 4, 4)
    assert prompted.inputs["pixel_values"].shape[0] == 1
    assert load("internvl").frame(frame, PROMPT, ANY).grid == (1, 8, 12)
    assert model.rollout(prompted, SPEC).shape == (1, 4, 4)
