"""The executor interface, and the one that runs everything in this process (for debugging and small jobs)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.execute.work import StageWorker, WorkItem
from rvosbench.harness.recipes import ServingChoice
from rvosbench.harness.stages import StageSpec
from rvosbench.harness.store.records import Record

if TYPE_CHECKING:
    from rvosbench.harness.serving.replica import Replica
    from rvosbench.harness.serving.replicas import ReplicaHandle
    from rvosbench.harness.serving.vllm import Launch

Report = Callable[[Record], None]
"""Called in the driver for every artefact that ended, in finish order."""
Watch = Callable[[], None]
"""Called in the driver while a stage runs; raises PrerequisiteError when what it watches is lost."""


def nothing_to_watch() -> None:
    """For stages that depend on nothing but their workers."""


class Executor(Protocol):
    """Runs one stage over work items; the results are in the store, the records tell how each ended.

    It also has the places for model servers (``rvosbench.harness.serving.replicas.Host``).
    """

    def run(self, spec: StageSpec, items: Sequence[WorkItem], report: Report, watch: Watch = nothing_to_watch) -> None:
        """Returns when every pending expression of every item was reported exactly once.

        Raises:
            PrerequisiteError: nothing further can succeed.
        """
        ...

    def replica_count(self, choice: ServingChoice) -> int:
        """How many servers the recipe asks for.

        Raises:
            PrerequisiteError: there is no room for so many.
        """
        ...

    def place(self, launch: Launch, log: Path, choice: ServingChoice) -> ReplicaHandle:
        """A server that is not started yet."""
        ...

    def close(self) -> None:
        """Stops every process this executor started."""
        ...


class InProcessExecutor:
    """The same stage code without Ray: breakpoints and profilers work."""

    def __init__(self, store_root: Path) -> None:
        self._store_root = store_root

    def run(self, spec: StageSpec, items: Sequence[WorkItem], report: Report, watch: Watch = nothing_to_watch) -> None:
        """See Executor."""
        worker = StageWorker(spec, self._store_root)
        for item in longest_first(items):
            watch()
            for record in worker.process(item):
                report(record)

    def replica_count(self, choice: ServingChoice) -> int:
        """See Executor; one, which takes the first GPUs."""
        if choice.replicas not in (1, "auto"):
            raise PrerequisiteError(
                f"serving.replicas is {choice.replicas}, but without Ray there is one place.",
                "Set executor.kind to ray, or serving.replicas to 1.",
            )
        return 1

    def place(self, launch: Launch, log: Path, choice: ServingChoice) -> Replica:
        """See Executor."""
        from rvosbench.harness.serving.replica import Replica

        return Replica(launch, log, "127.0.0.1")

    def close(self) -> None:
        """Nothing to stop."""


def longest_first(items: Iterable[WorkItem]) -> list[WorkItem]:
    """Longest items first, ties by video name: the last worker to finish has little left to do."""
    return sorted(items, key=lambda item: (-item.cost, item.video.name))
