"""Pools of Ray actors, one pool per stage: longest-first pull queue, one item in flight per worker.

Failure policy. A worker that dies or passes its deadline is replaced. What its item had committed stays; the rest
is split into single expressions and tried again, so one expression that kills workers cannot take its video
along. After ``max_attempts`` it is recorded as failed. The driver never blocks on one actor.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.execute.executor import Report, longest_first
from rvosbench.harness.execute.work import WorkItem
from rvosbench.harness.execute.workers import Workers
from rvosbench.harness.extras import install_command
from rvosbench.harness.recipes import ExecutorChoice, Pool, ServingChoice
from rvosbench.harness.servers import ModelServer, Servers
from rvosbench.harness.stages import StageSpec
from rvosbench.harness.store.artefacts import ArtefactStore
from rvosbench.harness.store.records import Record

_TICK_SECONDS = 0.5
RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # A driver that is killed leaves Ray's agents asking a dead control service for a minute before they end.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
}
_JOINS_CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Despite its name Ray reads it on every system."""
_LOAD_DEATHS = 3
"""Workers that may die in a row while loading before the run stops."""
_STARTED_TOO_LATE = "timed out during startup"
"""In the message of the bare exception that Ray raises then."""
_ASKERS_PER_SERVER = 4
"""Workers that ask model servers, per server, where their number is "auto": each asks about one video at a time."""


@contextmanager
def on_loopback() -> Iterator[None]:
    """While a cluster of this machine alone starts: nothing of it listens where other machines could reach it.

    Ray replaces a loopback address by one that others reach, unless it is told, before it is imported, that this system
    joins no clusters. What it starts inherits that; this process must not hand it on to others.
    """
    before = os.environ.get(_JOINS_CLUSTERS)
    os.environ[_JOINS_CLUSTERS] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_JOINS_CLUSTERS]
        else:
            os.environ[_JOINS_CLUSTERS] = before


@dataclass
class _Slot:
    """A worker and what it is doing."""

    actor: Any
    since: float
    item: WorkItem | None = None
    """None while it loads."""


class RayExecutor:
    """Runs stages on Ray, on this machine or on a cluster that shares the artefact store's file system."""

    def __init__(self, choice: ExecutorChoice, store_root: Path, serving: ServingChoice | None = None) -> None:
        self._choice = choice
        self._store_root = store_root.resolve()
        self._serving = serving or ServingChoice()
        self._workers = Workers(self._store_root)
        self._owns_ray = False

    def run(self, spec: StageSpec, items: Sequence[WorkItem], report: Report) -> None:
        """See Executor."""
        self._connect()
        pool = self._choice.pool(spec.name)
        workers = len(items)
        if spec.servers is not None:
            # The model is in the servers; a worker that waited for a GPU they hold would wait for ever.
            pool = replace(pool, gpus=0.0)
            if pool.workers == "auto":
                workers = min(workers, _ASKERS_PER_SERVER * spec.servers.replicas)
        self._require_fit(spec.name, pool)
        self._workers.prepare(pool)
        run = _StageRun(self._choice, pool, spec, self._workers, self._store_root, report)
        try:
            run.run_queue(longest_first(items), workers=min(_worker_count(pool), workers))
        finally:
            run.stop()

    @contextmanager
    def engines(
        self, need: ModelServer, choice: ServingChoice, logs: Path, report: Callable[[str], None]
    ) -> Iterator[Servers]:
        """See EngineHost."""
        from rvosbench.harness.serving.ray_engines import ray_engines

        self._connect()
        self._workers.dismiss()  # the engines may need what idle workers hold
        with ray_engines(need, choice, logs, report) as engines:
            yield engines

    def close(self) -> None:
        """Shuts a local cluster down; leaves a joined one running."""
        import ray

        if not ray.is_initialized():
            return
        self._workers.dismiss()
        if self._owns_ray:
            ray.shutdown()
            self._owns_ray = False

    def _connect(self) -> None:
        address = self._choice.address or os.environ.get("RAY_ADDRESS")
        with nullcontext() if address else on_loopback():
            self._connect_to(address)

    def _connect_to(self, address: str | None) -> None:
        try:
            import ray
        except ModuleNotFoundError as error:
            raise PrerequisiteError(
                "Running on Ray needs the package 'ray', which is not installed.",
                f"Install the extra ({install_command('run')}) or use --set executor.kind=inprocess.",
            ) from error
        if ray.is_initialized():
            return
        for name, value in RAY_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        try:
            if address:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
                return
            ray.init(
                num_cpus=self._local_cpus(),
                _node_ip_address="127.0.0.1",
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=int(self._choice.object_store_gb * 2**30),
            )
            self._owns_ray = True
        except ConnectionError as error:
            raise PrerequisiteError(
                f"No Ray cluster answers at {address}.", "Start one (ray up ray_cluster.yaml) or unset RAY_ADDRESS."
            ) from error
        except Exception as error:
            if _STARTED_TOO_LATE not in str(error):
                raise
            raise PrerequisiteError(
                "Ray did not start within its half minute: this machine is too busy.",
                "Run the same command again when it is less so, or with --set executor.kind=inprocess.",
            ) from error

    def _local_cpus(self) -> int:
        """This machine's cores, or more when the recipe asks for more workers than that."""
        requested = [pool.workers * pool.cpus for pool in self._choice.pools.values() if isinstance(pool.workers, int)]
        servers = self._serving.cpus * (self._serving.replicas if isinstance(self._serving.replicas, int) else 1)
        return max(os.cpu_count() or 1, *(math.ceil(cpus + servers) for cpus in requested), 1)

    @staticmethod
    def _require_fit(stage: str, pool: Pool) -> None:
        """An unschedulable actor would wait for ever without a word."""
        import ray

        requested = {"CPU": pool.cpus, "GPU": pool.gpus, "memory": (pool.memory_gb or 0.0) * 2**30}
        list_nodes: Any = ray.nodes
        nodes = [node["Resources"] for node in list_nodes() if node["Alive"]]
        if not any(all(node.get(name, 0.0) >= amount for name, amount in requested.items()) for node in nodes):
            largest = {name: max((node.get(name, 0.0) for node in nodes), default=0.0) for name in requested}
            raise PrerequisiteError(
                f"A {stage} worker asks for {pool.cpus:g} CPU, {pool.gpus:g} GPU and {pool.memory_gb or 0:g} GB; the "
                f"largest node has {largest['CPU']:g} CPU, {largest['GPU']:g} GPU and "
                f"{largest['memory'] / 2**30:.0f} GB.",
                f"Lower executor.pools.{stage}.cpus, .gpus or .memory_gb.",
            )


def _worker_count(pool: Pool) -> int:
    if isinstance(pool.workers, int):
        return pool.workers
    import ray

    cluster_resources: Any = ray.cluster_resources
    total = cluster_resources()
    by_gpu = total.get("GPU", 0.0) / pool.gpus if pool.gpus else math.inf
    return max(1, int(min(by_gpu, total.get("CPU", 1.0) / pool.cpus)))


class _StageRun:
    """One stage's pool while it drains its queue."""

    def __init__(
        self,
        choice: ExecutorChoice,
        pool: Pool,
        spec: StageSpec,
        workers: Workers,
        store_root: Path,
        report: Report,
    ) -> None:
        self._choice = choice
        self._pool = pool
        self._spec = spec
        self._workers = workers
        self._store = ArtefactStore(store_root)
        self._report = report
        self._queue: deque[WorkItem] = deque()
        self._slots: dict[Any, _Slot] = {}
        """By the reference of the call in flight."""
        self._load_deaths = 0

    def run_queue(self, items: Sequence[WorkItem], workers: int) -> None:
        import ray

        self._queue.extend(items)
        for _ in range(workers):
            self._spawn()
        while self._queue or any(slot.item is not None for slot in self._slots.values()):
            ready, _ = ray.wait(list(self._slots), num_returns=1, timeout=_TICK_SECONDS)
            for reference in ready:
                self._handle_result(reference)
            self._replace_overdue()

    def stop(self) -> None:
        import ray

        for slot in self._slots.values():
            ray.kill(slot.actor)
        self._slots.clear()

    def _spawn(self) -> None:
        actor = self._workers.take(self._pool)
        self._slots[actor.load.remote(self._spec)] = _Slot(actor, time.monotonic())

    def _handle_result(self, reference: Any) -> None:
        """A call ended: record its results, or deal with the death of its worker."""
        import ray

        slot = self._slots.pop(reference)
        try:
            result = ray.get(reference)
        except ray.exceptions.RayActorError:
            self._lost(slot, "killed its worker")
            return
        except ray.exceptions.RayTaskError as error:
            ray.kill(slot.actor)
            raise PrerequisiteError(
                f"A {self._spec.name} worker failed outside any sample: {_last_line(error)}.",
                "Run with --set executor.kind=inprocess to see the traceback.",
            ) from error
        if isinstance(result, PrerequisiteError):
            ray.kill(slot.actor)
            raise result
        self._load_deaths = 0
        if slot.item is not None:
            for record in result:
                self._report(record)
        self._next(slot.actor)

    def _next(self, actor: Any) -> None:
        if self._queue:
            item = self._queue.popleft()
            self._slots[actor.process.remote(item)] = _Slot(actor, time.monotonic(), item)
        else:
            self._workers.wait(actor)

    def _lost(self, slot: _Slot, cause: str) -> None:
        if slot.item is None:
            self._load_deaths += 1
            if self._load_deaths >= _LOAD_DEATHS:
                raise PrerequisiteError(
                    f"{_LOAD_DEATHS} {self._spec.name} workers in a row died while loading their models.",
                    f"They may need more memory: lower executor.pools.{self._spec.name}.workers.",
                )
        else:
            self._retry(slot.item, cause)
        if self._queue:
            self._spawn()

    def _retry(self, item: WorkItem, cause: str) -> None:
        """Commits stay; the rest is tried again one expression at a time, up to the limit."""
        for single in item.split():
            key = single.pending[0].key
            if self._store.has(self._spec.name, key):
                self._report(Record(key, "done", attempts=item.attempt))
            elif item.attempt >= self._choice.max_attempts:
                times = "once" if item.attempt == 1 else f"{item.attempt} times"
                self._report(Record(key, "failed", error=f"{cause} {times}", attempts=item.attempt))
            else:
                self._queue.append(single)

    def _replace_overdue(self) -> None:
        import ray

        now = time.monotonic()
        for reference, slot in list(self._slots.items()):
            if slot.item is None:
                limit = self._choice.start_seconds
            else:
                limit = self._choice.deadline_seconds * len(slot.item.pending)
            if now - slot.since <= limit:
                continue
            del self._slots[reference]
            ray.kill(slot.actor)
            if slot.item is not None:
                self._lost(slot, f"passed the deadline of {self._choice.deadline_seconds:g} s")
            elif not self._slots:
                raise PrerequisiteError(
                    f"No {self._spec.name} worker was ready within {limit:g} s.",
                    "Check that the cluster has free resources, or raise executor.start_seconds.",
                )


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
