"""Training recipes: what is refused, what they resolve to, and the ones that ship."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rvosbench.harness.recipes
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.methods.steerseg.training.recipe import Optimisation, TrainRecipe, dump_recipe, load_recipe

RECIPES = Path(__file__).resolve().parents[4] / "recipes"


@pytest.mark.parametrize("file", sorted(RECIPES.glob("train_steerseg*.yaml")), ids=lambda path: path.name)
def test_recipes_that_ship_are_valid(file: Path) -> None:
    recipe = load_recipe(file)
    assert (
        recipe.tokens == 64
        and recipe.position == "front"
        and recipe.prompts == {"clip": ("clip",), "frame": ("frame",)}
    )


def test_recipes_of_runs_and_of_trainings_are_told_apart() -> None:
    with pytest.raises(PrerequisiteError, match="is the recipe of a run") as caught:
        load_recipe(RECIPES / "steerseg.yaml")
    assert "rvosbench run" in caught.value.fix
    with pytest.raises(PrerequisiteError, match="is not the recipe of a run") as caught:
        rvosbench.harness.recipes.load_recipe(RECIPES / "train_steerseg.yaml")
    assert "rvosbench train" in caught.value.fix


def test_it_is_written_back_whole(tmp_path: Path, recipe: Callable[..., TrainRecipe]) -> None:
    chosen = recipe(attributes={"source": "file", "file": "a.json"}, granularity="both", sharing="shared")
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_recipe(chosen))
    assert load_recipe(file) == chosen and chosen.prompts == {"shared": ("clip", "frame")}
    assert load_recipe(file, ("optimiser.rate=0.5",)).optimiser.rate == 0.5


def test_runtime_settings_leave_the_folder_alone(recipe: Callable[..., TrainRecipe]) -> None:
    name = recipe().folder_name
    same: list[dict[str, Any]] = [
        {"workers": {"count": 3}},
        {"cache_gb": 1.0},
        {"options__frame_batch": 9},
        {"note": "x"},
    ]
    assert {recipe(**change).folder_name for change in same} == {name}
    others: list[dict[str, Any]] = [{"tokens": 3}, {"data__seed": 5}, {"lvlm": "other"}, {"loss": {"bce": 0.5}}]
    assert len({name, *(recipe(**change).folder_name for change in others)}) == 5


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no tokens": ({"tokens": 0}, "tokens is 0"),
    "one keyframe": ({"keyframes": 1}, "keyframes is 1"),
    "shared for one": ({"sharing": "shared"}, "granularity is clip"),
    "two without Ray": ({"workers__count": 2}, "without Ray"),
    "a file not named": ({"attributes": {"source": "file"}}, "source is file"),
    "a server": ({"attributes": {"source": "reason", "reasoning": {"engine": "server"}}}, "engine is server"),
    "columns of others": ({"rollout": {"visual_columns": "reference_span"}}, "reference_span"),
    "a chance": ({"attributes": {"drop": 1.5}}, "drop is 1.5"),
    "a rate": ({"optimiser__rate": 0.0}, "rate and clip_norm must be positive"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str, recipe: Callable[..., TrainRecipe]) -> None:
    change, message = REFUSED[name]
    with pytest.raises(PrerequisiteError) as caught:
        recipe(**change)
    assert message in str(caught.value) and caught.value.fix


def test_the_learning_rate_rises_and_falls() -> None:
    factors = [Optimisation(warm_up=0.1).factor(step, 100) for step in range(100)]
    assert factors[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert factors[10] == 1.0 and factors[55] == pytest.approx(0.5) and 0 < factors[-1] < 1e-3
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert Optimisation(warm_up=0.0).factor(0, 1) == 1.0
