"""Published numbers: the table as printed, plus what is known about each row.

Values stay as printed, in percent. ``published_results.md`` describes the columns; which protocol, flag and variant a
row has is data of the table.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from rvosbench.harness.errors import PrerequisiteError, nearest_name

PATH = Path(__file__).with_name("published_results.csv")
AS_PUBLISHED = "as published"
MAIN_SOURCE = "SteerSeg project page, main table (seed document 1)"
"""The one table that compares the frozen-LVLM methods across LVLMs beside the trained ones."""

_BOARD_NAMES = {"jf": "J_and_F", "j": "J", "f": "F", "reproduced_by": "run_by"}
_DOUBT = ("", "copied", "suspect", "superseded")
"""Flags, the least doubtful first."""
_APART = 0.05
"""Percent: values of two sources that differ by more are different numbers."""


@dataclass(frozen=True)
class PublishedLine:
    """A method on an LVLM, as the table spells them."""

    method: str
    lvlm: str


@dataclass(frozen=True)
class PublishedNumber:
    """A printed number of a method on an LVLM: percent, None where the source prints no such value."""

    J_and_F: float | None
    J: float | None
    F: float | None
    protocol: str
    """A protocol id, or ``AS_PUBLISHED``."""
    run_by: str
    """Who ran it, where that is not the method's author."""
    flag: str
    """"suspect", "copied" or "superseded"; "" for none."""
    note: str
    elsewhere: str
    """Other values that sources print for the same, with the sources; "" for none."""


@cache
def load_published() -> pd.DataFrame:
    """All rows with the board's columns: kind "published", or "starred" where others ran the method.

    ``flag`` is "superseded" where the source replaced the value, "suspect" where the value is doubted or J&F is not
    the mean of J and F, "copied" where it stands in another paper too, so that who ran it is doubtful. ``variant``
    marks ablations and other forms of a method that are not its default, ``main`` the rows of the main comparison.
    """
    table = pd.read_csv(PATH, keep_default_na=False, na_values={name: [""] for name in ("jf", "j", "f")})
    table = table.rename(columns=_BOARD_NAMES)
    table["variant"] = table["variant"] == "yes"
    table["kind"] = table["run_by"].map(lambda name: "starred" if name else "published")
    table["main"] = table["source"] == MAIN_SOURCE
    return table


def main_lines() -> tuple[PublishedLine, ...]:
    """The lines of the main comparison, in its order."""
    rows = load_published()
    rows = rows[rows["main"]]
    return tuple(dict.fromkeys(PublishedLine(*line) for line in zip(rows["method"], rows["lvlm"], strict=True)))


def published_subsets(dataset: str, split: str) -> tuple[str, ...]:
    """The subsets of a split that any source prints, in the order of the main comparison.

    Args:
        dataset: a card's title.
    """
    rows = load_published()
    return tuple(rows.loc[(rows["dataset"] == dataset) & (rows["split"] == split), "subset"].unique())


def published_number(
    method: str, lvlm: str, dataset: str, split: str, subset: str, protocol: str | None = None
) -> PublishedNumber | None:
    """The number to set a reproduction beside; None where none is printed.

    One under ``protocol`` where there is one that still stands; else that of the main comparison, else the least
    doubtful one.

    Args:
        method, lvlm: as the table spells them.
        dataset: a card's title.
        split: a split of that card.
        subset: "all" for a whole split.
        protocol: the id that the reproduction is scored under.
    """
    rows = _cells().get((method, lvlm, dataset, split, subset))
    if rows is None:
        return None
    fits = (row for row in rows if row["protocol"] == protocol and row["flag"] != "superseded")
    return _number(next(fits, rows[0]), rows)


def require_reference(method: str, lvlm: str | None) -> None:
    """Refuses a line that the table does not have.

    Args:
        lvlm: None: any.

    Raises:
        PrerequisiteError: no row is of the method, or none of it on the LVLM; the nearest name is given.
    """
    lvlms = {line[1] for line in _lines() if line[0] == method}
    if not lvlms:
        methods = {line[0] for line in _lines()}
        raise PrerequisiteError(f"No published number is of a method '{method}'.", nearest_name(method, methods))
    if lvlm is not None and lvlm not in lvlms:
        raise PrerequisiteError(f"No published number is of {method} on '{lvlm}'.", nearest_name(lvlm, lvlms))


def source_link(reference: str) -> str | None:
    """A link to the source, where its reference names one."""
    if match := re.search(r"https://[^\s)]+", reference):
        return match.group()
    if match := re.search(r"arXiv:(\d{4}\.\d{5})", reference):
        return f"https://arxiv.org/abs/{match.group(1)}"
    return None


def display_method(name: str) -> str:
    """The spelling papers use, so that "decaf" and "DecAF" are one method; other names unchanged."""
    return _published_methods().get(_folded(name), name)


def display_lvlm(name: str | None) -> str:
    """The spelling papers use for a checkpoint: "Qwen/Qwen2.5-VL-7B-Instruct" -> "Qwen2.5VL-7B".

    Only release suffixes are dropped. A fine-tuned or local checkpoint keeps its own name; none gives "none".
    """
    if not name:
        return "none"
    base = name.rstrip("/").rpartition("/")[2].partition("@")[0]
    folded = re.sub(r"(instruct|hf|chat)+$", "", _folded(base))
    folded = {"llavaonevisionqwen27bov": "llavaov7b", "llavaonevisionqwen27b": "llavaov7b"}.get(folded, folded)
    return _published_lvlms().get(folded, base)


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


@cache
def _published_methods() -> dict[str, str]:
    return {_folded(name): name for name in load_published()["method"].unique()}


@cache
def _published_lvlms() -> dict[str, str]:
    return {_folded(name): name for name in load_published()["lvlm"].unique() if not name.startswith("none")}


@cache
def _lines() -> frozenset[tuple[str, str]]:
    rows = load_published()
    return frozenset(zip(rows["method"], rows["lvlm"], strict=True))


@cache
def _cells() -> Mapping[tuple[str, ...], list[Mapping[Hashable, Any]]]:
    """The rows of each method, LVLM, dataset, split and subset, the one to show first."""
    rows = load_published()
    rows = rows.assign(doubt=rows["flag"].map(_DOUBT.index))
    rows = rows.sort_values(["main", "variant", "doubt"], ascending=[False, True, True], kind="stable")
    cells: dict[tuple[str, ...], list[Mapping[Hashable, Any]]] = {}
    for row in rows.to_dict("records"):
        cell = tuple(str(row[name]) for name in ("method", "lvlm", "dataset", "split", "subset"))
        cells.setdefault(cell, []).append(row)
    return cells


def _number(shown: Mapping[Hashable, Any], rows: Iterable[Mapping[Hashable, Any]]) -> PublishedNumber:
    elsewhere: dict[float, str] = {}
    for other in rows:
        # The comparison is false where a source prints no J&F.
        if other["variant"] == shown["variant"] and abs(other["J_and_F"] - shown["J_and_F"]) > _APART:
            elsewhere.setdefault(other["J_and_F"], other["source"])
    J_and_F, J, F = (None if pd.isna(shown[name]) else float(shown[name]) for name in ("J_and_F", "J", "F"))
    protocol, run_by, flag, note = (str(shown[name]) for name in ("protocol", "run_by", "flag", "note"))
    text = "; ".join(f"{jf:.1f} ({source})" for jf, source in elsewhere.items())
    return PublishedNumber(J_and_F, J, F, protocol, run_by, flag, note, text)
