"""Runs whose reasoning asks servers: nobody is asked twice, nothing is left behind, wrong servers are refused."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from clips import write_dataset
from fake_server import FakeServer
from processes import SUPPORT, Command, rvosbench, wait_for_lines
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


def write_recipe(folder: Path, *, kind: str = "inprocess", serving: dict[str, Any] | None = None) -> str:
    """A recipe that starts a fake server, or uses what ``serving`` says."""
    own = {
        "command": [sys.executable, str(SUPPORT / "fake_server.py")],
        "environment": {"FAKE_SERVER": str(folder)},
        "start_seconds": 60,
    }
    recipe = {
        "name": "served",
        "data_root": str(folder.parent / "data"),
        "datasets": [{"name": "shapes", "split": "valid"}],
        "lvlms": [str(folder.parent / "small")],
        "methods": [{"method": "cotbright", "settings": {"reasoning": {"engine": "server", "keyframes": 2}}}],
        "executor": {
            "kind": kind,
            # A worker that asked for the GPU which a server holds would wait for ever: it is given none.
            "pools": {"reason": {"workers": 1, "gpus": 1}, "ground": {"workers": 1}, "segment": {"workers": 1}},
            "object_store_gb": 0.1,
        },
        "serving": own if serving is None else serving,
        "tracking": {"enabled": False},
    }
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return "recipe.yaml"


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []


def test_what_was_answered_is_never_asked_again(base: Path) -> None:
    folder = base / "twice"
    code, stdout, stderr = rvosbench("run", "--allow-commands", write_recipe(folder), folder=folder)
    assert code == 0, stderr
    assert "Starting 1 server of small" in stdout
    assert len(lines(folder / "requests")) == SAMPLES and len(lines(folder / "starts")) == 1
    store = ArtefactStore(folder / "runs" / "artefacts")
    found = [store.read("reason", path.stem) for path in (store.root / "reason").rglob("*.npz")]
    assert len(found) == SAMPLES
    assert all(artefact.meta["attributes"] == ["red", "on the left", "small"] for artefact in found)
    code, stdout, stderr = rvosbench(
        "run", "--allow-commands", "recipe.yaml", "--set", "methods.0.label=Again", folder=folder
    )
    assert code == 0, stderr
    assert "Starting" not in stdout
    assert len(lines(folder / "requests")) == SAMPLES and len(lines(folder / "starts")) == 1


@pytest.mark.slow
def test_a_killed_driver_leaves_no_server_and_its_answers(base: Path) -> None:
    folder = base / "killed"
    folder.mkdir()
    (folder / "delay").write_text("0.7")
    recipe = write_recipe(folder, kind="ray")
    command = Command("run", "--allow-commands", recipe, folder=folder)
    wait_for_lines(folder / "requests", 4, command)
    committed = list((folder / "runs" / "artefacts" / "reason").rglob("*.npz"))
    assert any("fake_server" in line for line in command.tree().values())
    command.process.send_signal(signal.SIGKILL)
    command.process.wait()
    # Ray's own processes take their time, as in every run that is killed; what holds GPUs must not.
    until = time.monotonic() + 60
    while left := [line for line in command.tree().values() if "fake_server" in line or "time.sleep" in line]:
        assert time.monotonic() < until, f"left behind: {left}"
        time.sleep(0.1)
    assert 0 < len(committed) < SAMPLES, "the kill came too early or too late to prove anything"
    asked = len(lines(folder / "requests"))
    (folder / "delay").unlink()
    code, _, stderr = rvosbench("run", "--allow-commands", write_recipe(folder), folder=folder)
    assert code == 0, stderr
    finished = json.loads(next((folder / "runs").glob("served-*/run.json")).read_text())["stages"]["reason"]
    assert finished["reused"] >= len(committed) and finished["reused"] + finished["computed"] == SAMPLES
    assert len(lines(folder / "requests")) - asked == finished["computed"]


def test_an_interrupt_ends_the_server_first(base: Path) -> None:
    folder = base / "interrupted"
    folder.mkdir()
    (folder / "delay").write_text("0.7")
    command = Command("run", "--allow-commands", write_recipe(folder), folder=folder)
    wait_for_lines(folder / "requests", 1, command)
    command.process.send_signal(signal.SIGINT)
    code, stdout, stderr = command.finish()
    assert code == 130, stderr
    assert "Continue: rvosbench run --resume" in stdout
    command.require_no_process_left(seconds=1)


def test_a_wrong_endpoint_stops_the_run_before_anything_is_asked(base: Path) -> None:
    folder = base / "wrong"
    with FakeServer(model="big") as server:
        code, _, stderr = rvosbench(
            "run", "--allow-commands", write_recipe(folder, serving={"endpoints": [server.url]}), folder=folder
        )
        assert not server.bodies
    assert code == 2
    assert f"{server.url} serves big, not small." in stderr and "Traceback" not in stderr
