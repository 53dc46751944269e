"""The leaderboard as it is started for real: on the loopback address, and in a browser where there is one."""

from __future__ import annotations

import itertools
import shutil
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rvosbench.harness.results.reader import find_runs
from rvosbench.leaderboard.serve import command

pytest.importorskip("streamlit", reason="the leaderboard extra is not installed")

from rvosbench.leaderboard.screenshot import PAGES, served, take

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def test_only_this_machine_may_connect_by_default(tmp_path: Path) -> None:
    line = command(tmp_path / "runs", 1234)
    options = dict(itertools.pairwise(line))
    assert options["--server.address"] == "127.0.0.1" and options["--server.port"] == "1234"
    assert options["--browser.gatherUsageStats"] == "false"
    assert line[-3:] == ["--", "--runs", str(tmp_path / "runs")]


def test_the_server_starts_and_stops(tmp_path: Path) -> None:
    with served(tmp_path) as address, urllib.request.urlopen(address, timeout=10) as answer:
        assert answer.status == 200
    with pytest.raises(OSError):
        urllib.request.urlopen(f"{address}/_stcore/health", timeout=2)


@pytest.mark.slow
@pytest.mark.browser
def test_every_page_is_drawn_without_script_errors(davis_run: Path, tmp_path: Path, write_run: Any) -> None:
    pytest.importorskip("playwright", reason="playwright is not installed")
    if BROWSER is None:
        pytest.skip("no chromium on this machine")
    write_run(davis_run.parent / "another")
    assert find_runs(davis_run.parent).get("davis") is not None
    with served(davis_run.parent) as address:
        pictures = take(address, tmp_path, BROWSER, "davis")
    assert [path.stem for path in pictures] == list(PAGES)
    for path in pictures:
        colours = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
        assert len(np.unique(colours[::97], axis=0)) > 20, f"{path.name} is blank"
