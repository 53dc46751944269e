"""Runs the real command line as a child, and finds every process it leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

SUPPORT = Path(__file__).resolve().parent
MARK = "RVOSBENCH_TEST_MARK"


class Command:
    """An ``rvosbench`` child whose whole process tree carries a mark in its environment."""

    def __init__(self, *arguments: str, folder: Path, environment: dict[str, str] | None = None) -> None:
        self.mark = uuid.uuid4().hex
        variables = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        variables.pop("RAY_ADDRESS", None)
        variables |= {MARK: self.mark, **(environment or {})}
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from rvosbench.harness.cli import main; main()", *arguments],
            cwd=folder,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, seconds: float = 500.0) -> tuple[int, str, str]:
        """(exit code, standard output, standard error)."""
        stdout, stderr = self.process.communicate(timeout=seconds)
        return self.process.returncode, stdout, stderr

    def tree(self) -> dict[int, str]:
        """Living processes that carry the mark: pid -> command line."""
        return marked(self.mark)

    def require_no_process_left(self, seconds: float = 30.0) -> None:
        """Fails when anything the command started still lives after a while."""
        require_none_marked(self.mark, seconds)


def marked(mark: str) -> dict[int, str]:
    """Living processes that carry a mark in their environment, and those below them: pid -> command line.

    One that sets its title (vLLM's engine) may write over its environment.
    """
    found: set[int] = set()
    parents: dict[int, int] = {}
    commands: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        pid = int(entry.name)
        try:
            environment = (entry / "environ").read_bytes()
            parents[pid] = int((entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
            commands[pid] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue  # it ended while we looked, or is not ours
        if f"{MARK}={mark}".encode() in environment:
            found.add(pid)
    while below := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= below
    return {pid: commands[pid] for pid in found if commands.get(pid)}


def require_none_marked(mark: str, seconds: float = 30.0) -> None:
    """Fails when a process with the mark still lives after a while."""
    until = time.monotonic() + seconds
    while (left := marked(mark)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not left, f"processes left behind: {left}"


def rvosbench(*arguments: str, folder: Path, environment: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Runs a command to its end."""
    return Command(*arguments, folder=folder, environment=environment).finish()


def wait_for_lines(path: Path, count: int, command: Command, seconds: float = 500.0) -> None:
    """Waits until a file has ``count`` lines; fails when the command ends or time runs out before."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if path.is_file() and len(path.read_text().splitlines()) >= count:
            return
        if command.process.poll() is not None:
            raise AssertionError(f"the command ended early: {command.finish()}")
        time.sleep(0.02)
    raise AssertionError(f"{path} never had {count} lines")
