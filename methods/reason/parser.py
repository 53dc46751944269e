"""From what a model wrote to attributes, or to the reason why there are none. Never raises.

Accepted: a JSON object with a list of strings under ``attributes``, alone, in a markdown fence or with prose around it;
the first such object counts. Everything else gives no attributes and one of the ``Fallback`` reasons.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

Fallback = Literal["", "empty", "refusal", "looping", "no JSON", "cut off", "malformed", "wrong types", "no attribute"]
"""Why there are no attributes; "" when there are. "cut off": the JSON stops before its end. "no attribute": the form is
right, but nothing in the list can be used."""

LONGEST = 60
"""Characters of an attribute; longer ones are sentences, not attributes, and are left out."""
LONGEST_REASONS = 240
"""Characters of the reasons that a server's schema allows, so that they leave room for the attributes."""

_MOST_STARTS = 64
"""Opening braces tried; an answer of 128 tokens has fewer unless it loops."""
_REFUSAL = re.compile(
    r"\b(sorry|i can(?:no|')t|cannot (?:help|assist|determine|see|watch|view)|unable to|as an ai)\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Parsed:
    """The attributes and reasons of an answer."""

    attributes: tuple[str, ...]
    reasons: str
    fallback: Fallback


def parse(text: str, max_attributes: int) -> Parsed:
    """Reads an answer.

    Args:
        text: as generated.
        max_attributes: the first so many usable ones are kept. Not usable: what is not a string, is empty, is longer
            than ``LONGEST``, repeats an earlier one, or holds ``<`` or ``>`` (an echo of the prompt's placeholders, or
            a special token).
    """
    if not text.strip():
        return Parsed((), "", "empty")
    found = None
    for found in _objects(text):
        if "attributes" in found:
            break
    if found is None:
        return Parsed((), "", _without_json(text))
    reasons = found.get("reasons")
    reasons = _one_line(reasons) if isinstance(reasons, str) else ""
    listed = found.get("attributes")
    if not isinstance(listed, list):
        return Parsed((), reasons, "wrong types")
    strings = [entry for entry in listed if isinstance(entry, str)]
    if listed and not strings:
        return Parsed((), reasons, "wrong types")
    attributes = _usable(strings)[:max_attributes]
    return Parsed(attributes, reasons, "" if attributes else "no attribute")


def well_formed(text: str) -> str:
    """The text without lone surrogates, which have no UTF-8 form and could not be stored."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def schema(max_attributes: int) -> dict[str, Any]:
    """The JSON schema of an answer, for servers that decode along one; properties in the prompt's order.

    Blanks stand where the prompt's form has them: a model that is made to leave them out loses its thread, and one that
    may write white space anywhere can go on until the answer is full. ``x-guidance`` is read by vLLM's backend of that
    name.
    """
    return {
        "x-guidance": {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False},
        "type": "object",
        "properties": {
            "reasons": {"type": "string", "maxLength": LONGEST_REASONS},
            "attributes": {
                "type": "array",
                "items": {"type": "string", "minLength": 1, "maxLength": LONGEST},
                "minItems": 1,
                "maxItems": max_attributes,
            },
        },
        "required": ["reasons", "attributes"],
        "additionalProperties": False,
    }


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Every JSON object that begins somewhere in the text, outermost first."""
    decoder = json.JSONDecoder(strict=False)
    start = -1
    for _ in range(_MOST_STARTS):
        start = text.find("{", start + 1)
        if start < 0:
            return
        try:
            value, _ = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield value


def _without_json(text: str) -> Fallback:
    if _loops(text):
        return "looping"
    if "{" in text:
        # What is open at the end was cut off; what is closed was never JSON.
        return "malformed" if text.count("}") >= text.count("{") else "cut off"
    return "refusal" if _REFUSAL.search(text) else "no JSON"


def _loops(text: str) -> bool:
    """The second half repeats itself: of its words, or characters where it has few, hardly any are new."""
    half = text[len(text) // 2 :]
    words = _WORD.findall(half)
    if len(words) >= 10:
        return len(set(words)) <= len(words) // 5
    return len(half) >= 20 and len(set(half)) <= 3


def _usable(strings: list[str]) -> tuple[str, ...]:
    kept: dict[str, str] = {}
    for string in strings:
        attribute = _one_line(string).strip(" \"'`.,;")
        if attribute and len(attribute) <= LONGEST and not set(attribute) & set("<>"):
            kept.setdefault(attribute.casefold(), attribute)
    return tuple(kept.values())


def _one_line(text: str) -> str:
    """Spaces and control characters become single spaces."""
    printable = "".join(character if character.isprintable() else " " for character in well_formed(text))
    return " ".join(printable.split())
