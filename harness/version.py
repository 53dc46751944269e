"""Which code this is: the installed version and, in a checkout, the commit."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TypedDict

import rvosbench

_CHECKOUT = Path(__file__).resolve().parents[1]
"""The repository's root in a checkout; the installed package elsewhere."""
_GIT_SECONDS = 20.0


class GitState(TypedDict):
    """A checkout's commit, and whether files differ from it."""

    commit: str
    dirty: bool


def git_state(checkout: Path = _CHECKOUT) -> GitState | None:
    """The state of a checkout of this repository.

    None where the code is installed, even when that place lies inside somebody else's repository, and where git is
    absent or refuses to answer.
    """
    if not (checkout / ".git").exists():
        return None
    try:
        commit = _git(checkout, "rev-parse", "HEAD")
        status = _git(checkout, "status", "--porcelain")
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(status)}


def describe(checkout: Path = _CHECKOUT) -> str:
    """The line of ``rvosbench --version``: the version, and the commit of a checkout.

    An editable install keeps the version of the day it was installed; the commit is read now.
    """
    state = git_state(checkout)
    if state is None:
        return f"rvosbench {rvosbench.__version__}"
    return f"rvosbench {rvosbench.__version__}, commit {state['commit'][:10]}{', changed' if state['dirty'] else ''}"


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=_GIT_SECONDS).stdout.strip()
