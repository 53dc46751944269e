"""A recipe in parts: what is missing, what would run, what it costs; runs that continue past what others lack."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from toy.tiny_qwen import write_small as write_small_lvlm
from toy.tiny_sam2 import write_small as write_small_sam2

import rvosbench.harness.pipeline.engine
from rvosbench.harness import cli
from rvosbench.harness.data.synthetic import write_shapes
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.pipeline.parts import Part, survey
from rvosbench.harness.recipes import dump_recipe, load_recipe, method_settings
from rvosbench.harness.registry import load_method
from rvosbench.harness.results.reader import find_runs, read_run
from rvosbench.methods.models.lvlm.checkpoints import find
from rvosbench.methods.reproduce import steerseg_table

RECIPES = Path(__file__).parents[2] / "recipes"
QWEN, ONEVISION = "Qwen2.5VL-7B", "LLaVA-OV-7B"
Rows = dict[tuple[str, str, str, str], dict[str, str]]
Write = Callable[..., Path]


@pytest.fixture(scope="module", autouse=True)
def _offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RVOSBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        for name in ("RVOSBENCH_CHECKPOINTS", "RVOSBENCH_DATA", "RVOSBENCH_RUNS"):
            patch.delenv(name, raising=False)
        # The hub client reads the environment when imported, which is over by now.
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path_factory.mktemp("hub")))
        yield


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkpoints")
    for family in ("qwen2_5_vl", "llava_onevision"):
        write_small_lvlm(family, root / family, seed=0)
    write_small_sam2(root / "sam2", seed=0)
    return root


@pytest.fixture
def write(checkpoints: Path, tmp_path: Path) -> Write:
    """Writes a recipe of small models on one official layout; keyword arguments replace its sections."""

    def recipe(**changes: Any) -> Path:
        shared = {
            "keyframes": 2,
            "lvlm": {"dtype": "float32", "device": "cpu", "max_new_tokens": 2, "clip_max_tokens": 12},
            "sam2": {"checkpoint": str(checkpoints / "sam2"), "device": "cpu"},
        }
        qwen = [str(checkpoints / "qwen2_5_vl")]
        values: dict[str, Any] = {
            "name": "small-table",
            "note": "random models",
            "data_root": str(tmp_path / "data"),
            "runs": str(tmp_path / "runs"),
            "datasets": [{"name": "revos", "synthetic": {"layout": "revos", "seed": 8, "videos": 1}}],
            "methods": [
                {
                    "method": "lochead",
                    "lvlms": qwen,
                    "reference": {"method": "Loc-Head", "lvlm": QWEN},
                    "settings": {**shared, "masks": "attention", "heads": "L1H0 L2H3"},
                },
                # A threshold of 1 leaves the map's highest cell as the only point.
                {
                    "method": "decaf",
                    "lvlms": qwen,
                    "reference": {"method": "DecAF", "lvlm": QWEN},
                    "settings": {**shared, "background_prompt": "v3", "tau_point": 1.0},
                },
                {
                    "method": "decaf",
                    "lvlms": [str(tmp_path / "not-there")],
                    "reference": {"method": "DecAF", "lvlm": "InternVL3-8B"},
                    "settings": shared,
                },
            ],
            "executor": {"kind": "inprocess"},
            "tracking": {"enabled": False},
            **changes,
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return recipe


def entry(method: str, checkpoint: Path, **settings: Any) -> dict[str, Any]:
    return {"methods": [{"method": method, "lvlms": [str(checkpoint)], "settings": settings}]}


def parts_of(path: Path) -> dict[tuple[str, str | None], Part]:
    return {(part.method, part.lvlm): part for part in survey(load_recipe(path))}


def problems(path: Path) -> str:
    return " ".join(f"{need.detail} {need.fix}" for part in survey(load_recipe(path)) for need in part.missing)


def reproduce(path: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, Rows]:
    """Exit code, output, and the CSV's rows."""
    with pytest.raises(typer.Exit) as caught:
        steerseg_table(recipe=str(path), data_root=None, runs=None, target=root / "out", dry_run=False)
    with (root / "out" / "steerseg_table.csv").open() as file:
        rows = {(row["method"], row["lvlm"], row["dataset"], row["subset"]): row for row in csv.DictReader(file)}
    assert (root / "out" / "steerseg_table.md").read_text().startswith("# small-table\n")
    return caught.value.exit_code, capsys.readouterr().out, rows


def test_a_survey_says_what_would_run_and_writes_nothing(write: Write, tmp_path: Path) -> None:
    parts = parts_of(write())
    assert {name: part.state for name, part in parts.items()} == {
        ("Loc-Head", "qwen2_5_vl"): "to run",
        ("DecAF", "qwen2_5_vl"): "to run",
        ("DecAF", "not-there"): "missing",
    }
    (need,) = parts["DecAF", "not-there"].missing
    assert need.kind == "checkpoint" and "not-there does not exist" in need.detail
    data = parts["DecAF", "qwen2_5_vl"].requirements[0]
    assert (data.kind, data.status) == ("data", "automatic") and "layout revos" in data.detail
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_everything_that_is_missing_is_named_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    steerseg_table(recipe="released", data_root=tmp_path / "data", runs=tmp_path / "runs", target=None, dry_run=True)
    out = " ".join(capsys.readouterr().out.split())
    for words in (
        "ReVOS (split valid) is not under",
        "github.com/cilinyan/VISA",
        "Checkpoint Qwen/Qwen2-VL-7B-Instruct is not a folder and cannot be downloaded",
        "SAM2 'sam2-hiera-large' is not on this machine.",
        "rvosbench calibrate lochead --lvlm OpenGVLab/InternVL3-8B-hf --dataset NAME --out checkpoints/lochead/",
        "checkpoints/steerseg/Qwen2.5-VL-7B-Instruct/n64 holds no soft prompts",
        "Train them (rvosbench train steerseg RECIPE) with Qwen/Qwen2.5-VL-7B-Instruct",
        "0 runs to do, 0 done, 36 lack something.",
        "229 for what lacks something",
        "not measured",
    ):
        assert words in out, words
    # Heads of LLaVA-1.5 are published: that line lacks the rest only. Each missing thing is named once.
    assert "calibrate lochead --lvlm llava-hf" not in out
    assert out.count("SAM2 'sam2-hiera-large'") == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["data"]


def test_data_on_disk_is_counted_and_data_that_is_not_there_is_missing(write: Write, tmp_path: Path) -> None:
    path = write(datasets=[{"name": "revos"}])
    assert "is not a folder. Set --data-root" in problems(path)
    (tmp_path / "data").mkdir()
    assert "ReVOS (split valid) is not under" in problems(path)
    write_shapes(tmp_path / "data", layout="revos", split="valid", seed=0, videos=2)
    whole = parts_of(path)["DecAF", "qwen2_5_vl"]
    assert whole.state == "to run" and whole.size is not None and whole.size.videos == 2
    first = parts_of(write(datasets=[{"name": "revos", "limit_videos": 1}]))["DecAF", "qwen2_5_vl"].size
    assert first is not None and first.videos == 1 and first.samples < whole.size.samples


def test_masks_that_are_public_and_not_there_are_missing(write: Write, tmp_path: Path) -> None:
    folder = write_shapes(tmp_path / "data", layout="revos", split="valid", seed=0, videos=1)
    for path in folder.rglob("mask_dict*"):
        path.unlink()
    assert "no masks" in problems(write(datasets=[{"name": "revos"}]))


def test_heads_of_another_checkpoint_are_missing(write: Write, checkpoints: Path, tmp_path: Path) -> None:
    lvlm = checkpoints / "qwen2_5_vl"
    model = {"checkpoint": "other", "digest": find(str(checkpoints / "llava_onevision")).digest, "family": "x"}
    heads = {"model": model | {"layers": 4, "heads_per_layer": 4}, "heads": [[1, 0]], "frequencies": []}
    heads |= {"thresholds": [], "data": {}, "settings": {}, "versions": {}}
    (tmp_path / "heads.json").write_text(json.dumps(heads))
    found = problems(write(**entry("lochead", lvlm, heads=str(tmp_path / "heads.json"), masks="attention")))
    assert "holds the heads of other" in found and f"calibrate lochead --lvlm {lvlm}" in found
    assert "has no head L9H0" in problems(write(**entry("lochead", lvlm, heads="L9H0", masks="attention")))
    assert "No localization heads are published" in problems(write(**entry("lochead", lvlm, masks="attention")))


def test_soft_prompts_missing_and_of_another_checkpoint(write: Write, checkpoints: Path, tmp_path: Path) -> None:
    from tests.methods.steerseg.conftest import write_prompts

    lvlm = checkpoints / "qwen2_5_vl"

    def found(folder: str | None) -> str:
        prompts = {} if folder is None else {"soft_prompts": {"folder": folder}}
        return problems(write(**entry("steerseg", lvlm, masks="attention", **prompts)))

    assert "No soft prompts are named" in found(None) and "Train them" in found(None)
    assert "holds no soft prompts" in found(str(tmp_path))
    other = write_prompts(tmp_path / "other", str(checkpoints / "llava_onevision"), 2)
    assert "were trained for" in found(other) and "another checkpoint" in found(other)
    assert found(write_prompts(tmp_path / "own", str(lvlm), 2)) == ""


def test_an_entry_that_is_wrong_lacks_its_method_and_stops_no_other(write: Write, checkpoints: Path) -> None:
    qwen = [str(checkpoints / "qwen2_5_vl")]
    settings = {"masks": "attention", "heads": "L1H0"}
    methods = [
        {"method": "decafe", "lvlms": qwen},
        {"method": "lochead", "lvlms": qwen, "settings": {"kyframes": 3}},
        {"method": "lochead", "lvlms": qwen, "settings": settings},
    ]
    parts = survey(load_recipe(write(methods=methods)))
    assert [[need.kind for need in part.missing] for part in parts] == [["method"], ["method"], []]


def test_a_table_of_small_models(write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write()
    code, out, rows = reproduce(path, tmp_path, capsys)
    # One line's model is missing.
    assert code == 3
    runs = find_runs(tmp_path / "runs").runs
    assert {run.title for run in runs} == {
        "small-table.decaf.qwen2-5-vl.revos",
        "small-table.loc-head.qwen2-5-vl.revos",
    }
    scores = {run.folder.name: {score.subset: score for score in run.scores} for run in runs}
    for method in ("DecAF", "Loc-Head"):
        for subset in ("all", "referring", "reasoning"):
            row = rows[method, QWEN, "ReVOS", subset]
            score = scores[row["run"]][subset]
            assert (score.method, row["protocol"]) == (method, score.protocol)
            assert score.J_and_F is not None and score.published is not None
            assert float(row["reproduced_J_and_F"]) == pytest.approx(100 * score.J_and_F, abs=0.006)
            assert row["coverage"] == "1 of 416 videos"
            if method == "DecAF":
                expected = 100 * score.J_and_F - float(row["published_J_and_F"])
                assert float(row["difference_J_and_F"]) == pytest.approx(expected, abs=0.006)
                assert score.published.difference == pytest.approx(expected / 100, abs=1e-5)
            else:
                # Attention masks are on keyframes alone, which is another protocol.
                assert not row["difference_J_and_F"] and "run under revos/v1@keyframes" in row["why"]
    missing = rows["DecAF", "InternVL3-8B", "ReVOS", "all"]
    assert "not-there does not exist" in missing["why"]
    assert missing["published_J_and_F"] == "47.40" and not missing["reproduced_J_and_F"]
    assert rows["VISA", "ChatUniVi-7B", "ReVOS", "all"]["why"] == "published number only"
    assert "random models" in out

    # The same command computes nothing again and gives the same table.
    again = reproduce(path, tmp_path, capsys)
    assert (again[0], again[2]) == (code, rows)
    assert again[1].count("Artefacts: 0 computed") == 2
    assert sorted(part.state for part in survey(load_recipe(path))) == ["done", "done", "missing"]


def stand_in(monkeypatch: pytest.MonkeyPatch, *ends: Any) -> list[str]:
    """Runs that end as given instead of running: an exit code or an error. Returns the names of those begun."""
    begun: list[str] = []
    left = list(ends)

    class StandIn:
        def __init__(self, recipe: Any, folder: Any, console: Any) -> None:
            begun.append(recipe.name)

        def execute(self) -> int:
            end = left.pop(0)
            if isinstance(end, BaseException):
                raise end
            return int(end)

    monkeypatch.setattr(rvosbench.harness.pipeline.engine, "Run", StandIn)
    return begun


def test_a_run_that_fails_leaves_the_others_alone(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = stand_in(monkeypatch, *(PrerequisiteError(f"The disk is full ({n}).", "Make room.") for n in range(2)))
    code, out, rows = reproduce(write(), tmp_path, capsys)
    assert code == 3 and len(begun) == 2
    reasons = {row["why"] for row in rows.values()}
    assert {f"failed: The disk is full ({number})." for number in range(2)} <= reasons
    assert "Make room." in out


def test_an_interrupt_ends_the_table_and_says_what_was_not_run(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = stand_in(monkeypatch, 130)
    code, _, rows = reproduce(write(), tmp_path, capsys)
    assert code == 130 and len(begun) == 1
    whole = [row["why"] for row in rows.values() if row["subset"] == "all"]
    assert whole.count("not finished: interrupted") == 1 and whole.count("not run: interrupted") == 1


def test_nothing_to_run_is_refused_with_the_first_missing_thing(tmp_path: Path) -> None:
    with pytest.raises(PrerequisiteError) as caught:
        steerseg_table(recipe="released", data_root=tmp_path, runs=tmp_path / "runs", target=None, dry_run=False)
    assert "--dry-run" in caught.value.fix
    assert not (tmp_path / "runs").exists()


def test_a_recipe_that_is_not_there() -> None:
    with pytest.raises(PrerequisiteError) as caught:
        steerseg_table(recipe="shape", data_root=None, runs=None, target=None, dry_run=True)
    assert "Did you mean 'shapes'?" in caught.value.fix


def test_plan_names_all_that_is_missing_and_the_hours_of_a_recipe_with_costs(
    write: Write, checkpoints: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = ("prefill_tokens_per_second", "decoding_steps_per_second", "sam2_frames_per_second")
    cost: dict[str, Any] = dict.fromkeys((*rates, "sam2_masks_per_second"), 10.0) | {"gpu": "a GPU"}
    cost["views"] = {str(checkpoints / "qwen2_5_vl"): {"clip": 10, "frame": 5}}
    cost["sizes"] = {"revos": {"videos": 1, "samples": 2, "frames": 10}}
    path = write(cost=cost)
    with pytest.raises(PrerequisiteError, match="not-there"):
        cli.plan(path)
    out = " ".join(capsys.readouterr().out.split())
    assert "GPU-hours, estimated: " in out and "No estimate for DecAF on not-there." in out
    assert "2 runs to do, 0 done, 1 lack something." in out


def test_plan_of_data_that_is_not_generated_yet_and_of_data_that_is(
    write: Write, checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"masks": "attention", "heads": "L1H0", "keyframes": 2, "lvlm": {"dtype": "float32", "device": "cpu"}}
    path = write(**entry("lochead", checkpoints / "qwen2_5_vl", **settings))
    cli.plan(path)
    assert "1 runs to do" in capsys.readouterr().out and not (tmp_path / "data").exists()
    write_shapes(tmp_path / "data", layout="revos", split="valid", seed=8, videos=1)
    cli.plan(path)
    assert "Run folder: " in capsys.readouterr().out


def test_data_of_the_benchmark_is_never_written_over(write: Write, tmp_path: Path) -> None:
    recipe = load_recipe(write())
    (tmp_path / "data" / "ReVOS").mkdir(parents=True)
    (tmp_path / "data" / "ReVOS" / "mine.txt").write_text("real")
    with pytest.raises(PrerequisiteError):
        rvosbench.harness.pipeline.engine.write_synthetic(recipe)
    assert [path.name for path in (tmp_path / "data" / "ReVOS").iterdir()] == ["mine.txt"]


def test_the_shipped_tables_are_recipes_that_are_valid_to_the_last_setting() -> None:
    for name in ("steerseg_table", "steerseg_table_shapes"):
        recipe = load_recipe(RECIPES / "reproduce" / f"{name}.yaml")
        parts = survey(recipe)
        lines = {part.reference for part in parts}
        assert len(lines) == 12 and None not in lines
        assert len({dump_recipe(part.recipe) for part in parts}) == len({part.recipe.name for part in parts}) == 36
        assert not [need for part in parts for need in part.missing if need.kind == "method"]


def test_decaf_of_the_table_is_decaf_of_its_own_recipe() -> None:
    own = load_recipe(RECIPES / "decaf.yaml")
    table = load_recipe(RECIPES / "reproduce" / "steerseg_table.yaml")
    settings = [
        method_settings(load_method("decaf").settings_type, choice.settings, "decaf")
        for recipe in (own, table)
        for choice in recipe.methods
        if choice.reference is not None and choice.reference.method == "DecAF"
    ]
    assert len(settings) == 2 and settings[0] == settings[1]
    assert set(own.lvlms) == set(table.lvlms)


def test_a_survey_loads_no_torch(write: Write, tmp_path: Path) -> None:
    assert shutil.which("git")
    code = (
        "import sys; from pathlib import Path; from rvosbench.methods.reproduce import steerseg_table\n"
        f"steerseg_table(recipe={str(write())!r}, data_root=None, runs=None, target=None, dry_run=True)\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 runs to do" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_line_of_every_method_on_every_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each line of the shipped recipe whose checkpoint is here gives a score on each benchmark; others say what they
    lack. Few keyframes and short answers: what is shown is that the table is made, not what is in it.
    """
    values = yaml.safe_load((RECIPES / "reproduce" / "steerseg_table_shapes.yaml").read_text())
    for choice in values["datasets"]:
        choice["synthetic"]["videos"] = 1
    names = ("checkpoints/small/llava", "checkpoints/shapes/internvl")
    values["methods"] = [choice for choice in values["methods"] if choice["lvlms"][0] in names]
    for choice in values["methods"]:
        choice["settings"] |= {"keyframes": 2}
        choice["settings"]["lvlm"] |= {"max_new_tokens": 2}
        if choice["method"] == "steerseg":
            choice["settings"]["reasoning"] = {"keyframes": 2, "max_new_tokens": 8}
    values |= {"data_root": str(tmp_path / "data"), "runs": str(tmp_path / "runs"), "tracking": {"enabled": False}}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**values, "name": "small-table"}))
    code, _, rows = reproduce(path, tmp_path, capsys)
    assert code in (0, 3)
    for part in survey(load_recipe(path)):
        assert part.state in ("done", "missing"), part.title
    here = [row for row in rows.values() if row["run"]]
    assert {(row["method"], row["dataset"]) for row in here} >= {
        (method, dataset)
        for method in ("Loc-Head", "DecAF", "SteerSeg")
        for dataset in ("Ref-DAVIS17", "ReasonVOS", "ReVOS")
    }
    assert all(row["reproduced_J_and_F"] and row["difference_J_and_F"] for row in here)
    assert {read_run(folder).status for folder in (tmp_path / "runs").glob("small-table.*")} == {"finished"}
