"""The one live display of a run, drawn by the driver; workers never draw.

On a terminal: a bar per stage. Elsewhere (logs, CI): one line when a stage starts and ends, and at most one every
ten seconds between.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_LOG_SECONDS = 10.0


class SampleProgress:
    """One bar over samples, for commands that do a single thing."""

    def __init__(self, title: str, console: Console) -> None:
        self._bar = Progress(
            TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console,
            transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task(title, total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, done: int, total: int) -> None:
        """``done`` of ``total`` samples are finished."""
        self._bar.update(self._task, completed=done, total=total)


class RunProgress:
    """Counts artefacts per stage: done, failed, rate, time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Progress | None = None
        if console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[failed]} failed"),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=console,
            )
        self._task: TaskID | None = None
        self._title = ""
        self._total = self._done = self._failed = 0
        self._started = self._last_line = 0.0

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def begin(self, title: str, total: int, reused: int) -> None:
        """A stage starts: ``total`` artefacts to compute, ``reused`` already in the store."""
        self._title, self._total, self._done, self._failed = title, total, 0, 0
        self._started = self._last_line = time.monotonic()
        described = f"{title} [dim]({reused} reused)[/dim]" if reused else title
        if self._bars is not None:
            self._task = self._bars.add_task(described, total=total, failed=0, rate="")
        elif total:
            self._console.print(f"{title}: {total} to compute, {reused} reused", highlight=False)

    def advance(self, failed: bool) -> None:
        """One artefact ended."""
        self._done += 1
        self._failed += failed
        now = time.monotonic()
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, completed=self._done, failed=self._failed, rate=self._rate(now))
        elif now - self._last_line >= _LOG_SECONDS:
            self._last_line = now
            left = (now - self._started) / self._done * (self._total - self._done)
            self._console.print(
                f"{self._title}: {self._done}/{self._total}, {self._failed} failed, {self._rate(now)}, "
                f"{left:.0f} s left",
                highlight=False,
            )

    def end(self) -> float:
        """The stage ended; returns its seconds."""
        seconds = time.monotonic() - self._started
        if self._bars is None and self._total:
            self._console.print(
                f"{self._title}: {self._done}/{self._total} in {seconds:.1f} s, {self._failed} failed", highlight=False
            )
        return seconds

    def _rate(self, now: float) -> str:
        return f"{self._done / max(now - self._started, 1e-9):.2f}/s"
