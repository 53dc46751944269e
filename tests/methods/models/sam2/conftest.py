"""Small random SAM2 checkpoints, written once per session."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def sam2_1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small SAM2.1."""
    pytest.importorskip("sam2")
    from toy.tiny_sam2 import write_small

    return write_small(tmp_path_factory.mktemp("sam2.1"), seed=3)


@pytest.fixture(scope="session")
def sam2_0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small SAM2 2.0."""
    pytest.importorskip("sam2")
    from toy.tiny_sam2 import write_small

    return write_small(tmp_path_factory.mktemp("sam2.0"), seed=3, base="configs/sam2/sam2_hiera_t.yaml")
