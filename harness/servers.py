"""What a stage may need beside its worker: a model that answers chats. Interfaces and data only.

A stage whose ``StageSpec.server`` is set is built with ``factory(settings, servers)``; the engine of the pipeline has
the model running before the stage's first worker starts and stops it after its last item.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class ModelServer:
    """One model that answers chats, as a method declares it."""

    model: str
    """The local folder or hub name (without a revision)."""
    served_name: str
    """The name that requests carry and that a given endpoint must list under /v1/models."""
    revision: str | None = None
    """The commit on the hub."""
    dtype: str = "auto"
    """The number type that the model computes in, as vLLM names it."""
    max_length: int | None = None
    """The longest prompt and answer together, in tokens; None is the model's own limit."""
    videos: int = 0
    """The largest number of videos in a prompt."""
    images: int = 0
    """The largest number of images in a prompt."""
    frame_rate: float | None = None
    """The frames per second of a video that is sent frame by frame; None is the server's default."""


class ChatModel(Protocol):
    """A connection to a running model; many threads use it at once."""

    @property
    def in_flight(self) -> int:
        """The largest number of requests at a time that this worker should send."""
        ...

    def software(self) -> str:
        """What answers, e.g. "vllm 0.32.0"; it is recorded with each answer."""
        ...

    def complete(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        affinity: str,
        max_tokens: int,
        schema: Mapping[str, Any] | None = None,
    ) -> str:
        """Returns the greedy answer to a chat.

        Args:
            messages: the chat in the form of the OpenAI interface.
            affinity: requests with the same one go to the same replica, which keeps what it computed of their prefix.
            max_tokens: the longest answer.
            schema: the JSON schema that the answer follows.

        Raises:
            SampleError: this request failed; others may succeed.
            PrerequisiteError: no request can succeed.
        """
        ...


class Servers(Protocol):
    """A running model, as a worker is given it; it can be pickled unless it lives in the driver's process."""

    @property
    def replicas(self) -> int:
        """The number of places that answer."""
        ...

    def connect(self) -> ChatModel:
        """Opens a connection for one worker."""
        ...


def replica_order(affinity: str, names: Sequence[str]) -> list[int]:
    """Returns the replicas' indices in the order in which an affinity tries them (rendezvous hashing).

    Removing a replica moves only the requests that it had; nothing else changes its place.
    """
    keys = [hashlib.sha256(f"{affinity}\n{name}".encode()).digest() for name in names]
    return sorted(range(len(names)), key=keys.__getitem__)
