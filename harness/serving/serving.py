"""Has the model of a stage running: endpoints that the recipe names, or engines that the executor starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from rvosbench.harness.recipes import ServingChoice
from rvosbench.harness.secrets import redacted_text
from rvosbench.harness.servers import ModelServer, Servers
from rvosbench.harness.serving.endpoints import Endpoints, endpoints_of_model
from rvosbench.harness.trust import host_of

Report = Callable[[str], None]


class EngineHost(Protocol):
    """Where engines are started: an executor."""

    def engines(
        self, need: ModelServer, choice: ServingChoice, logs: Path, report: Report
    ) -> AbstractContextManager[Servers]:
        """Runs engines of a model for as long as the block does.

        Raises:
            PrerequisiteError: none can be started.
        """
        ...


@contextmanager
def serving(
    need: ModelServer, choice: ServingChoice, host: EngineHost, logs: Path, report: Report
) -> Iterator[Servers]:
    """Has a model running for as long as the block does.

    Args:
        need: the model and its limits.
        choice: the recipe's.
        host: starts engines where the recipe names no endpoint.
        logs: the folder of their output, on a file system that every node sees.
        report: takes a line for the user.

    Raises:
        PrerequisiteError: no engine starts, or none of the given endpoints serves the model.
    """
    if not choice.endpoints:
        with host.engines(need, choice, logs, report) as engines:
            yield engines
        return
    endpoints = Endpoints(
        need.served_name,
        tuple(url.rstrip("/").removesuffix("/v1") for url in choice.endpoints),
        key=os.environ.get(choice.key_variable, ""),
        concurrency=choice.concurrency,
        request_seconds=choice.request_seconds,
        attempts=choice.attempts,
    )
    if endpoints.key:
        report(f"Sending the key of {choice.key_variable} to {', '.join(dict.fromkeys(map(host_of, endpoints.urls)))}")
    endpoints = endpoints_of_model(endpoints)
    report(redacted_text(f"{need.served_name} is served at {', '.join(endpoints.urls)}"))
    yield endpoints
