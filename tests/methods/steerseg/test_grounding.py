"""The ground stage on a small real model: attributes and soft prompts reach the rollout, grouping changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import clips
import numpy as np
import pytest

from rvosbench.harness.data.frames import DecodedFrames
from rvosbench.harness.data.types import Video
from rvosbench.harness.errors import SampleError
from rvosbench.harness.stages import Outcome, Request
from rvosbench.harness.store.artefacts import Artefact, to_bytes
from rvosbench.methods.attention.spec import RolloutSpec
from rvosbench.methods.ground.rollouts import Rollouts
from rvosbench.methods.ground.shared_prefix import clip_and_frame_rollouts
from rvosbench.methods.models.lvlm.checkpoints import lvlm_settings
from rvosbench.methods.models.lvlm.load import load_lvlm
from rvosbench.methods.steerseg import steered_prompts
from rvosbench.methods.steerseg.prompt_files import SoftPromptSettings, load_soft_prompts
from rvosbench.methods.steerseg.prompts import attention_prompt
from rvosbench.methods.steerseg.settings import SteeredSettings

TEXTS = ["the bright square", "  ", "which part moves?"]
ATTRIBUTES = [["bright", "on the left"], ["unused"], []]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Video:
    return clips.write_clip(tmp_path_factory.mktemp("frames"), "squares", TEXTS, frames=3)


@pytest.fixture(scope="module")
def lvlm(world: Any) -> Any:
    return load_lvlm(lvlm_settings(world.lvlm, dtype="float32", device="cpu"))


@pytest.fixture(scope="module")
def soft(world: Any, lvlm: Any) -> Any:
    return load_soft_prompts(SoftPromptSettings(world.prompts[16]), lvlm)


def ground(lvlm: Any, soft: Any = None, prefix: Any = "shared") -> Rollouts:
    settings = SteeredSettings(replace(lvlm.settings, max_new_tokens=1), 2, RolloutSpec(), prefix, None)
    return Rollouts(settings, lvlm, steered_prompts, soft)


def requests(video: Video, *, reasons: bool = True) -> list[Request]:
    said = [Artefact({"attributes": list(attributes), "fallback": ""}) for attributes in ATTRIBUTES]
    inputs = [{"reason": one} if reasons else {} for one in said]
    return [Request(expression, given) for expression, given in zip(video.expressions, inputs, strict=True)]


def run(stage: Rollouts, video: Video, asked: Sequence[Request]) -> list[Outcome]:
    outcomes = dict(stage.run(DecodedFrames(video), asked))
    assert sorted(outcomes) == list(range(len(asked)))
    return [outcomes[index] for index in range(len(asked))]


def test_attributes_stand_in_the_prompt_and_maps_are_those_of_the_prompt(lvlm: Any, soft: Any, video: Video) -> None:
    first, blank, last = run(ground(lvlm, soft), video, requests(video))
    assert isinstance(blank, SampleError) and "expression is empty" in str(blank)
    frames = [DecodedFrames(video)[index] for index in (0, 2)]
    for outcome, text, attributes in ((first, TEXTS[0], ATTRIBUTES[0]), (last, TEXTS[2], ATTRIBUTES[2])):
        assert isinstance(outcome, Artefact)
        prompt = attention_prompt(text, attributes)
        assert outcome.meta == {"keyframes": [0, 2], "prompts": {"object": prompt}, "attributes": attributes}
        expected = clip_and_frame_rollouts(lvlm, frames, [prompt], RolloutSpec(), soft)[prompt]
        assert not isinstance(expected, SampleError)
        np.testing.assert_array_equal(outcome.arrays["object_clip"], expected[0])
        np.testing.assert_array_equal(outcome.arrays["object_frame"], expected[1])
    assert isinstance(first, Artefact) and isinstance(last, Artefact)
    assert "Attributes: bright; on the left" in first.meta["prompts"]["object"]
    assert "Attributes" not in str(last.meta["prompts"]), "no attributes: DecAF's question"


def test_soft_prompts_and_attributes_both_move_the_maps(lvlm: Any, soft: Any, video: Video) -> None:
    [steered, _, _] = run(ground(lvlm, soft), video, requests(video))
    [unsteered, _, _] = run(ground(lvlm), video, requests(video))
    [plain, _, _] = run(ground(lvlm), video, requests(video, reasons=False))
    for one, other in ((steered, unsteered), (unsteered, plain)):
        assert isinstance(one, Artefact) and isinstance(other, Artefact)
        for name in ("object_clip", "object_frame"):
            peak = np.abs(other.arrays[name]).max()
            assert np.abs(one.arrays[name] - other.arrays[name]).max() > 1e-3 * peak, name


@pytest.mark.parametrize("prefix", ["shared", "separate"])
def test_grouping_changes_no_byte(lvlm: Any, soft: Any, video: Video, prefix: str) -> None:
    asked = [requests(video)[index] for index in (0, 2)]
    together = run(ground(lvlm, soft, prefix), video, asked)
    apart = [run(ground(lvlm, soft, prefix), video, [one])[0] for one in asked]
    for one, other in zip(together, apart, strict=True):
        assert isinstance(one, Artefact) and isinstance(other, Artefact)
        assert to_bytes(one) == to_bytes(other)


def test_a_shared_prefix_is_the_separate_one_up_to_rounding(lvlm: Any, soft: Any, video: Video) -> None:
    [shared, *_], [separate, *_] = (run(ground(lvlm, soft, p), video, requests(video)) for p in ("shared", "separate"))
    assert isinstance(shared, Artefact) and isinstance(separate, Artefact)
    for name, array in separate.arrays.items():
        np.testing.assert_allclose(shared.arrays[name], array, atol=1e-5 * float(np.abs(array).max()))


def test_an_unreadable_keyframe_fails_every_expression_by_name(lvlm: Any, tmp_path: Path) -> None:
    video = clips.write_clip(tmp_path, "v", ["one", "two"], frames=2)
    video.frame_paths[1].write_bytes(b"not an image")
    outcomes = run(ground(lvlm), video, [Request(expression, {}) for expression in video.expressions])
    assert all(isinstance(one, SampleError) and video.frame_paths[1].name in str(one) for one in outcomes)
