"""The recipes of DecAF load, and every setting in them exists."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from toy.tiny_qwen import write_small as write_small_lvlm
from toy.tiny_sam2 import write_small as write_small_sam2

from rvosbench.harness.recipes import load_recipe, method_settings
from rvosbench.harness.registry import load_method
from rvosbench.harness.stages import StageSpec
from rvosbench.methods.models.sam2.checkpoints import FOLDER_VARIABLE

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(scope="module")
def lvlm(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_small_lvlm("qwen2_5_vl", tmp_path_factory.mktemp("lvlm"), seed=0))


@pytest.fixture(scope="module", autouse=True)
def sam2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("checkpoints")
    write_small_sam2(folder / "sam2-hiera-large", seed=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, str(folder))
        yield


def stages(recipe: str, lvlm: str) -> list[tuple[StageSpec, ...]]:
    return [
        load_method(choice.method).stages(
            method_settings(load_method(choice.method).settings_type, choice.settings, choice.method), lvlm
        )
        for choice in load_recipe(RECIPES / recipe).methods
    ]


def shared(variants: list[tuple[StageSpec, ...]], name: str) -> list[int]:
    """Variants whose stage ``name`` is the first variant's."""
    of_first = next(spec for spec in variants[0] if spec.name == name)
    return [index for index, specs in enumerate(variants) if of_first in specs]


def test_both_kinds_of_masks_share_every_call_of_the_model(lvlm: str) -> None:
    variants = stages("decaf.yaml", lvlm)
    assert shared(variants, "ground") == shared(variants, "reason") == [0, 1]
    assert shared(variants, "segment") == [0]


def test_ablations_are_all_different_and_share_what_they_can(lvlm: str) -> None:
    recipe = load_recipe(RECIPES / "decaf_ablations.yaml")
    variants = stages("decaf_ablations.yaml", lvlm)
    assert len({choice.label for choice in recipe.methods}) == len(set(variants)) == len(variants)
    labels = {recipe.methods[index].label for index in shared(variants, "ground")}
    assert {"object only", "clip only", "tau_point 0.7", "tau_track 0.9", "released suppression"} < labels
    assert not {"plain rollout", "object v1", "background v3"} & labels


RUN_RECIPES = [path.name for path in sorted(RECIPES.glob("*.yaml")) if "methods" in yaml.safe_load(path.read_text())]
"""Without those of trainings, which have keys of their own."""


@pytest.mark.parametrize("name", RUN_RECIPES)
def test_every_recipe_is_valid_to_the_last_setting(name: str) -> None:
    recipe = load_recipe(RECIPES / name)
    for choice in recipe.methods:
        method_settings(load_method(choice.method).settings_type, choice.settings, choice.method)
