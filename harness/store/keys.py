"""Artefact keys: what an artefact depends on, hashed.

A key has two parts. The first 40 hex digits name what is computed: stage, settings, media, text, and so on down the
stages before. The last 24 name the code that computes it, of this stage and of those before. Artefacts that differ in
the second part alone answer the same question by other code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Protocol

from rvosbench.harness.settings import Json
from rvosbench.harness.store.code import Code

SCHEMA = 2
"""Raised when the meaning of artefact files changes."""
_WHAT = 40
"""Hex digits of a key's first part."""


class Computation(Protocol):
    """What computes an artefact."""

    def identity(self) -> Mapping[str, Json]:
        """Everything about it that changes results, except the code, as plain JSON."""
        ...

    def code(self) -> Code:
        """The code."""
        ...


def artefact_key(
    stage: Computation, *, media: str, text: str, upstream: Mapping[str, str], ground_truth: str | None = None
) -> str:
    """SHA-256 (64 hex digits, in two parts) of everything the artefact depends on.

    Args:
        stage: what computes the artefact, e.g. a ``StageSpec``.
        media: digest of the video's frame bytes, in order.
        text: the expression.
        upstream: keys of the artefacts it consumes, by stage name.
        ground_truth: digest of the target's masks, for the score stage.
    """
    what = digest_of(
        {
            "schema": SCHEMA,
            **stage.identity(),
            "media": media,
            "text": text,
            "upstream": {name: what_part(key) for name, key in upstream.items()},
            "ground_truth": ground_truth,
        }
    )
    code = digest_of({"own": stage.code().digest, "upstream": {name: code_part(key) for name, key in upstream.items()}})
    return what[:_WHAT] + code[_WHAT:]


def what_part(key: str) -> str:
    """The part of a key that says what is computed."""
    return key[:_WHAT]


def code_part(key: str) -> str:
    """The part of a key that says by which code."""
    return key[_WHAT:]


def digest_of(value: Json | Mapping[str, Json]) -> str:
    """SHA-256 (hex) of a JSON value in canonical form. Half a character of a pair is hashed like any other."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
