"""TAM on real architectures: activations against whole logits, stages, settings, keys."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import clips
import numpy as np
import pytest
import torch
from small_lvlms import run_all

from rvosbench.harness.data.frames import DecodedFrames
from rvosbench.harness.data.types import Video
from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.harness.recipes import method_settings
from rvosbench.harness.registry import load_method
from rvosbench.harness.stages import Request
from rvosbench.harness.store.artefacts import Artefact, to_bytes
from rvosbench.harness.store.keys import artefact_key
from rvosbench.harness.store.tracks import mask_track
from rvosbench.methods.ground.fusion import attention_masks
from rvosbench.methods.models.lvlm.base import LvlmOptions, LvlmSettings, ModelInputs
from rvosbench.methods.models.lvlm.load import load_lvlm
from rvosbench.methods.reason.expression_prompts import object_prompt
from rvosbench.methods.segment.from_map import ThresholdMasks
from rvosbench.methods.tam import METHOD
from rvosbench.methods.tam.explaining import explain
from rvosbench.methods.tam.maps import answer_maps
from rvosbench.methods.tam.settings import TamSettings, Token, TokenMapSettings
from rvosbench.methods.tam.stages import chosen_map, token_reader

SETTINGS = TamSettings(
    object_prompt="v1", lvlm=LvlmOptions(dtype="float32", device="cpu", max_new_tokens=4, clip_max_tokens=24)
)
FRAMES = list(np.random.default_rng(0).integers(0, 256, (3, 90, 150, 3), dtype=np.uint8))
PROMPT = object_prompt("v1", "The dog on the left")


def plain_maps(*arguments: Any, **keywords: Any) -> Any:
    spec = importlib.util.spec_from_file_location("plain_tam", Path(__file__).with_name("plain.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.plain_maps(*arguments, **keywords)


def lvlm_of(checkpoint: str) -> Any:
    return load_lvlm(LvlmSettings(checkpoint=checkpoint, digest="0", **vars(SETTINGS.lvlm)))


def teacher_forced(lvlm: Any, prompted: ModelInputs, answer: Sequence[int]) -> np.ndarray:
    """Logits (S, V) of one pass over prompt and answer, without a cache."""
    inputs = dict(prompted.inputs)
    added = torch.tensor([answer])
    for name, value in prompted.inputs.items():
        if value.shape == (1, prompted.length):
            fill = added if name == "input_ids" else torch.full_like(added, 1 if name == "attention_mask" else 0)
            inputs[name] = torch.cat([value, fill.to(value.dtype)], 1)
    lvlm.reset_rope_state()
    with torch.inference_mode():
        logits: np.ndarray = lvlm.model(**inputs, use_cache=False).logits[0].double().numpy()
    lvlm.reset_rope_state()
    return logits


@pytest.mark.parametrize(
    ("family", "view"),
    [
        ("qwen2_5_vl", "clip"),
        ("qwen2_vl", "frame"),
        ("llava_onevision", "clip"),
        ("internvl", "frame"),
        ("llava", "frame"),
    ],
)
def test_maps_of_a_generation_are_those_of_whole_logits(checkpoints: dict[str, str], family: str, view: str) -> None:
    lvlm = lvlm_of(checkpoints[family])
    prompted = lvlm.clip(FRAMES, PROMPT) if view == "clip" else lvlm.frame(FRAMES[0], PROMPT, (1, 3, 5))
    found = explain(lvlm, prompted, PROMPT)
    acts = found.activations
    answer = acts.ids_M[acts.prompt :].tolist()
    assert found.answer == lvlm.answer(prompted) and len(found.tokens) == len(answer) == 4
    ids = [*prompted.inputs["input_ids"][0].tolist(), *answer]
    prompt = range(prompted.length)
    text = [p for p in prompt if p > int(prompted.visual_L.nonzero()[-1])]
    start = next(p for p in text if lvlm.tokenizer.decode(ids[p : p + acts.prompt]) == PROMPT)
    cells = prompted.visual_L.nonzero().flatten()
    if prompted.cell_order is not None:
        cells = cells[prompted.cell_order]
    logits = teacher_forced(lvlm, prompted, answer)
    for released, name in ((False, "fixed"), (True, "released")):
        version: Any = name
        expected = plain_maps(
            logits, ids, cells.tolist(), range(start, start + acts.prompt), prompted.length, prompted.grid,
            released=released,
        )  # fmt: skip
        maps = answer_maps(acts, version, causal=True)
        np.testing.assert_allclose(maps, expected, atol=1e-4)
        assert maps.max() > 0.05
    assert not np.allclose(*(answer_maps(acts, v, causal=True)[0] for v in ("fixed", "released")), atol=0.05)  # type: ignore[arg-type]


@pytest.mark.parametrize(("family", "view", "slots"), [("qwen2_5_vl", "clip", 2), ("internvl", "frame", 1)])
def test_from_frames_to_masks_whatever_the_grouping(
    checkpoints: dict[str, str], video: Video, family: str, view: Any, slots: int
) -> None:
    specs = METHOD.stages(replace(SETTINGS, view=view), checkpoints[family])
    together = run_all(specs, video, [[0, 1]])
    for artefacts in together:
        ground, segment = artefacts["ground"], artefacts["segment"]
        assert sorted(ground.arrays) == [f"view_{i:03d}" for i in range(1 if view == "clip" else 3)]
        for array, tokens in zip(ground.arrays.values(), ground.meta["tokens"], strict=True):
            assert array.shape[:2] == (len(tokens), slots) and array.dtype == np.float32
        assert segment.meta["tokens"] == [tokens[0] for tokens in ground.meta["tokens"]]
        assert mask_track(segment).frames == (0, 1, 2)
        fused = segment.arrays["fused"]
        first = np.concatenate([array[0] for array in ground.arrays.values()])
        np.testing.assert_array_equal(fused, first if view == "frame" else first[[0, 0, 1]])
        expected = attention_masks(fused, (clips.HEIGHT, clips.WIDTH))
        assert [bool(counts) for counts in mask_track(segment).rles] == [bool(mask.any()) for mask in expected]
    apart = run_all(specs, video, [[1], [0]])
    for one, other in zip(together, apart, strict=True):
        assert {name: to_bytes(a) for name, a in one.items()} == {name: to_bytes(a) for name, a in other.items()}


def test_which_token_s_map() -> None:
    maps = np.zeros((3, 1, 2, 2), dtype=np.float32)
    maps[0] = 0.25
    maps[1, 0, 1, 1] = 0.9
    maps[2] = 0.5
    expected: dict[Token, tuple[float, int]] = {"first": (0.25, 0), "last": (0.5, 2), "strongest": (0.0, 1)}
    for token, (corner, index) in expected.items():
        chosen, which = chosen_map(maps, token)
        assert (chosen[0, 0, 0], which) == (corner, index)
    mean, which = chosen_map(maps, "mean")
    assert which == -1 and mean[0, 0, 0] == 0.25 and mean[0, 1, 1] == pytest.approx(0.55)


def test_an_empty_answer_gives_empty_masks(video: Video) -> None:
    ground = Artefact(
        meta={"keyframes": [0, 1, 2], "tokens": [[]], "answers": [""]},
        arrays={"view_000": np.zeros((0, 2, 3, 4), dtype=np.float32)},
    )
    stage = ThresholdMasks("otsu", token_reader(TokenMapSettings("first")))
    [(_, outcome)] = stage.run(DecodedFrames(video), [Request(video.expressions[0], {"ground": ground})])
    assert isinstance(outcome, Artefact)
    assert mask_track(outcome).rles == (None, None, None) and outcome.meta["tokens"] == [None]


def test_an_answer_that_ends_at_once(checkpoints: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    lvlm = lvlm_of(checkpoints["qwen2_5_vl"])
    prompted = lvlm.clip(FRAMES, PROMPT)
    first = int(explain(lvlm, prompted, PROMPT).activations.ids_M[-4])
    monkeypatch.setattr(lvlm.model.generation_config, "eos_token_id", [first])
    found = explain(lvlm, prompted, PROMPT)
    assert found.answer == "" and found.tokens == () and found.activations.answer == 0
    assert answer_maps(found.activations, "fixed", causal=True).shape == (0, 2, 3, 5)


def test_overflow_is_a_sample_error(checkpoints: dict[str, str]) -> None:
    lvlm = lvlm_of(checkpoints["qwen2_5_vl"])
    lvlm.model.get_output_embeddings().weight.data[:] = float("inf")
    with pytest.raises(SampleError, match="not finite"):
        explain(lvlm, lvlm.clip(FRAMES, PROMPT), PROMPT)


CHANGES: list[tuple[str, Callable[[TamSettings], TamSettings], set[str]]] = [
    ("device", lambda s: replace(s, lvlm=replace(s.lvlm, device="auto", frame_batch=7)), set()),
    ("answers", lambda s: replace(s, lvlm=replace(s.lvlm, max_new_tokens=5)), {"ground"}),
    ("version", lambda s: replace(s, version="released"), {"ground"}),
    ("view", lambda s: replace(s, view="frame"), {"ground"}),
    ("causal", lambda s: replace(s, causal=False), {"ground"}),
    ("prompt", lambda s: replace(s, object_prompt="v2"), {"ground"}),
    ("token", lambda s: replace(s, token="mean"), {"segment"}),
]


@pytest.mark.parametrize(("change", "expected"), [pytest.param(c, e, id=name) for name, c, e in CHANGES])
def test_a_setting_changes_the_keys_of_the_stages_that_use_it(
    checkpoints: dict[str, str], change: Callable[[TamSettings], TamSettings], expected: set[str]
) -> None:
    def keys(settings: TamSettings) -> dict[str, str]:
        specs = METHOD.stages(settings, checkpoints["qwen2_5_vl"])
        return {spec.name: artefact_key(spec, media="m", text="t", upstream={}) for spec in specs}

    before, after = keys(SETTINGS), keys(change(SETTINGS))
    assert {name for name in before if before[name] != after[name]} == expected


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"view": "video"}, "view"),
        ({"version": "mended"}, "version"),
        ({"token": "best"}, "token"),
        ({"object_prompt": "v8"}, "object_prompt"),
        ({"keyframes": 1}, "keyframes"),
    ],
)
def test_wrong_settings_of_a_recipe_are_named(values: dict[str, Any], says: str) -> None:
    with pytest.raises(PrerequisiteError, match=says):
        method_settings(METHOD.settings_type, values, "tam")


def test_registration_memory_and_what_is_refused(checkpoints: dict[str, str]) -> None:
    assert load_method("tam") is METHOD
    with pytest.raises(PrerequisiteError, match="vision-language model"):
        METHOD.stages(SETTINGS, None)
    with pytest.raises(PrerequisiteError, match=r"single images, not clips\. Set view: frame"):
        METHOD.stages(SETTINGS, checkpoints["llava"])
    assert "A clip of 16 frames of 854x480" in METHOD.memory(SETTINGS, checkpoints["qwen2_vl"], (480, 854))
    frame = replace(SETTINGS, view="frame")
    assert "A frame of 854x480" in METHOD.memory(frame, checkpoints["llava"], (480, 854))


def test_planning_imports_no_torch(checkpoints: dict[str, str]) -> None:
    code = (
        "import sys; from rvosbench.methods.tam import METHOD, TamSettings; METHOD.stages(TamSettings(), sys.argv[1]); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'sam2')))"
    )
    arguments = [sys.executable, "-c", code, checkpoints["qwen2_vl"]]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
