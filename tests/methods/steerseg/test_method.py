"""SteerSeg's settings and its stages' keys: what is shared with DecAF, what is without effect, what is refused."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import pytest

import rvosbench.methods.steerseg
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.recipes import method_settings
from rvosbench.harness.registry import load_method
from rvosbench.harness.stages import StageSpec
from rvosbench.harness.store.keys import artefact_key
from rvosbench.methods.decaf import METHOD as DECAF
from rvosbench.methods.steerseg import METHOD
from rvosbench.methods.steerseg.settings import SteeredSettings, SteersegSettings
from rvosbench.methods.steerseg.training.recipe import TrainRecipe


def stages(world: Any, **changes: Any) -> tuple[StageSpec, ...]:
    return METHOD.stages(method_settings(SteersegSettings, world.settings(**changes), "steerseg"), world.lvlm)


def decaf_stages(world: Any, **changes: Any) -> tuple[StageSpec, ...]:
    mine = world.settings()
    same = {name: mine[name] for name in ("keyframes", "lvlm", "tau_point", "nms_iou", "sam2")}
    return DECAF.stages(method_settings(DECAF.settings_type, {**same, **changes}, "decaf"), world.lvlm)


def keys(specs: Sequence[StageSpec]) -> dict[str, str]:
    found: dict[str, str] = {}
    for spec in specs:
        upstream = {stage: found[stage] for stage in spec.consumes}
        found[spec.name] = artefact_key(spec, media="m", text="t", upstream=upstream)
    return found


def test_the_method_is_registered() -> None:
    assert load_method("steerseg") is METHOD
    assert (METHOD.title, METHOD.needs_lvlm) == ("SteerSeg", True)


def test_defaults_are_those_of_the_card() -> None:
    settings = SteersegSettings()
    assert (settings.keyframes, settings.cot, settings.soft, settings.contrast) == (16, True, True, False)
    assert (settings.points_from, settings.tau_point, settings.nms_iou) == ("fused", 0.8, 0.7)
    assert (settings.ranking, settings.w_f, settings.pearson_domain) == ("pearson", 0.3, "clip")
    assert (settings.pearson_maps, settings.keep, settings.keep_ratio) == ("normalised", "winner", 0.9)
    assert (settings.fallback, settings.views, settings.masks) == ("argmax", "both", "sam2")
    assert settings.rollout.layers(28) == range(14, 28) and settings.rollout.head_weights == "vmax"
    assert settings.sam2.checkpoint == "sam2-hiera-large"


def test_the_card_lists_all_open_decisions_with_settings_that_exist() -> None:
    card = rvosbench.methods.steerseg.__doc__ or ""
    listed = re.findall(r"^ ?(\d+)\. ", card, re.MULTILINE)
    assert listed == [str(number) for number in range(1, 20)]
    known = {field.name for field in fields(SteersegSettings)}
    decisions = re.split(r"^ ?\d+\. ", card, flags=re.MULTILINE)[1:]
    here = {7: "rollout", 11: "points_from", 12: "tau_point", 13: "pearson_domain pearson_maps", 14: "w_f",
            15: "keep keep_ratio tau_track", 16: "fallback"}  # fmt: skip
    for number, names in here.items():
        for name in names.split():
            assert f"``{name}``" in decisions[number - 1] and name in known
    training = {1: "position", 2: "sharing", 3: "tokens", 4: "init", 5: "attributes.source attributes.drop",
                7: "weight_gradient", 9: "loss.normalisation", 10: "loss.target", 17: "seed"}  # fmt: skip
    for number, names in training.items():
        for name in names.split():
            value: Any = TrainRecipe
            for part in name.split("."):
                [field] = [field for field in fields(value) if field.name == part]
                value = field.default
            assert f"``{name}``" in decisions[number - 1]


def test_stages_follow_what_is_switched_on(world: Any) -> None:
    def shape(**changes: Any) -> list[tuple[str, tuple[str, ...]]]:
        return [(spec.name, spec.consumes) for spec in stages(world, **changes)]

    assert shape() == [("reason", ()), ("ground", ("reason",)), ("segment", ("ground",))]
    assert shape(cot=False) == [("ground", ()), ("segment", ("ground",))]
    assert shape(cot=False, soft=False) == [("ground", ()), ("segment", ("ground",))]
    named = shape(cot=False, soft=False, background_prompt="v0")
    assert named == [("reason", ()), ("ground", ("reason",)), ("segment", ("ground",))]


def test_unsteered_rows_are_decaf_s_to_the_last_key(world: Any) -> None:
    raw = {"cot": False, "soft": False}
    scoring = {"ranking": "consistency", "keep": "threshold", "fallback": "none"}
    alone = decaf_stages(world, background_prompt="none", fusion={"subtract_background": False})
    assert keys(stages(world, **raw, **scoring)) == keys(alone)
    full = keys(stages(world, **raw, **scoring, background_prompt="v0", contrast=True))
    assert full == keys(decaf_stages(world))
    attention = keys(stages(world, **raw, background_prompt="v0", contrast=True, masks="attention"))
    assert attention == keys(decaf_stages(world, masks="attention"))
    pearson = keys(stages(world, **raw, background_prompt="v0"))
    assert (pearson["ground"], pearson["segment"] != full["segment"]) == (full["ground"], True)


def test_steered_maps_may_have_decaf_s_mask_stage(world: Any) -> None:
    scoring = {"ranking": "consistency", "keep": "threshold", "fallback": "none"}
    theirs = decaf_stages(world, background_prompt="v3", fusion={"subtract_background": False})[-1]
    assert stages(world, **scoring)[-1] == theirs
    # Only all of it together is DecAF's.
    for change in ({"ranking": "pearson"}, {"keep": "winner"}, {"fallback": "argmax"}, {"points_from": "frame"}):
        assert stages(world, **{**scoring, **change})[-1] != theirs


# Which stages' keys a changed setting changes; what follows them changes with them.
CHANGES: list[tuple[str, dict[str, Any], dict[str, Any], str | None]] = [
    ("device", {}, {"lvlm": {"dtype": "float32", "device": "auto", "max_new_tokens": 2, "clip_max_tokens": 12}}, None),
    ("answers", {}, {"reasoning": {"keyframes": 2, "max_new_tokens": 5}}, "reason"),
    ("keyframes", {}, {"keyframes": 2}, "ground"),
    ("rollout", {}, {"rollout": {"start_layer": 1}}, "ground"),
    ("prefix", {}, {"prefix": "separate"}, "ground"),
    ("w_f", {}, {"w_f": 0.5}, "segment"),
    ("domain", {}, {"pearson_domain": "keyframe"}, "segment"),
    ("maps", {}, {"pearson_maps": "raw"}, "segment"),
    ("ranking", {}, {"ranking": "consistency"}, "segment"),
    ("keep", {}, {"keep": "near_best"}, "segment"),
    ("tau_point", {}, {"tau_point": 0.5}, "segment"),
    ("points", {}, {"points_from": "frame"}, "segment"),
    ("fallback", {}, {"fallback": "none"}, "segment"),
    ("views", {}, {"views": "frame"}, "segment"),
    ("sigma", {}, {"sigma": 2.0}, "segment"),
    ("masks", {}, {"masks": "attention"}, "segment"),
    ("w_f of one view", {"views": "clip"}, {"w_f": 0.5}, None),
    ("points of one view", {"views": "frame"}, {"points_from": "frame"}, None),
    ("w_f of DecAF's ranking", {"ranking": "consistency"}, {"w_f": 0.5, "pearson_domain": "keyframe"}, None),
    ("values of another rule", {}, {"keep_ratio": 0.5, "tau_track": 0.5}, None),
    ("keep_ratio", {"keep": "near_best"}, {"keep_ratio": 0.5}, "segment"),
    ("tau_track", {"keep": "threshold"}, {"tau_track": 0.5}, "segment"),
    ("answers without attributes", {"cot": False}, {"reasoning": {"keyframes": 3}}, None),
]


@pytest.mark.parametrize(("base", "change", "first"), [pytest.param(b, c, f, id=name) for name, b, c, f in CHANGES])
def test_a_setting_changes_the_stages_that_use_it_and_no_other(
    world: Any, base: dict[str, Any], change: dict[str, Any], first: str | None
) -> None:
    before, after = keys(stages(world, **base)), keys(stages(world, **base, **change))
    order = list(before)
    expected = set(order[order.index(first) :]) if first else set()
    assert {name for name in order if before[name] != after[name]} == expected


def test_prompts_enter_by_their_content_and_not_where_they_are_off(world: Any) -> None:
    other = {"soft_prompts": {"folder": world.prompts[16]}}
    ground = stages(world)[1].settings
    assert isinstance(ground, SteeredSettings) and ground.soft_prompts is not None and ground.soft_prompts.digest
    before, after = keys(stages(world)), keys(stages(world, **other))
    assert (before["reason"], before["ground"] != after["ground"]) == (after["reason"], True)
    assert keys(stages(world, soft=False)) == keys(stages(world, soft=False, **other))


def test_the_reasoning_call_is_the_same_with_and_without_soft_prompts(world: Any) -> None:
    assert stages(world)[0] == stages(world, soft=False)[0]


def test_prompts_that_are_missing_or_of_another_model_are_refused_before_anything_runs(world: Any) -> None:
    with pytest.raises(PrerequisiteError, match=r"needs soft prompts.*rvosbench train steerseg"):
        stages(world, soft_prompts=None)
    with pytest.raises(PrerequisiteError, match="holds no soft prompts"):
        stages(world, soft_prompts={"folder": world.sam2})
    settings = method_settings(SteersegSettings, world.settings(), "steerseg")
    with pytest.raises(PrerequisiteError, match=r"were trained for .*lvlm, not for .*other"):
        METHOD.stages(settings, world.other_lvlm)
    with pytest.raises(PrerequisiteError, match="vision-language model"):
        METHOD.stages(settings, None)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"keyframes": 1}, "keyframes"),
        ({"ranking": "spearman"}, "ranking"),
        ({"keep": "all"}, "keep"),
        ({"w_f": 1.5}, "w_f"),
        ({"w_f": float("nan")}, "w_f"),
        ({"keep_ratio": -1}, "keep_ratio"),
        ({"tau_point": 2}, "tau_point"),
        ({"contrast": True, "cot": False, "soft": False}, "background_prompt is none"),
        ({"background_prompt": "v0"}, r"steers attention instead of.*Set cot and soft to false"),
        ({"background_prompt": "v9", "cot": False, "soft": False}, "background_prompt"),
        ({"points_from": "frame", "views": "clip"}, "leaves the frame map out"),
        ({"frame_kernel": 4}, "frame_kernel"),
        ({"sigma": 0}, "sigma"),
        ({"views": "left"}, "views"),
        ({"soft_prompts": {"directory": "x"}}, "soft_prompts"),
        ({"tau": 0.8}, "tau"),
    ],
)
def test_wrong_settings_of_a_recipe_are_named(values: dict[str, Any], says: str) -> None:
    with pytest.raises(PrerequisiteError, match=says):
        method_settings(SteersegSettings, values, "steerseg")


def test_memory_is_told_of_a_clip_with_soft_prompts(world: Any) -> None:
    def length(**changes: Any) -> int:
        settings = method_settings(SteersegSettings, world.settings(**changes), "steerseg")
        found = re.search(r"\(L (\d+)\)", METHOD.memory(settings, world.lvlm, (480, 854)))
        assert found
        return int(found[1])

    assert length() == length(soft=False) + 64


def test_planning_imports_no_torch(world: Any) -> None:
    code = (
        "import sys; from rvosbench.harness.recipes import method_settings; "
        "from rvosbench.methods.steerseg import METHOD; "
        "values = {'soft_prompts': {'folder': sys.argv[2]}, 'sam2': {'checkpoint': sys.argv[3]}}; "
        "METHOD.stages(method_settings(METHOD.settings_type, values, 'steerseg'), sys.argv[1]); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'sam2')))"
    )
    arguments = [world.lvlm, world.prompts[16], world.sam2]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
