"""Engines that a run starts: loaded inside the block, restarted after a loss, given up, and gone when it ends."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fake_server import ANSWER, FakeServer

from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.harness.execute.executor import InProcessExecutor
from rvosbench.harness.execute.ray_pool import RayExecutor
from rvosbench.harness.recipes import ExecutorChoice, ServingChoice
from rvosbench.harness.servers import ModelServer, Servers
from rvosbench.harness.serving.serving import EngineHost, serving

FAKE_VLLM = str(Path(__file__).resolve().parents[1] / "support" / "fake_vllm")
NEED = ModelServer("/models/small", "small", dtype="float32", max_length=64, videos=1, frame_rate=2.0)


class Setup:
    """The folder that the fake engine reads, and what the user was told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: list[str] = []

    def serving(self, host: EngineHost, **values: Any) -> Any:
        choice = ServingChoice.checked({"start_seconds": 60.0, "replicas": 1, **values})
        return serving(NEED, choice, host, self.folder / "logs", self.lines.append)

    def noted(self, name: str) -> list[dict[str, Any]]:
        path = self.folder / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Setup]:
    monkeypatch.setenv("FAKE_VLLM", str(tmp_path))
    monkeypatch.syspath_prepend(FAKE_VLLM)
    # Whichever build is installed here, the fake is one for CPUs.
    monkeypatch.setattr("rvosbench.harness.serving.vllm._require_build", lambda need, gpus: None)
    real = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "vllm"}
    for name in real:
        del sys.modules[name]
    yield Setup(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
        del sys.modules[name]
    sys.modules.update(real)


@pytest.fixture
def here(tmp_path: Path) -> InProcessExecutor:
    return InProcessExecutor(tmp_path / "store")


@pytest.fixture
def there(tmp_path: Path, ray_cluster: str, monkeypatch: pytest.MonkeyPatch) -> RayExecutor:
    """Engines get the fake through their environment, as Ray's processes started before it was known."""
    from rvosbench.harness.serving import ray_engines

    real = ray_engines.engine_environment
    path = os.pathsep.join((FAKE_VLLM, os.environ["PYTHONPATH"]))
    monkeypatch.setattr(
        ray_engines,
        "engine_environment",
        lambda need, choice: {**real(need, choice), "PYTHONPATH": path, "FAKE_VLLM": str(tmp_path)},
    )
    return RayExecutor(ExecutorChoice(object_store_gb=0.1), tmp_path / "store")


def ask(servers: Servers, text: str = "what?", affinity: str = "video", **options: Any) -> str:
    messages = [{"role": "user", "content": [{"type": "text", "text": text}]}]
    return servers.connect().complete(messages, affinity=affinity, max_tokens=7, **options)


def until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)


def test_an_engine_is_loaded_inside_the_block_and_stopped_after_it(setup: Setup, here: InProcessExecutor) -> None:
    with setup.serving(here, engine={"max_num_seqs": 4}) as engines:
        assert ask(engines, schema={"type": "object"}) == ANSWER
        assert engines.replicas == 1 and not setup.noted("stops")
        assert engines.connect().software() == "vllm 0.0"
    assert len(setup.noted("stops")) == 1
    (start,) = setup.noted("starts")
    arguments = start["arguments"]
    assert arguments["model"] == "/models/small" and arguments["max_model_len"] == 64
    assert arguments["media_io_kwargs"] == {"video": {"num_frames": -1, "fps": 2.0}}
    assert arguments["limit_mm_per_prompt"] == {"image": 0, "video": 1}
    assert arguments["max_num_seqs"] == 4 and arguments["enforce_eager"]


def test_an_error_inside_the_block_stops_the_engine_too(setup: Setup, here: InProcessExecutor) -> None:
    with pytest.raises(KeyboardInterrupt), setup.serving(here):
        raise KeyboardInterrupt
    assert len(setup.noted("stops")) == 1


def test_requests_of_many_threads_are_answered_and_a_bad_one_fails_alone(setup: Setup, here: InProcessExecutor) -> None:
    with setup.serving(here) as engines, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda index: ask(engines, f"request {index}"), range(40)))
        assert answers == [ANSWER] * 40
        with pytest.raises(SampleError, match="longer than the maximum model length of 64"):
            ask(engines, "a long one")
        assert ask(engines) == ANSWER


@pytest.mark.parametrize("kind", ["here", "there"])
def test_an_engine_that_cannot_start_states_why(setup: Setup, kind: str, request: pytest.FixtureRequest) -> None:
    (setup.folder / "refuse").write_text("Free memory on device (1.0/80.0 GiB) is less than desired")
    with pytest.raises(PrerequisiteError) as caught, setup.serving(request.getfixturevalue(kind)):
        pytest.fail("it is not loaded")
    assert "Free memory on device (1.0/80.0 GiB)" in caught.value.problem
    assert "reasoning.engine to local" in caught.value.fix
    assert len(setup.noted("starts")) == 1, "what never loaded is not started again"


def test_an_engine_that_breaks_in_this_process_stops_the_run(setup: Setup, here: InProcessExecutor) -> None:
    with setup.serving(here) as engines:
        for text in ("break, please", "what?"):
            with pytest.raises(PrerequisiteError, match="illegal memory access"):
                ask(engines, text)


def test_a_process_that_ends_while_it_loads_is_restarted_and_then_given_up(setup: Setup, there: RayExecutor) -> None:
    (setup.folder / "crash").touch()
    with pytest.raises(PrerequisiteError) as caught, setup.serving(there, max_restarts=1):
        pytest.fail("it is not loaded")
    assert "Segmentation fault in a kernel" in caught.value.problem
    assert str(setup.folder / "logs" / "small-0.log") in caught.value.problem
    assert len(setup.noted("starts")) == 2


@pytest.mark.parametrize("text", ["die while you think", "break while you think"])
def test_a_lost_engine_is_restarted_and_the_request_answered(setup: Setup, there: RayExecutor, text: str) -> None:
    with setup.serving(there) as engines:
        assert ask(engines, text) == ANSWER
        assert len(setup.noted("starts")) == 2
        os.kill(setup.noted("starts")[-1]["process"], signal.SIGKILL)
        assert ask(engines) == ANSWER
        assert len(setup.noted("starts")) == 3


def test_restarts_end_and_the_run_states_that_no_engine_is_left(setup: Setup, there: RayExecutor) -> None:
    with setup.serving(there, max_restarts=0) as engines:
        assert ask(engines) == ANSWER
        os.kill(setup.noted("starts")[-1]["process"], signal.SIGKILL)
        with pytest.raises(PrerequisiteError, match="No engine of small is left") as caught:
            ask(engines)
    assert str(setup.folder / "logs") in caught.value.problem
    assert len(setup.noted("starts")) == 1


def test_a_request_that_kills_every_engine_fails_alone(setup: Setup, there: RayExecutor) -> None:
    with setup.serving(there, attempts=1, max_restarts=5) as engines:
        with pytest.raises(SampleError, match="lost 1 times"):
            ask(engines, "die while you think")
        assert ask(engines) == ANSWER


def test_engines_hold_their_gpus_and_one_loss_leaves_the_others(setup: Setup, there: RayExecutor) -> None:
    with setup.serving(there, replicas="auto", gpus=2) as engines:
        assert engines.replicas == 2
        until(lambda: len(setup.noted("starts")) == 2)
        assert sorted(start["gpus"] for start in setup.noted("starts")) == ["0,1", "2,3"]
        assert {start["arguments"]["tensor_parallel_size"] for start in setup.noted("starts")} == {2}
        for index in range(10):
            assert ask(engines, f"request {index}", affinity=f"video {index % 5}") == ANSWER
        homes = {int(r["text"].split()[1]) % 5: set() for r in setup.noted("requests")}  # type: dict[int, set[int]]
        for found in setup.noted("requests"):
            homes[int(found["text"].split()[1]) % 5].add(found["process"])
        assert all(len(processes) == 1 for processes in homes.values()), "a video's requests go to one engine"
        os.kill(setup.noted("starts")[0]["process"], signal.SIGKILL)
        assert [ask(engines, affinity=f"video {index}") for index in range(10)] == [ANSWER] * 10
    processes = [start["process"] for start in setup.noted("starts")]
    until(lambda: not any(Path(f"/proc/{process}").exists() for process in processes))


def test_more_engines_than_the_cluster_holds_are_refused(setup: Setup, there: RayExecutor) -> None:
    with (
        pytest.raises(PrerequisiteError, match="asks for 3 engines of 2 GPU and 0 CPU each; the cluster holds 2"),
        setup.serving(there, replicas=3, gpus=2),
    ):
        pytest.fail("there is no room")
    with (
        pytest.raises(PrerequisiteError, match="without Ray there is one place"),
        setup.serving(InProcessExecutor(setup.folder), replicas=2),
    ):
        pytest.fail("there is one place")


def test_given_endpoints_are_used_as_they_are(
    setup: Setup, here: InProcessExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RVOSBENCH_SERVER_KEY", "secret")
    with FakeServer(key="secret") as server:
        with setup.serving(here, endpoints=(f"{server.url}/v1/",)) as endpoints:
            assert endpoints.urls == (server.url,)
            assert ask(endpoints) == ANSWER
        assert not setup.noted("starts")
    with FakeServer(model="big") as server, pytest.raises(PrerequisiteError, match="serves big, not small"):
        setup.serving(here, endpoints=(server.url,)).__enter__()
