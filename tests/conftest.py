"""Fixtures every test folder shares."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from clusters import local_cluster

REPOSITORY = Path(__file__).resolve().parents[1]
OWN_CLUSTERS = ("pipeline/test_served_runs.py", "steerseg/training/test_command.py", "packaging/test_wheel.py")
"""Files some of whose tests run commands that start a Ray of their own."""

# Children of tests import this checkout, whichever one the environment has installed.
os.environ["PYTHONPATH"] = os.pathsep.join(str(REPOSITORY / name) for name in ("tests/support", "src", "benchmarks"))


@pytest.fixture(scope="session")
def samples() -> Path:
    """The pack of real sample data, found through RVOSBENCH_SAMPLES."""
    folder = Path(os.environ.get("RVOSBENCH_SAMPLES", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"the sample pack is not at {folder}; set RVOSBENCH_SAMPLES")
    return folder


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """The address of the Ray cluster that all tests share except those that end a cluster."""
    with local_cluster() as address:
        yield address


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes are named by their argument: archives hold times, and all processes of xdist must find equal names."""
    return argname if isinstance(val, bytes) else None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With several processes, a file's tests stay together, since they share models and servers, and so do all files
    that use the shared Ray cluster or start one: those would compete for the same cores. vLLM's file is long enough to
    stand alone. xdist's own groups are marks that it writes into test ids, which pytest 9.2 no longer takes from it.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "clusters" if _uses_a_cluster(file) else file

    # In the order found, in which the clusters, the longest unit, come early.
    config.option.loadscopereorder = False
    return ByFile(config, log)


@cache
def _uses_a_cluster(file: str) -> bool:
    return file.endswith(OWN_CLUSTERS) or "ray_cluster" in (REPOSITORY / file).read_text(encoding="utf-8")
