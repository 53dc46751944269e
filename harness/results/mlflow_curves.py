"""Mirrors a training's curves, files and images into MLflow, into the store that runs are mirrored to.

As with runs, MLflow is a view: the training's folder is complete without it, and the same content mirrored again
changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.results.mlflow import (
    _BATCH,
    _COMPLETE,
    _CONTENT,
    _ID,
    _ID_FILE,
    Mirrored,
    MirrorFailure,
    _experiment,
    _lock,
    _log,
    _quiet,
    _reason,
    _require_mlflow,
    _without_password,
    flat_params,
)

Point = tuple[int, float]
"""Step and value."""


@dataclass(frozen=True)
class Curves:
    """What a training leaves."""

    name: str
    finished: bool
    curves: Mapping[str, Sequence[Point]]
    """By metric key; values that are not finite are left out."""
    recipe: Mapping[str, Any]
    tags: Mapping[str, str] = field(default_factory=dict)
    files: Sequence[Path] = ()
    pictures: Sequence[Path] = ()


def mirror_curves(folder: Path, uri: str, curves: Curves) -> Mirrored | MirrorFailure:
    """Copies a training into the tracking store at ``uri``, in place of what it held of the same folder.

    Raises:
        PrerequisiteError: the package mlflow is not installed.
    """
    _require_mlflow()
    shown = _without_password(uri)
    try:
        with _lock(folder, uri), _quiet():
            return _mirror_locked(folder, uri, curves)
    except PrerequisiteError as error:
        return MirrorFailure(folder, shown, error.problem)
    # As for runs: an exception of the client, its database driver or the network must not end a training.
    except Exception as error:  # noqa: BLE001
        return MirrorFailure(folder, shown, _reason(error, uri))


def _mirror_locked(folder: Path, uri: str, curves: Curves) -> Mirrored:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = _experiment(client, folder.parent.parent, uri)
    identity, content = _identity(folder), _content(curves)
    old = client.search_runs([experiment], filter_string=f"tags.`{_ID}` = '{identity}'", max_results=1000)
    for entry in old:
        if entry.data.tags.get(_CONTENT) == content and entry.data.tags.get(_COMPLETE) == "true":
            return Mirrored(folder, _without_password(uri), entry.info.run_id, changed=False)
    for entry in old:
        client.delete_run(entry.info.run_id)
    tags = {_ID: identity, _CONTENT: content, "rvosbench.folder": folder.name, **curves.tags}
    run_id = str(client.create_run(experiment, tags=tags, run_name=curves.name).info.run_id)
    _log(client, run_id, {}, flat_params(curves.recipe), 0)
    _log_curves(client, run_id, curves)
    for path in curves.files:
        client.log_artifact(run_id, str(path))
    for path in curves.pictures:
        client.log_artifact(run_id, str(path), "pictures")
    client.set_terminated(run_id, status="FINISHED" if curves.finished else "KILLED")
    # Last: a mirror that broke off before this line is replaced the next time.
    client.set_tag(run_id, _COMPLETE, "true")
    return Mirrored(folder, _without_password(uri), run_id, changed=True)


def _log_curves(client: Any, run_id: str, curves: Curves) -> None:
    from mlflow.entities import Metric

    # MLflow draws over steps; equal times keep the same content the same.
    points = [
        Metric(key, value, 0, step)
        for key, line in curves.curves.items()
        for step, value in line
        if math.isfinite(value)
    ]
    for start in range(0, len(points), 10 * _BATCH):
        client.log_batch(run_id, metrics=points[start : start + 10 * _BATCH])


def _identity(folder: Path) -> str:
    """The folder's id: kept in the folder, so that a training that goes on stays itself."""
    path = folder / _ID_FILE
    if not path.is_file():
        path.write_text(uuid.uuid4().hex, encoding="ascii")
    return hashlib.sha256(f"{path.read_text(encoding='ascii')} {folder.name}".encode()).hexdigest()[:32]


def _content(curves: Curves) -> str:
    values = [curves.name, curves.finished, dict(curves.recipe), {k: list(v) for k, v in curves.curves.items()}]
    digest = hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode())
    for path in (*curves.files, *curves.pictures):
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
