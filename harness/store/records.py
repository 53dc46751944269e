"""How the computation of one artefact ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Record:
    """How one artefact ended."""

    key: str
    status: Literal["done", "failed"]
    seconds: float | None = None
    error: str | None = None
    """One sentence."""
    detail: str | None = None
    """Traceback, for errors nobody foresaw."""
    attempts: int = 1
    worker: str | None = None
    """Where it was computed: the machine's name, and its GPU if the worker has one."""
