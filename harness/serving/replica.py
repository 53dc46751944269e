"""One server process on this machine, under its supervisor. Used by the driver itself, or as a Ray actor."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.serving.vllm import Launch

_GRACE_SECONDS = 10.0
"""For a server to end by itself."""
_HEALTH_SECONDS = 10.0
_TAIL_BYTES = 200_000
_CAUSES, _TAIL_LINES, _LINE_CHARACTERS = 3, 5, 300
_CAUSE = re.compile(r"\b\w*(?:Error|Exception): .{1,80}")
_SUPERVISOR = (sys.executable, "-P", "-m", "rvosbench.harness.serving.supervisor")

State = Literal["starting", "healthy", "unwell", "dead"]
"""The process runs and does not answer yet; answers; no longer answers; has ended."""


@dataclass(frozen=True)
class Status:
    """How a replica does."""

    state: State
    tail: str = ""
    """What its output says of its end, once it is dead."""


class Replica:
    """A server that can be started again at the same address.

    Args:
        launch: command and environment.
        log: file its output is appended to.
        host: address it listens at; others reach it there.
        port: None: a free one is found, and kept.

    Raises:
        PrerequisiteError: this system cannot supervise processes.
    """

    def __init__(self, launch: Launch, log: Path, host: str, port: int | None = None) -> None:
        if sys.platform != "linux":
            raise PrerequisiteError(
                "Servers can be started on Linux only.", "Start one elsewhere and name it under serving.endpoints."
            )
        self._launch = launch
        self._log = log
        self._host = host
        self.port = port or _free_port(host)
        self._process: subprocess.Popen[bytes] | None = None
        self._was_healthy = False
        self._began = 0
        """Where the output of the last start begins in the log."""

    def start(self) -> str:
        """Starts the process, after ending what is left of an earlier one; returns its address at once."""
        self.stop()
        self._log.parent.mkdir(parents=True, exist_ok=True)
        address = ("--host", self._host, "--port", str(self.port))
        with self._log.open("ab") as log:
            self._began = log.tell()
            self._process = subprocess.Popen(
                [*_SUPERVISOR, str(_GRACE_SECONDS), *self._launch.command, *address],
                env={**os.environ, **self._launch.environment},
                # Its closing tells the supervisor that we are gone, whatever ended us.
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._was_healthy = False
        return self.url

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{self._host}:{self.port}"

    def status(self) -> Status:
        """Looks at the process, then asks the server."""
        if self._process is None or self._process.poll() is not None:
            return Status("dead", self._tail())
        try:
            healthy = httpx.get(f"{self.url}/health", timeout=_HEALTH_SECONDS, trust_env=False).is_success
        except httpx.HTTPError:
            healthy = False
        if healthy:
            self._was_healthy = True
            return Status("healthy")
        return Status("unwell" if self._was_healthy else "starting")

    def stop(self) -> None:
        """Ends the server and everything it started."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(_GRACE_SECONDS + 10)
        except subprocess.TimeoutExpired:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = None

    def _tail(self) -> str:
        with suppress(OSError), self._log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(self._began, file.tell() - _TAIL_BYTES))
            return telling(file.read().decode(errors="replace"))
        return ""


def telling(output: str) -> str:
    """What of a dead server's output says why it died: the first lines that name an error, then its last lines.

    vLLM's engine reports the cause, and the processes above it report long after that the engine failed.
    """
    lines = [line[:_LINE_CHARACTERS] for line in output.splitlines() if line.strip() and " WARNING " not in line]
    causes: dict[str, str] = {}
    for line in lines:
        if match := _CAUSE.search(line):
            causes.setdefault(match[0], line)
    first = list(causes.values())[:_CAUSES]
    return "\n".join([*first, *(line for line in lines[-_TAIL_LINES:] if line not in first)])


def _free_port(host: str) -> int:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
    return port
