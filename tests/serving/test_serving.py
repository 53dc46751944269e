"""Servers that a run starts: watched, started again, given up, and gone when it ends. A fake plays vLLM's part."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_server import ANSWER, FakeServer
from processes import MARK, marked, require_none_marked

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.execute.executor import InProcessExecutor
from rvosbench.harness.execute.ray_pool import RayExecutor
from rvosbench.harness.recipes import ExecutorChoice, ServingChoice
from rvosbench.harness.servers import ModelServer
from rvosbench.harness.serving import replicas as serving_module
from rvosbench.harness.serving.chat import ChatServers
from rvosbench.harness.serving.replica import telling
from rvosbench.harness.serving.replicas import Host, ServerPool, serving

SUPPORT = Path(__file__).resolve().parents[1] / "support"
NEED = ModelServer("/models/small", "small", dtype="float32", max_length=64, videos=1, frame_rate=2.0)


class World:
    """A fake server's folder, the recipe's choice that starts it, and what was said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = uuid.uuid4().hex
        self.said: list[str] = []

    def choice(self, **values: Any) -> ServingChoice:
        command = (sys.executable, str(SUPPORT / "fake_server.py"))
        environment = {"FAKE_SERVER": str(self.folder), MARK: self.mark}
        defaults = {"command": command, "environment": environment, "start_seconds": 60.0, "replicas": 1}
        return ServingChoice.model_validate({**defaults, **values})

    def serving(self, host: Host, **values: Any) -> Any:
        return serving(NEED, self.choice(**values), host, self.folder / "logs", self.said.append)

    def starts(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "starts").read_text().splitlines()]

    def servers(self) -> list[int]:
        """Processes that answer, not those above or below them."""
        return [pid for pid, line in marked(self.mark).items() if "fake_server" in line and "supervisor" not in line]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake is up in a moment."""
    monkeypatch.setattr("rvosbench.harness.serving.chat._COOL_DOWN_SECONDS", 0.3)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def here(tmp_path: Path) -> InProcessExecutor:
    return InProcessExecutor(tmp_path / "store")


@pytest.fixture
def there(tmp_path: Path, ray_cluster: str) -> RayExecutor:
    return RayExecutor(ExecutorChoice(object_store_gb=0.1), tmp_path / "store")


def ask(pool: ServerPool, text: str = "what?", affinity: str = "video") -> str:
    messages = [{"role": "user", "content": [{"type": "text", "text": text}]}]
    return ChatServers(pool.servers).complete(messages, affinity=affinity, max_tokens=7)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)


def test_a_server_is_up_inside_the_block_and_gone_after_it(world: World, here: InProcessExecutor) -> None:
    with world.serving(here) as pool:
        assert ask(pool) == ANSWER
        assert len(pool.servers.endpoints) == 1 and pool.servers.owned
        assert len(marked(world.mark)) == 4, "two supervisors, the server, its engine"
    require_none_marked(world.mark, 0.0)
    (start,) = world.starts()
    arguments = dict(zip(start["argv"][::2], start["argv"][1::2], strict=False))
    assert arguments["--model"] == "/models/small"
    assert arguments["--served-model-name"] == "small"
    assert arguments["--max-model-len"] == "64"
    assert json.loads(arguments["--media-io-kwargs"]) == {"video": {"num_frames": -1, "fps": 2.0}}
    assert json.loads(arguments["--limit-mm-per-prompt"]) == {"image": 0, "video": 1}
    assert pool.servers.key not in " ".join(start["argv"]), "command lines are for all to read"


def test_an_error_inside_the_block_ends_the_server_too(world: World, here: InProcessExecutor) -> None:
    with pytest.raises(KeyboardInterrupt), world.serving(here):
        raise KeyboardInterrupt
    require_none_marked(world.mark, 0.0)


def test_a_server_that_cannot_start_is_told_with_the_end_of_its_output(world: World, here: InProcessExecutor) -> None:
    (world.folder / "refuse").write_text("ValueError: Free memory on device (1.0/80.0 GiB) is less than desired")
    with pytest.raises(PrerequisiteError) as caught, world.serving(here):
        pytest.fail("it is not up")
    assert "The server of small did not start" in caught.value.problem
    assert "Free memory on device (1.0/80.0 GiB)" in caught.value.problem
    assert str(world.folder / "logs" / "small-0.log") in caught.value.problem
    assert len(world.starts()) == 1, "what never answered is not started again"
    require_none_marked(world.mark, 0.0)


def test_the_cause_of_a_death_is_found_above_what_follows_from_it() -> None:
    output = """
        INFO loading
        (EngineCore pid=2) ERROR 11-26 04:35:55 [core.py:1510]     raise ValueError(msg)
        (EngineCore pid=2) ERROR 11-26 04:35:55 [core.py:1510] ValueError: There is no module named 'x' in Model.
        Process EngineCore:
        Traceback (most recent call last):
        ValueError: There is no module named 'x' in Model.
        Traceback (most recent call last):
          File "a.py", line 1, in main
          File "b.py", line 2, in run
          File "c.py", line 3, in start
          File "d.py", line 4, in launch
        RuntimeError: Engine core initialization failed. See root cause above.
    """
    lines = [line.strip() for line in telling(output).splitlines()]
    assert lines == [
        "(EngineCore pid=2) ERROR 11-26 04:35:55 [core.py:1510] ValueError: There is no module named 'x' in Model.",
        "RuntimeError: Engine core initialization failed. See root cause above.",
        'File "a.py", line 1, in main',
        'File "b.py", line 2, in run',
        'File "c.py", line 3, in start',
        'File "d.py", line 4, in launch',
    ]


def test_a_command_that_does_not_exist_is_told(world: World, here: InProcessExecutor) -> None:
    with pytest.raises(PrerequisiteError, match=r"(?s)did not start.*No such file.*/no/such/program") as caught:
        world.serving(here, command=("/no/such/program",)).__enter__()
    assert "serving" in caught.value.fix


def test_an_error_nobody_foresaw_ends_the_wait(world: World) -> None:
    class Broken(InProcessExecutor):
        def place(self, *arguments: object) -> Any:
            replica = super().place(*arguments)  # type: ignore[arg-type]
            replica.start = lambda: 1 / 0
            return replica

    with pytest.raises(PrerequisiteError, match="ZeroDivisionError"), world.serving(Broken(world.folder)):
        pytest.fail("it is not up")


def test_a_server_that_never_answers_is_given_up(world: World, here: InProcessExecutor) -> None:
    silent = (sys.executable, "-c", "import time; time.sleep(600)")
    with (
        pytest.raises(PrerequisiteError, match=r"did not answer within 1 s of its start"),
        world.serving(here, command=silent, start_seconds=1.0),
    ):
        pytest.fail("it is not up")
    require_none_marked(world.mark, 0.0)


def test_a_started_server_of_another_model_is_refused(world: World, here: InProcessExecutor) -> None:
    (world.folder / "model").write_text("big")
    with pytest.raises(PrerequisiteError, match="serves big, not small"), world.serving(here):
        pytest.fail("it is not to be asked")
    require_none_marked(world.mark, 0.0)


def test_a_killed_server_comes_back_at_its_address_and_the_question_is_answered(
    world: World, here: InProcessExecutor
) -> None:
    with world.serving(here) as pool:
        assert ask(pool, "die while you think") == ANSWER, "the death costs an attempt, no answer"
        until(lambda: len(world.starts()) == 2)
        (server,) = world.servers()
        os.kill(server, signal.SIGKILL)
        assert ask(pool) == ANSWER
        pool.check()
    assert len(world.starts()) == 3
    assert [start["argv"][-1] for start in world.starts()] == [pool.servers.endpoints[0].rpartition(":")[2]] * 3
    assert sum("is started again" in line for line in world.said) == 2
    require_none_marked(world.mark, 0.0)


def test_restarts_end_and_the_run_is_told_why(world: World, here: InProcessExecutor) -> None:
    with (
        pytest.raises(PrerequisiteError, match="No server of small is left") as caught,
        world.serving(here, max_restarts=1) as pool,
    ):
        for count in (1, 2):
            until(lambda count=count: len(world.starts()) == count and ask(pool) == ANSWER)
            for pid in world.servers():
                os.kill(pid, signal.SIGKILL)
        until(lambda: pool._keepers[0].problem)
        pool.check()
    assert str(world.folder / "logs") in caught.value.problem
    assert len(world.starts()) == 2
    require_none_marked(world.mark, 0.0)


def test_given_endpoints_are_used_as_they_are(world: World, here: InProcessExecutor) -> None:
    with FakeServer() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RVOSBENCH_SERVER_KEY", "secret")
        with world.serving(here, endpoints=(f"{server.url}/v1/",)) as pool:
            assert pool.servers.endpoints == (server.url,) and pool.servers.key == "secret"
            assert ask(pool) == ANSWER
        assert not (world.folder / "starts").exists()
    with FakeServer(model="big") as server, pytest.raises(PrerequisiteError, match="serves big, not small"):
        world.serving(here, endpoints=(server.url,)).__enter__()


def test_replicas_on_ray_hold_their_gpus_and_one_death_leaves_the_others(world: World, there: RayExecutor) -> None:
    with world.serving(there, replicas="auto", gpus=2) as pool:
        assert len(pool.servers.endpoints) == 2
        until(lambda: len(world.servers()) == len(world.starts()) == 2)
        assert sorted(start["gpus"] for start in world.starts()) == ["0,1", "2,3"]
        assert all("--tensor-parallel-size" in start["argv"] for start in world.starts())
        asked = ChatServers(pool.servers)
        message = [{"role": "user", "content": [{"type": "text", "text": "what?"}]}]
        os.kill(world.servers()[0], signal.SIGKILL)
        for index in range(10):
            assert asked.complete(message, affinity=f"video {index}", max_tokens=7) == ANSWER
        until(lambda: len(world.starts()) == 3)
        pool.check()
    require_none_marked(world.mark)


def test_a_killed_actor_takes_its_server_along_and_both_come_back(world: World, there: RayExecutor) -> None:
    with world.serving(there) as pool:
        assert ask(pool) == ANSWER
        until(lambda: world.servers())
        before = set(marked(world.mark))
        (actor,) = {parent(pid) for pid in before} - before
        os.kill(actor, signal.SIGKILL)
        until(lambda: not before & set(marked(world.mark)))
        assert ask(pool) == ANSWER, "at the old address"
        assert len(world.starts()) == 2
    require_none_marked(world.mark)


def test_more_servers_than_the_cluster_holds_are_refused(world: World, there: RayExecutor) -> None:
    with (
        pytest.raises(PrerequisiteError, match="asks for 3 servers of 2 GPU and 0 CPU each; the cluster holds 2"),
        world.serving(there, replicas=3, gpus=2),
    ):
        pytest.fail("there is no room")
    with pytest.raises(PrerequisiteError, match="without Ray there is one place"):
        InProcessExecutor(world.folder).replica_count(ServingChoice(replicas=2))


def test_a_hung_server_is_started_again(world: World, here: InProcessExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_module, "_UNWELL_SECONDS", 0.5)
    monkeypatch.setattr("rvosbench.harness.serving.replica._HEALTH_SECONDS", 0.5)
    monkeypatch.setattr("rvosbench.harness.serving.replica._GRACE_SECONDS", 0.5)
    with world.serving(here) as pool:
        (server,) = world.servers()
        os.kill(server, signal.SIGSTOP)
        until(lambda: len(world.starts()) == 2)
        assert ask(pool) == ANSWER
    require_none_marked(world.mark, 0.0)
