"""vLLM engines as Ray actors. Ray restarts an engine whose process or node is lost, on any node that has room, and
asks it again what it had not answered."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.harness.recipes import ServingChoice
from rvosbench.harness.servers import ModelServer, replica_order
from rvosbench.harness.serving.vllm import Engine, EngineError, engine_arguments, engine_environment, software

_THREADS = 64
"""Requests that one engine takes at a time; more wait in Ray's queue."""


class EngineActor:
    """The actor's class: an engine whose process ends when the engine breaks, so that Ray starts another."""

    def __init__(self, arguments: Mapping[str, Any], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            for descriptor in (1, 2):
                os.dup2(file.fileno(), descriptor)
        self._problem: PrerequisiteError | None = None
        try:
            self._engine = Engine(arguments)
        except PrerequisiteError as error:
            # An exception here would reach the driver as text; as a value it keeps its sentence and its fix.
            self._problem = error

    def ready(self) -> str | PrerequisiteError:
        """Returns the engine's software once it has loaded its model, or why it never will."""
        return self._problem or software()

    def complete(
        self, messages: Sequence[Mapping[str, Any]], max_tokens: int, schema: Mapping[str, Any] | None
    ) -> str | SampleError | PrerequisiteError:
        """See ``Engine.complete``; what fails is returned, since a raised exception arrives as another type."""
        if self._problem is not None:
            return self._problem
        try:
            return self._engine.complete(messages, max_tokens, schema)
        except SampleError as error:
            return error
        except EngineError as error:
            print(f"The engine broke: {error}", flush=True)
            os._exit(1)


@dataclass(frozen=True)
class RayEngines:
    """Running engines of one model; see ``Servers``."""

    model: str
    """The name of the model, for messages."""
    actors: tuple[Any, ...]
    """Ray's handles."""
    logs: tuple[Path, ...]
    """Each engine's output."""
    choice: ServingChoice
    """The recipe's limits."""

    @property
    def replicas(self) -> int:
        """The number of engines."""
        return len(self.actors)

    def connect(self) -> RayEngineClient:
        """Opens a connection for one worker."""
        return RayEngineClient(self)


class RayEngineClient:
    """One worker's connection to all engines of a model; see ``ChatModel``."""

    def __init__(self, engines: RayEngines) -> None:
        self._engines = engines
        self._lost: set[int] = set()

    @property
    def in_flight(self) -> int:
        """See ChatModel."""
        return self._engines.choice.concurrency * self._engines.replicas

    def software(self) -> str:
        """See ChatModel."""
        for index in range(self._engines.replicas):
            if self._ready(index):
                return software()
        raise self._none_left()

    def complete(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        affinity: str,
        max_tokens: int,
        schema: Mapping[str, Any] | None = None,
    ) -> str:
        """See ChatModel."""
        import ray

        choice = self._engines.choice
        for index in replica_order(affinity, [log.stem for log in self._engines.logs]):
            if index in self._lost:
                continue
            call = self._engines.actors[index].complete.remote(list(messages), max_tokens, schema)
            try:
                # An engine that is being restarted answers when it has loaded its model again.
                answer = ray.get(call, timeout=choice.request_seconds + choice.start_seconds)
            except ray.exceptions.GetTimeoutError as error:
                ray.cancel(call)
                raise SampleError(f"the engine gave no answer within {choice.request_seconds:g} s") from error
            except ray.exceptions.RayError as error:
                if self._ready(index):
                    raise SampleError(f"the engine was lost {choice.attempts} times while it answered") from error
                self._lost.add(index)
                continue
            if isinstance(answer, PrerequisiteError):
                self._lost.add(index)
                continue
            if isinstance(answer, SampleError):
                raise answer
            return str(answer)
        raise self._none_left()

    def _ready(self, index: int) -> bool:
        import ray

        # While an engine is being restarted a call without retries fails at once.
        call = self._engines.actors[index].ready.options(max_task_retries=-1).remote()
        try:
            found = ray.get(call, timeout=self._engines.choice.start_seconds)
        except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
            return False
        return isinstance(found, str)

    def _none_left(self) -> PrerequisiteError:
        return PrerequisiteError(
            f"No engine of {self._engines.model} is left. {_last_lines(self._engines.logs)}",
            "Correct serving in the recipe, then run the same command again: all committed work is kept.",
        )


@contextmanager
def ray_engines(
    need: ModelServer, choice: ServingChoice, logs: Path, report: Callable[[str], None]
) -> Iterator[RayEngines]:
    """Runs engines of a model for as long as the block does.

    Args:
        need: the model and its limits.
        choice: the recipe's.
        logs: the folder of their output, on a file system that every node sees.
        report: takes a line for the user.

    Raises:
        PrerequisiteError: no engine can be started; states why.
    """
    import ray

    arguments, count = engine_arguments(need, choice), engine_count(choice)
    remote: Any = ray.remote(EngineActor)
    options = remote.options(
        num_cpus=choice.cpus,
        num_gpus=choice.gpus,
        max_restarts=choice.max_restarts,
        max_task_retries=choice.attempts - 1,
        max_concurrency=_THREADS,
        runtime_env={"env_vars": engine_environment(need, choice)},
    )
    stem = re.sub(r"[^\w.-]+", "-", need.served_name)
    paths = tuple(logs.resolve() / f"{stem}-{index}.log" for index in range(count))
    report(f"Starting {count} engine{'s' if count > 1 else ''} of {need.served_name}; output in {logs}")
    actors = tuple(options.remote(arguments, path) for path in paths)
    engines = RayEngines(need.served_name, actors, paths, choice)
    try:
        _wait_for_first(engines)
        yield engines
    finally:
        for actor in actors:
            with suppress(ray.exceptions.RayError):
                ray.kill(actor)


def engine_count(choice: ServingChoice) -> int:
    """Returns how many engines to start; "auto" is as many as the cluster's GPUs allow, and one on CPUs.

    Raises:
        PrerequisiteError: the cluster cannot hold so many, and the rest would wait for ever.
    """
    import ray

    list_nodes: Any = ray.nodes
    nodes = [node["Resources"] for node in list_nodes() if node["Alive"]]
    room = sum(
        min(_times(node.get("GPU", 0.0), choice.gpus), _times(node.get("CPU", 0.0), choice.cpus)) for node in nodes
    )
    automatic = max(1, int(room)) if choice.gpus else 1
    wanted = automatic if choice.replicas == "auto" else choice.replicas
    if wanted > room:
        raise PrerequisiteError(
            f"The recipe asks for {wanted} engines of {choice.gpus} GPU and {choice.cpus:g} CPU each; the cluster "
            f"holds {int(room)}.",
            "Lower serving.replicas, serving.gpus or serving.cpus.",
        )
    return wanted


def _wait_for_first(engines: RayEngines) -> None:
    """Returns once one engine has loaded its model; the others follow while it answers.

    Raises:
        PrerequisiteError: none will, or none did within ``start_seconds``.
    """
    import ray

    waiting = [actor.ready.remote() for actor in engines.actors]
    problem: PrerequisiteError | None = None
    while waiting:
        ready, waiting = ray.wait(waiting, num_returns=1, timeout=engines.choice.start_seconds)
        if not ready:
            raise PrerequisiteError(
                f"No engine of {engines.model} was ready within {engines.choice.start_seconds:g} s. "
                f"{_last_lines(engines.logs)}",
                "Free GPUs for it, raise serving.start_seconds, or lower serving.replicas or serving.gpus.",
            )
        try:
            found = ray.get(ready[0])
        except ray.exceptions.RayError as error:
            problem = PrerequisiteError(
                f"The process of an engine of {engines.model} ended while it started "
                f"({str(error).strip().splitlines()[0]}). {_last_lines(engines.logs)}",
                "Correct serving in the recipe (engine, gpus, cpus), or set reasoning.engine to local.",
            )
            continue
        if not isinstance(found, PrerequisiteError):
            return
        problem = found
    assert problem is not None, "there is at least one engine"
    raise problem


def _last_lines(logs: Sequence[Path], count: int = 5) -> str:
    """Returns the end of the first engine's output and where all of it is."""
    lines: list[str] = []
    with suppress(OSError):
        lines = [line for line in logs[0].read_text(errors="replace").splitlines() if line.strip()][-count:]
    return "\n".join([f"All of its output: {logs[0]}", *lines])


def _times(have: float, each: float) -> float:
    return math.floor(have / each) if each else math.inf
