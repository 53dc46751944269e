"""Running InternVL: parity with eager float32, batches, answers, and DecAF's stages from frames to maps and masks.

Shape legend: L sequence, T frames, h w visual grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import clips
import numpy as np
import pytest
import torch
from toy.tiny_qwen import SmallShape, write_small
from toy.tiny_sam2 import write_small as write_small_sam2

from rvosbench.harness.data.frames import DecodedFrames
from rvosbench.harness.stages import Request
from rvosbench.harness.store.artefacts import Artefact
from rvosbench.harness.store.tracks import mask_track
from rvosbench.methods.attention.capture import capture
from rvosbench.methods.attention.recursion import rollout_rows
from rvosbench.methods.attention.spec import RolloutSpec
from rvosbench.methods.decaf import METHOD, DecafSettings
from rvosbench.methods.models.lvlm.base import LvlmOptions, ModelInputs
from rvosbench.methods.models.lvlm.checkpoints import lvlm_settings
from rvosbench.methods.models.lvlm.internvl import tile_pixels, tile_tokens
from rvosbench.methods.models.lvlm.load import load_lvlm
from rvosbench.methods.models.lvlm.model import Lvlm
from rvosbench.methods.models.sam2.checkpoints import Sam2Settings

from .conftest import noise
from .parity import require_parity

PROMPT = "the dog. \nWhat is it? "


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small("internvl", tmp_path_factory.mktemp("checkpoints"), seed=0)


@pytest.fixture(scope="module")
def load(folder: Path) -> Callable[..., Lvlm]:
    def of(**changes: str) -> Lvlm:
        settings = {"dtype": "float32", "device": "cpu", **changes}
        model = load_lvlm(lvlm_settings(str(folder), max_new_tokens=6, **settings))
        return model

    return of


@pytest.fixture(scope="module")
def model(load: Callable[..., Lvlm]) -> Lvlm:
    return load()


def views(model: Lvlm, frames: int = 3, height: int = 90, width: int = 150) -> list[ModelInputs]:
    shown = noise(frames, height, width)
    clip = model.clip(shown, PROMPT)
    assert clip.grid is not None
    return [clip, *(model.frame(frame, PROMPT, clip.grid) for frame in shown)]


def test_parity_with_eager_float32(
    model: Lvlm, load: Callable[..., Lvlm], record_property: Callable[[str, object], None]
) -> None:
    eager = load(attention="eager")
    # An odd clip, frames of 2x3 tiles, and frames of 3x2 tiles.
    require_parity(model, eager, (*views(model), *views(model, 1, 150, 90)), record_property, by_hand)


def by_hand(row_L: torch.Tensor, prompted: ModelInputs) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """The map, put together tile by tile."""
    assert prompted.grid is not None
    tiles = row_L[prompted.visual_L].numpy().reshape(-1, 4, 4)
    t, h, w = prompted.grid
    if t > 1 or (h, w) == (4, 4):
        return tiles
    return np.block([[tiles[row * (w // 4) + column] for column in range(w // 4)] for row in range(h // 4)])[None]


@torch.no_grad()
def test_head_weights_look_at_visual_columns_alone(model: Lvlm) -> None:
    # The span from the first to the last visual token, which holds the text between frames, gives another map.
    clip = model.clip(noise(5), PROMPT)
    spec = RolloutSpec(start_layer=1)
    with capture(model.text_model, spec.layers(model.layers)) as captured:
        model.model.model(**clip.inputs, use_cache=False)
    span_L = torch.zeros_like(clip.visual_L)
    columns = clip.visual_L.nonzero().flatten()
    span_L[columns[0] : columns[-1] + 1] = True
    own, span = (
        clip.to_grid(rollout_rows(captured.layers(), mask_L[None], spec).rows_BL[0])
        for mask_L in (clip.visual_L, span_L)
    )
    np.testing.assert_array_equal(model.rollout(clip, spec), own.numpy())
    assert (own - span).abs().max() > 1e-5


def test_batches_equal_singles(model: Lvlm) -> None:
    prompted = views(model, frames=5)
    batched = model.rollouts(prompted, RolloutSpec())
    singles = [model.rollout(item, RolloutSpec()) for item in prompted]
    for together, alone in zip(batched, singles, strict=True):
        np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-7)
    assert not np.allclose(singles[1], singles[2], rtol=1e-3)
    assert model.answers(prompted) == [model.answer(item) for item in prompted]


@torch.no_grad()
def test_answers_are_greedy(model: Lvlm) -> None:
    # One token at a time, without a cache.
    for prompted in (*views(model)[:2], model.text(PROMPT)):
        inputs = dict(prompted.inputs)
        new: list[int] = []
        for _ in range(model.settings.max_new_tokens):
            token = int(model.model(**inputs, use_cache=False).logits[0, -1].argmax())
            new.append(token)
            if token in model.model.generation_config.eos_token_id:
                break
            for name, value in (("input_ids", token), ("attention_mask", 1)):
                inputs[name] = torch.cat([inputs[name], torch.tensor([[value]])], 1)
        assert model.answer(prompted) == model.tokenizer.decode(new, skip_special_tokens=True)


def test_bfloat16(model: Lvlm, load: Callable[..., Lvlm]) -> None:
    half = load(dtype="bfloat16")
    for prompted in views(half, frames=1):
        map_thw, exact = half.rollout(prompted, RolloutSpec()), model.rollout(prompted, RolloutSpec())
        assert map_thw.dtype == np.float32
        assert np.corrcoef(map_thw.ravel(), exact.ravel())[0, 1] > 0.99


def test_same_seed_same_bytes(folder: Path, tmp_path: Path) -> None:
    again = write_small("internvl", tmp_path / "again", seed=0)
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }
    other = write_small("internvl", tmp_path / "other", seed=1)
    assert [path.name for path in folder.iterdir() if path.read_bytes() != (other / path.name).read_bytes()] == [
        "model.safetensors"
    ]


def test_tied_embeddings_and_other_patches(tmp_path: Path) -> None:
    shape = SmallShape(layers=2, patch=7, tied=True)
    small = load_lvlm(lvlm_settings(str(write_small("internvl", tmp_path, 0, shape=shape)), dtype="float32"))
    assert (tile_pixels(small.model.config), tile_tokens(small.model.config)) == (56, 4)
    assert small.model.lm_head.weight is small.text_model.embed_tokens.weight


@pytest.mark.parametrize("frames", [1, 3])
def test_decaf_from_frames_to_masks(folder: Path, tmp_path: Path, frames: int) -> None:
    video = clips.write_clip(tmp_path / "frames", "squares", ["the bright square"], frames=frames)
    sam2 = write_small_sam2(tmp_path / "sam2", seed=0)
    settings = DecafSettings(
        lvlm=LvlmOptions(dtype="float32", max_new_tokens=6, device="cpu"),
        sam2=Sam2Settings(checkpoint=str(sam2), device="cpu"),
    )
    done: dict[str, Artefact] = {}
    for spec in METHOD.stages(settings, str(folder)):
        request = Request(video.expressions[0], {name: done[name] for name in spec.consumes})
        [(_, outcome)] = spec.build().run(DecodedFrames(video), [request])
        assert isinstance(outcome, Artefact), outcome
        done[spec.name] = outcome
    arrays = done["ground"].arrays
    rows, columns = (length // 4 for length in arrays["object_frame"].shape[1:])
    assert math.isclose(columns / rows, clips.WIDTH / clips.HEIGHT, rel_tol=0.2) and rows * columns <= 12
    for role in ("object", "background"):
        assert arrays[f"{role}_clip"].shape == (frames, 4, 4)
        assert arrays[f"{role}_frame"].shape == (frames, 4 * rows, 4 * columns)
        assert arrays[f"{role}_frame"].dtype == np.float32
    answers = done["reason"].meta["answers"]
    assert isinstance(answers, list) and len(answers) == frames + 1
    assert done["segment"].arrays["fused"].shape == (frames, 4 * rows, 4 * columns)
    assert mask_track(done["segment"]).frames == tuple(range(frames))
