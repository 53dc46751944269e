"""The site is built without a warning, and its page of protocols holds every protocol's own words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rvosbench.harness.scoring.protocols import protocol_names, require_protocol

pytest.importorskip("material", reason="mkdocs-material is not installed (the docs extra)")
ROOT = Path(__file__).resolve().parents[2]


def test_the_site_is_built_and_protocols_say_what_their_docstrings_say(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "protocols" / "index.html").read_text()
    for name in protocol_names():
        assert f"<code>{name}</code>" in page
        first = require_protocol(name).text.split(":")[0].split(".")[0]
        assert first in page, name
    assert not (tmp_path / "site" / "hooks.py").exists()
