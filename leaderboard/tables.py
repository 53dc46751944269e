"""The board: published numbers and the scores of runs as one long table, and its filters. Values are percent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Literal

import pandas as pd

from rvosbench.harness.published import (
    display_lvlm,
    display_method,
    load_published,
    source_link,
)
from rvosbench.harness.results.reader import Run, Score
from rvosbench.harness.scoring.references import dataset_title

Scope = Literal["main", "published", "everything"]
SCOPES: Mapping[Scope, str] = {"main": "Main comparison", "published": "All published", "everything": "With ablations"}
KINDS = {
    "published": "published",
    "starred": "published, run by others",
    "reproduced": "reproduced here",
    "imported": "masks scored here",
}
"""kind -> words. "starred" is a baseline that somebody else than its authors ran."""
OURS = ("reproduced", "imported")
COLUMNS = (
    "method", "lvlm", "training", "venue", "kind", "run_by", "dataset", "split", "subset", "protocol",
    "J_and_F", "J", "F", "low", "high", "published", "difference", "coverage",
    "attempted", "scored", "failed", "missing",
    "flag", "note", "source", "link", "run_id", "variant", "main",
)  # fmt: skip


@dataclass(frozen=True)
class Filters:
    """What a reader wants to see; empty means all."""

    scope: Scope = "main"
    dataset: tuple[str, ...] = ()
    lvlm: tuple[str, ...] = ()
    kind: tuple[str, ...] = ()
    subset: tuple[str, ...] = ()
    protocol: tuple[str, ...] = ()
    method: tuple[str, ...] = ()


FILTER_COLUMNS = tuple(f.name for f in fields(Filters) if f.name != "scope")


def board(runs: Iterable[Run]) -> pd.DataFrame:
    """Published rows and one row per score of the runs, with the columns of `COLUMNS`."""
    published = load_published()
    published = published.assign(link=published["source_ref"].map(source_link), run_id="", coverage="")
    training = dict(zip(published["method"], published["training"], strict=True))
    own = [_own_row(run, score, training) for run in runs for score in run.scores]
    rows = pd.concat([_with_columns(published), _with_columns(pd.DataFrame(own))], ignore_index=True)
    counts = ["attempted", "scored", "failed", "missing"]
    rows[counts] = rows[counts].astype("Int64")
    numbers = ["J_and_F", "J", "F", "low", "high", "published", "difference"]
    rows[numbers] = rows[numbers].astype(float)
    text = [name for name in COLUMNS if name not in (*numbers, *counts, "variant", "main", "link")]
    rows[text] = rows[text].fillna("").astype(str)
    rows[["variant", "main"]] = rows[["variant", "main"]].fillna(False).astype(bool)
    return rows


def apply(rows: pd.DataFrame, filters: Filters) -> pd.DataFrame:
    """The rows that a reader asked for. Rows of runs are in every scope."""
    own = rows["kind"].isin(OURS)
    if filters.scope == "main":
        keep = own | rows["main"]
    elif filters.scope == "published":
        keep = own | (~rows["variant"] & (rows["flag"] != "superseded"))
    else:
        keep = pd.Series(True, index=rows.index)
    for name in FILTER_COLUMNS:
        if chosen := getattr(filters, name):
            keep &= rows[name].isin(chosen)
    return rows[keep].sort_values("J_and_F", ascending=False, na_position="last", kind="stable")


def score_notes(run: Run, score: Score) -> list[str]:
    """What a reader must know of a score: its own notes, then the run's."""
    note = run.recipe.get("note")
    why = score.published.why if score.published else None
    beside = [f"no difference to the published number: {why}"] if why else []
    notes = [*score.notes, *beside, *([note] if isinstance(note, str) else [])]
    if run.status in ("running", "interrupted"):
        notes.append(f"the run is {run.status}")
    return notes


def _own_row(run: Run, score: Score, training: Mapping[str, str]) -> dict[str, object]:
    method = display_method(score.method)
    interval, counts = score.interval, score.counts
    return {
        "method": method,
        "lvlm": display_lvlm(score.lvlm),
        "training": training.get(method, ""),
        "kind": "imported" if run.info is None else "reproduced",
        "dataset": dataset_title(score.dataset),
        "split": score.split,
        "subset": score.subset,
        "protocol": score.protocol,
        "J_and_F": _percent(score.J_and_F),
        "J": _percent(score.J),
        "F": _percent(score.F),
        "low": _percent(interval.low if interval else None),
        "high": _percent(interval.high if interval else None),
        "published": _percent(score.published.J_and_F if score.published else None),
        "difference": _percent(score.published.difference if score.published else None),
        "coverage": score.coverage,
        "attempted": counts.attempted,
        "scored": counts.scored,
        "failed": counts.failed,
        "missing": counts.missing,
        "note": "; ".join(score_notes(run, score)),
        "source": run.title,
        "run_id": run.id,
    }


def _with_columns(rows: pd.DataFrame) -> pd.DataFrame:
    # object: concatenation must not guess a type for a column that is empty on one side.
    return rows.reindex(columns=list(COLUMNS)).astype(object)


def _percent(value: float | None) -> float | None:
    return None if value is None else 100.0 * value
