"""The published table, line by line, and what runs put beside it. Values are percent, differences are points."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pandas as pd

from rvosbench.harness.data.cards import titles
from rvosbench.harness.published import load_published
from rvosbench.harness.results.schema import Score

_SUBSETS = ("all", "referring", "reasoning")
_APART = 0.05
"""Values of two sources that differ by more are different numbers."""


@dataclass(frozen=True)
class Published:
    """One printed number."""

    J_and_F: float
    J: float
    F: float
    protocol: str
    run_by: str
    """Who ran it, where that is not the method's author."""
    flag: str
    """See ``rvosbench.harness.published.flag_of``; "" for none."""
    note: str
    elsewhere: str
    """Other values of the same cell, with their sources; "" for none."""


@dataclass(frozen=True)
class Line:
    """A method on an LVLM."""

    method: str
    lvlm: str
    training: str

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.method} on {self.lvlm}"


@dataclass(frozen=True)
class Column:
    """A benchmark, or a subset of it."""

    dataset: str
    subset: str

    @property
    def title(self) -> str:
        """For people."""
        return self.dataset if self.subset == "all" else f"{self.dataset} {self.subset}"


@dataclass(frozen=True)
class Result:
    """What a run gave."""

    run: str
    """Its folder's name."""
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class Cell:
    """A line in a column: what is printed, what a run gave, or why there is none."""

    line: Line
    column: Column
    published: Published | None = None
    score: Score | None = None
    result: Result | None = None
    """The run that the score comes from."""
    why: str = ""
    """Why there is no score; "" where there is one."""

    @property
    def reproduced(self) -> tuple[float, float, float] | None:
        """J&F, J and F of the run, percent."""
        score = self.score
        if score is None or score.J_and_F is None or score.J is None or score.F is None:
            return None
        return 100 * score.J_and_F, 100 * score.J, 100 * score.F

    @property
    def comparable(self) -> bool:
        """Whether both numbers are there, under one protocol."""
        return (
            self.published is not None
            and self.score is not None
            and self.reproduced is not None
            and self.published.protocol == self.score.protocol
        )

    @property
    def difference(self) -> tuple[float, float, float] | None:
        """Reproduced minus published J&F, J and F, points; None where they cannot be compared."""
        if not self.comparable:
            return None
        assert self.published is not None and self.reproduced is not None
        printed = (self.published.J_and_F, self.published.J, self.published.F)
        ours, theirs = self.reproduced, printed
        return ours[0] - theirs[0], ours[1] - theirs[1], ours[2] - theirs[2]

    @property
    def notes(self) -> list[str]:
        """What a reader must know of the numbers, one sentence each."""
        out = []
        if self.published is not None:
            printed = self.published
            if printed.flag in ("suspect", "copied") or printed.note:
                out.append(f"published: {printed.note or 'J&F is not the mean of J and F'}")
        if self.score is not None:
            counts = self.score.counts
            if counts.failed or counts.missing:
                out.append(f"{counts.failed} samples failed and {counts.missing} are missing; they count as 0")
            if self.published is not None and self.published.protocol != self.score.protocol:
                out.append(f"not compared: published under {self.published.protocol}, run under {self.score.protocol}")
            out += self.score.notes
        return out


@cache
def published_cells() -> tuple[Cell, ...]:
    """Every cell of the published table, its lines in their printed order, columns in the papers'."""
    everything = load_published()
    rows = everything[everything["main"]].to_dict("records")
    found = {(row["method"], row["lvlm"], row["dataset"], row["subset"]): _published(row, everything) for row in rows}
    lines = dict.fromkeys(Line(row["method"], row["lvlm"], row["training"]) for row in rows)
    columns = [
        Column(title, subset)
        for title in titles()
        for subset in _SUBSETS
        if any((row["dataset"], row["subset"]) == (title, subset) for row in rows)
    ]
    return tuple(
        Cell(line, column, found.get((line.method, line.lvlm, column.dataset, column.subset)))
        for line in lines
        for column in columns
    )


def filled(
    cells: Iterable[Cell], results: Mapping[tuple[Line, str], Result], why: Mapping[tuple[Line, str], str]
) -> tuple[Cell, ...]:
    """The cells with what runs gave.

    Args:
        results: by line and benchmark.
        why: why there is no result, for the others.
    """
    out = []
    for cell in cells:
        key = (cell.line, cell.column.dataset)
        result = results.get(key)
        if result is None:
            out.append(replace(cell, why=why.get(key, "")))
            continue
        score = next((score for score in result.scores if score.subset == cell.column.subset), None)
        absent = f"the run has no score of the subset '{cell.column.subset}'"
        if score is not None and score.J_and_F is None:
            absent = "the run has no number under this protocol"
        out.append(replace(cell, score=score, result=result, why="" if score and score.J_and_F is not None else absent))
    return tuple(out)


def _published(row: Mapping[Hashable, Any], everything: pd.DataFrame) -> Published:
    same = everything[~everything["main"] & ~everything["variant"]]
    for name in ("method", "lvlm", "dataset", "split", "subset"):
        same = same[same[name] == row[name]]
    others: dict[float, str] = {}
    for other in same.to_dict("records"):
        # False where a source prints no J&F.
        if abs(other["J_and_F"] - row["J_and_F"]) > _APART:
            others.setdefault(other["J_and_F"], other["source"])
    return Published(
        **{name: row[name] for name in ("J_and_F", "J", "F", "protocol", "run_by", "flag", "note")},
        elsewhere="; ".join(f"{jf:.1f} ({source})" for jf, source in others.items()),
    )
