"""The board as papers print it: a line per method and LVLM, a column per dataset, subset and protocol.

Published, starred, reproduced and imported numbers stay in lines of their own, numbers under different protocols in
columns of their own: no cell ever mixes two of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

import pandas as pd

from rvosbench.harness.data.cards import Card, card_names, load_card, titles
from rvosbench.harness.published import AS_PUBLISHED
from rvosbench.leaderboard.tables import KINDS, OURS

MARKS = {
    "†": "the source names no protocol",
    "‡": "sources print different values; the first one that is not doubtful is shown",
    "?": "suspect, see the notes",
    "°": "part of the benchmark",
    "!": "some samples failed or are missing and count as 0",
}
"""Signs behind a number and their meaning."""
_TRAINING_ORDER = ("", "trained", "training-free-agent", "frozen")
_SUBSET_ORDER = ("referring", "reasoning")
_WHOLE = len(_SUBSET_ORDER) + 1
_DOUBT = ("", "copied", "suspect", "superseded")


@dataclass(frozen=True)
class Cell:
    """One number."""

    value: float
    """J&F in percent."""
    marks: str = ""
    """Signs of `MARKS`."""
    best: bool = False
    """The best of its column among published, or among own, undoubted values."""
    low: float | None = None
    high: float | None = None
    difference: float | None = None
    """To the published number that it reproduces, points."""


@dataclass(frozen=True)
class Line:
    """One line: who produced these numbers with what."""

    method: str
    lvlm: str
    kind: str
    run_by: str
    run_id: str
    cells: Mapping[str, Cell]
    """By heading; absent where nothing is known."""

    @property
    def label(self) -> str:
        """The method as a table prints it; a star marks numbers that others than its authors produced."""
        return f"{self.method}*" if self.kind == "starred" else self.method

    @property
    def by(self) -> str:
        """Who produced the numbers; empty for the method's authors."""
        return f"{KINDS[self.kind]}: {self.run_id}" if self.kind in OURS else self.run_by


@dataclass(frozen=True)
class Pivot:
    """The table."""

    headings: tuple[str, ...]
    lines: tuple[Line, ...]
    protocols: Mapping[str, str]
    """Heading -> protocol id."""
    main: tuple[str, ...] = ()
    """The headings that stand for a benchmark as a whole: no subset, no unusual protocol."""

    @property
    def legend(self) -> dict[str, str]:
        """The signs that occur, with their meaning."""
        text = "".join(cell.marks for line in self.lines for cell in line.cells.values())
        starred = {"*": KINDS["starred"]} if any(line.kind == "starred" for line in self.lines) else {}
        return starred | {sign: meaning for sign, meaning in MARKS.items() if sign in text}


def pivot(rows: pd.DataFrame) -> Pivot:
    """The table of a board (see ``tables.board``), filtered or not; rows without J&F have no place in it.

    Lines are ordered by training, then the method's best number, method, LVLM and kind.
    """
    rows = rows[rows["J_and_F"].notna()]
    rows = rows.assign(heading=_headings(rows))
    places = {heading: _place(cell.iloc[0]) for heading, cell in rows.groupby("heading", sort=False)}
    headings = tuple(str(heading) for heading in sorted(places, key=lambda heading: places[heading]))
    best_of_method = rows.groupby("method")["J_and_F"].max()
    lines: list[tuple[tuple[object, ...], Line]] = []
    for key, group in rows.groupby(["method", "lvlm", "kind", "run_by", "run_id"], sort=False):
        method, lvlm, kind, run_by, run_id = map(str, key)
        cells = {str(heading): _cell(cell) for heading, cell in group.groupby("heading", sort=False)}
        order = (
            _TRAINING_ORDER.index(group["training"].iloc[0]),
            -best_of_method[method],
            method,
            lvlm,
            list(KINDS).index(kind),
            run_by,
            run_id,
        )
        lines.append((order, Line(method, lvlm, kind, run_by, run_id, cells)))
    ordered = [line for _, line in sorted(lines, key=lambda pair: pair[0])]
    protocols = {
        str(heading): next((name for name in cell["protocol"] if name != AS_PUBLISHED), AS_PUBLISHED)
        for heading, cell in rows.groupby("heading", sort=False)
    }
    main = tuple(heading for heading in headings if places[heading][2:] == (_WHOLE, "all", ""))
    return Pivot(headings, tuple(_with_best(ordered, headings)), protocols, main or headings)


def heading_of(dataset: str, split: str, subset: str, protocol: str, several: bool) -> str:
    """A column's heading: dataset, the split where the benchmark has two, the subset, an unusual protocol.

    Args:
        several: the dataset is also reported by subset, so that the whole is called "overall".
    """
    parts = [dataset]
    card = _card(dataset)
    if card is not None and card.tables is not None and card.tables.several_splits:
        parts.append(split)
    if subset != "all":
        parts.append(subset)
    elif several:
        parts.append("overall")
    if _is_unusual(dataset, split, protocol):
        parts.append(f"({protocol.partition('/')[2] or protocol})")
    return " ".join(parts)


@cache
def headline_protocol(dataset: str, split: str) -> str | None:
    """The first protocol of the dataset's card; None where there is no such card or split."""
    card = _card(dataset)
    found = card.splits.get(split) if card is not None else None
    return found.protocols[0] if found is not None and found.protocols else None


def _card(dataset: str) -> Card | None:
    # Names come from tables of others, so none of them is read as the path of a file.
    name = titles().get(dataset, dataset.lower())
    return load_card(name) if name in card_names() else None


def is_partial(coverage: str) -> bool:
    """Whether a coverage text such as "5 of 30 videos" says that videos are left out."""
    match = re.match(r"(\d+) of (\d+)\b", coverage)
    return match is not None and int(match.group(1)) < int(match.group(2))


def _headings(rows: pd.DataFrame) -> list[str]:
    by_subset = set(rows.loc[rows["subset"] != "all", "dataset"])
    columns = zip(rows["dataset"], rows["split"], rows["subset"], rows["protocol"], strict=True)
    return [heading_of(*column, column[0] in by_subset) for column in columns]


def _place(row: pd.Series) -> tuple[int, str, int, str, str]:
    """Where a column stands: papers' order of datasets, subsets before the whole, headline protocol first."""
    dataset, subset, protocol = str(row["dataset"]), str(row["subset"]), str(row["protocol"])
    order = list(titles())
    place = order.index(dataset) if dataset in order else len(order)
    named = _SUBSET_ORDER.index(subset) if subset in _SUBSET_ORDER else len(_SUBSET_ORDER)
    named = _WHOLE if subset == "all" else named
    unusual = _is_unusual(dataset, str(row["split"]), protocol)
    return place, f"{dataset} {row['split']}", named, subset, protocol if unusual else ""


def _is_unusual(dataset: str, split: str, protocol: str) -> bool:
    headline = headline_protocol(dataset, split)
    return headline is not None and protocol not in (AS_PUBLISHED, headline)


def _cell(rows: pd.DataFrame) -> Cell:
    """The number to show of the rows that fill one cell: the first of the least doubtful."""
    shown = rows.loc[rows["flag"].map(_DOUBT.index).sort_values(kind="stable").index[0]]
    current = rows.loc[rows["flag"] != "superseded", "J_and_F"]
    incomplete = shown["kind"] in OURS and any(count > 0 for count in shown[["failed", "missing"]].dropna())
    signs = {
        "†": shown["protocol"] == AS_PUBLISHED,
        "‡": len(current) > 1 and current.max() - current.min() > 0.05,
        "?": shown["flag"] == "suspect",
        "°": is_partial(shown["coverage"]),
        "!": incomplete,
    }
    names = ("low", "high", "difference")
    low, high, difference = (None if pd.isna(shown[name]) else float(shown[name]) for name in names)
    return Cell(
        float(shown["J_and_F"]),
        "".join(sign for sign, holds in signs.items() if holds),
        low=low,
        high=high,
        difference=difference,
    )


def _with_best(lines: list[Line], headings: tuple[str, ...]) -> list[Line]:
    """Marks the best undoubted value of each column, where at least two of its group compete."""
    best: dict[tuple[str, bool], float] = {}
    for heading in headings:
        for own in (False, True):
            values = [
                line.cells[heading].value
                for line in lines
                if (line.kind in OURS) == own and heading in line.cells and "?" not in line.cells[heading].marks
            ]
            if len(values) > 1:
                best[heading, own] = max(values)
    return [
        replace(
            line,
            cells={
                heading: replace(
                    cell, best="?" not in cell.marks and cell.value == best.get((heading, line.kind in OURS))
                )
                for heading, cell in line.cells.items()
            },
        )
        for line in lines
    ]
