"""The reasoning stage on real vLLM engines with a small Qwen2.5-VL: what they answer, and what kills do to them.

One run of the command line owns an engine, which is killed half-way through its answers. Another is killed while its
engine loads. An engine and a server started as the documentation states answer the rest.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from clips import write_clip, write_dataset
from processes import Command, rvosbench
from toy.tiny_qwen import write_small

from rvosbench.harness.data.frames import DecodedFrames
from rvosbench.harness.data.reader import open_dataset
from rvosbench.harness.data.synthetic import write_shapes
from rvosbench.harness.data.types import Video
from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.harness.execute.ray_pool import RayExecutor
from rvosbench.harness.recipes import ExecutorChoice, ServingChoice
from rvosbench.harness.servers import Servers
from rvosbench.harness.serving.endpoints import Endpoints, endpoints_of_model
from rvosbench.harness.serving.serving import serving
from rvosbench.harness.serving.vllm import engine_environment, installed_build
from rvosbench.harness.stages import Outcome, Request, StageSpec
from rvosbench.harness.store.artefacts import Artefact
from rvosbench.methods.models.lvlm.base import LvlmSettings
from rvosbench.methods.models.lvlm.checkpoints import lvlm_settings
from rvosbench.methods.reason import ReasoningSettings, reason_stage


def _gpus() -> int:
    """GPUs of an engine: the CPU build takes none."""
    build = installed_build()
    if build is None:
        pytest.skip("vLLM is not installed (make install)", allow_module_level=True)
    if build == "cpu":
        return 0
    import torch

    if not torch.cuda.is_available():
        pytest.skip("vLLM's CUDA build computes on GPUs only, and there is none", allow_module_level=True)
    return 1


pytestmark = pytest.mark.slow
GPUS = _gpus()
TRAINED = Path(__file__).resolve().parents[2] / "checkpoints" / "shapes" / "qwen2_5_vl"
START_SECONDS = 500.0
LVLM: dict[str, Any] = {"dtype": "float32", "device": "cpu", "clip_min_tokens": 20}
"""Enough visual tokens that 4 frames take fewer position ids in time than in space; see methods.reason.remote."""
LIMIT = 4 * 400 + 2048 + 24
"""Tokens of prompt and answer that the engine takes: the stage's own estimate."""
TEXTS = [f"the square that is number {index}" for index in range(4)]
CHOICE = ServingChoice(gpus=GPUS, start_seconds=START_SECONDS)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vllm")
    # Other words for the second video: its frames are the first one's, and equal requests are sent once.
    write_dataset(folder / "data", {"a": TEXTS, "b": [f"{text} again" for text in TEXTS]})
    write_small("qwen2_5_vl", folder / "small", seed=0)
    return folder


@pytest.fixture(scope="module")
def lvlm(base: Path) -> LvlmSettings:
    return lvlm_settings(str(base / "small"), **LVLM)


@pytest.fixture(scope="module")
def executor(base: Path, ray_cluster: str) -> RayExecutor:
    return RayExecutor(ExecutorChoice(object_store_gb=0.1), base / "store")


@pytest.fixture(scope="module")
def engines(base: Path, lvlm: LvlmSettings, executor: RayExecutor) -> Iterator[Servers]:
    need = reason_stage(ReasoningSettings(engine="server", keyframes=4, max_new_tokens=24), lvlm).server
    assert need is not None
    with serving(need, CHOICE, executor, base / "logs", print) as engines:
        yield engines


@pytest.fixture(scope="module")
def server(base: Path, lvlm: LvlmSettings) -> Iterator[Endpoints]:
    """A server that was started by hand, as the documentation states."""
    need = reason_stage(ReasoningSettings(engine="server", keyframes=4, max_new_tokens=24), lvlm).server
    assert need is not None
    port = 18_000 + os.getpid() % 10_000
    command = [sys.executable, "-P", "-m", "vllm.entrypoints.openai.api_server", "--model", str(base / "small")]
    command += ["--served-model-name", "small", "--dtype", "float32", "--max-model-len", str(LIMIT)]
    command += ["--limit-mm-per-prompt", json.dumps({"image": 0, "video": 1}), "--port", str(port)]
    command += ["--media-io-kwargs", json.dumps({"video": {"num_frames": -1, "fps": 2.0}}), "--host", "127.0.0.1"]
    command += ["--structured-outputs-config", json.dumps({"backend": "guidance"}), "--api-key", "secret"]
    command += [] if GPUS else ["--enforce-eager", "--distributed-executor-backend", "uni"]
    environment = {**os.environ, **engine_environment(need, CHOICE)}
    endpoints = Endpoints("small", (f"http://127.0.0.1:{port}",), key="secret")
    with (base / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                yield endpoints_of_model(endpoints)
                break
            except PrerequisiteError:
                assert process.poll() is None and time.monotonic() < until, (base / "server.log").read_text()[-4000:]
                time.sleep(0.5)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def stage(lvlm: LvlmSettings, servers: Servers | None, **values: Any) -> StageSpec:
    engine = "local" if servers is None else "server"
    settings = ReasoningSettings(**{"engine": engine, "keyframes": 4, "max_new_tokens": 24, **values})
    return replace(reason_stage(settings, lvlm), servers=servers)


def run(spec: StageSpec, folder: Path, texts: Sequence[str]) -> list[Outcome]:
    return answers(spec, write_clip(folder, f"clip-{uuid.uuid4().hex}", list(texts)))


def answers(spec: StageSpec, video: Video) -> list[Outcome]:
    outcomes = dict(spec.build().run(DecodedFrames(video), [Request(e, {}) for e in video.expressions]))
    return [outcomes[index] for index in range(len(outcomes))]


def meta(outcomes: Sequence[Outcome], name: str) -> list[Any]:
    assert all(isinstance(outcome, Artefact) for outcome in outcomes), outcomes
    return [outcome.meta[name] for outcome in outcomes if isinstance(outcome, Artefact)]


def test_an_engine_and_a_server_answer_what_the_local_model_answers(
    engines: Servers, server: Endpoints, lvlm: LvlmSettings, tmp_path: Path
) -> None:
    """Greedy, float32: the same text, because tokens, pixels and positions are the same."""
    texts = TEXTS[:2]
    local = run(stage(lvlm, None), tmp_path, texts)
    assert meta(local, "raw")[0] != meta(local, "raw")[1], "the expression matters"
    for running in (engines, server):
        served = run(stage(lvlm, running, structured=False), tmp_path, texts)
        assert meta(served, "raw") == meta(local, "raw")
        assert meta(served, "engine")[0].startswith("vllm ")


def test_answers_follow_the_schema(engines: Servers, lvlm: LvlmSettings, tmp_path: Path) -> None:
    """An untrained model babbles, but in JSON: the form is the engine's work."""
    outcomes = run(stage(lvlm, engines, max_new_tokens=400), tmp_path, TEXTS)
    for raw in meta(outcomes, "raw"):
        answer = json.loads(raw, strict=False)  # the grammar lets control characters stand in strings
        assert list(answer) == ["reasons", "attributes"] and 1 <= len(answer["attributes"]) <= 3
    assert set(meta(outcomes, "fallback")) <= {"", "no attribute"}


def test_a_prompt_that_is_too_long_fails_alone(
    engines: Servers, server: Endpoints, lvlm: LvlmSettings, tmp_path: Path
) -> None:
    for running in (engines, server):
        outcomes = run(stage(lvlm, running), tmp_path, ["a square", "very " * LIMIT])
        assert isinstance(outcomes[0], Artefact)
        assert isinstance(outcomes[1], SampleError) and str(LIMIT) in str(outcomes[1])


def test_a_schema_leaves_answers_in_the_prompts_form_alone(tmp_path: Path, executor: RayExecutor) -> None:
    """Made to leave out its white space, a trained model babbled. Near ties may go another way: other kernels."""
    write_shapes(tmp_path, layout="shapes", split="valid", seed=0, videos=1)
    (video,) = open_dataset("shapes", tmp_path).videos
    lvlm = lvlm_settings(str(TRAINED), dtype="float32", device="cpu")
    local = answers(stage(lvlm, None, max_new_tokens=64), video)
    assert set(meta(local, "fallback")) == {""}
    spec = reason_stage(ReasoningSettings(engine="server", keyframes=4, max_new_tokens=64), lvlm)
    assert spec.server is not None
    choice = replace(CHOICE, concurrency=1)
    with serving(spec.server, choice, executor, tmp_path / "logs", print) as engines:
        served = answers(replace(spec, servers=engines), video)
    assert set(meta(served, "fallback")) == {""}
    same = [a == b for a, b in zip(meta(served, "raw"), meta(local, "raw"), strict=True)]
    assert sum(same) >= 0.75 * len(same), same


def test_a_run_on_a_given_endpoint_asks_nothing_twice_and_refuses_another_model(base: Path, server: Endpoints) -> None:
    folder, key = base / "given", {"RVOSBENCH_SERVER_KEY": server.key}
    recipe = write_recipe(folder, kind="inprocess", serving={"endpoints": list(server.urls)}, max_new_tokens=24)
    code, stdout, stderr = rvosbench("run", recipe, folder=folder, environment=key)
    assert code == 0, stderr
    assert "8 samples attempted: 8 scored" in stdout
    # With the wrong key nothing can be asked, and nothing need be.
    wrong = {"RVOSBENCH_SERVER_KEY": "none"}
    code, stdout, stderr = rvosbench("run", recipe, "--set", "methods.0.label=Again", folder=folder, environment=wrong)
    assert code == 0, stderr
    folder = base / "other"
    recipe = write_recipe(
        folder, kind="inprocess", serving={"endpoints": list(server.urls)}, served_name="big", max_new_tokens=8
    )
    code, _, stderr = rvosbench("run", recipe, folder=folder, environment=key)
    assert code == 2
    assert f"{server.urls[0]} serves small, not big." in stderr


def write_recipe(folder: Path, *, kind: str, serving: dict[str, Any], **reasoning: Any) -> str:
    recipe = {
        "name": "vllm",
        "data_root": str(folder.parent / "data"),
        "datasets": [{"name": "shapes", "split": "valid"}],
        "lvlms": [str(folder.parent / "small")],
        "methods": [
            {
                "method": "cotbright",
                "settings": {"reasoning": {"engine": "server", "keyframes": 4, **reasoning}, "lvlm": LVLM},
            }
        ],
        "executor": {
            "kind": kind,
            "pools": {name: {"workers": 1, "cpus": 0.5} for name in ("reason", "ground", "segment", "score")},
            "object_store_gb": 0.1,
        },
        "serving": serving,
        "tracking": {"enabled": False},
    }
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return "recipe.yaml"


def start_run(folder: Path) -> Command:
    """A run with its own engine: one request at a time and long answers, so that kills come in between."""
    serving = {"gpus": GPUS, "start_seconds": START_SECONDS, "concurrency": 1, "engine": {"max_num_seqs": 4}}
    return Command(
        "run", write_recipe(folder, kind="ray", serving=serving, max_new_tokens=128, structured=False), folder=folder
    )


def engine_processes(command: Command) -> list[int]:
    return [pid for pid, line in command.tree().items() if "EngineActor" in line]


def wait(command: Command, condition: Callable[[], object]) -> None:
    """Fails with the run's output when it ends early."""
    until = time.monotonic() + START_SECONDS
    while not condition():
        assert command.process.poll() is None, command.finish()
        assert time.monotonic() < until, "it never came true"
        time.sleep(0.05)


def test_a_run_killed_while_its_engine_loads_leaves_no_engine(base: Path) -> None:
    command = start_run(base / "killed")
    wait(command, lambda: engine_processes(command))
    command.process.kill()
    command.process.wait()
    # Ray's own agents take their time, as in every run that is killed; what holds memory and GPUs must not.
    until = time.monotonic() + 60
    while left := engine_processes(command):
        assert time.monotonic() < until, f"left behind: {left}"
        time.sleep(0.1)


def test_the_run_survives_the_death_of_its_engine_and_leaves_nothing(base: Path) -> None:
    folder = base / "owner"
    command = start_run(folder)

    def committed() -> int:
        return len(list((folder / "runs" / "artefacts" / "reason").rglob("*.npz")))

    wait(command, committed)
    (engine,) = engine_processes(command)
    os.kill(engine, signal.SIGKILL)
    assert committed() < 2 * len(TEXTS), "the kill came too late to prove anything"
    code, stdout, stderr = command.finish(START_SECONDS)
    assert code == 0, stderr
    assert "8 samples attempted: 8 scored" in stdout
    command.require_no_process_left(60)
