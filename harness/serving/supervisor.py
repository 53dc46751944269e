"""``python -P -m rvosbench.harness.serving.supervisor GRACE COMMAND...``: runs a server and leaves nothing behind.

A server starts processes of its own (vLLM: an engine and workers that hold the GPU), and they survive when it is
killed. Here two supervisors stand above it, one above the other. Each ends the whole tree below it when its standard
input closes (whoever started it is gone, however that happened), when it is told to end, when the process above it
dies, and when the process below it ends. Orphans of the tree come to the nearest supervisor (a child subreaper), so
none escapes by leaving its parent, group or session. Because they watch each other, killing any one of starter,
supervisors and server with SIGKILL still ends all of them. Linux only.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

_TICK_MILLISECONDS = 200
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


class _Ending:
    """Set when a signal asks for the end."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._ask)

    def _ask(self, signum: int, frame: object) -> None:
        self.asked = True


def main(command: list[str], grace: float) -> int:
    """Runs the command; returns its exit code. It has ``grace`` seconds to end by itself before it is killed."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    above = os.getpid()
    below = os.fork()
    if below:
        return _watch(below, grace + 5.0)
    _die_with_parent(above, signal.SIGTERM)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    inner = os.getpid()
    ending = _Ending()
    server = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, preexec_fn=lambda: _die_with_parent(inner, signal.SIGKILL)
    )
    return _watch(server.pid, grace, ending)


def _watch(child: int, grace: float, ending: _Ending | None = None) -> int:
    """Waits for the end of the child, of the starter, or of patience; then ends everything below."""
    ending = ending or _Ending()
    starter = select.poll()
    starter.register(sys.stdin.fileno(), select.POLLHUP)
    status = _reap(child)
    while status is None and not ending.asked and not starter.poll(_TICK_MILLISECONDS):
        status = _reap(child)
    if status is None:
        os.kill(child, signal.SIGTERM)
        until = time.monotonic() + grace
        while (status := _reap(child)) is None and time.monotonic() < until:
            time.sleep(0.05)
    while left := _descendants(os.getpid()):
        for pid in left:
            _kill(pid)
        time.sleep(0.02)
        code = _reap(child)
        status = code if status is None else status
    if status is None:
        status = _reap(child)
    return 0 if status is None else status


def _reap(child: int) -> int | None:
    """Takes in every ended child; the exit code of ``child``, negative for a signal, if it was among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == child:
            found = os.waitstatus_to_exitcode(status)


def _descendants(root: int) -> list[int]:
    """Living processes below ``root``."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # The name, in brackets, may hold anything; state and parent stand behind it.
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, queue = [], [root]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _die_with_parent(parent: int, signum: int) -> None:
    _prctl(_PR_SET_PDEATHSIG, signum)
    if os.getppid() != parent:  # it died before the kernel knew
        os.kill(os.getpid(), signum)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({option})")


if __name__ == "__main__":
    code = main(sys.argv[2:], float(sys.argv[1]))
    sys.exit(code if code >= 0 else 128 - code)
