"""The reasoning stage on a real vLLM server with a small Qwen2.5-VL: what it answers, and what kills do to it.

One run of the command line owns the server. It pauses after its first video, while the other tests ask its server, and
in the end has the engine killed half-way through its second. Another run is killed while its server starts, which costs
no time of its own.
"""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from clips import write_clip, write_dataset
from processes import Command, rvosbench
from rvosbench.harness.serving.replicas import serving
from toy.tiny_qwen import write_small

from rvosbench.harness.data.frames import DecodedFrames
from rvosbench.harness.data.reader import open_dataset
from rvosbench.harness.data.synthetic import write_shapes
from rvosbench.harness.data.types import Video
from rvosbench.harness.errors import SampleError
from rvosbench.harness.execute.executor import InProcessExecutor
from rvosbench.harness.recipes import ServingChoice
from rvosbench.harness.servers import Servers
from rvosbench.harness.serving.vllm import installed_build
from rvosbench.harness.stages import Outcome, Request, StageSpec
from rvosbench.harness.store.artefacts import Artefact
from rvosbench.methods.models.lvlm.base import LvlmSettings
from rvosbench.methods.models.lvlm.checkpoints import lvlm_settings
from rvosbench.methods.reason import ReasoningSettings, reason_stage


def _gpus() -> int:
    """GPUs of a server: the CPU build takes none."""
    build = installed_build()
    if build is None:
        pytest.skip("vLLM is not installed (make install)", allow_module_level=True)
    if build == "cpu":
        return 0
    import torch

    if not torch.cuda.is_available():
        pytest.skip("vLLM's CUDA build serves on GPUs only, and there is none", allow_module_level=True)
    return 1


pytestmark = pytest.mark.slow
GPUS = _gpus()
TRAINED = Path(__file__).resolve().parents[2] / "checkpoints" / "shapes" / "qwen2_5_vl"
START_SECONDS = 400.0
LVLM: dict[str, Any] = {"dtype": "float32", "device": "cpu", "clip_min_tokens": 20}
"""Enough visual tokens that 4 frames take fewer position ids in time than in space; see methods.reason.remote."""
LIMIT = 4 * 400 + 2048 + 128
"""Tokens of prompt and answer that the server takes: the stage's own estimate."""
TEXTS = [f"the square that is number {index}" for index in range(4)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vllm")
    # Other words for the second video: its frames are the first one's, and equal questions are asked once.
    write_dataset(folder / "data", {"a": TEXTS, "b": [f"{text} again" for text in TEXTS]})
    write_small("qwen2_5_vl", folder / "small", seed=0)
    return folder


@dataclass(frozen=True)
class Owner:
    """A run that owns a server, perhaps still starting it."""

    folder: Path
    command: Command

    def artefacts(self) -> int:
        """Answers that are committed."""
        return len(list((self.folder / "runs" / "artefacts" / "reason").rglob("*.npz")))

    def engines(self) -> list[int]:
        """Engines of its server: they have their title or, by the order of their variables, could not set it."""
        names = ("EngineCore", "multiprocessing.spawn")
        return [pid for pid, line in self.command.tree().items() if any(name in line for name in names)]

    def wait(self, condition: Callable[[], object]) -> None:
        """Fails with the run's words when it ends, or with the server's when time runs out."""
        until = time.monotonic() + START_SECONDS
        while not condition():
            assert self.command.process.poll() is None, self.command.finish()
            logs = [log.read_text()[-4000:] for log in (self.folder / "runs").rglob("*.log")]
            assert time.monotonic() < until, logs
            time.sleep(0.05)


def start_run(folder: Path, kind: str) -> Owner:
    """A run with its own server. One question at a time and long answers, so that kills come in between."""
    serving = {"gpus": GPUS, "start_seconds": START_SECONDS, "concurrency": 1, "flags": ["--max-num-seqs", "4"]}
    values = {"max_new_tokens": 128, "structured": False}
    recipe = write_recipe(folder, kind=kind, serving=serving, hold=str(folder), **values)
    return Owner(folder, Command("run", "--allow-commands", recipe, folder=folder))


@pytest.fixture(scope="module")
def owner(base: Path) -> Iterator[Owner]:
    owner = start_run(base / "owner", "ray")
    yield owner
    owner.command.process.kill()
    owner.command.process.wait()


@pytest.fixture(scope="module")
def server(owner: Owner) -> Servers:
    """The owner's server, once it has answered about the first video."""
    told = owner.folder / "servers.json"
    owner.wait(told.exists)
    values = json.loads(told.read_text())
    return Servers(**{**values, "endpoints": tuple(values["endpoints"]), "concurrency": 4})


@pytest.fixture(scope="module")
def lvlm(base: Path) -> LvlmSettings:
    return lvlm_settings(str(base / "small"), **LVLM)


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


def metric(servers: Servers, name: str) -> float:
    """The sum of a counter over its labels."""
    headers = {"Authorization": f"Bearer {servers.key}"}
    text = httpx.get(f"{servers.endpoints[0]}/metrics", headers=headers, trust_env=False).text
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(f"vllm:{name}{{"))


def write_recipe(folder: Path, *, kind: str, serving: dict[str, Any], hold: str = "", **reasoning: Any) -> str:
    settings = {
        "reasoning": {"engine": "server", "keyframes": 4, **reasoning},
        "lvlm": LVLM,
        "hold": hold,
    }
    recipe = {
        "name": "vllm",
        "data_root": str(folder.parent / "data"),
        "datasets": [{"name": "shapes", "split": "valid"}],
        "lvlms": [str(folder.parent / "small")],
        "methods": [{"method": "cotbright", "settings": settings}],
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


def test_a_run_killed_while_its_server_starts_leaves_nothing(base: Path, owner: Owner) -> None:
    killed = start_run(base / "killed", "inprocess")

    killed.wait(killed.engines)
    killed.command.process.kill()
    killed.command.process.wait()
    killed.command.require_no_process_left()


def test_the_server_says_what_the_local_model_says(server: Servers, lvlm: LvlmSettings, tmp_path: Path) -> None:
    """Greedy, float32: the same text, because tokens, pixels and positions are the same."""
    texts = TEXTS[:2]
    local = run(stage(lvlm, None), tmp_path, texts)
    served = run(stage(lvlm, server, structured=False), tmp_path, texts)
    assert meta(served, "raw") == meta(local, "raw")
    assert meta(served, "engine")[0].startswith("vllm ")
    assert meta(local, "raw")[0] != meta(local, "raw")[1], "the question matters"


def test_answers_follow_the_schema(server: Servers, lvlm: LvlmSettings, tmp_path: Path) -> None:
    """An untrained model babbles, but in JSON: the form is the server's work."""
    outcomes = run(stage(lvlm, server, max_new_tokens=400), tmp_path, TEXTS)
    for raw in meta(outcomes, "raw"):
        answer = json.loads(raw, strict=False)  # the grammar lets control characters stand in strings
        assert list(answer) == ["reasons", "attributes"] and 1 <= len(answer["attributes"]) <= 3
    assert set(meta(outcomes, "fallback")) <= {"", "no attribute"}


def test_a_schema_leaves_answers_in_the_prompts_form_alone(tmp_path: Path) -> None:
    """Made to leave out its blanks, a trained model babbled. Near ties may go another way: other kernels."""
    write_shapes(tmp_path, layout="shapes", split="valid", seed=0, videos=1)
    (video,) = open_dataset("shapes", tmp_path).videos
    lvlm = lvlm_settings(str(TRAINED), dtype="float32", device="cpu")
    local = answers(stage(lvlm, None, max_new_tokens=64), video)
    assert set(meta(local, "fallback")) == {""}
    choice = ServingChoice(gpus=GPUS, start_seconds=START_SECONDS, concurrency=1)
    spec = reason_stage(ReasoningSettings(engine="server", keyframes=4, max_new_tokens=64), lvlm)
    assert spec.server is not None
    with serving(spec.server, choice, InProcessExecutor(tmp_path), tmp_path / "servers", print) as pool:
        served = answers(replace(spec, servers=pool.servers), video)
    assert set(meta(served, "fallback")) == {""}
    same = [a == b for a, b in zip(meta(served, "raw"), meta(local, "raw"), strict=True)]
    assert sum(same) >= 0.75 * len(same), same


def test_a_prompt_longer_than_the_server_takes_fails_alone(server: Servers, lvlm: LvlmSettings, tmp_path: Path) -> None:
    outcomes = run(stage(lvlm, server), tmp_path, ["a square", "very " * LIMIT])
    assert isinstance(outcomes[0], Artefact)
    assert isinstance(outcomes[1], SampleError)
    assert "the prompt is longer than the server takes" in str(outcomes[1]) and str(LIMIT) in str(outcomes[1])


def test_a_run_on_a_given_endpoint_shares_the_clip_and_never_asks_again(base: Path, server: Servers) -> None:
    folder = base / "given"
    recipe = write_recipe(folder, kind="inprocess", serving={"endpoints": list(server.endpoints)}, max_new_tokens=24)
    key = {"RVOSBENCH_SERVER_KEY": server.key}
    before, hits = metric(server, "request_success_total"), metric(server, "prefix_cache_hits_total")
    code, stdout, stderr = rvosbench("run", "--allow-commands", recipe, folder=folder, environment=key)
    assert code == 0, stderr
    assert "8 samples attempted: 8 scored" in stdout
    assert metric(server, "request_success_total") - before == 8
    assert metric(server, "prefix_cache_hits_total") > hits, "expressions of a video share its keys and values"
    code, stdout, stderr = rvosbench(
        "run", recipe, "--set", "methods.0.label=Again", folder=folder, environment={"RVOSBENCH_SERVER_KEY": "none"}
    )
    assert code == 0, stderr
    assert metric(server, "request_success_total") - before == 8


def test_another_model_is_refused(base: Path, server: Servers) -> None:
    folder = base / "other"
    recipe = write_recipe(
        folder, kind="inprocess", serving={"endpoints": list(server.endpoints)}, served_name="big", max_new_tokens=8
    )
    code, _, stderr = rvosbench(
        "run", "--allow-commands", recipe, folder=folder, environment={"RVOSBENCH_SERVER_KEY": server.key}
    )
    assert code == 2
    assert f"{server.endpoints[0]} serves small, not big." in stderr


def test_the_run_survives_the_death_of_its_engine_and_leaves_nothing(owner: Owner, server: Servers) -> None:
    before = owner.artefacts()
    assert before == len(TEXTS)
    (owner.folder / "release").touch()
    owner.wait(lambda: owner.artefacts() > before)
    (engine,) = owner.engines()
    os.kill(engine, signal.SIGKILL)
    assert owner.artefacts() < 2 * len(TEXTS), "the kill came too late to prove anything"
    code, stdout, stderr = owner.command.finish(START_SECONDS)
    assert code == 0, stderr
    assert stdout.count("is started again") == 1, stdout
    assert "8 samples attempted: 8 scored" in stdout
    owner.command.require_no_process_left()
