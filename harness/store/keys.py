"""Artefact keys: what an artefact depends on, hashed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Protocol

from rvosbench.harness.settings import Json

SCHEMA = 1
"""Raised when the meaning of artefact files changes."""


class Computation(Protocol):
    """What computes an artefact."""

    def identity(self) -> Mapping[str, Json]:
        """Everything about it that changes results, as plain JSON."""
        ...


def artefact_key(
    stage: Computation, *, media: str, text: str, upstream: Mapping[str, str], ground_truth: str | None = None
) -> str:
    """SHA-256 (hex) of everything the artefact depends on.

    Args:
        stage: what computes the artefact, e.g. a ``StageSpec``.
        media: digest of the video's frame bytes, in order.
        text: the expression.
        upstream: keys of the artefacts it consumes, by stage name.
        ground_truth: digest of the target's masks, for the score stage.
    """
    return digest_of(
        {
            "schema": SCHEMA,
            **stage.identity(),
            "media": media,
            "text": text,
            "upstream": dict(upstream),
            "ground_truth": ground_truth,
        }
    )


def digest_of(value: Json | Mapping[str, Json]) -> str:
    """SHA-256 (hex) of a JSON value in canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
