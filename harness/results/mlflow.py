"""Mirrors run folders into MLflow.

MLflow is a view, never the record: the run folder is complete without it, a dead server fails nothing, and
``sync`` replays later whatever is not mirrored. Only the driver writes. One parent run per benchmark run, one child
per method x LVLM x dataset split. Local stores are SQLite, initialised under a file lock (concurrent first use
breaks the schema migration); per-sample data travels as artefacts, not as metrics.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import math
import os
import re
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.extras import install_command
from rvosbench.harness.results.reader import (
    RECIPE,
    RUN,
    SAMPLES,
    SCORES,
    Run,
    Score,
    read_run,
    run_folders,
    status_counts,
)
from rvosbench.harness.secrets import redacted, redacted_text

EXPERIMENT = "rvosbench"
ARTEFACT_FOLDER = "mlruns"
"""Beside a SQLite store; servers keep artefacts where their configuration says."""
MIRRORED_FILES = (RECIPE, RUN, SCORES, SAMPLES)

_ID, _CONTENT, _COMPLETE = "rvosbench.run_id", "rvosbench.content", "rvosbench.complete"
_ID_FILE = ".mirror-id"
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""Set unless the user has set them: an unreachable server is given up within seconds."""
_LOCK_SECONDS = 120.0
_MAX_PARAMS = 200
_MAX_PARAM_DEPTH = 8
_BATCH = 100
_MAX_VALUE = 500
_DIGEST_LENGTH = 36
_ILLEGAL = re.compile(r"[^A-Za-z0-9_\-. :/]")


@dataclass(frozen=True, slots=True)
class Mirrored:
    """The run is in the tracking store."""

    folder: Path
    uri: str
    mlflow_run_id: str
    changed: bool
    """False: it was there already, with the same content."""


@dataclass(frozen=True, slots=True)
class MirrorFailure:
    """The run is not, or not completely, in the tracking store; the run folder is unharmed."""

    folder: Path
    uri: str
    reason: str


def default_uri(runs_root: Path) -> str:
    """The SQLite store of a runs folder."""
    return f"sqlite:///{(runs_root.resolve() / 'mlflow.db').as_posix()}"


def mirror(run_dir: Path, uri: str) -> Mirrored | MirrorFailure:
    """Copies a run folder into the tracking store at ``uri``; mirroring the same content again changes nothing.

    A run that changed since (resumed, rescored), or whose earlier mirror broke off, replaces its old entry.

    Raises:
        PrerequisiteError: the package mlflow is not installed.
    """
    _require_mlflow()
    shown = _without_password(uri)
    try:
        run = read_run(run_dir)
        with _lock(run_dir, uri), _quiet():
            return _mirror_locked(run, uri)
    except PrerequisiteError as error:
        return MirrorFailure(run_dir, shown, error.problem)
    # The mirror is a view: any exception of the client, its database driver or the network is recorded as the
    # reason, because a tracking problem must never end a benchmark run.
    except Exception as error:  # noqa: BLE001
        return MirrorFailure(run_dir, shown, _reason(error, uri))


def sync(runs_root: Path, uri: str) -> tuple[Mirrored | MirrorFailure, ...]:
    """Mirrors every run below ``runs_root``; the first unreachable store ends the attempts with one reason for all.

    Raises:
        PrerequisiteError: the package mlflow is not installed.
    """
    outcomes: list[Mirrored | MirrorFailure] = []
    unreachable: str | None = None
    for folder in run_folders(runs_root):
        if unreachable is not None:
            outcomes.append(MirrorFailure(folder, _without_password(uri), unreachable))
            continue
        outcome = mirror(folder, uri)
        outcomes.append(outcome)
        if isinstance(outcome, MirrorFailure) and outcome.reason.startswith(_UNREACHABLE):
            unreachable = outcome.reason
    return tuple(outcomes)


def metric_key(protocol: str, subset: str, name: str) -> str:
    """A key MLflow accepts: ``refdavis17/expr/all/J_and_F``; characters it refuses become ``_``."""
    return _ILLEGAL.sub("_", f"{protocol}/{subset}/{name}")


def score_metrics(scores: Sequence[Score]) -> dict[str, float]:
    """Metrics of one child run: means, interval and counts per protocol and subset.

    Raises:
        ValueError: a value is NaN or infinite, or two keys become equal.
    """
    metrics: dict[str, float] = {}
    for score in scores:
        counts = score.counts
        values: dict[str, float | None] = {
            "J": score.J,
            "F": score.F,
            "J_and_F": score.J_and_F,
            "J_and_F_low": score.interval.low if score.interval else None,
            "J_and_F_high": score.interval.high if score.interval else None,
            "J_and_F_minus_published": score.published.difference if score.published else None,
            "attempted": counts.attempted,
            "scored": counts.scored,
            "failed": counts.failed,
            "missing": counts.missing,
            **score.extra,
        }
        for name, value in values.items():
            if value is None:
                continue
            key = metric_key(score.protocol, score.subset, name)
            if not math.isfinite(value):
                raise ValueError(f"metric {key} is {value}")
            if key in metrics:
                raise ValueError(f"two metrics are called {key}")
            metrics[key] = float(value)
    return metrics


def flat_params(recipe: Mapping[str, Any]) -> dict[str, str]:
    """The recipe's scalar values under dotted keys, without secrets; at most 200, each cut at 500 characters."""
    leaves = _leaves(redacted(recipe), "", 0)
    return dict(item for _, item in zip(range(_MAX_PARAMS), leaves, strict=False))


def _mirror_locked(run: Run, uri: str) -> Mirrored:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = _experiment(client, run.folder.parent, uri)
    identity, content = _run_identity(run), _content(run)
    old = client.search_runs([experiment], filter_string=f"tags.`{_ID}` = '{identity}'", max_results=1000)
    parents = [entry for entry in old if "mlflow.parentRunId" not in entry.data.tags]
    for entry in parents:
        if entry.data.tags.get(_CONTENT) == content and entry.data.tags.get(_COMPLETE) == "true":
            return Mirrored(run.folder, _without_password(uri), entry.info.run_id, changed=False)
    for entry in old:
        client.delete_run(entry.info.run_id)
    tags = {_ID: identity, _CONTENT: content, "rvosbench.folder": run.id, "rvosbench.status": run.status}
    parent = _write_parent(client, experiment, run, tags)
    groups: dict[tuple[str, str | None, str, str], list[Score]] = {}
    for score in run.scores:
        groups.setdefault((score.method, score.lvlm, score.dataset, score.split), []).append(score)
    for scores in groups.values():
        _write_child(client, experiment, run, scores, {**tags, "mlflow.parentRunId": parent})
    # Last: a mirror that broke off before this line is replaced the next time.
    client.set_tag(parent, _COMPLETE, "true")
    return Mirrored(run.folder, _without_password(uri), parent, changed=True)


def _write_parent(client: Any, experiment: str, run: Run, tags: dict[str, str]) -> str:
    started, ended = _times(run)
    info = run.info
    if info is not None:
        git = {f"git_{key}": str(value) for key, value in (info.git or {}).items()}
        facts = {"exit_code": info.exit_code, "device": info.device_text, "version": info.rvosbench, **git}
        tags = tags | {f"rvosbench.{key}": str(value)[:_MAX_VALUE] for key, value in facts.items() if value is not None}
    run_id = str(client.create_run(experiment, start_time=started, tags=tags, run_name=run.title).info.run_id)
    counts = status_counts(run)
    metrics: dict[str, float] = {
        "attempted": counts.attempted,
        "scored": counts.scored,
        "failed": counts.failed,
        "missing": counts.missing,
    }
    for stage, spent in (info.stages if info is not None else {}).items():
        if spent.seconds is not None:
            metrics[_ILLEGAL.sub("_", f"seconds/{stage}")] = spent.seconds
    _log(client, run_id, metrics, flat_params(run.recipe), started)
    for name in MIRRORED_FILES:
        if (run.folder / name).is_file():
            client.log_artifact(run_id, str(run.folder / name))
    client.set_terminated(run_id, status=_mlflow_status(run), end_time=ended)
    return run_id


def _write_child(client: Any, experiment: str, run: Run, scores: Sequence[Score], tags: dict[str, str]) -> None:
    from mlflow.entities import Dataset, DatasetInput

    first = scores[0]
    started, ended = _times(run)
    where = f"{first.dataset}/{first.split}"
    names = [first.method, *([first.lvlm] if first.lvlm else []), where]
    notes = "; ".join(dict.fromkeys(note for score in scores for note in score.notes))
    if notes:
        tags = tags | {"mlflow.note.content": notes[:_MAX_VALUE]}
    if first.coverage:
        tags = tags | {"rvosbench.coverage": first.coverage}
    digest = next(
        (
            use.digest
            for use in (run.info.dataset_uses if run.info is not None else ())
            if use.name == first.dataset and use.split in (None, first.split) and use.digest
        ),
        None,
    )
    if digest:
        tags = tags | {"rvosbench.dataset_digest": digest}
    run_id = str(client.create_run(experiment, start_time=started, tags=tags, run_name=" | ".join(names)).info.run_id)
    params = {"method": first.method, "lvlm": first.lvlm or "none", "dataset": first.dataset, "split": first.split}
    _log(client, run_id, score_metrics(scores), params, started)
    if digest:
        dataset = Dataset(where, digest[:_DIGEST_LENGTH], "local", json.dumps({"digest": digest}))
        client.log_inputs(run_id, [DatasetInput(dataset, [])])
    client.set_terminated(run_id, status=_mlflow_status(run), end_time=ended)


def _log(client: Any, run_id: str, metrics: Mapping[str, float], params: Mapping[str, str], timestamp: int) -> None:
    from mlflow.entities import Metric, Param

    points = [Metric(key, value, timestamp, 0) for key, value in metrics.items()]
    values = [Param(key, value[:_MAX_VALUE]) for key, value in params.items()]
    for start in range(0, max(len(points), len(values)), _BATCH):
        chunk = slice(start, start + _BATCH)
        client.log_batch(run_id, metrics=points[chunk], params=values[chunk])


def _experiment(client: Any, runs_root: Path, uri: str) -> str:
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        if found.lifecycle_stage == "deleted":
            raise PrerequisiteError(f"The MLflow experiment '{EXPERIMENT}' was deleted.", "Restore it in MLflow.")
        return str(found.experiment_id)
    database = _database(uri)
    location = (database.parent / ARTEFACT_FOLDER).as_uri() if database is not None else None
    return str(client.create_experiment(EXPERIMENT, artifact_location=location))


def _run_identity(run: Run) -> str:
    """The run folder's id: kept in the folder, so that a resumed run stays itself and machines never collide."""
    path = run.folder / _ID_FILE
    try:
        with path.open("x", encoding="ascii") as file:
            file.write(uuid.uuid4().hex)
    except FileExistsError:
        pass  # mirrored before
    return hashlib.sha256(f"{path.read_text(encoding='ascii')} {run.folder.name}".encode()).hexdigest()[:32]


def _content(run: Run) -> str:
    digest = hashlib.sha256()
    for name in MIRRORED_FILES:
        path = run.folder / name
        if path.is_file():
            digest.update(name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _times(run: Run) -> tuple[int, int]:
    """Start and end, milliseconds since the epoch."""
    info, modified = run.info, run.folder.stat().st_mtime
    started = info.started.timestamp() if info is not None and info.started is not None else modified
    ended = info.finished.timestamp() if info is not None and info.finished is not None else max(started, modified)
    return int(started * 1000), int(ended * 1000)


def _mlflow_status(run: Run) -> str:
    return {"finished": "FINISHED", "imported": "FINISHED", "running": "RUNNING"}.get(run.status, "KILLED")


def _leaves(value: Any, key: str, depth: int) -> Iterator[tuple[str, str]]:
    if depth > _MAX_PARAM_DEPTH:
        return
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}" if key else str(name), depth + 1)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{key}.{index}", depth + 1)
    elif value is not None:
        yield _ILLEGAL.sub("_", key), str(value)


def _database(uri: str) -> Path | None:
    """The file of a SQLite URI, or None for servers."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(uri.removeprefix("sqlite:///").partition("?")[0])


@contextmanager
def _lock(run_dir: Path, uri: str) -> Iterator[None]:
    """One writer at a time: per SQLite store, or per run folder where the store is a server."""
    database = _database(uri)
    path = run_dir / ".mirror.lock" if database is None else database.with_name(database.name + ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    with os.fdopen(descriptor, "w") as handle:
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise PrerequisiteError(f"Another process holds {path}.", "Sync again later.") from error
                time.sleep(0.1)
        yield


def _require_mlflow() -> None:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import mlflow  # noqa: F401
    except ModuleNotFoundError as error:
        raise PrerequisiteError(
            f"Tracking needs the package '{error.name}', which is not installed.",
            f"Install the extra: {install_command('tracking')}, or set tracking.enabled=false.",
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps migration and retry chatter off the run's progress display; failures are returned, not logged."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic", "urllib3")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


_UNREACHABLE = "No answer from the tracking server"


def _reason(error: Exception, uri: str) -> str:
    """One line, without the credentials a URI may carry."""
    text = " ".join(str(error).split()).replace(uri, _without_password(uri))
    if any(word in text for word in ("Max retries exceeded", "Connection refused", "timed out", "Failed to resolve")):
        return f"{_UNREACHABLE} at {_without_password(uri)}."
    return redacted_text(f"{type(error).__name__}: {text[:_MAX_VALUE]}")


def _without_password(uri: str) -> str:
    parts = urlsplit(uri)
    if not parts.hostname or "@" not in parts.netloc:
        return uri
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
