"""The unit of work, one video with its pending expressions, and the worker that runs a stage on it."""

from __future__ import annotations

import platform
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rvosbench.harness.data.frames import DecodedFrames
from rvosbench.harness.data.types import Expression, Video
from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.harness.stages import Outcome, Request, Stage, StageSpec
from rvosbench.harness.store.artefacts import Artefact, ArtefactStore
from rvosbench.harness.store.records import Record


@dataclass(frozen=True)
class PendingExpression:
    """One artefact to compute: where it goes and what it is made from."""

    expression: Expression
    key: str
    inputs: tuple[tuple[str, str], ...] = ()
    """(upstream stage, its key)."""


@dataclass(frozen=True)
class WorkItem:
    """One video with all its pending expressions of one stage: decoded frames and features are shared."""

    video: Video
    pending: tuple[PendingExpression, ...]
    attempt: int = 1

    @property
    def cost(self) -> int:
        """Relative cost for longest-first scheduling: frames x expressions."""
        return len(self.video.frames) * len(self.pending)

    def split(self) -> list[WorkItem]:
        """One item per expression, on its next attempt: isolates the expression that kills workers."""
        return [replace(self, pending=(pending,), attempt=self.attempt + 1) for pending in self.pending]


class StageWorker:
    """A built stage and the store: what every executor runs, in this process or in an actor."""

    def __init__(self, spec: StageSpec, store_root: Path) -> None:
        self.spec = spec
        self.store = ArtefactStore(store_root)
        self.stage: Stage = spec.build()

    def process(self, item: WorkItem) -> list[Record]:
        """Computes and commits the item's artefacts one by one; returns one record each.

        The time is split evenly: what expressions share cannot be told from what each took.

        Raises:
            DamagedArtefactError: an artefact it reads is damaged and must be computed again first.
            PrerequisiteError: nothing further can succeed (the disk is full, say).
        """
        frames = DecodedFrames(item.video)
        requests = [
            Request(p.expression, {stage: self.store.read(stage, key) for stage, key in p.inputs}) for p in item.pending
        ]
        records: dict[int, Record] = {}

        def ended() -> list[Record]:
            each = (time.perf_counter() - started) / max(1, len(records))
            return [replace(records[index], seconds=each, worker=place()) for index in sorted(records)]

        started = time.perf_counter()
        try:
            for index, outcome in self.stage.run(frames, requests):
                records[index] = self._commit(item, index, outcome)
        except PrerequisiteError:
            raise
        except Exception as error:  # noqa: BLE001 - any failure of a stage is a recorded sample failure
            left = [index for index in range(len(requests)) if index not in records]
            if len(left) > 1 and not isinstance(error, SampleError):
                return [*ended(), *self._one_at_a_time(item, left)]
            for index in left:
                records[index] = _failure(item, index, error)
        for index in range(len(requests)):
            if index not in records:
                records[index] = _failure(item, index, SampleError(f"stage {self.spec.name} gave no result"))
        return ended()

    def _one_at_a_time(self, item: WorkItem, left: Sequence[int]) -> Iterator[Record]:
        """An unforeseen error ended the whole call: find which expressions are really at fault."""
        for index in left:
            yield from self.process(replace(item, pending=(item.pending[index],)))

    def _commit(self, item: WorkItem, index: int, outcome: Outcome) -> Record:
        if isinstance(outcome, Artefact):
            self.store.write(self.spec.name, item.pending[index].key, outcome)
            return Record(item.pending[index].key, "done", attempts=item.attempt)
        return _failure(item, index, outcome)


def place() -> str:
    """This process's machine, and the name of its GPU where torch computes on one."""
    torch = sys.modules.get("torch")
    gpu = f", {torch.cuda.get_device_name()}" if torch is not None and torch.cuda.is_initialized() else ""
    return f"{platform.node()}{gpu}"


def _failure(item: WorkItem, index: int, error: Exception) -> Record:
    known = isinstance(error, SampleError)
    return Record(
        key=item.pending[index].key,
        status="failed",
        error=str(error) if known else f"{type(error).__name__}: {error}",
        detail=None if known else "".join(traceback.format_exception(error)),
        attempts=item.attempt,
    )
