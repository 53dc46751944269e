"""What a SAM2 checkpoint folder may change of a configuration: numbers, booleans and lists of numbers.

A configuration of the sam2 package names the classes that are called, so whoever can write into it can run code. A
folder's overrides are therefore parsed here, once, into plain values, and these are what is set: no text of a folder
reaches a second parser. The configuration that comes out must name exactly the classes that the package's own names.
"""

from __future__ import annotations

import importlib
import inspect
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rvosbench.harness.errors import PrerequisiteError

Value = bool | int | float | list[int | float]
MOST_OVERRIDES, LONGEST_LIST, LARGEST_NUMBER = 200, 64, 1e6
"""Limits of a folder: released networks have 24 blocks, 1024 pixels and lists of four numbers."""
_KEY = re.compile(r"model(\.[a-z][a-z0-9_]{0,63}){1,8}")
_NUMBER = re.compile(r"[-+]?(\d{1,20}(\.\d{0,20})?|\.\d{1,20})([eE][-+]?\d{1,3})?")
_EXTRA = "model.sam_mask_decoder_extra_args"
"""Keywords of the mask decoder, which the network hands on."""


@dataclass(frozen=True, slots=True)
class Override:
    """One value of a configuration."""

    key: str
    """``model.<name>...``."""
    value: Value


def parse_override(text: str) -> Override:
    """Reads ``model.<key>=<value>``.

    Raises:
        ValueError: the key is no path of plain names below ``model``, or the value is neither a number, nor true or
            false, nor a list of numbers.
    """
    key, equals, value = text.partition("=")
    if not equals or not _KEY.fullmatch(key):
        raise ValueError("a key is model.<name>")
    return Override(key, _value(value.strip()))


def _value(text: str) -> Value:
    if text in ("true", "false"):
        return text == "true"
    if text.startswith("[") and text.endswith("]"):
        elements = [element.strip() for element in text[1:-1].split(",")] if text[1:-1].strip() else []
        if len(elements) > LONGEST_LIST:
            raise ValueError(f"a list has at most {LONGEST_LIST} numbers")
        return [_number(element) for element in elements]
    return _number(text)


def _number(text: str) -> int | float:
    if not _NUMBER.fullmatch(text):
        raise ValueError("a value is a number, true, false or a list of numbers")
    value = int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)
    if not math.isfinite(value) or abs(value) > LARGEST_NUMBER:
        raise ValueError(f"a number is at most {LARGEST_NUMBER:.0f}")
    return value


def configured(base: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The configuration with the overrides set.

    Args:
        base: the package's configuration, as plain values.
        overrides: ``model.<key>=<value>``.

    Raises:
        PrerequisiteError: an override is malformed, or sets what the configuration does not have as a number, a
            boolean or a list of them.
    """
    merged: dict[str, Any] = _copied(base)
    for text in overrides:
        try:
            override = parse_override(text)
            _set(merged, override)
        except ValueError as error:
            raise PrerequisiteError(
                f"The SAM2 configuration has the override '{text[:100]}': {error}.",
                "Write model.<key>=<number, true, false or a list of numbers>, with a key of the configuration.",
            ) from error
    if list(_classes(merged)) != list(_classes(base)):
        raise PrerequisiteError(
            "The overrides of a SAM2 configuration change which classes it calls.", "Set numbers and booleans only."
        )
    return merged


def _copied(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {str(key): _copied(value) for key, value in node.items()}
    return [_copied(value) for value in node] if isinstance(node, list) else node


def _set(config: dict[str, Any], override: Override) -> None:
    *path, last = override.key.split(".")
    node = config
    for depth, part in enumerate(path):
        if ".".join(path[: depth + 1]) == _EXTRA:
            node = node.setdefault(part, {})
            continue
        if not isinstance(node.get(part), dict):
            raise ValueError(f"there is no part '{part}'")
        node = node[part]
    if last in node:
        if node[last] is not None and not _plain(node[last]):
            raise ValueError(f"'{last}' is no number, boolean or list of numbers")
    elif ".".join(path) != _EXTRA and last not in _keywords(str(node.get("_target_", ""))):
        raise ValueError(f"there is no '{last}'")
    node[last] = override.value


def _plain(value: object) -> bool:
    if isinstance(value, list):
        return all(isinstance(one, int | float) for one in value)
    # YAML 1.1 reads 1e-6 as text.
    return isinstance(value, bool | int | float) or (isinstance(value, str) and bool(_NUMBER.fullmatch(value)))


def _keywords(target: str) -> set[str]:
    """What the constructor of a class of the package takes as a number or a boolean by default."""
    module, _, name = target.rpartition(".")
    if not module.startswith("sam2."):
        return set()
    kind: type = getattr(importlib.import_module(module), name)
    # The predictor hands what it does not know itself on to the network it is derived from.
    return {
        key
        for one in kind.__mro__
        if one.__module__.startswith("sam2.")
        for key, parameter in inspect.signature(one).parameters.items()
        if parameter.default is inspect.Parameter.empty or isinstance(parameter.default, bool | int | float)
    }


def _classes(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value under a key that begins with an underscore, which is what the builder calls, with its path."""
    if isinstance(node, Mapping):
        for key in sorted(node):
            if str(key).startswith("_"):
                yield f"{path}.{key}", node[key]
            yield from _classes(node[key], f"{path}.{key}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _classes(value, f"{path}.{number}")
