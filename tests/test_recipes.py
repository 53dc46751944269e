"""Recipes: one validated boundary, clear sentences, names that follow identity."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.recipes import dump_recipe, load_recipe

GOOD = {
    "name": "trial",
    "datasets": [{"name": "shapes"}],
    "lvlms": ["a/b"],
    "methods": [{"method": "decaf"}],
}


def write(folder: Path, content: object) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_a_resolved_recipe_reads_back_equal(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, GOOD))
    assert load_recipe(write(tmp_path, dump_recipe(recipe))) == recipe


def test_only_identity_fields_change_the_run_name(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    name = load_recipe(path).run_name
    same = ("executor.kind=inprocess", "executor.pools.ground.workers=4", "runs=/elsewhere", "tracking.enabled=false")
    for override in same:
        assert load_recipe(path, (override,)).run_name == name
    for override in ("datasets.0.limit_videos=2", "methods.0.settings.x=1", "lvlms=[c/d]"):
        assert load_recipe(path, (override,)).run_name != name


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("name: [", "is not valid YAML"),
        ("just text", "holds no recipe"),
        ({**GOOD, "datasetz": []}, "datasetz: Extra inputs are not permitted"),
        ({**GOOD, "datasets": []}, "datasets: "),
        ({**GOOD, "name": "../up"}, "name: "),
        ({**GOOD, "executor": {"pools": {"grond": {}}}}, "executor.pools.grond"),
        ({**GOOD, "executor": {"pools": {"ground": {"workers": 0}}}}, "workers must be at least 1"),
        ({**GOOD, "datasets": [{"name": "shapes", "limit_videos": 0}]}, "limit_videos"),
    ],
)
def test_a_wrong_recipe_is_named(tmp_path: Path, content: object, sentence: str) -> None:
    with pytest.raises(PrerequisiteError) as caught:
        load_recipe(write(tmp_path, content))
    assert sentence in caught.value.problem
    assert "recipe.yaml" in caught.value.problem


def test_missing_file_and_bad_overrides(tmp_path: Path) -> None:
    with pytest.raises(PrerequisiteError, match="no recipe at"):
        load_recipe(tmp_path / "absent.yaml")
    path = write(tmp_path, GOOD)
    with pytest.raises(PrerequisiteError, match="is not key=value"):
        load_recipe(path, ("executor",))
    with pytest.raises(PrerequisiteError, match="leads nowhere"):
        load_recipe(path, ("methods.7.label=x",))
