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
