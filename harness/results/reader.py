"""Reads run folders (schema 1): complete, running, imported, or broken with the reason.

A run folder comes from disk and may be half-written, edited by hand, or written by a newer version, so
everything read here is validated and nothing is unpickled. One broken folder never hides the others.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.results.schema import (
    SCHEMA,
    ConfidenceInterval,
    DatasetUse,
    RunInfo,
    Score,
    StageTime,
    StatusCounts,
    read_info,
    read_scores,
    unreadable,
)
from rvosbench.harness.yaml_files import read_yaml

__all__ = [
    "SCHEMA",
    "BrokenRun",
    "ConfidenceInterval",
    "DatasetUse",
    "Run",
    "RunInfo",
    "RunList",
    "Score",
    "StageTime",
    "StatusCounts",
    "find_runs",
    "read_frames",
    "read_run",
    "read_samples",
    "run_folders",
    "status_counts",
]

RECIPE, RUN, SCORES, SAMPLES, FRAMES = "recipe.yaml", "run.json", "scores.json", "samples.parquet", "frames.parquet"
ARTEFACTS = "artefacts"
"""The artefact store beside the run folders."""

_MARKERS = (RECIPE, RUN, SCORES, SAMPLES)
_MAX_DEPTH = 4
_SCORE_COLUMNS = ("J", "F", "J_and_F")
_SAMPLE_COLUMNS = ("method", "lvlm", "dataset", "split", "video", "expression", "status", *_SCORE_COLUMNS)
_FRAME_COLUMNS = ("method", "lvlm", "dataset", "split", "video", "expression", "frame", "J", "F")
_TEXTS = (*_SAMPLE_COLUMNS[:6], "frame", "status", "subset", "text", "error", "digest_ground_truth")
COUNTS = ("I", "U", "n_gt", "n_pred", "m_gt", "m_pred")
"""Pixel counts of frames.parquet: whole numbers that are not negative."""
STATUSES = ("scored", "failed", "missing")


@dataclass(frozen=True, slots=True)
class Run:
    """A readable run folder."""

    id: str
    """Path below the runs folder, with forward slashes."""
    folder: Path
    runs_root: Path
    info: RunInfo | None
    """None: predictions scored from a folder, nothing was run."""
    scores: tuple[Score, ...]
    recipe: Mapping[str, Any]
    """recipe.yaml as plain values; empty without one."""

    @property
    def title(self) -> str:
        """The recipe's name, or the folder's."""
        return self.info.name if self.info is not None else self.folder.name

    @property
    def status(self) -> str:
        """running, finished, interrupted, or "imported" for scored predictions."""
        return self.info.status if self.info is not None else "imported"

    @property
    def data_root(self) -> Path | None:
        """Where the run read its datasets."""
        root = self.recipe.get("data_root")
        return Path(root) if isinstance(root, str) and root else None

    @property
    def artefacts(self) -> Path:
        """The artefact store of the run: beside it in the runs folder, or where its recipe put the runs."""
        beside = self.folder.parent / ARTEFACTS
        return beside if beside.is_dir() else self.runs_root / ARTEFACTS


@dataclass(frozen=True, slots=True)
class BrokenRun:
    """A folder that looks like a run but cannot be trusted."""

    id: str
    folder: Path
    reason: str


@dataclass(frozen=True, slots=True)
class RunList:
    """All run folders below one folder, newest first."""

    root: Path
    runs: tuple[Run, ...]
    broken: tuple[BrokenRun, ...]

    def get(self, run_id: str) -> Run | None:
        """The run with this id. Ids are looked up, never joined to a path."""
        return next((run for run in self.runs if run.id == run_id), None)


def find_runs(root: Path) -> RunList:
    """Every run folder below ``root``; an absent root gives an empty list."""
    runs: list[Run] = []
    broken: list[BrokenRun] = []
    for folder in run_folders(root):
        try:
            runs.append(read_run(folder, root))
        except PrerequisiteError as error:
            broken.append(BrokenRun(_identifier(folder, root), folder, error.problem))
        except OSError as error:
            broken.append(BrokenRun(_identifier(folder, root), folder, f"Cannot be read: {error.strerror}."))
    runs.sort(key=lambda run: run.id)
    runs.sort(key=_started, reverse=True)
    return RunList(root, tuple(runs), tuple(sorted(broken, key=lambda run: run.id)))


def run_folders(root: Path) -> Iterator[Path]:
    """Folders that hold at least one file of a run, in name order; links and the artefact store are not entered."""
    yield from _folders(root, _MAX_DEPTH)


def read_run(folder: Path, root: Path | None = None) -> Run:
    """One run folder, checked.

    Args:
        folder: the run folder.
        root: the runs folder; files that lead outside of it (links) are refused. Default: the parent.

    Raises:
        PrerequisiteError: not a run folder, half-written, newer schema, impossible values; one sentence says which.
    """
    root = folder.parent if root is None else root
    present = {name for name in (*_MARKERS, FRAMES) if (folder / name).is_file()}
    for name in present:
        if not (folder / name).resolve().is_relative_to(root.resolve()):
            raise unreadable(f"{name} leads outside the runs folder.")
    if not present & set(_MARKERS):
        raise unreadable(f"{folder} holds no run: none of {', '.join(_MARKERS)} is there.")
    info = read_info(folder / RUN) if RUN in present else None
    if info is None and (RECIPE in present or SCORES not in present):
        raise unreadable(f"Half-written: {RUN} is missing.")
    if SCORES not in present and info is not None and info.status == "finished":
        raise unreadable(f"Half-written: the run is marked finished but {SCORES} is missing.")
    if SCORES in present and SAMPLES not in present:
        raise unreadable(f"Half-written: {SAMPLES} is missing.")
    if SAMPLES in present:
        _check_columns(folder / SAMPLES, _SAMPLE_COLUMNS)
    scores = read_scores(folder / SCORES) if SCORES in present else ()
    recipe = _read_recipe(folder / RECIPE) if RECIPE in present else {}
    return Run(_identifier(folder, root), folder, root, info, scores, recipe)


def read_samples(run: Run) -> pd.DataFrame:
    """samples.parquet: one row per sample; empty when the run has none yet.

    Raises:
        PrerequisiteError: damaged file, missing columns, impossible values.
    """
    return _read_table(run.folder / SAMPLES, _SAMPLE_COLUMNS)


def read_frames(run: Run, **match: str | None) -> pd.DataFrame:
    """frames.parquet: one row per scored frame, only the rows whose columns equal ``match``.

    Raises:
        PrerequisiteError: damaged file, missing columns, impossible values.
    """
    return _read_table(run.folder / FRAMES, _FRAME_COLUMNS, match)


def status_counts(run: Run) -> StatusCounts:
    """Attempted, scored, failed and missing samples of the whole run, counted in samples.parquet.

    Raises:
        PrerequisiteError: damaged file.
    """
    path = run.folder / SAMPLES
    if not path.is_file():
        return StatusCounts(0, 0, 0, 0)
    column = _open_table(path, {}, ["status"]).column("status").to_pylist()
    ended = Counter(column)
    return StatusCounts(len(column), ended["scored"], ended["failed"], ended["missing"])


def _folders(folder: Path, depth: int) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:  # absent or not permitted: there is nothing to list
        return
    if any(entry.name in _MARKERS for entry in entries):
        yield folder
        return
    if depth == 0:
        return
    for entry in entries:
        hidden = entry.name.startswith(".") or entry.name in (ARTEFACTS, "mlruns")
        if not hidden and entry.is_dir(follow_symlinks=False):
            yield from _folders(Path(entry.path), depth - 1)


def _identifier(folder: Path, root: Path) -> str:
    relative = (
        folder.resolve().relative_to(root.resolve()) if folder.resolve().is_relative_to(root.resolve()) else folder
    )
    return folder.name if str(relative) in (".", "") else relative.as_posix()


def _started(run: Run) -> float:
    if run.info is not None and run.info.started is not None:
        return run.info.started.timestamp()
    return 0.0


def _read_recipe(path: Path) -> Mapping[str, Any]:
    values = read_yaml(path)
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise unreadable(f"{path.name} holds no mapping.")
    return values


def _check_columns(path: Path, columns: tuple[str, ...]) -> None:
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise unreadable(f"{path.name} is damaged or incomplete.") from error
    names = schema.names
    for name in _TEXTS:
        if names.count(name) == 1 and not _is_text(schema.field(name).type):
            raise unreadable(f"{path.name}: {name} holds no text.")
    for name in COUNTS:
        if names.count(name) == 1 and not pa.types.is_integer(schema.field(name).type):
            raise unreadable(f"{path.name}: {name} holds no whole numbers.")
    if len(set(names)) < len(names):
        raise unreadable(f"{path.name} holds a column twice.")
    absent = [name for name in columns if name not in names]
    if absent:
        raise unreadable(f"{path.name} lacks the column{'s' if len(absent) > 1 else ''} {', '.join(absent)}.")


def _is_text(kind: pa.DataType) -> bool:
    # A column without any value has a type of its own.
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind))


def require_columns(table: pd.DataFrame, name: str, columns: Sequence[str]) -> None:
    """Refuses a table that lacks what a command needs beyond what every table has.

    Args:
        name: of the file, for the message.

    Raises:
        PrerequisiteError: names the columns.
    """
    absent = [column for column in columns if column not in table]
    if absent:
        raise unreadable(f"{name} lacks the column{'s' if len(absent) > 1 else ''} {', '.join(absent)}.")


def _open_table(path: Path, match: Mapping[str, str | None], only: list[str] | None = None) -> pa.Table:
    try:
        table = pq.read_table(path, columns=only)
        for name, value in match.items():
            column = table.column(name)
            keep = pc.is_null(column) if value is None else pc.equal(column, value)
            table = table.filter(keep)
    except (OSError, pa.ArrowException) as error:
        raise unreadable(f"{path.name} is damaged.") from error
    return table


def _read_table(path: Path, columns: tuple[str, ...], match: Mapping[str, str | None] | None = None) -> pd.DataFrame:
    if not path.is_file():
        return pd.DataFrame(columns=list(columns))
    _check_columns(path, columns)
    table: pd.DataFrame = _open_table(path, match or {}).to_pandas(ignore_metadata=True)
    for name in _SCORE_COLUMNS:
        if name not in table:
            continue
        values = pd.to_numeric(table[name], errors="coerce")
        if bool((values.isna() & table[name].notna()).any() or (values < 0).any() or (values > 1).any()):
            raise unreadable(f"{path.name}: {name} holds values outside [0, 1].")
        table[name] = values
    for name in COUNTS:
        if name in table and bool(table[name].isna().any() or (table[name] < 0).any()):
            raise unreadable(f"{path.name}: {name} holds values that count nothing.")
    if "status" in table and not table["status"].isin(STATUSES).all():
        raise unreadable(f"{path.name}: status holds values other than {', '.join(STATUSES)}.")
    return table
