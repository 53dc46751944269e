"""The executor interface, and the one that runs everything in this process (for debugging and small jobs)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.execute.work import StageWorker, WorkItem
from rvosbench.harness.recipes import ServingChoice
from rvosbench.harness.servers import ModelServer, Servers
from rvosbench.harness.stages import StageSpec
from rvosbench.harness.store.records import Record

Report = Callable[[Record], None]
"""Called in the driver for every artefact that ended, in finish order."""


class Executor(Protocol):
    """Runs one stage over work items; the results are in the store, the records tell how each ended.

    It also starts the engines of stages that need a model server (``rvosbench.harness.serving.serving.EngineHost``).
    """

    def run(self, spec: StageSpec, items: Sequence[WorkItem], report: Report) -> None:
        """Returns when every pending expression of every item was reported exactly once.

        Raises:
            PrerequisiteError: nothing further can succeed.
        """
        ...

    def engines(
        self, need: ModelServer, choice: ServingChoice, logs: Path, report: Callable[[str], None]
    ) -> AbstractContextManager[Servers]:
        """See EngineHost."""
        ...

    def close(self) -> None:
        """Stops every process this executor started."""
        ...


class InProcessExecutor:
    """The same stage code without Ray: breakpoints and profilers work."""

    def __init__(self, store_root: Path) -> None:
        self._store_root = store_root

    def run(self, spec: StageSpec, items: Sequence[WorkItem], report: Report) -> None:
        """See Executor."""
        worker = StageWorker(spec, self._store_root)
        for item in longest_first(items):
            for record in worker.process(item):
                report(record)

    @contextmanager
    def engines(
        self, need: ModelServer, choice: ServingChoice, logs: Path, report: Callable[[str], None]
    ) -> Iterator[Servers]:
        """See EngineHost; one engine, in this process."""
        from rvosbench.harness.serving.vllm import LocalEngine

        if choice.replicas not in (1, "auto"):
            raise PrerequisiteError(
                f"serving.replicas is {choice.replicas}, but without Ray there is one place.",
                "Set executor.kind to ray, or serving.replicas to 1.",
            )
        report(f"Starting an engine of {need.served_name} in this process")
        engine = LocalEngine(need, choice)
        try:
            yield engine
        finally:
            engine.close()

    def close(self) -> None:
        """Nothing to stop."""


def longest_first(items: Iterable[WorkItem]) -> list[WorkItem]:
    """Longest items first, ties by video name: the last worker to finish has little left to do."""
    return sorted(items, key=lambda item: (-item.cost, item.video.name))
