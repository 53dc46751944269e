"""Runs whose reasoning needs a model server: no request is repeated, nothing is left behind, wrong servers are refused.

A fake plays vLLM's part.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from clips import write_dataset
from fake_server import FakeServer
from processes import SUPPORT, Command, wait_for_lines
from processes import rvosbench as rvosbench_command
from toy.tiny_qwen import write_small

from rvosbench.harness.store.artefacts import ArtefactStore

VIDEOS = {name: [f"{name} first", f"{name} second"] for name in ("a", "b", "c")}
SAMPLES = 6


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    write_dataset(folder / "data", VIDEOS)
    write_small("qwen2_5_vl", folder / "small", seed=0)
    return folder


def environment(folder: Path) -> dict[str, str]:
    path = os.pathsep.join((str(SUPPORT / "fake_vllm"), os.environ["PYTHONPATH"]))
    return {"PYTHONPATH": path, "FAKE_VLLM": str(folder)}


def rvosbench(*arguments: str, folder: Path) -> tuple[int, str, str]:
    return rvosbench_command(*arguments, folder=folder, environment=environment(folder))


def write_recipe(folder: Path, *, kind: str = "inprocess", serving: dict[str, Any] | None = None) -> str:
    """A recipe that starts an engine, or uses what ``serving`` states."""
    recipe = {
        "name": "served",
        "data_root": str(folder.parent / "data"),
        "datasets": [{"name": "shapes", "split": "valid"}],
        "lvlms": [str(folder.parent / "small")],
        "methods": [{"method": "cotbright", "settings": {"reasoning": {"engine": "server", "keyframes": 2}}}],
        "executor": {
            "kind": kind,
            # A worker that asked for the GPU which an engine holds would wait for ever: it is given none.
            "pools": {"reason": {"workers": 1, "gpus": 1}, "ground": {"workers": 1}, "segment": {"workers": 1}},
            "object_store_gb": 0.1,
        },
        "serving": {"start_seconds": 60} if serving is None else serving,
        "tracking": {"enabled": False},
    }
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return "recipe.yaml"


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []


def test_what_was_answered_is_never_asked_again(base: Path) -> None:
    folder = base / "twice"
    code, stdout, stderr = rvosbench("run", write_recipe(folder), folder=folder)
    assert code == 0, stderr
    assert "Starting an engine of small" in stdout
    assert len(lines(folder / "requests")) == SAMPLES and len(lines(folder / "starts")) == 1
    store = ArtefactStore(folder / "runs" / "artefacts")
    found = [store.read("reason", path.stem) for path in (store.root / "reason").rglob("*.npz")]
    assert len(found) == SAMPLES
    assert all(artefact.meta["attributes"] == ["red", "on the left", "small"] for artefact in found)
    code, stdout, stderr = rvosbench("run", "recipe.yaml", "--set", "methods.0.label=Again", folder=folder)
    assert code == 0, stderr
    assert "Starting" not in stdout
    assert len(lines(folder / "requests")) == SAMPLES and len(lines(folder / "starts")) == 1


@pytest.mark.slow
def test_a_killed_driver_leaves_no_engine_and_its_answers(base: Path) -> None:
    folder = base / "killed"
    folder.mkdir()
    (folder / "delay").write_text("0.7")
    recipe = write_recipe(folder, kind="ray")
    command = Command("run", recipe, folder=folder, environment=environment(folder))
    wait_for_lines(folder / "requests", 4, command)
    committed = list((folder / "runs" / "artefacts" / "reason").rglob("*.npz"))
    (engine,) = {json.loads(line)["process"] for line in lines(folder / "starts")}
    assert Path(f"/proc/{engine}").exists()
    command.process.send_signal(signal.SIGKILL)
    command.process.wait()
    # Ray's own processes take their time, as in every run that is killed; what holds GPUs must not.
    until = time.monotonic() + 60
    while Path(f"/proc/{engine}").exists():
        assert time.monotonic() < until, "the engine was left behind"
        time.sleep(0.1)
    assert 0 < len(committed) < SAMPLES, "the kill came too early or too late to prove anything"
    requests = len(lines(folder / "requests"))
    (folder / "delay").unlink()
    code, _, stderr = rvosbench("run", write_recipe(folder), folder=folder)
    assert code == 0, stderr
    finished = json.loads(next((folder / "runs").glob("served-*/run.json")).read_text())["stages"]["reason"]
    assert finished["reused"] >= len(committed) and finished["reused"] + finished["computed"] == SAMPLES
    assert len(lines(folder / "requests")) - requests == finished["computed"]


def test_an_interrupt_stops_the_engine(base: Path) -> None:
    folder = base / "interrupted"
    folder.mkdir()
    (folder / "delay").write_text("0.7")
    command = Command("run", write_recipe(folder), folder=folder, environment=environment(folder))
    wait_for_lines(folder / "requests", 1, command)
    command.process.send_signal(signal.SIGINT)
    code, stdout, stderr = command.finish()
    assert code == 130, stderr
    assert "Continue: rvosbench run --resume" in stdout
    assert len(lines(folder / "stops")) == 1
    command.require_no_process_left()


def test_a_wrong_endpoint_stops_the_run_before_anything_is_asked(base: Path) -> None:
    folder = base / "wrong"
    with FakeServer(model="big") as server:
        code, _, stderr = rvosbench("run", write_recipe(folder, serving={"endpoints": [server.url]}), folder=folder)
        assert not server.bodies
    assert code == 2
    assert f"{server.url} serves big, not small." in stderr and "Traceback" not in stderr
