"""Model servers as Ray actors: each holds its GPUs and owns its server process."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.recipes import ServingChoice
from rvosbench.harness.serving.replica import Replica, Status
from rvosbench.harness.serving.vllm import Launch

_CALL_SECONDS = 60.0
_PLACE_TICK_SECONDS = 1.0


class _ServerProcess:
    """The actor's class. When the actor ends, however that happens, the supervisor ends the server."""

    def __init__(self, launch: Launch, log: Path) -> None:
        self._launch = launch
        self._log = log
        self._replica: Replica | None = None

    def start(self, local: bool, port: int | None) -> tuple[str, int, str] | PrerequisiteError:
        """Address, port and node of the server; it does not answer yet."""
        import ray

        try:
            if self._replica is None:
                address: Any = ray.util.get_node_ip_address
                host = "127.0.0.1" if local else address()
                self._replica = Replica(self._launch, self._log, host, port)
            url = self._replica.start()
        except PrerequisiteError as error:
            return error
        return url, self._replica.port, ray.get_runtime_context().get_node_id()

    def status(self) -> Status:
        assert self._replica is not None
        return self._replica.status()

    def stop(self) -> None:
        if self._replica is not None:
            self._replica.stop()


class RayReplica:
    """A server in an actor. A lost actor is replaced on the same node, at the same port: the address stays."""

    def __init__(self, launch: Launch, log: Path, choice: ServingChoice, local: bool) -> None:
        self._launch = launch
        self._log = log.resolve()
        self._choice = choice
        self._local = local
        self._actor: Any = None
        self._port: int | None = None
        self._node: str | None = None

    def start(self) -> str:
        """See ReplicaHandle."""
        import ray

        if self._actor is None or not self._still_there():
            self._actor = self._new_actor()
        reference = self._actor.start.remote(self._local, self._port)
        try:
            started = ray.get(reference, timeout=self._choice.start_seconds)
        except ray.exceptions.GetTimeoutError as error:
            raise PrerequisiteError(
                f"The cluster had no place for a server within {self._choice.start_seconds:g} s.",
                "Free its GPUs, or lower serving.replicas or serving.gpus.",
            ) from error
        except ray.exceptions.RayError as error:
            raise PrerequisiteError(
                f"The machine of a server was lost: {str(error).strip().splitlines()[0]}", "Check the cluster."
            ) from error
        if isinstance(started, PrerequisiteError):
            raise started
        url, self._port, self._node = started
        return str(url)

    def status(self) -> Status:
        """See ReplicaHandle."""
        import ray

        try:
            status: Status = ray.get(self._actor.status.remote(), timeout=_CALL_SECONDS)
        except ray.exceptions.GetTimeoutError:
            return Status("unwell")
        except ray.exceptions.RayError as error:
            return Status("dead", f"its Ray actor is gone: {str(error).strip().splitlines()[0]}")
        return status

    def stop(self) -> None:
        """See ReplicaHandle."""
        import ray

        if self._actor is None or not ray.is_initialized():
            return
        with suppress(ray.exceptions.RayError):
            ray.get(self._actor.stop.remote(), timeout=_CALL_SECONDS)
        with suppress(ray.exceptions.RayError):
            ray.kill(self._actor)
        self._actor = None

    def _still_there(self) -> bool:
        """Whether the actor lives; its server is ended if so."""
        import ray

        try:
            ray.get(self._actor.stop.remote(), timeout=_CALL_SECONDS)
        except ray.exceptions.RayError:
            with suppress(ray.exceptions.RayError):
                ray.kill(self._actor)
            return False
        return True

    def _new_actor(self) -> Any:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        remote: Any = ray.remote(_ServerProcess)
        place = (
            {}
            if self._node is None
            else {"scheduling_strategy": NodeAffinitySchedulingStrategy(self._node, soft=False)}
        )
        return remote.options(num_cpus=self._choice.cpus, num_gpus=self._choice.gpus, max_restarts=0, **place).remote(
            self._launch, self._log
        )


def replica_count(choice: ServingChoice) -> int:
    """How many servers; "auto": as many as the cluster's GPUs allow, one on CPUs.

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
            f"The recipe asks for {wanted} servers of {choice.gpus} GPU and {choice.cpus:g} CPU each; the cluster "
            f"holds {int(room)}.",
            "Lower serving.replicas, serving.gpus or serving.cpus.",
        )
    return wanted


def _times(have: float, each: float) -> float:
    return math.floor(have / each) if each else math.inf
