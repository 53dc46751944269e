"""DecAF as a whole: real architectures from frames to mask tracks, its stages' keys, and its settings."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import clips
import numpy as np
import pytest
from toy.tiny_qwen import write_small as write_small_lvlm
from toy.tiny_sam2 import write_small as write_small_sam2

from rvosbench.harness.data.frames import DecodedFrames
from rvosbench.harness.data.masks import decode
from rvosbench.harness.data.types import Video
from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.harness.recipes import method_settings
from rvosbench.harness.registry import load_method
from rvosbench.harness.settings import identity_of
from rvosbench.harness.stages import Request, StageSpec
from rvosbench.harness.store.artefacts import Artefact, to_bytes
from rvosbench.harness.store.keys import artefact_key
from rvosbench.harness.store.tracks import mask_track
from rvosbench.methods.attention.spec import RolloutSpec
from rvosbench.methods.decaf import METHOD, DecafSettings
from rvosbench.methods.ground.fusion import FusionSettings, attention_masks
from rvosbench.methods.models.lvlm.base import LvlmOptions
from rvosbench.methods.models.sam2.checkpoints import Sam2Settings
from rvosbench.methods.segment.settings import KeepSettings, PromptSettings, SegmentSettings

FAMILIES = ("qwen2_5_vl", "qwen2_vl")
TEXTS = ["the bright square", "The dark gradient", "which part does not move?"]


@dataclasses.dataclass(frozen=True)
class World:
    """Small random checkpoints."""

    lvlm: Mapping[str, str]
    settings: DecafSettings
    """Of the small models. Object prompt v1 is short, so that the object's rollout exceeds the background's."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("checkpoints")
    lvlm = {family: str(write_small_lvlm(family, folder / family, seed=1)) for family in FAMILIES}
    sam2 = write_small_sam2(folder / "sam2", seed=0)
    return World(
        lvlm,
        DecafSettings(
            object_prompt="v1",
            lvlm=LvlmOptions(dtype="float32", max_new_tokens=6, device="cpu"),
            sam2=Sam2Settings(checkpoint=str(sam2), device="cpu"),
        ),
    )


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Video:
    return clips.write_clip(tmp_path_factory.mktemp("frames"), "squares", TEXTS, frames=3)


Outcomes = list[dict[str, Artefact]]


def run_all(specs: Sequence[StageSpec], video: Video, groups: Sequence[Sequence[int]]) -> Outcomes:
    """Every stage over the video's expressions, called once per group; the artefacts of each expression by stage."""
    done: Outcomes = [{} for _ in video.expressions]
    for spec in specs:
        stage = spec.build()
        for group in groups:
            requests = [Request(video.expressions[i], {name: done[i][name] for name in spec.consumes}) for i in group]
            for position, outcome in stage.run(DecodedFrames(video), requests):
                assert isinstance(outcome, Artefact), outcome
                done[group[position]][spec.name] = outcome
    return done


@pytest.mark.parametrize("family", FAMILIES)
def test_from_frames_to_mask_tracks_whatever_the_grouping(world: World, video: Video, family: str) -> None:
    specs = METHOD.stages(world.settings, world.lvlm[family])
    assert [spec.name for spec in specs] == ["reason", "ground", "segment"]
    together = run_all(specs, video, [[0, 1, 2]])
    for artefacts in together:
        track = mask_track(artefacts["segment"])
        assert (track.height, track.width, track.frames) == (clips.HEIGHT, clips.WIDTH, (0, 1, 2))
        assert artefacts["segment"].meta["points"] == (artefacts["segment"].arrays["fused"] >= np.float32(0.8)).sum()
        name, prompts = artefacts["reason"].meta["object_name"], artefacts["ground"].meta["prompts"]
        assert f"excluding any {name}." in prompts["background"]
        assert {array.dtype for array in artefacts["ground"].arrays.values()} == {np.dtype(np.float32)}
    assert any(any(mask_track(artefacts["segment"]).rles) for artefacts in together)
    apart = run_all(specs, video, [[2], [0], [1]])
    for one, other in zip(together, apart, strict=True):
        assert {name: to_bytes(a) for name, a in one.items()} == {name: to_bytes(a) for name, a in other.items()}


def test_background_v3_generates_nothing(world: World, video: Video, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a prefill-only method generated")

    monkeypatch.setattr("transformers.generation.utils.GenerationMixin.generate", refuse)
    settings = dataclasses.replace(world.settings, background_prompt="v3")
    specs = METHOD.stages(settings, world.lvlm["qwen2_5_vl"])
    assert [spec.name for spec in specs] == ["ground", "segment"]
    assert [spec.consumes for spec in specs] == [(), ("ground",)]
    artefacts = run_all(specs, video, [[0, 1, 2]])
    assert all(len(mask_track(one["segment"]).frames) == 3 for one in artefacts)


def test_attention_masks_need_no_sam2_and_cover_keyframes(world: World, video: Video) -> None:
    settings = dataclasses.replace(
        world.settings, masks="attention", keyframes=2, background_prompt="v3", sam2=Sam2Settings(checkpoint="absent")
    )
    [artefacts, *_] = run_all(METHOD.stages(settings, world.lvlm["qwen2_vl"]), video, [[0, 1, 2]])
    track = mask_track(artefacts["segment"])
    assert track.frames == (0, 2)
    fused = artefacts["segment"].arrays["fused"]
    expected = attention_masks(fused, (clips.HEIGHT, clips.WIDTH))
    for counts, mask in zip(track.rles, expected, strict=True):
        np.testing.assert_array_equal(decode(counts, clips.HEIGHT, clips.WIDTH), mask)


def test_a_video_of_one_frame(world: World, tmp_path: Path) -> None:
    video = clips.write_clip(tmp_path, "still", ["the bright square"], frames=1)
    [artefacts] = run_all(METHOD.stages(world.settings, world.lvlm["qwen2_5_vl"]), video, [[0]])
    assert artefacts["ground"].arrays["object_clip"].shape[0] == 1
    assert artefacts["reason"].meta["keyframes"] == [0]
    assert len(artefacts["reason"].meta["answers"]) == 2
    assert mask_track(artefacts["segment"]).frames == (0,)


def test_an_empty_expression_and_a_damaged_frame_are_sample_errors(world: World, tmp_path: Path) -> None:
    specs = METHOD.stages(world.settings, world.lvlm["qwen2_5_vl"])
    reason = specs[0].build()
    video = clips.write_clip(tmp_path, "v", ["", "the bright square"], frames=2)
    requests = [Request(expression, {}) for expression in video.expressions]
    outcomes = dict(reason.run(DecodedFrames(video), requests))
    assert isinstance(outcomes[0], SampleError) and isinstance(outcomes[1], Artefact)
    video.frame_paths[1].write_bytes(b"not an image")
    outcomes = dict(reason.run(DecodedFrames(video), requests))
    assert isinstance(outcomes[1], SampleError) and video.frame_paths[1].name in str(outcomes[1])


# Which stages a changed setting computes again; a reason that runs again does so with all that follows it.
CHANGES: list[tuple[str, Callable[[DecafSettings], DecafSettings], set[str]]] = [
    ("nothing", lambda s: s, set()),
    ("device", lambda s: dataclasses.replace(s, lvlm=dataclasses.replace(s.lvlm, device="auto", frame_batch=7)), set()),
    ("tau_point", lambda s: dataclasses.replace(s, tau_point=0.7), {"segment"}),
    ("nms_iou", lambda s: dataclasses.replace(s, nms_iou=0.5), {"segment"}),
    ("nms_deletion", lambda s: dataclasses.replace(s, nms_deletion="by_any"), {"segment"}),
    ("tau_track", lambda s: dataclasses.replace(s, tau_track=0.7), {"segment"}),
    ("fusion", lambda s: dataclasses.replace(s, fusion=FusionSettings(views="frame")), {"segment"}),
    ("masks", lambda s: dataclasses.replace(s, masks="attention"), {"segment"}),
    ("rollout", lambda s: dataclasses.replace(s, rollout=RolloutSpec(head_weights="mean")), {"ground"}),
    ("background", lambda s: dataclasses.replace(s, background_prompt="v2"), {"ground"}),
    ("choice", lambda s: dataclasses.replace(s, choice_prompt="v1"), {"reason"}),
    ("answers", lambda s: dataclasses.replace(s, lvlm=dataclasses.replace(s.lvlm, max_new_tokens=5)), {"reason"}),
    ("object", lambda s: dataclasses.replace(s, object_prompt="v2"), {"reason", "ground"}),
    ("keyframes", lambda s: dataclasses.replace(s, keyframes=8), {"reason", "ground"}),
    (
        "dtype",
        lambda s: dataclasses.replace(s, lvlm=dataclasses.replace(s.lvlm, dtype="float16")),
        {"reason", "ground"},
    ),
]


def own_keys(specs: Sequence[StageSpec]) -> dict[str, str]:
    return {spec.name: artefact_key(spec, media="m", text="t", upstream={}) for spec in specs}


@pytest.mark.parametrize(("change", "expected"), [pytest.param(c, e, id=name) for name, c, e in CHANGES])
def test_a_setting_changes_the_keys_of_the_stages_that_use_it(
    world: World, change: Callable[[DecafSettings], DecafSettings], expected: set[str]
) -> None:
    lvlm = world.lvlm["qwen2_5_vl"]
    before = own_keys(METHOD.stages(world.settings, lvlm))
    after = own_keys(METHOD.stages(change(world.settings), lvlm))
    assert {name for name in before if before[name] != after[name]} == expected


def test_checkpoints_enter_keys_by_content_not_by_place(world: World, tmp_path: Path) -> None:
    moved = write_small_lvlm("qwen2_5_vl", tmp_path / "moved", seed=1)
    other = write_small_lvlm("qwen2_5_vl", tmp_path / "other", seed=2)
    sam2 = Sam2Settings(checkpoint=str(write_small_sam2(tmp_path / "sam2", seed=5)), device="cpu")
    before = own_keys(METHOD.stages(world.settings, world.lvlm["qwen2_5_vl"]))
    assert own_keys(METHOD.stages(world.settings, str(moved))) == before
    changed = own_keys(METHOD.stages(world.settings, str(other)))
    assert {name for name in before if changed[name] != before[name]} == {"reason", "ground"}
    changed = own_keys(METHOD.stages(dataclasses.replace(world.settings, sam2=sam2), str(moved)))
    assert {name for name in before if changed[name] != before[name]} == {"segment"}


def test_thresholds_reach_the_segment_stage_under_the_right_name(world: World) -> None:
    settings = dataclasses.replace(world.settings, tau_point=0.1, nms_iou=0.2, tau_track=0.3, nms_deletion="by_any")
    segment = METHOD.stages(settings, world.lvlm["qwen2_vl"])[-1].settings
    assert isinstance(segment, SegmentSettings) and isinstance(segment.masks, PromptSettings)
    assert (segment.masks.tau_point, segment.masks.nms_iou, segment.masks.nms_deletion) == (0.1, 0.2, "by_any")
    assert segment.masks.keep == KeepSettings("threshold", 0.3)


def test_missing_checkpoints_stop_the_command(world: World, tmp_path: Path) -> None:
    with pytest.raises(PrerequisiteError, match="vision-language model"):
        METHOD.stages(world.settings, None)
    with pytest.raises(PrerequisiteError, match="nowhere"):
        METHOD.stages(world.settings, str(tmp_path / "nowhere"))
    absent = dataclasses.replace(world.settings, sam2=Sam2Settings(checkpoint=str(tmp_path / "absent.pt")))
    with pytest.raises(PrerequisiteError, match=r"absent\.pt"):
        METHOD.stages(absent, world.lvlm["qwen2_5_vl"])


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"object_prompt": "v9"}, "object_prompt"),
        ({"background_prompt": "v4"}, "background_prompt"),
        ({"choice_prompt": "v9"}, "choice_prompt"),
        ({"background_prompt": "none"}, "subtract_background"),
        ({"tau_point": 1.2}, "tau_point"),
        ({"tau_track": -0.1}, "tau_track"),
        ({"nms_iou": 2}, "nms_iou"),
        ({"tau_point": float("nan")}, "tau_point"),
        ({"keyframes": 1}, "keyframes"),
        ({"masks": "sam3"}, "masks"),
        ({"fusion": {"frame_kernel": 6}}, "frame_kernel"),
        ({"rollout": {"residual": 1.5}}, "residual"),
        ({"lvlm": {"checkpoint": "elsewhere"}}, "checkpoint"),
        ({"lvlm": {"max_new_tokens": 0}}, "max_new_tokens is 0"),
        ({"tau": 0.8}, "tau"),
    ],
)
def test_wrong_settings_of_a_recipe_are_named(values: dict[str, Any], says: str, world: World) -> None:
    with pytest.raises(PrerequisiteError, match=says):
        METHOD.stages(method_settings(METHOD.settings_type, values, "decaf"), world.lvlm["qwen2_5_vl"])


def test_defaults_are_the_paper_s(world: World) -> None:
    settings = method_settings(METHOD.settings_type, {}, "decaf")
    assert isinstance(settings, DecafSettings)
    assert (settings.keyframes, settings.tau_point, settings.nms_iou, settings.tau_track) == (16, 0.8, 0.7, 0.8)
    assert settings.rollout.layers(28).start == 14
    assert settings.rollout.layers(36).start == 18
    assert settings.rollout.layers(48).start == 24
    assert (settings.fusion.sigma, settings.fusion.clip_kernel, settings.fusion.frame_kernel) == (1.0, 3, 7)
    assert (settings.lvlm.clip_max_tokens, settings.lvlm.frame_scale, settings.lvlm.max_new_tokens) == (400, 2, 128)
    assert settings.sam2.checkpoint == "sam2-hiera-large"
    assert identity_of(settings)["nms_deletion"] == "by_kept"


def test_the_method_is_registered() -> None:
    assert load_method("decaf") is METHOD


def test_planning_imports_no_torch(world: World) -> None:
    code = (
        "import sys; from rvosbench.methods.decaf import METHOD, DecafSettings; "
        "from rvosbench.methods.models.sam2.checkpoints import "
        "Sam2Settings; METHOD.stages(DecafSettings(sam2=Sam2Settings(checkpoint=sys.argv[2])), sys.argv[1]); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'sam2')))"
    )
    arguments = [world.lvlm["qwen2_5_vl"], world.settings.sam2.checkpoint]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
