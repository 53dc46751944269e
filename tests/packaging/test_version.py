"""Which code a run or a bug report comes from."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from processes import rvosbench

import rvosbench as package
from rvosbench.harness.version import describe, git_state


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git repository of one committed file."""
    git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("1")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "one")
    return tmp_path


def test_a_checkout_has_its_commit_and_says_whether_it_was_changed(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    assert git_state(checkout) == {"commit": commit, "dirty": False}
    assert commit[:10] in describe(checkout) and package.__version__ in describe(checkout)
    clean = describe(checkout)
    (checkout / "file").write_text("2")
    assert git_state(checkout) == {"commit": commit, "dirty": True}
    assert describe(checkout) != clean
    git(checkout, "commit", "-q", "-a", "-m", "two")
    assert git_state(checkout) == {"commit": git(checkout, "rev-parse", "HEAD"), "dirty": False}


def test_an_installed_copy_inside_somebody_elses_repository_has_no_commit(checkout: Path) -> None:
    installed = checkout / ".venv" / "lib" / "rvosbench"
    installed.mkdir(parents=True)
    assert git_state(installed) is None
    assert describe(installed) == f"rvosbench {package.__version__}"


def test_a_checkout_without_git_or_with_a_broken_repository_has_no_commit(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "/nowhere")
        assert git_state(checkout) is None
    (checkout / ".git" / "HEAD").write_text("nonsense")
    assert git_state(checkout) is None


def test_the_command_prints_one_line(tmp_path: Path) -> None:
    code, stdout, stderr = rvosbench("--version", folder=tmp_path)
    assert (code, stdout.strip(), stderr) == (0, describe(), "")
