"""Servers for a stage: those the recipe names, or replicas that are started, watched and started again.

One thread watches each replica. What keeps failing is given up after ``max_restarts``; the others go on, and only when
none is left does the run stop. A replica keeps its address for life, so that workers need not be told of anything.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.recipes import ServingChoice
from rvosbench.harness.secrets import redacted_text
from rvosbench.harness.servers import ModelServer, Servers
from rvosbench.harness.serving.chat import serving_model
from rvosbench.harness.serving.replica import Status
from rvosbench.harness.serving.vllm import Launch, launch_of
from rvosbench.harness.trust import host_of

_TICK_SECONDS = 1.0
_UNWELL_SECONDS = 60.0
"""A server that was healthy and has not answered for so long is ended and started again."""
_GIVEN_PATIENCE_SECONDS = 120.0


class ReplicaHandle(Protocol):
    """A replica, here or on another machine. Used by one thread at a time."""

    def start(self) -> str:
        """(Re)starts the server and returns its address without waiting for it to answer.

        Raises:
            PrerequisiteError: there is no place for it.
        """
        ...

    def status(self) -> Status: ...

    def stop(self) -> None:
        """Ends the server and what holds it. Never raises."""
        ...


class Host(Protocol):
    """Where replicas are placed."""

    def replica_count(self, choice: ServingChoice) -> int:
        """How many the recipe asks for.

        Raises:
            PrerequisiteError: there is no room for so many.
        """
        ...

    def place(self, launch: Launch, log: Path, choice: ServingChoice) -> ReplicaHandle:
        """A replica that is not started yet."""
        ...


class ServerPool:
    """The servers of one stage while it runs."""

    def __init__(self, servers: Servers, keepers: tuple[_Keeper, ...] = ()) -> None:
        self.servers = servers
        self._keepers = keepers

    def check(self) -> None:
        """Called now and then while the stage runs.

        Raises:
            PrerequisiteError: every replica was given up.
        """
        if self._keepers and all(keeper.problem for keeper in self._keepers):
            raise PrerequisiteError(
                f"No server of {self.servers.model} is left: {self._keepers[0].problem}",
                "Mend serving in the recipe, then run the same command again: all committed work is kept.",
            )


@contextmanager
def serving(
    need: ModelServer, choice: ServingChoice, host: Host, logs: Path, say: Callable[[str], None]
) -> Iterator[ServerPool]:
    """Servers of ``need`` for as long as the block runs.

    Args:
        need: the model.
        choice: the recipe's.
        host: places replicas.
        logs: folder for their output, on a file system that every machine sees.
        say: tells the user what is started and what ended.

    Raises:
        PrerequisiteError: no server can be had, or none of the given ones serves the model.
    """
    asked = Servers(
        need.served_name,
        (),
        concurrency=choice.concurrency,
        request_seconds=choice.request_seconds,
        attempts=choice.attempts,
    )
    if choice.endpoints:
        endpoints = tuple(url.rstrip("/").removesuffix("/v1") for url in choice.endpoints)
        key = os.environ.get(choice.key_variable, "")
        given = replace(asked, endpoints=endpoints, key=key, patience_seconds=_GIVEN_PATIENCE_SECONDS)
        if key:
            say(f"Sending the key of {choice.key_variable} to {', '.join(dict.fromkeys(map(host_of, endpoints)))}")
        given = replace(given, endpoints=serving_model(given))
        say(redacted_text(f"{need.served_name} is served at {', '.join(given.endpoints)}"))
        yield ServerPool(given)
        return
    key = secrets.token_hex(16)
    launch = launch_of(need, choice, key)
    count = host.replica_count(choice)
    stem = re.sub(r"[^\w.-]+", "-", need.served_name)
    keepers = tuple(
        _Keeper(host.place(launch, log, choice), log, choice, say)
        for log in (logs / f"{stem}-{index}.log" for index in range(count))
    )
    say(f"Starting {count} server{'s' if count > 1 else ''} of {need.served_name}; output in {logs}")
    try:
        for keeper in keepers:
            keeper.start()
        endpoints = _wait_for_first(keepers, need)
        # A dead replica needs at most this long to answer again.
        servers = replace(asked, endpoints=endpoints, key=key, owned=True, patience_seconds=choice.start_seconds)
        pool = ServerPool(servers, keepers)
        serving_model(replace(servers, endpoints=(next(keeper.url for keeper in keepers if keeper.ready),)))
        try:
            yield pool
        except PrerequisiteError:
            pool.check()  # why the servers are gone says more than that nobody answers
            raise
    finally:
        for keeper in keepers:
            keeper.stopping.set()
        for keeper in keepers:
            keeper.join()


def _wait_for_first(keepers: tuple[_Keeper, ...], need: ModelServer) -> tuple[str, ...]:
    """The addresses of all replicas that have a place, once one answers.

    Raises:
        PrerequisiteError: none will.
    """
    while True:
        settled = all(keeper.url or keeper.problem for keeper in keepers)
        if settled and any(keeper.ready for keeper in keepers):
            return tuple(keeper.url for keeper in keepers if keeper.url and not keeper.problem)
        if all(keeper.problem for keeper in keepers):
            raise PrerequisiteError(
                f"The server of {need.served_name} did not start: {keepers[0].problem}",
                "Correct serving in the recipe (flags, gpus, environment), or set reasoning.engine to local.",
            )
        time.sleep(0.1)


class _Keeper(threading.Thread):
    """Keeps one replica running."""

    def __init__(self, replica: ReplicaHandle, log: Path, choice: ServingChoice, say: Callable[[str], None]) -> None:
        super().__init__(name=f"keeper of {log.stem}", daemon=True)
        self.stopping = threading.Event()
        self.url = ""
        """Its address, once it has a place."""
        self.ready = False
        """It has answered; true for good."""
        self.problem = ""
        """Why it was given up."""
        self._replica = replica
        self._log = log
        self._choice = choice
        self._say = say

    def run(self) -> None:
        try:
            for restarts_left in range(self._choice.max_restarts, -1, -1):
                self.url = self._replica.start()
                why = self._watch()
                if self.stopping.is_set():
                    return
                # What never answered will not do so the next time either: flags, memory or the checkpoint are wrong.
                if not self.ready or not restarts_left:
                    break
                self._say(f"Server {self._log.stem} {why.splitlines()[0]}; it is started again")
            self.problem = f"{self._log.stem} {why}\nAll of its output: {self._log}"
        except PrerequisiteError as error:
            self.problem = str(error)
        except Exception as error:  # noqa: BLE001 - whatever ends this thread, the driver must not wait for it
            self.problem = f"{self._log.stem}: {type(error).__name__}: {error}"
        finally:
            self._replica.stop()

    def _watch(self) -> str:
        """Returns when the server has ended or is given up, with the reason; or when it is to stop."""
        answered = started = time.monotonic()
        well = False
        while not self.stopping.wait(_TICK_SECONDS if well else _TICK_SECONDS / 4):
            status = self._replica.status()
            now = time.monotonic()
            if status.state == "dead":
                return f"ended. From its output:\n{status.tail}"
            if status.state == "healthy":
                self.ready, well, answered = True, True, now
            elif well and now - answered > _UNWELL_SECONDS:
                return f"has not answered for {_UNWELL_SECONDS:g} s"
            elif not well and now - started > self._choice.start_seconds:
                return f"did not answer within {self._choice.start_seconds:g} s of its start"
        return ""
