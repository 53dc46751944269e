"""The reason stage on the local model and on a server: the same prompt, frames and artefact."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chats import template_form
from clips import write_clip
from fake_server import ANSWER, FakeServer, Reply, completion, question
from PIL import Image
from toy.tiny_qwen import write_small

from rvosbench.harness.data.frames import DecodedFrames
from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.harness.serving.endpoints import Endpoints
from rvosbench.harness.stages import Outcome, Request, Stage, StageSpec
from rvosbench.harness.store.artefacts import Artefact
from rvosbench.harness.store.keys import artefact_key
from rvosbench.methods.models.lvlm.base import LvlmSettings
from rvosbench.methods.models.lvlm.checkpoints import lvlm_settings
from rvosbench.methods.models.lvlm.load import load_lvlm
from rvosbench.methods.reason import ReasoningSettings, reason_stage
from rvosbench.methods.reason.prompts import cot_prompt

TEXTS = ["the bright square", "what moves right", "   "]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small("qwen2_5_vl", tmp_path_factory.mktemp("lvlm") / "small", seed=0)


@pytest.fixture(scope="module")
def lvlm(folder: Path) -> LvlmSettings:
    return lvlm_settings(str(folder), dtype="float32", device="cpu", max_new_tokens=1)


def local(lvlm: LvlmSettings, **values: Any) -> StageSpec:
    return reason_stage(ReasoningSettings(**{"keyframes": 3, "max_new_tokens": 12, **values}), lvlm)


def served(lvlm: LvlmSettings, *endpoints: str, **values: Any) -> StageSpec:
    spec = local(lvlm, engine="server", **values)
    return replace(spec, servers=Endpoints("small", endpoints))


def run(stage: Stage, folder: Path, texts: Sequence[str] = TEXTS) -> dict[int, Outcome]:
    video = write_clip(folder, "clip", list(texts), frames=5)
    found = list(stage.run(DecodedFrames(video), [Request(expression, {}) for expression in video.expressions]))
    assert sorted(index for index, _ in found) == list(range(len(texts))), "each request once"
    return dict(found)


def test_the_local_model_is_asked_with_the_clip_and_the_prompt(lvlm: LvlmSettings, tmp_path: Path) -> None:
    outcomes = run(local(lvlm).build(), tmp_path)
    model = load_lvlm(replace(lvlm, max_new_tokens=12))
    decoded = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "clip").iterdir())]
    for index in (0, 1):
        artefact = outcomes[index]
        assert isinstance(artefact, Artefact)
        prompt = cot_prompt(TEXTS[index])
        expected = model.answer(model.clip([decoded[0], decoded[2], decoded[4]], prompt))
        assert artefact.meta["raw"] == expected
        assert artefact.meta["prompt"] == prompt
        assert artefact.meta["keyframes"] == [0, 2, 4]
        assert artefact.meta["engine"] == "local"
        assert artefact.meta["model"] == lvlm.digest
        assert artefact.meta["attributes"] == [] and artefact.meta["fallback"] != "", "an untrained model babbles"
    assert isinstance(outcomes[2], SampleError)


def test_a_server_is_sent_the_pixels_and_the_prompt_of_the_local_model(lvlm: LvlmSettings, tmp_path: Path) -> None:
    with FakeServer() as server:
        outcomes = run(served(lvlm, server.url).build(), tmp_path)
        bodies = server.bodies
    artefact = outcomes[0]
    assert isinstance(artefact, Artefact)
    assert artefact.meta["attributes"] == ["red", "on the left", "small"]
    assert artefact.meta["reasons"] == "It is red."
    assert artefact.meta["raw"] == ANSWER
    assert artefact.meta["fallback"] == ""
    assert artefact.meta["engine"] == "vllm 0.0"
    assert isinstance(outcomes[2], SampleError) and len(bodies) == 2, "an empty expression is not asked about"
    assert {question(body)[1] for body in bodies} == {cot_prompt(text) for text in TEXTS[:2]}
    shown = {question(body)[0] for body in bodies}
    assert len(shown) == 1, "the clip comes first and is the same for all expressions"
    head, _, frames = shown.pop().partition(",")
    assert head == "data:video/jpeg;base64"
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(base64.b64decode(part)))) for part in frames.split(",")])
    # What the local model is shown: its own processor turns these pixels into its patches.
    model: Any = load_lvlm(lvlm)
    decoded = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "clip").iterdir())]
    prompted = model.clip([decoded[0], decoded[2], decoded[4]], "x")
    patches = model.processor.video_processor(videos=[pixels], do_sample_frames=False, return_tensors="pt")
    assert (patches["pixel_values_videos"] == prompted.inputs["pixel_values_videos"]).all()
    assert (patches["video_grid_thw"] == prompted.inputs["video_grid_thw"]).all()
    assert bodies[0]["max_tokens"] == 12
    assert bodies[0]["response_format"]["json_schema"]["schema"]["properties"]["attributes"]["maxItems"] == 3


def test_free_decoding_sends_no_schema(lvlm: LvlmSettings, tmp_path: Path) -> None:
    with FakeServer() as server:
        run(served(lvlm, server.url, structured=False).build(), tmp_path, ["a"])
        assert "response_format" not in server.bodies[0]


def test_one_sample_that_is_too_long_leaves_the_others_alone(lvlm: LvlmSettings, tmp_path: Path) -> None:
    def answer(body: dict[str, Any]) -> Reply:
        if "endless" in question(body)[1]:
            return 400, {"error": {"message": "This model's maximum context length is 64 tokens."}}
        return completion(ANSWER)

    with FakeServer(answer) as server:
        outcomes = run(served(lvlm, server.url).build(), tmp_path, ["an endless one", "a short one"])
    assert isinstance(outcomes[0], SampleError) and "longer than the server takes" in str(outcomes[0])
    assert isinstance(outcomes[1], Artefact)


def test_expressions_of_a_video_are_asked_at_the_same_time(lvlm: LvlmSettings, tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=30)

    def answer(body: dict[str, Any]) -> Reply:
        both.wait()
        return completion(question(body)[1])

    with FakeServer(answer) as server:
        outcomes = run(served(lvlm, server.url).build(), tmp_path, ["first", "second"])
    for index, text in enumerate(("first", "second")):
        artefact = outcomes[index]
        assert isinstance(artefact, Artefact)
        assert artefact.meta["raw"] == cot_prompt(text), "each expression has its own answer"


def test_a_dead_server_stops_the_stage_and_not_a_sample(lvlm: LvlmSettings, tmp_path: Path) -> None:
    with FakeServer() as server:
        spec = served(lvlm, server.url)
    spec = replace(spec, servers=Endpoints("small", (server.url,), patience_seconds=0.0))
    with pytest.raises(PrerequisiteError, match="No server of small was reached"):
        run(spec.build(), tmp_path)


def test_the_server_that_is_needed(lvlm: LvlmSettings) -> None:
    assert local(lvlm).server is None
    need = served(lvlm).server
    assert need is not None
    assert need.model == lvlm.checkpoint and need.served_name == "small" and need.dtype == "float32"
    assert need.videos == 1 and need.images == 0
    assert need.frame_rate == 2.0, "two frames to a step of one second"
    assert need.max_length == 3 * 400 + 2048 + 12
    assert served(replace(lvlm, seconds_per_grid=0.5)).server == replace(need, frame_rate=4.0)
    hub = served(replace(lvlm, checkpoint=lvlm.checkpoint, digest="owner/name@abc123")).server
    assert hub is not None and (hub.model, hub.revision, hub.served_name) == ("owner/name", "abc123", "owner/name")
    named = served(lvlm, served_name="mine", keyframes=16).server
    assert named is not None and named.served_name == "mine" and named.max_length == 4096, "the model's own limit"


def key(spec: StageSpec) -> str:
    return artefact_key(spec, media="m", text="t", upstream={})


def test_what_changes_the_text_changes_the_key_and_nothing_else_does(lvlm: LvlmSettings) -> None:
    here, there = key(local(lvlm)), key(served(lvlm))
    assert here != there, "kernels differ"
    assert key(served(lvlm, "http://a:1", "http://b:2", served_name="other")) == there
    spec = served(lvlm)
    assert spec.server is not None
    assert key(replace(spec, server=replace(spec.server, max_length=1, videos=2))) == there
    for changed in ({"keyframes": 4}, {"max_new_tokens": 13}, {"max_attributes": 2}, {"structured": False}):
        assert key(served(lvlm, **changed)) != there
    assert key(local(lvlm, structured=False)) == here, "the local model decodes freely anyway"
    for unused in ({"frame_scale": 1}, {"max_new_tokens": 99}, {"device": "cuda"}, {"prefix_stack": 8}):
        assert key(local(replace(lvlm, **unused))) == here
        assert key(served(replace(lvlm, **unused))) == there
    assert key(local(replace(lvlm, digest="another checkpoint"))) != here
    assert key(local(replace(lvlm, clip_max_tokens=100))) != here


@pytest.mark.parametrize(
    ("value", "named"),
    [({"engine": "remote"}, "engine"), ({"keyframes": 1}, "keyframes"), ({"max_attributes": 0}, "max_attributes")],
)
def test_wrong_settings_are_named(value: dict[str, Any], named: str) -> None:
    with pytest.raises(PrerequisiteError, match=f"reasoning.{named} is"):
        ReasoningSettings(**value)


def test_a_model_of_single_images_is_refused_while_planning(tmp_path: Path) -> None:
    checkpoint = write_small("llava", tmp_path / "llava", seed=0)
    for engine in ("local", "server"):
        with pytest.raises(PrerequisiteError, match="sees single images"):
            reason_stage(ReasoningSettings(engine=engine), lvlm_settings(str(checkpoint)))  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl", "llava_onevision", "internvl"])
def test_every_family_that_sees_clips_is_asked_as_it_is_locally(family: str, tmp_path: Path) -> None:
    """The chat a server renders through the checkpoint's template is the one the local model is given."""
    checkpoint = write_small(family, tmp_path / family, seed=0)
    settings = lvlm_settings(str(checkpoint), dtype="float32", device="cpu")
    with FakeServer() as server:
        outcomes = run(served(settings, server.url).build(), tmp_path, ["a"])
        (body,) = server.bodies
    assert isinstance(outcomes[0], Artefact)
    model: Any = load_lvlm(settings)
    rendered = model.processor.apply_chat_template(_as_template(body), add_generation_prompt=True, tokenize=False)
    expected = model.processor.apply_chat_template(
        template_form(model, "clip", cot_prompt("a")), add_generation_prompt=True, tokenize=False
    )
    assert rendered == expected


def _as_template(body: dict[str, Any]) -> list[dict[str, Any]]:
    """As an OpenAI-compatible server hands a request to the chat template."""

    def part(value: dict[str, Any]) -> dict[str, Any]:
        return {"type": "video"} if value["type"] == "video_url" else value

    return [{**turn, "content": [part(value) for value in turn["content"]]} for turn in body["messages"]]
