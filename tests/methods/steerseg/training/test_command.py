"""``rvosbench train steerseg`` as its users run it: on Ray, two workers, one of them killed; and its mistakes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from processes import Command

from rvosbench.harness.recipes import TrackingChoice
from rvosbench.harness.results.mlflow import EXPERIMENT, Mirrored, default_uri
from rvosbench.harness.results.mlflow_curves import Curves, mirror_curves
from rvosbench.methods.steerseg.prompt_files import read_card
from rvosbench.methods.steerseg.training.files import STEPS, TrainingFolder
from rvosbench.methods.steerseg.training.launch import folder_of, launch
from rvosbench.methods.steerseg.training.recipe import TrainRecipe, WorkersChoice, dump_recipe

Recipe = Callable[..., TrainRecipe]


@pytest.mark.slow
def test_two_workers_one_killed_on_the_way_train_like_one(recipe: Recipe, tmp_path: Path) -> None:
    chosen = recipe(optimiser__steps=30, optimiser__clips=3, checkpoint_every=5)
    launch(chosen, lambda _: None)
    expected = [line["loss"] for line in TrainingFolder(folder_of(chosen)).lines(STEPS)]
    shared = replace(
        chosen, runs=tmp_path / "runs2", workers=WorkersChoice(count=2), tracking=TrackingChoice(enabled=True)
    )
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_recipe(shared))
    command = Command("train", "steerseg", str(file), "--out", str(tmp_path / "prompts"), folder=tmp_path)
    folder = TrainingFolder(folder_of(shared))
    deadline = time.monotonic() + 400
    while len(folder.lines(STEPS)) < 7:
        assert command.process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    workers = [pid for pid, words in command.tree().items() if "RayTrainWorker" in words]
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    code, out, err = command.finish(400)
    assert code == 0, err
    assert "clip prompt, clip calls" in out and f"Prompts: {tmp_path / 'prompts'}" in out
    found = [line["loss"] for line in folder.lines(STEPS)]
    # Sums over workers come in another order; thirty steps carry it on.
    assert found == pytest.approx(expected, rel=1e-4) and found[:5] == pytest.approx(expected[:5], rel=1e-6)
    assert read_card(tmp_path / "prompts") == read_card(folder.path / "prompts")
    client = MlflowClient(default_uri(shared.runs))
    [run] = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    curve = client.get_metric_history(run.info.run_id, "clip/loss")
    assert [point.value for point in sorted(curve, key=lambda point: point.step)] == found
    for name in ("concentration", "pointing", "loss"):
        looks = client.get_metric_history(run.info.run_id, f"clip/held_out/clip_{name}")
        assert [point.step for point in looks] == [0, 30]
        assert len(client.get_metric_history(run.info.run_id, f"clip/held_out_without/clip_{name}")) == 1
    pictures = [entry.path for entry in client.list_artifacts(run.info.run_id, "pictures")]
    assert pictures == ["pictures/clip-clip-0.png"]
    command.require_no_process_left()


def test_the_same_curves_are_mirrored_once(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "training" / "a"
    folder.mkdir(parents=True)
    uri = default_uri(tmp_path / "runs")
    curves = Curves(name="a", finished=True, curves={"loss": [(1, 2.0), (2, float("nan"))]}, recipe={"seed": 1})
    first, second = mirror_curves(folder, uri, curves), mirror_curves(folder, uri, curves)
    assert isinstance(first, Mirrored) and isinstance(second, Mirrored)
    assert first.changed and not second.changed and first.mlflow_run_id == second.mlflow_run_id
    third = mirror_curves(folder, uri, replace(curves, curves={"loss": [(1, 2.0), (2, 1.0)]}))
    assert isinstance(third, Mirrored) and third.changed
    client = MlflowClient(uri)
    [run] = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    assert [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "loss")] == [
        (1, 2.0),
        (2, 1.0),
    ]


MISTAKES = {
    "an unknown key": (["--set", "tokns=3"], "tokns"),
    "no tokens": (["--set", "tokens=0"], "tokens is 0"),
    "a shared prompt for one call": (["--set", "sharing=shared"], "granularity is clip"),
    "no such data": (["--set", "data={name: ref_youtube_vos}"], "data root"),
    "no such model": (["--set", "lvlm=nowhere/to/be/found"], "nowhere/to/be/found does not exist"),
    "too few videos": (["--set", "data.generate=1"], "at least two videos"),
    "something else in the way": (["--out", "."], "holds something else"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_sentence(
    name: str, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rvosbench.harness import cli

    arguments, message = MISTAKES[name]
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_recipe(recipe()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["rvosbench", "train", "steerseg", str(file), *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_plan_counts_and_trains_nothing(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rvosbench.harness import cli

    file = tmp_path / "recipe.yaml"
    file.write_text(dump_recipe(recipe(granularity="both", tokens=64)))
    monkeypatch.setattr("sys.argv", ["rvosbench", "plan", str(file), "--set", "lvlm=Qwen/Qwen2.5-VL-7B-Instruct"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    out = capsys.readouterr().out
    assert (
        "shapes, split train: 3 videos" in out and "frame prompt: 64 tokens at front, 6 steps of 2 frame calls" in out
    )
    assert (
        out.count("calls: memory cannot be estimated. Checkpoint Qwen/") == 2
        and not (tmp_path / "runs" / "training").exists()
    )
