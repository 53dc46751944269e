"""Loc-Head as a whole: real architectures from frames to mask tracks, keys of its stages, settings, maps."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import clips
import numpy as np
import pytest
from small_lvlms import run_all
from toy.tiny_sam2 import write_small as write_small_sam2

from rvosbench.harness.data.frames import DecodedFrames
from rvosbench.harness.data.masks import decode
from rvosbench.harness.data.types import Video
from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.harness.recipes import method_settings
from rvosbench.harness.registry import load_method
from rvosbench.harness.stages import Request
from rvosbench.harness.store.artefacts import Artefact, to_bytes
from rvosbench.harness.store.keys import artefact_key
from rvosbench.harness.store.tracks import mask_track
from rvosbench.methods.ground.fusion import attention_masks, gaussian_kernel
from rvosbench.methods.lochead import METHOD
from rvosbench.methods.lochead.grounding import summed_map
from rvosbench.methods.lochead.settings import GroundSettings, LocHeadSettings, MapSettings
from rvosbench.methods.models.lvlm.base import LvlmOptions
from rvosbench.methods.models.sam2.checkpoints import Sam2Settings
from rvosbench.methods.segment.from_map import masks_above_mean

SETTINGS = LocHeadSettings(
    heads="L2H1 L3H0 L3H2",
    masks="attention",
    lvlm=LvlmOptions(dtype="float32", device="cpu", frame_batch=2, clip_max_tokens=24),
)


@pytest.fixture(scope="module")
def sam2(tmp_path_factory: pytest.TempPathFactory) -> Sam2Settings:
    folder = write_small_sam2(tmp_path_factory.mktemp("sam2"), seed=0)
    return Sam2Settings(checkpoint=str(folder), device="cpu")


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_onevision", "internvl", "llava"])
def test_from_frames_to_attention_masks_whatever_the_grouping(
    checkpoints: dict[str, str], video: Video, family: str
) -> None:
    specs = METHOD.stages(SETTINGS, checkpoints[family])
    together = run_all(specs, video, [[0, 1]])
    for artefacts in together:
        heads = artefacts["ground"].arrays["heads"]
        assert heads.dtype == np.float32 and heads.shape[:2] == (3, 3) and (heads > 0).all()
        assert artefacts["ground"].meta["heads"] == [[2, 1], [3, 0], [3, 2]]
        assert artefacts["ground"].meta["query"] == "."
        fused = artefacts["segment"].arrays["fused"]
        assert fused.max((1, 2)).tolist() == [1, 1, 1] and fused.min() == 0
        track = mask_track(artefacts["segment"])
        for counts, mask in zip(track.rles, attention_masks(fused, (clips.HEIGHT, clips.WIDTH)), strict=True):
            np.testing.assert_array_equal(decode(counts, clips.HEIGHT, clips.WIDTH), mask)
    assert together[0]["ground"].meta["prompt"] == "the bright square."
    apart = run_all(specs, video, [[1], [0]])
    for one, other in zip(together, apart, strict=True):
        assert {name: to_bytes(a) for name, a in one.items()} == {name: to_bytes(a) for name, a in other.items()}
    assert not np.allclose(*(one["ground"].arrays["heads"] for one in together), rtol=1e-2)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava"])
def test_sam2_masks_cover_every_frame(
    checkpoints: dict[str, str], sam2: Sam2Settings, tmp_path: Path, family: str
) -> None:
    video = clips.write_clip(tmp_path, "squares", ["the bright square"], frames=4)
    settings = replace(SETTINGS, masks="sam2", sam2=sam2, keyframes=2, tau_point=0.95)
    specs = METHOD.stages(settings, checkpoints[family])
    assert [(spec.name, spec.consumes) for spec in specs] == [("ground", ()), ("segment", ("ground",))]
    [artefacts] = run_all(specs, video, [[0]])
    assert artefacts["ground"].meta["keyframes"] == [0, 3]
    track = mask_track(artefacts["segment"])
    assert track.frames == (0, 1, 2, 3) and any(track.rles)
    fused = artefacts["segment"].arrays["fused"]
    assert artefacts["segment"].meta["points"] == (fused >= np.float32(0.95)).sum() >= 2


def test_prompt_and_query_change_what_is_read(checkpoints: dict[str, str], video: Video) -> None:
    first = replace(video, expressions=video.expressions[:1])
    maps = {}
    for name, settings in {
        "default": SETTINGS,
        "last token": replace(SETTINGS, query="last_prefill_token"),
        "chat": replace(SETTINGS, prompt="expression"),
        "question": replace(SETTINGS, prompt="object"),
    }.items():
        [artefacts] = run_all(METHOD.stages(settings, checkpoints["llava"])[:1], first, [[0]])
        maps[name] = artefacts["ground"].arrays["heads"]
    # Without roles nothing follows the expression.
    np.testing.assert_array_equal(maps["default"], maps["last token"])
    assert not np.allclose(maps["default"], maps["chat"], rtol=1e-2)
    # What follows the query cannot be seen from it.
    np.testing.assert_allclose(maps["chat"], maps["question"], rtol=1e-4, atol=1e-7)


def test_an_empty_expression_and_a_damaged_frame_are_sample_errors(checkpoints: dict[str, str], tmp_path: Path) -> None:
    video = clips.write_clip(tmp_path, "v", ["", "the bright square"], frames=2)
    stage = METHOD.stages(SETTINGS, checkpoints["qwen2_5_vl"])[0].build()
    requests = [Request(expression, {}) for expression in video.expressions]
    outcomes = dict(stage.run(DecodedFrames(video), requests))
    assert isinstance(outcomes[0], SampleError) and isinstance(outcomes[1], Artefact)
    video.frame_paths[1].write_bytes(b"not an image")
    outcomes = dict(stage.run(DecodedFrames(video), requests))
    assert isinstance(outcomes[1], SampleError) and video.frame_paths[1].name in str(outcomes[1])


def test_the_map_is_the_smoothed_sum_normalised_frame_by_frame() -> None:
    maps = np.random.default_rng(0).random((3, 2, 5, 6), dtype=np.float32)
    maps[:, 1] = 0.25
    kernel = gaussian_kernel(7, 1.0)
    summed = np.zeros((2, 5, 6))
    for of_head in maps:
        for t, y, x in np.ndindex(2, 5, 6):
            for dy, dx in np.ndindex(7, 7):
                v, u = y + dy - 3, x + dx - 3
                if 0 <= v < 5 and 0 <= u < 6:
                    summed[t, y, x] += kernel[dy, dx] * of_head[t, v, u]
    ground = Artefact(meta={"keyframes": [0, 4]}, arrays={"heads": maps})
    keyframes, found = summed_map(ground, MapSettings())
    expected = [(one - one.min()) / (one.max() - one.min()) for one in summed]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    _, over_clip = summed_map(ground, MapSettings(normalise="clip"))
    np.testing.assert_allclose(over_clip, (summed - summed.min()) / (summed.max() - summed.min()), atol=1e-6)
    assert keyframes == (0, 4) and over_clip[1].max() < 1


def test_masks_above_the_mean_of_each_frame() -> None:
    maps = np.array([[[0, 0], [0, 1]], [[0.3, 0.3], [0.3, 0.3]], [[1, 0.8], [0.9, 0]]], dtype=np.float32)
    assert [mask.tolist() for mask in masks_above_mean(maps, (2, 2))] == [
        [[False, False], [False, True]],
        [[False, False], [False, False]],
        [[True, True], [True, False]],
    ]


CHANGES: list[tuple[str, Callable[[LocHeadSettings], LocHeadSettings], set[str]]] = [
    ("device", lambda s: replace(s, lvlm=replace(s.lvlm, device="auto", frame_batch=7)), set()),
    ("answers", lambda s: replace(s, lvlm=replace(s.lvlm, max_new_tokens=5)), set()),
    ("heads", lambda s: replace(s, heads="L2H1 L3H0 L3H3"), {"ground"}),
    ("same heads", lambda s: replace(s, heads="L2H1,L3H0,L3H2"), set()),
    ("prompt", lambda s: replace(s, prompt="object"), {"ground"}),
    ("what auto is", lambda s: replace(s, prompt="expression"), set()),
    ("query", lambda s: replace(s, query="last_prefill_token"), {"ground"}),
    ("keyframes", lambda s: replace(s, keyframes=8), {"ground"}),
    ("map", lambda s: replace(s, map=MapSettings(normalise="clip")), {"segment"}),
    ("threshold", lambda s: replace(s, threshold="mean"), {"segment"}),
]


@pytest.mark.parametrize(("change", "expected"), [pytest.param(c, e, id=name) for name, c, e in CHANGES])
def test_a_setting_changes_the_keys_of_the_stages_that_use_it(
    checkpoints: dict[str, str], change: Callable[[LocHeadSettings], LocHeadSettings], expected: set[str]
) -> None:
    def keys(settings: LocHeadSettings) -> dict[str, str]:
        specs = METHOD.stages(settings, checkpoints["qwen2_5_vl"])
        return {spec.name: artefact_key(spec, media="m", text="t", upstream={}) for spec in specs}

    before, after = keys(SETTINGS), keys(change(SETTINGS))
    assert {name for name in before if before[name] != after[name]} == expected


def test_heads_are_held_against_the_loaded_model(checkpoints: dict[str, str]) -> None:
    """A configuration may leave its sizes to the class; the loaded model never does."""
    ground = METHOD.stages(SETTINGS, checkpoints["qwen2_5_vl"])[0]
    assert isinstance(ground.settings, GroundSettings)
    with pytest.raises(PrerequisiteError, match="has no head L3H9"):
        replace(ground, settings=replace(ground.settings, heads=((3, 9),))).build()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"prompt": "role_free"}, "role_free, which"),
        ({"prompt": "question"}, "prompt"),
        ({"query": "first"}, "query"),
        ({"heads": "L9H0"}, "has no head L9H0"),
        ({"masks": "box"}, "masks"),
        ({"threshold": "half"}, "threshold"),
        ({"keyframes": 1}, "keyframes"),
        ({"tau_point": 1.5}, "tau_point"),
        ({"map": {"kernel": 6}}, "map.kernel"),
        ({"map": {"sigma": 0}}, "map.sigma"),
        ({"calibration": {}}, "calibration"),
    ],
)
def test_wrong_settings_of_a_recipe_are_named(values: dict[str, Any], says: str, checkpoints: dict[str, str]) -> None:
    with pytest.raises(PrerequisiteError, match=says):
        METHOD.stages(
            method_settings(METHOD.settings_type, {"heads": "L2H1", "masks": "attention", **values}, "lochead"),
            checkpoints["qwen2_5_vl"],
        )


def test_registration_memory_and_a_missing_model(checkpoints: dict[str, str]) -> None:
    assert load_method("lochead") is METHOD
    with pytest.raises(PrerequisiteError, match="vision-language model"):
        METHOD.stages(SETTINGS, None)
    for family in ("qwen2_5_vl", "llava"):
        text = METHOD.memory(SETTINGS, checkpoints[family], (480, 854))
        assert "2 frames of 854x480 at a time" in text and "in all" in text


def test_planning_imports_no_torch(checkpoints: dict[str, str]) -> None:
    code = (
        "import sys; from rvosbench.methods.lochead import METHOD, LocHeadSettings; "
        "METHOD.stages(LocHeadSettings(heads='L2H1', masks='attention'), sys.argv[1]); "
        "import rvosbench.methods.lochead.command; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'sam2', 'scipy')))"
    )
    arguments = [sys.executable, "-c", code, checkpoints["llava"]]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
