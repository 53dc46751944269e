"""What a stage may need beside its worker: a model server. Data only; ``harness.serving.replicas`` starts them.

A stage whose ``StageSpec.server`` is set is built with ``factory(settings, servers)``; the engine has servers running
before its first worker and stops them after its last item.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ModelServer:
    """An OpenAI-compatible server of one model, as a method declares it."""

    model: str
    """Local folder or hub name (without a revision), as the server takes it."""
    served_name: str
    """The name that requests carry and that the server must list under /v1/models."""
    revision: str | None = None
    """Commit on the hub."""
    dtype: str = "auto"
    max_length: int | None = None
    """Longest prompt and answer together, in tokens; None: the model's own limit."""
    videos: int = 0
    """Most videos of a prompt."""
    images: int = 0
    """Most images of a prompt."""
    frame_rate: float | None = None
    """Frames a second that a video sent frame by frame is said to have; None: the server's default."""


@dataclass(frozen=True)
class Servers:
    """Running servers of one model, and how they are asked: what a worker is given."""

    model: str
    """See ``ModelServer.served_name``."""
    endpoints: tuple[str, ...]
    """Base addresses, e.g. ``http://10.0.0.3:8000``; all serve the same model."""
    key: str = field(default="", repr=False)
    """Sent as a bearer token where it is not empty."""
    owned: bool = False
    """Started by this run; a dead one is then being started again."""
    concurrency: int = 8
    """Requests in flight at most, per endpoint and worker."""
    request_seconds: float = 300.0
    """For one answer."""
    attempts: int = 4
    """How often a request may fail before its sample is given up. Refused connections do not count."""
    patience_seconds: float = 120.0
    """How long no endpoint may take a connection before the stage gives up altogether."""
