"""The worker processes of a run: Ray actors that outlive a stage.

Starting Python and importing torch takes longer than a small stage's work, so a worker that has nothing left to do
waits, and the next stage that asks for the same resources loads its models into it. Workers of other needs are let
go first: what they hold may be all that there is.
"""

from __future__ import annotations

import gc
import platform
import sys
from pathlib import Path
from typing import Any

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.execute.work import StageWorker, WorkItem
from rvosbench.harness.recipes import Pool
from rvosbench.harness.stages import StageSpec
from rvosbench.harness.store.records import Record


class WorkerProcess:
    """The actor's class. Prerequisite errors travel as values: Ray wraps exceptions beyond recognition."""

    def __init__(self, store_root: Path) -> None:
        self._store_root = store_root
        self._worker: StageWorker | None = None

    def load(self, spec: StageSpec) -> PrerequisiteError | None:
        """Loads the stage's models, in place of those of the stage before."""
        self._forget()
        try:
            _require_same_code(spec)
            self._worker = StageWorker(spec, self._store_root)
        except PrerequisiteError as error:
            return error
        return None

    def process(self, item: WorkItem) -> list[Record] | PrerequisiteError:
        """Runs one item."""
        assert self._worker is not None
        try:
            return self._worker.process(item)
        except PrerequisiteError as error:
            return error

    def _forget(self) -> None:
        if self._worker is None:
            return
        self._worker = None
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()


def _require_same_code(spec: StageSpec) -> None:
    """Artefacts record the code that computed them, which the driver states for all machines.

    Raises:
        PrerequisiteError: this machine has other code or other versions of packages.
    """
    if spec.driver_code is not None:
        changes = spec.code().changes_since(spec.driver_code)
        if changes:
            raise PrerequisiteError(
                f"Machine {platform.node()} would compute {spec.name} by other code than this one has: "
                f"{', '.join(changes[:3])}.",
                "Install the same version of rvosbench and of the packages on every machine of the cluster.",
            )


class Workers:
    """The idle ones, and how to start more."""

    def __init__(self, store_root: Path) -> None:
        self._store_root = store_root
        self._idle: list[Any] = []
        self._needs: tuple[object, ...] = ()
        """Of all idle workers."""

    def prepare(self, pool: Pool) -> None:
        """Before a stage: lets workers go that hold other resources than the stage asks for."""
        needs = (pool.cpus, pool.gpus, pool.memory_gb, pool.threads)
        if needs != self._needs:
            self.dismiss()
        self._needs = needs

    def take(self, pool: Pool) -> Any:
        """An idle worker, or a new one. The pool must be the one last prepared for."""
        return self._idle.pop() if self._idle else self._start(pool)

    def wait(self, actor: Any) -> None:
        """Keeps a worker for the next stage."""
        self._idle.append(actor)

    def dismiss(self) -> None:
        """Ends all idle workers."""
        import ray

        for actor in self._idle:
            ray.kill(actor)
        self._idle.clear()

    def _start(self, pool: Pool) -> Any:
        import ray

        threads = {name: str(pool.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        remote: Any = ray.remote(WorkerProcess)
        return remote.options(
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
            memory=int(pool.memory_gb * 2**30) if pool.memory_gb else None,
            max_restarts=0,
            runtime_env={"env_vars": threads},
        ).remote(self._store_root)
