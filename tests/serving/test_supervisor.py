"""Nothing of a server outlives whoever started it, whichever process is killed with SIGKILL."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import MARK, marked, require_none_marked

# A server with an engine in a session of its own that ignores all that can be ignored, as nothing real is worse.
_ENGINE = "import signal, time; [signal.signal(s, signal.SIG_IGN) for s in (1, 2, 15)]; time.sleep(600)"
_SERVER = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {_ENGINE!r}], start_new_session=True)
if sys.argv[1] == "stubborn":
    {_ENGINE}
elif sys.argv[1] == "ends":
    time.sleep(1); sys.exit(7)
time.sleep(600)
"""
_STARTER = f"""
import subprocess, sys
module = "rvosbench.harness.serving.supervisor"
command = [sys.executable, "-m", module, "1", sys.executable, "-c", {_SERVER!r}, *sys.argv[1:]]
child = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
print(child.pid, flush=True)
sys.stdin.read()
child.stdin.close()
sys.exit(child.wait())
"""


class Tree:
    """A starter, its two supervisors, the server and its engine."""

    def __init__(self, kind: str = "obedient") -> None:
        self.mark = uuid.uuid4().hex
        self.starter = subprocess.Popen(
            [sys.executable, "-c", _STARTER, kind],
            env={**os.environ, MARK: self.mark},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.starter.stdout is not None
        self.outer = int(self.starter.stdout.readline())
        until = time.monotonic() + 30
        while len(marked(self.mark)) < 5:
            assert time.monotonic() < until, f"never complete: {marked(self.mark)}"
            time.sleep(0.02)
        self.inner = self._child(self.outer)
        self.server = self._child(self.inner)
        self.engine = self._child(self.server)
        while kind == "stubborn" and not self._ignores_ending(self.server):
            assert time.monotonic() < until, "the server still listens"
            time.sleep(0.02)

    @staticmethod
    def _ignores_ending(pid: int) -> bool:
        status = Path(f"/proc/{pid}/status").read_text()
        (ignored,) = re.findall(r"^SigIgn:\s*(\w+)$", status, re.MULTILINE)
        return bool(int(ignored, 16) >> (signal.SIGTERM - 1) & 1)

    @staticmethod
    def _child(pid: int) -> int:
        (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(child)


@pytest.fixture
def tree() -> Iterator[Tree]:
    tree = Tree()
    yield tree
    tree.starter.kill()
    tree.starter.wait()
    for pid in marked(tree.mark):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("victim", ["starter", "outer", "inner", "server"])
def test_any_process_may_be_killed(tree: Tree, victim: str) -> None:
    pid = tree.starter.pid if victim == "starter" else getattr(tree, victim)
    os.kill(pid, signal.SIGKILL)
    if victim != "starter":
        # The starter lives on and is told by its child's end.
        assert tree.starter.stdin is not None
        require_only_the_starter(tree)
        tree.starter.stdin.close()
    else:
        tree.starter.wait()
    require_none_marked(tree.mark)


def require_only_the_starter(tree: Tree) -> None:
    until = time.monotonic() + 30
    while set(living := marked(tree.mark)) != {tree.starter.pid} and time.monotonic() < until:
        time.sleep(0.05)
    assert set(living) == {tree.starter.pid}


def test_starter_and_outer_supervisor_killed_at_once(tree: Tree) -> None:
    """As when a machine's memory killer goes through."""
    os.kill(tree.starter.pid, signal.SIGKILL)
    os.kill(tree.outer, signal.SIGKILL)
    tree.starter.wait()
    require_none_marked(tree.mark)


def test_starter_and_inner_supervisor_killed_at_once(tree: Tree) -> None:
    os.kill(tree.starter.pid, signal.SIGKILL)
    os.kill(tree.inner, signal.SIGKILL)
    tree.starter.wait()
    require_none_marked(tree.mark)


def test_asked_to_end_it_ends_even_a_server_that_does_not_listen() -> None:
    tree = Tree("stubborn")
    assert tree.starter.stdin is not None
    tree.starter.stdin.close()
    assert tree.starter.wait(30) == 128 + signal.SIGKILL
    require_none_marked(tree.mark)


def test_a_server_that_ends_takes_its_engine_along_and_its_code_is_told() -> None:
    tree = Tree("ends")
    require_only_the_starter(tree)
    assert tree.starter.stdin is not None
    tree.starter.stdin.close()
    assert tree.starter.wait(30) == 7
    require_none_marked(tree.mark)
