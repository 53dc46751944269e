"""Secrets in recipes, logs and mirrors: replaced before anything is written where others can read it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

HIDDEN = "<redacted>"
_MAX_DEPTH = 60
_MAX_VALUES = 100_000
_WORDS = re.compile(
    r"(?i)(^|[^a-z])(pass(word|wd|phrase)?|pwd|secrets?|credentials?|auth(orization)?|bearer"
    r"|(api|access|private|secret|signing|encryption|account|license|client)[^a-z]?key"
    r"|(hf|hub|gh|github|gitlab|wandb|auth|oauth|access|api|bearer|secret|session|refresh)[^a-z]?token)$"
)
"""Names whose values are secret; ``token``, ``seg_token``, ``max_tokens`` and ``key_variable`` are no such names."""
_VARIABLE = re.compile(r"[A-Z0-9_]*_(TOKEN|KEY|PAT|PSW)")
"""Names of environment variables whose values are secret."""
_URL = re.compile(r"(?P<start>[a-zA-Z][a-zA-Z0-9+.-]*://)(?:(?P<user>[^\s/@:]*:))?[^\s/@?]+(?:@[^\s/@?]+)*@")
_QUERY = re.compile(r"(?P<start>[?&;](?P<name>[^=&\s]+)=)(?P<value>[^&\s\"']+)")
_HEADER = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}")


def is_secret(name: str) -> bool:
    """Whether a value under this name (of a variable, flag or setting) is to be hidden."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.lstrip("-"))
    return bool(_WORDS.search(words) or _VARIABLE.fullmatch(words))


def redacted_text(text: str) -> str:
    """The text without passwords in URLs, secret parameters of addresses, and tokens of HTTP headers.

    >>> redacted_text("http://bob:pw@host:1/x?token=abc&n=1")
    'http://bob:<redacted>@host:1/x?token=<redacted>&n=1'
    """
    text = _URL.sub(lambda m: f"{m['start']}{m['user'] or ''}{HIDDEN}@", text)
    text = _QUERY.sub(lambda m: m["start"] + (HIDDEN if _in_query(m["name"]) else m["value"]), text)
    return _HEADER.sub(rf"\1 {HIDDEN}", text)


def redacted(value: Any) -> Any:
    """Returns a plain value (mappings, lists, scalars) without secrets: by the names of keys and flags, and in texts.

    What nests too deeply, or is too large, to be looked through is hidden whole. Without the limit on size, a value
    that holds itself twice would double at every level.
    """
    return _redacted(value, 0, count(1))


def _redacted(value: Any, depth: int, seen: Iterator[int]) -> Any:
    if depth > _MAX_DEPTH or next(seen) > _MAX_VALUES:
        return HIDDEN
    if isinstance(value, Mapping):
        return {
            name: HIDDEN if is_secret(str(name)) and _scalar(inner) else _redacted(inner, depth + 1, seen)
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return _redacted_list(value, depth, seen)
    return redacted_text(value) if isinstance(value, str) else value


def holds_hidden(value: Any) -> bool:
    """Whether a secret was taken out of the value."""
    if isinstance(value, Mapping):
        return any(holds_hidden(inner) for inner in value.values())
    if isinstance(value, list | tuple):
        return any(holds_hidden(inner) for inner in value)
    return isinstance(value, str) and HIDDEN in value


def _redacted_list(values: Sequence[Any], depth: int, seen: Iterator[int]) -> list[Any]:
    """Elements of a list; what follows a secret flag, or stands behind its equals sign, is hidden."""
    found: list[Any] = []
    for index, value in enumerate(values):
        before = values[index - 1] if index else None
        if isinstance(value, str) and value.startswith("-") and "=" in value:
            name = value.partition("=")[0]
            found.append(f"{name}={HIDDEN}" if is_secret(name) else redacted_text(value))
        elif isinstance(before, str) and before.startswith("-") and is_secret(before) and _scalar(value):
            found.append(HIDDEN)
        else:
            found.append(_redacted(value, depth + 1, seen))
    return found


def _in_query(name: str) -> bool:
    return is_secret(name) or name.lower() in ("token", "key", "sig", "signature", "code")


def _scalar(value: Any) -> bool:
    return value is not None and not isinstance(value, Mapping | list | tuple | bool)
