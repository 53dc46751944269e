"""DecAF over a small LLaVA-OneVision: the ground stage from frames to maps, fused and cut into masks."""

from __future__ import annotations

from pathlib import Path

import clips
import numpy as np
import pytest
from toy.tiny_qwen import write_small

from rvosbench.harness.data.frames import DecodedFrames
from rvosbench.harness.data.types import Video
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.stages import Request, Stage
from rvosbench.harness.store.artefacts import Artefact, to_bytes
from rvosbench.harness.store.tracks import mask_track
from rvosbench.methods.attention.spec import RolloutSpec
from rvosbench.methods.decaf import METHOD, DecafSettings
from rvosbench.methods.models.lvlm.base import LvlmOptions
from rvosbench.methods.models.lvlm.checkpoints import lvlm_settings
from rvosbench.methods.models.lvlm.load import load_lvlm
from rvosbench.methods.reason import expression_prompts as prompts

TEXTS = ["the bright square", "The dark gradient"]
SETTINGS = DecafSettings(
    keyframes=3,
    object_prompt="v1",
    background_prompt="v3",
    masks="attention",
    lvlm=LvlmOptions(dtype="float32", max_new_tokens=6, device="cpu", frame_batch=2),
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_small("llava_onevision", tmp_path_factory.mktemp("onevision"), seed=1))


def run(stage: Stage, video: Video, requests: list[Request]) -> list[Artefact]:
    outcomes = dict(stage.run(DecodedFrames(video), requests))
    made = [outcomes[index] for index in range(len(requests))]
    assert all(isinstance(one, Artefact) for one in made)
    return [one for one in made if isinstance(one, Artefact)]


@pytest.mark.parametrize("frames", [5, 1])
def test_ground_and_masks(checkpoint: str, tmp_path: Path, frames: int) -> None:
    video = clips.write_clip(tmp_path, "squares", TEXTS, frames=frames)
    ground, segment = METHOD.stages(SETTINGS, checkpoint)
    stage = ground.build()
    artefacts = run(stage, video, [Request(expression, {}) for expression in video.expressions])
    keyframes = [0, 2, 4][:frames]
    lvlm = load_lvlm(lvlm_settings(checkpoint, dtype="float32", device="cpu"))
    pictures = [DecodedFrames(video)[index] for index in keyframes]
    for text, artefact in zip(TEXTS, artefacts, strict=True):
        assert artefact.meta["keyframes"] == keyframes
        shapes = {name: array.shape for name, array in artefact.arrays.items()}
        # Time is not merged. 48x64 fits one tile of 5x5 patches; a row of padding goes at the top and at the bottom.
        clip, frame = (len(keyframes), 3, 3), (len(keyframes), 3, 5)
        assert shapes == {
            "object_clip": clip,
            "background_clip": clip,
            "object_frame": frame,
            "background_frame": frame,
        }
        assert all(np.isfinite(array).all() and (array > 0).all() for array in artefact.arrays.values())
        # The same maps, asked of the model one by one.
        prompt = prompts.object_prompt("v1", text)
        alone = [lvlm.rollout(lvlm.frame(picture, prompt, (1, 1, 1)), RolloutSpec())[0] for picture in pictures]
        np.testing.assert_allclose(artefact.arrays["object_frame"], np.stack(alone), rtol=1e-4, atol=1e-7)
        whole = lvlm.rollout(lvlm.clip(pictures, prompt), RolloutSpec())
        np.testing.assert_allclose(artefact.arrays["object_clip"], whole, rtol=1e-4, atol=1e-7)
    again = run(stage, video, [Request(expression, {}) for expression in video.expressions])
    assert [to_bytes(one) for one in again] == [to_bytes(one) for one in artefacts]

    requests = [Request(e, {"ground": one}) for e, one in zip(video.expressions, artefacts, strict=True)]
    for artefact in run(segment.build(), video, requests):
        assert artefact.arrays["fused"].shape == frame
        assert mask_track(artefact).frames == tuple(keyframes)


def test_llava_1_5_is_refused_before_any_frame_call(tmp_path: Path) -> None:
    video = clips.write_clip(tmp_path / "frames", "squares", TEXTS, frames=2)
    ground, _ = METHOD.stages(SETTINGS, str(write_small("llava", tmp_path / "llava", seed=1)))
    with pytest.raises(PrerequisiteError, match="no clip view"):
        list(ground.build().run(DecodedFrames(video), [Request(video.expressions[0], {})]))
