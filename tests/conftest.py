"""Fixtures every test folder shares."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

# Children of tests import this checkout, whichever one the environment has installed.
os.environ["PYTHONPATH"] = os.pathsep.join(str(REPOSITORY / name) for name in ("tests/support", "src", "benchmarks"))


@pytest.fixture(scope="session")
def samples() -> Path:
    """The pack of real sample data, found through RVOSBENCH_SAMPLES."""
    folder = Path(os.environ.get("RVOSBENCH_SAMPLES", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"the sample pack is not at {folder}; set RVOSBENCH_SAMPLES")
    return folder


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With several processes, a file's tests stay together, since they share models and servers, and so do all files
    that start Ray clusters, which would compete for the same cores. vLLM's file is long enough to stand alone.
    xdist's own groups are marks that it writes into test ids, which pytest 9.2 no longer takes from it.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = Path(nodeid.partition("::")[0])
            folders, files = {"execute", "serving", "pipeline"}, ("test_command.py", "test_cli.py")
            clusters = folders & set(file.parts) or file.name in files
            return "clusters" if clusters and file.name != "test_vllm.py" else str(file)

    # In the order found, which begins with the clusters: the longest unit.
    config.option.loadscopereorder = False
    return ByFile(config, log)
