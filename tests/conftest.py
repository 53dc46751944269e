"""Fixtures every test folder shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def samples() -> Path:
    """The pack of real sample data, found through RVOSBENCH_SAMPLES."""
    folder = Path(os.environ.get("RVOSBENCH_SAMPLES", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"the sample pack is not at {folder}; set RVOSBENCH_SAMPLES")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several processes, a file's tests stay together, since they share models and servers; and all that starts
    Ray clusters is one group, so that two never compete for the same cores."""
    for item in items:
        path = item.path.relative_to(REPOSITORY / "tests")
        clusters = path.parts[0] in ("cluster", "pipeline") or path.name in ("test_command.py", "test_cli.py")
        item.add_marker(pytest.mark.xdist_group("clusters" if clusters else path.as_posix()))
