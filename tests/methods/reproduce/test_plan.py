"""What a dry run says: what would run, every piece that is missing with its fix, hours. It writes nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from rvosbench.harness.data.synthetic import write_shapes
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.recipes import dump_recipe, method_settings
from rvosbench.harness.registry import load_method
from rvosbench.methods.models.lvlm.checkpoints import find
from rvosbench.methods.reproduce import steerseg_table
from rvosbench.methods.reproduce.running import Job, plan
from rvosbench.methods.reproduce.table import Line
from rvosbench.methods.reproduce.world import load_world, merged, recipe_of

from .conftest import WriteWorld

QWEN, ONEVISION = "Qwen2.5VL-7B", "LLaVA-OV-7B"


def jobs_of(world: str, root: Path) -> dict[tuple[str, str, str], Job]:
    chosen = load_world(world)
    jobs = plan(chosen, chosen.data_root or root / "data", root / "runs")
    return {(job.line.method, job.line.lvlm, job.dataset): job for job in jobs}


def dry_run(world: str, root: Path, capsys: pytest.CaptureFixture[str]) -> str:
    steerseg_table(world=world, data_root=root / "data", runs=root / "runs", target=None, dry_run=True)
    return " ".join(capsys.readouterr().out.split())


def test_nothing_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    (tmp_path / "data").mkdir()
    out = dry_run("released", tmp_path, capsys)
    for words in (
        "ReVOS (split valid) is not under",
        "github.com/cilinyan/VISA",
        "Checkpoint Qwen/Qwen2-VL-7B-Instruct is not a folder and cannot be downloaded",
        "SAM2 'sam2-hiera-large' is not on this machine.",
        "rvosbench calibrate lochead --lvlm OpenGVLab/InternVL3-8B-hf --dataset NAME --out checkpoints/lochead/",
        "checkpoints/steerseg/Qwen2.5-VL-7B-Instruct/n64 holds no soft prompts",
        "Train them (rvosbench train steerseg RECIPE) with Qwen/Qwen2.5-VL-7B-Instruct",
        "Ref-DAVIS17, about 244 samples in 30 videos",
        "Published numbers only: LISA, VISA, VideoLISA, GLUS, VRS-HQ, Veason-R1.",
        "0 runs to do, 0 done, 36 lack something.",
        "About 0.00 GPU-hours to do, 229 more",
        "Assumed, not measured.",
    ):
        assert words in out, words
    # Heads of LLaVA-1.5 are published: that line lacks the rest only.
    assert "calibrate lochead --lvlm llava-hf" not in out
    assert [path.name for path in tmp_path.rglob("*")] == ["data"]


def test_what_would_run(write_world: WriteWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = write_world()
    states = {key: job.state for key, job in jobs_of(world, tmp_path).items() if key[2] == "ReVOS"}
    assert states["DecAF", QWEN, "ReVOS"] == states["Loc-Head", QWEN, "ReVOS"] == "to run"
    assert states["DecAF", ONEVISION, "ReVOS"] == "to run"
    assert states["DecAF", "InternVL3-8B", "ReVOS"] == states["Loc-Head", "LLaVA-7B", "ReVOS"] == "missing"
    # SteerSeg is no method of this world.
    assert states["SteerSeg", QWEN, "ReVOS"] == states["VISA", "ChatUniVi-7B", "ReVOS"] == "published only"
    out = dry_run(world, tmp_path, capsys)
    assert "3 runs to do, 0 done" in out and "random models" in out
    assert "The world names no checkpoint for InternVL3-8B. Add InternVL3-8B under lvlms" in out
    assert (
        "ReVOS; 1 videos of the bundled world are written in the layout revos (valid, seed 8) when a run starts" in out
    )
    assert not (tmp_path / "data").exists() and not (tmp_path / "runs").exists()


def problems(world: str, root: Path, method: str, lvlm: str) -> str:
    return " ".join(f"{piece.problem} {piece.fix}" for piece in jobs_of(world, root)[method, lvlm, "ReVOS"].missing)


def test_data_on_disk_is_counted_and_data_that_is_not_there_is_missing(write_world: WriteWorld, tmp_path: Path) -> None:
    world = write_world(shapes=None)
    assert "is not a folder. Set --data-root" in problems(world, tmp_path, "DecAF", QWEN)
    (tmp_path / "data").mkdir()
    assert "ReVOS (split valid) is not under" in problems(world, tmp_path, "DecAF", QWEN)
    write_shapes(tmp_path / "data", layout="revos", split="valid", seed=0, videos=2)
    job = jobs_of(world, tmp_path)["DecAF", QWEN, "ReVOS"]
    assert job.state == "to run" and job.size is not None and job.size.videos == 2
    limited = {"ReVOS": {"name": "revos", "split": "valid", "protocol": "revos/v1", "limit_videos": 1}}
    first = jobs_of(write_world(shapes=None, datasets=limited), tmp_path)["DecAF", QWEN, "ReVOS"].size
    assert first is not None and first.videos == 1 and first.samples < job.size.samples


def test_pieces_of_another_checkpoint_are_missing(write_world: WriteWorld, checkpoints: Path, tmp_path: Path) -> None:
    other = find(str(checkpoints / "llava_onevision"))
    heads = {
        "model": {"checkpoint": "other", "digest": other.digest, "family": "x", "layers": 4, "heads_per_layer": 4},
        "heads": [[1, 0]],
        "frequencies": [],
        "thresholds": [],
        "data": {},
        "settings": {},
        "versions": {},
    }
    (tmp_path / "heads.json").write_text(json.dumps(heads))
    lvlm = {"checkpoint": str(checkpoints / "qwen2_5_vl"), "heads": str(tmp_path / "heads.json")}
    found = problems(write_world(lvlms={QWEN: lvlm}), tmp_path, "Loc-Head", QWEN)
    assert "holds the heads of other" in found
    assert f"rvosbench calibrate lochead --lvlm {lvlm['checkpoint']}" in found and "heads.json" in found
    del lvlm["heads"]
    assert "names no heads for Qwen2.5VL-7B" in problems(write_world(lvlms={QWEN: lvlm}), tmp_path, "Loc-Head", QWEN)
    lvlm["heads"] = "L9H0"
    assert "has no head L9H0" in problems(write_world(lvlms={QWEN: lvlm}), tmp_path, "Loc-Head", QWEN)


def test_soft_prompts_missing_and_of_another_checkpoint(
    write_world: WriteWorld, checkpoints: Path, tmp_path: Path
) -> None:
    from tests.methods.steerseg.conftest import write_prompts

    def found(folder: str | None) -> str:
        lvlm = {"checkpoint": str(checkpoints / "qwen2_5_vl"), "soft_prompts": folder}
        world = write_world(lvlms={QWEN: lvlm}, methods={"SteerSeg": {"method": "steerseg"}})
        return problems(world, tmp_path, "SteerSeg", QWEN)

    assert "names no soft prompts for Qwen2.5VL-7B. Train them" in found(None)
    assert "holds no soft prompts" in found(str(tmp_path))
    other = write_prompts(tmp_path / "other", str(checkpoints / "llava_onevision"), 2)
    assert "were trained for" in found(other) and "another checkpoint" in found(other)
    assert found(write_prompts(tmp_path / "own", str(checkpoints / "qwen2_5_vl"), 2)) == ""


def test_every_shipped_world_makes_recipes_that_are_valid_to_the_last_setting(tmp_path: Path) -> None:
    lines = {Line(key[0], key[1], "frozen") for key in jobs_of("released", tmp_path) if key[0] in RUNNABLE}
    assert len(lines) == 12
    for name in ("released", "shapes"):
        world = load_world(name)
        made = [
            recipe_of(world, line.method, line.lvlm, dataset, tmp_path / "data", tmp_path / "runs")
            for line in lines
            for dataset in world.datasets
        ]
        assert len({dump_recipe(recipe) for recipe in made}) == 36
        for recipe in made:
            (choice,) = recipe.methods
            method = load_method(choice.method)
            method_settings(method.settings_type, choice.settings, choice.method)


RUNNABLE = ("Loc-Head", "DecAF", "SteerSeg")


def test_decaf_of_the_table_is_decaf_of_its_own_recipe(tmp_path: Path) -> None:
    recipe = yaml.safe_load((Path(__file__).parents[3] / "recipes" / "decaf.yaml").read_text())
    world = load_world("released")
    ours = recipe_of(world, "DecAF", QWEN, "ReVOS", tmp_path, tmp_path).methods[0].settings
    given = method_settings(load_method("decaf").settings_type, recipe["methods"][0]["settings"], "decaf")
    assert method_settings(load_method("decaf").settings_type, ours, "decaf") == given
    assert [lvlm.checkpoint in recipe["lvlms"] for name, lvlm in world.lvlms.items() if name != "LLaVA-7B"] == [
        True
    ] * 4


def test_settings_are_laid_over_each_other() -> None:
    below: dict[str, Any] = {"lvlm": {"device": "cpu", "dtype": "float32"}, "keyframes": 8}
    assert merged(below, {"lvlm": {"dtype": "bfloat16"}, "heads": "known"}) == {
        "lvlm": {"device": "cpu", "dtype": "bfloat16"},
        "keyframes": 8,
        "heads": "known",
    }
    assert below["lvlm"] == {"device": "cpu", "dtype": "float32"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lvlm": {}}, "lvlm: Extra inputs are not permitted"),
        ({"datasets": {"ReVOS": {"name": "revos", "split": "valid", "protocol": "revos/v1"}}}, "ReVOS names no layout"),
    ],
)
def test_a_malformed_world_names_the_key(write_world: WriteWorld, change: dict[str, Any], message: str) -> None:
    with pytest.raises(PrerequisiteError, match=message):
        load_world(write_world(**change))


def test_a_world_that_is_not_there() -> None:
    with pytest.raises(PrerequisiteError, match="no world 'shape'") as caught:
        load_world("shape")
    assert "Did you mean 'shapes'?" in caught.value.fix


def test_a_dry_run_loads_no_torch(write_world: WriteWorld, tmp_path: Path) -> None:
    world = write_world()
    code = (
        "import sys; from pathlib import Path; from rvosbench.methods.reproduce import steerseg_table\n"
        f"steerseg_table({world!r}, Path({str(tmp_path)!r}), Path({str(tmp_path)!r}), None, True)\n"
        "assert not {'torch', 'transformers', 'ray'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert "3 runs to do" in done.stdout


def test_nothing_to_run_is_refused_with_the_first_missing_piece(tmp_path: Path) -> None:
    with pytest.raises(PrerequisiteError, match="Nothing of the table can be run") as caught:
        steerseg_table(world="released", data_root=tmp_path, runs=tmp_path / "runs", target=None, dry_run=False)
    assert "--dry-run" in caught.value.fix
    assert not (tmp_path / "runs").exists()


def test_worlds_ship_with_the_package() -> None:
    assert shutil.which("git")
    assert {path.stem for path in (Path(__file__).parents[3] / "recipes" / "reproduce").glob("*.yaml")} == {
        "released",
        "shapes",
    }
    for name in ("released", "shapes"):
        assert load_world(name).datasets.keys() == {"Ref-DAVIS17", "ReasonVOS", "ReVOS"}
