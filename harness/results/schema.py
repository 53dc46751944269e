"""run.json and scores.json (schema 1) as frozen dataclasses, checked where they are read.

Files may be half-written, edited by hand, or written by a newer version: impossible values are refused with the
place and the reason, and messages never repeat the file's own text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError

from rvosbench.harness.data.parsing import load_json
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.store.keys import digest_of

SCHEMA = 1
"""The newest run folder schema this version reads."""
_MAX_JSON_BYTES = 64 << 20
_ROUNDING = 1.01e-4
"""J, F and J_and_F written with four decimals may differ by this much from J_and_F = (J + F) / 2."""

Fraction = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True)
class StatusCounts:
    """How every attempted sample ended; ``attempted`` is the denominator of the means."""

    attempted: Count
    scored: Count
    failed: Count
    missing: Count


@dataclass(frozen=True, slots=True)
class ConfidenceInterval:
    """An interval on J_and_F or on a difference of two, fractions."""

    level: Fraction
    low: FiniteFloat
    high: FiniteFloat
    unit: str = "video"
    """What varies at random."""
    videos: Count | None = None
    degrees_of_freedom: FiniteFloat | None = None
    """Of the t distribution; less than ``videos - 1`` where few videos decide."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a number comes from. Digests are SHA-256, hexadecimal."""

    data_root: str
    layout: str
    """Name of the layout found there."""
    metadata: str
    """Digest of the file that lists videos and expressions."""
    ground_truth: str
    """Digest of the ground truth of all samples."""
    predictions: str | None
    """Path of the folder, archive or file the masks were read from; None for a run's own masks."""
    read_as: str | None
    """The layout the predictions were read in, and what was interpreted or ignored."""
    masks: str
    """Digest of the pixels of all scored masks: equal masks have equal digests, in whatever form they were given."""
    rvosbench: str
    """Version that computed the number."""
    date: str | None = None
    """UTC, ISO 8601."""
    absent: Literal["empty", "zero", "refuse"] | None = None
    """What a mask without a file meant; None for a run's own masks."""


@dataclass(frozen=True, slots=True)
class Published:
    """The published number that a row reproduces, as the table of published numbers had it. Fractions in [0, 1]."""

    method: str
    """As the table spells it."""
    lvlm: str
    J: Fraction | None = None
    F: Fraction | None = None
    J_and_F: Fraction | None = None
    protocol: str | None = None
    """None: no number is printed."""
    run_by: str | None = None
    """Who ran it, where that is not the method's author."""
    flag: str | None = None
    """"suspect", "copied" or "superseded"."""
    note: str | None = None
    """What is known about it, and what other sources print."""
    difference: FiniteFloat | None = None
    """The row's J_and_F minus the published one; None where the two cannot be compared."""
    why: str | None = None
    """Why there is no difference."""


@dataclass(frozen=True, slots=True)
class Score:
    """One row of scores.json: a method on a subset of a dataset under one protocol. Fractions in [0, 1]."""

    method: str
    dataset: str
    split: str
    subset: str
    protocol: str
    counts: StatusCounts
    lvlm: str | None = None
    J: Fraction | None = None
    F: Fraction | None = None
    J_and_F: Fraction | None = None
    interval: ConfidenceInterval | None = None
    coverage: str | None = None
    """"5 of 30 videos"."""
    extra: dict[str, FiniteFloat | None] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What a reader must know of the number; one that begins with "Warning: " puts it in doubt."""
    provenance: Provenance | None = None
    published: Published | None = None
    """What the row reproduces, where the recipe names it (``reference``)."""


@dataclass(frozen=True, slots=True)
class StageTime:
    """What a stage did in a run."""

    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    items: Count | None = None
    reused: Count | None = None
    computed: Count | None = None
    failed: Count | None = None


@dataclass(frozen=True, slots=True)
class FallbackUse:
    """How often a stage of a method did its work another way, because the first one led nowhere."""

    method: str
    lvlm: str | None
    stage: str
    used: Count
    of: Count
    """Samples that the stage was done for."""


@dataclass(frozen=True, slots=True)
class DatasetUse:
    """A dataset split a run was scored on."""

    name: str
    split: str | None = None
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class RunInfo:
    """run.json: where, when and with what."""

    name: str
    status: Literal["running", "finished", "interrupted"]
    exit_code: int | None = None
    started: datetime | None = None
    finished: datetime | None = None
    rvosbench: str | None = None
    git: dict[str, Any] | None = None
    """Commit and whether the checkout was changed; None outside a checkout."""
    packages: dict[str, Any] | None = None
    device: Any = None
    stages: dict[str, StageTime] = field(default_factory=dict)
    methods: Any = None
    datasets: Any = None
    fallbacks: tuple[FallbackUse, ...] = ()
    """Of stages that know a second way; empty until the run has finished."""

    @property
    def seconds(self) -> float | None:
        """Wall time from start to finish."""
        if (
            self.started is None
            or self.finished is None
            or (self.started.tzinfo is None) != (self.finished.tzinfo is None)
        ):
            return None
        return (self.finished - self.started).total_seconds()

    @property
    def dataset_uses(self) -> tuple[DatasetUse, ...]:
        """The datasets of run.json, written as a list of mappings or a mapping by name."""
        return tuple(_dataset_uses(self.datasets))

    @property
    def device_text(self) -> str:
        """The device in words, accelerators first."""
        if not isinstance(self.device, dict):
            return str(self.device) if self.device else ""
        device = dict(self.device)
        gpus, cpus = device.pop("gpus", None), device.pop("cpus", None)
        parts = [str(gpu) for gpu in gpus] if isinstance(gpus, list) else []
        parts += [f"{cpus} CPU cores"] if cpus else []
        parts += [str(value) for value in device.values() if value not in (None, "", [], {})]
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class _Header:
    schema: Annotated[int, Field(ge=1)]


@dataclass(frozen=True, slots=True)
class _ScoresFile:
    scores: tuple[Score, ...]
    digest: str | None = None
    """Of ``scores``; None in files of versions that wrote none, and in those of other tools."""


_HEADER, _INFO, _SCORES = TypeAdapter(_Header), TypeAdapter(RunInfo), TypeAdapter(_ScoresFile)


_T = TypeVar("_T")


def unreadable(problem: str) -> PrerequisiteError:
    """A run folder that cannot be used, for one reason."""
    return PrerequisiteError(problem, "Run the recipe again, or remove the folder.")


def _read_json(path: Path, adapter: TypeAdapter[_T]) -> _T:
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise unreadable(f"{path.name} is larger than {_MAX_JSON_BYTES >> 20} MiB.")
        content = path.read_bytes()
    except OSError as error:
        raise unreadable(f"{path.name} cannot be read: {error.strerror}.") from error
    try:
        schema = _HEADER.validate_json(content).schema
        if schema > SCHEMA:
            raise PrerequisiteError(
                f"{path.name} has schema {schema}; this version reads up to {SCHEMA}.", "Update rvosbench."
            )
        return adapter.validate_json(content, strict=True)
    except ValidationError as error:
        raise unreadable(f"{path.name}: {_first_problem(error)}.") from error


def read_info(path: Path) -> RunInfo:
    """run.json.

    Raises:
        PrerequisiteError: not JSON, a newer schema, a missing or wrong field.
    """
    return _read_json(path, _INFO)


def scores_file(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The content of scores.json for the rows; a number that is edited later is found by the digest."""
    return {"schema": SCHEMA, "digest": digest_of(list(rows)), "scores": list(rows)}


def read_scores(path: Path) -> tuple[Score, ...]:
    """scores.json.

    Raises:
        PrerequisiteError: not JSON, a newer schema, impossible or contradicting values, edited after it was written.
    """
    file = _read_json(path, _SCORES)
    scores = file.scores
    if file.digest is not None and file.digest != digest_of(load_json(path)["scores"]):
        raise unreadable(f"{path.name} was changed after it was written: its digest differs.")
    seen: set[tuple[str | None, ...]] = set()
    for index, score in enumerate(scores):
        problem = _impossible(score)
        key = (score.method, score.lvlm, score.dataset, score.split, score.subset, score.protocol)
        if key in seen:
            problem = "the same method, dataset, subset and protocol appear twice"
        seen.add(key)
        if problem:
            raise unreadable(f"{path.name}: scores.{index}: {problem}.")
    return scores


def _impossible(score: Score) -> str:
    """Why the row cannot be true, or an empty string."""
    values = (score.J, score.F, score.J_and_F)
    counts, interval = score.counts, score.interval
    if counts.attempted != counts.scored + counts.failed + counts.missing:
        return f"{counts.attempted} attempted is not scored + failed + missing"
    if any(value is None for value in values) and any(value is not None for value in values):
        return "J, F and J_and_F must be all numbers or all null"
    if score.J is not None and score.F is not None and score.J_and_F is not None:
        if abs(score.J_and_F - (score.J + score.F) / 2) > _ROUNDING:
            return f"J_and_F {score.J_and_F:g} is not the mean of J {score.J:g} and F {score.F:g}"
        if counts.attempted == 0:
            return "a score without samples"
    elif interval is not None:
        return "an interval without a score"
    if interval is not None and interval.low > interval.high:
        return "the interval's low end is above its high end"
    if interval is not None and not (interval.low >= 0.0 and interval.high <= 1.0):
        return "the interval is not within 0 and 1"
    return ""


def _first_problem(error: ValidationError) -> str:
    """Where and what, without repeating the file's content."""
    problem = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].rstrip(".")
    return f"{where}: {message}" if where else message


def _dataset_uses(value: Any) -> Iterator[DatasetUse]:
    if isinstance(value, dict):
        entries = [{"name": name, **(use if isinstance(use, dict) else {"digest": use})} for name, use in value.items()]
    else:
        entries = [use if isinstance(use, dict) else {"name": use} for use in value] if isinstance(value, list) else []
    for entry in entries:
        if isinstance(entry.get("name"), str):
            split, digest = entry.get("split"), entry.get("digest")
            yield DatasetUse(
                entry["name"], split if isinstance(split, str) else None, digest if isinstance(digest, str) else None
            )
