"""Recipes: one validated boundary, clear sentences, names that follow identity."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.recipes import dump_recipe, load_recipe
from rvosbench.harness.variants import run_name

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
    def name(*overrides: str) -> str:
        return run_name(load_recipe(path, overrides))

    path = write(tmp_path, {**GOOD, "methods": [{"method": "bright"}]})
    same = ("executor.kind=inprocess", "executor.pools.ground.workers=4", "runs=/elsewhere", "tracking.enabled=false")
    of_the_method = ("methods.0.settings.seconds=1", "methods.0.settings.journal=x", "methods.0.settings={offset: 0}")
    assert {name(override) for override in (*same, *of_the_method)} == {name()}
    others = ("datasets.0.limit_videos=2", "methods.0.settings.offset=1", "methods.0.label=B")
    assert len({name(), *(name(override) for override in others)}) == 4


def test_neither_runtime_settings_nor_the_place_of_checkpoints_change_the_run_name(tmp_path: Path) -> None:
    checkpoints = Path(__file__).parents[1] / "checkpoints" / "shapes"
    (tmp_path / "moved").symlink_to(checkpoints)
    sam2 = {"checkpoint": str(checkpoints / "sam2"), "device": "cpu"}
    settings = {"lvlm": {"dtype": "float32", "device": "cpu"}, "sam2": sam2, "background_prompt": "v3"}
    lvlms = [str(checkpoints / "qwen2_5_vl")]
    path = write(tmp_path, {**GOOD, "lvlms": lvlms, "methods": [{"method": "decaf", "settings": settings}]})
    same = (
        "methods.0.settings.sam2.object_batch=4",
        "methods.0.settings.sam2.device=cuda",
        "methods.0.settings.lvlm.frame_batch=1",
        f"methods.0.settings.sam2.checkpoint={tmp_path}/moved/sam2",
        f"lvlms=[{tmp_path}/moved/qwen2_5_vl]",
    )
    assert len({run_name(load_recipe(path, (override,))) for override in same}) == 1
    other = load_recipe(path, (f"lvlms=[{checkpoints}/internvl]",))
    assert run_name(other) != run_name(load_recipe(path))


def test_a_pool_of_a_stage_that_no_method_has_is_named(tmp_path: Path) -> None:
    recipe = {**GOOD, "methods": [{"method": "bright"}], "executor": {"pools": {"grond": {}}}}
    with pytest.raises(PrerequisiteError) as caught:
        run_name(load_recipe(write(tmp_path, recipe)))
    assert "executor.pools.grond" in caught.value.problem and "'ground'" in caught.value.fix


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("name: [", "is not valid YAML"),
        ("just text", "holds no recipe"),
        ({**GOOD, "datasetz": []}, "Did you mean 'datasets'?"),
        ({**GOOD, "datasets": []}, "datasets: "),
        ({**GOOD, "name": "../up"}, "name: "),
        ({**GOOD, "executor": {"pools": {"ground": {"workerz": 1}}}}, "executor.pools.ground.workerz"),
        ({**GOOD, "executor": {"pools": {"ground": {"workerz": 1}}}}, "Did you mean 'workers'?"),
        ({**GOOD, "datasets": [{"name": "shapes", "limit_video": 1}]}, "Did you mean 'limit_videos'?"),
        ({**GOOD, "lvlms": "a/b"}, "should be a list"),
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


def test_paths_expand_and_nothing_is_left_of_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("SCRATCH", "/scratch/x")
    monkeypatch.setenv("RVOSBENCH_DATA", "~/data")
    recipe = load_recipe(write(tmp_path, {**GOOD, "runs": "$SCRATCH/runs"}))
    assert (recipe.data_root, recipe.runs) == (Path("/home/somebody/data"), Path("/scratch/x/runs"))
    for wrong in ("runs=$NO_SUCH_VARIABLE/runs", "data_root=~no-such-user/x"):
        with pytest.raises(PrerequisiteError):
            load_recipe(write(tmp_path, GOOD), (wrong,))
