"""The executor interface, and the one that runs everything in this process (for debugging and small jobs)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from harness.pipeline.stages import StageSpec
from harness.pipeline.work import Record, StageWorker, WorkItem

Report = Callable[[Record], None]
"""Called in the driver for every artefact that ended, in finish order."""


class Executor(Protocol):
    """Runs one stage over work items; the results are in the store, the records tell how each ended."""

    def run(self, spec: StageSpec, items: Sequence[WorkItem], report: Report) -> None:
        """Returns when every pending expression of every item was reported exactly once.

        Raises:
            PrerequisiteError: nothing further can succeed.
        """
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

    def close(self) -> None:
        """Nothing to stop."""


def longest_first(items: Iterable[WorkItem]) -> list[WorkItem]:
    """Longest items first, ties by video name: the last worker to finish has little left to do."""
    return sorted(items, key=lambda item: (-item.cost, item.video.name))
