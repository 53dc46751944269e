"""YAML from outside, parsed in one place: plain values, or one sentence that says what is wrong.

Beside what no parser accepts, this refuses a key that occurs twice in a mapping, aliases that expand to more than the
file could hold without them, nesting beyond what the tools behind can follow, values that have no JSON form (sets,
dates, binary), and numbers that are NaN, infinite or too long.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.text import one_line

_MAX_BYTES = 1 << 20
_MAX_NODES = 100_000
"""Values after aliases are expanded."""
_MAX_DEPTH = 50
_MERGE = "tag:yaml.org,2002:merge"


class _RefusedError(yaml.YAMLError):
    """A construct this reader does not take."""


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool | None):
                raise _RefusedError(f"line {key_node.start_mark.line + 1}: a key is no plain value")
            if key in seen:
                raise _RefusedError(f"line {key_node.start_mark.line + 1}: the key '{key}' occurs twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """The value in a YAML file.

    Raises:
        PrerequisiteError: missing, unreadable, larger than 1 MiB, not UTF-8, or refused as ``parse_yaml`` says.
    """
    try:
        if path.is_dir():
            raise PrerequisiteError(f"{path} is a folder, not a YAML file.", "Give the file in it.")
        if path.stat().st_size > _MAX_BYTES:
            raise PrerequisiteError(f"{path} is larger than {_MAX_BYTES >> 20} MiB.", "Check the file.")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise PrerequisiteError(f"There is no file {path}.", "Check the path.") from error
    except UnicodeDecodeError as error:
        raise PrerequisiteError(f"{path} is not valid YAML: it is not UTF-8 text.", "Correct the file.") from error
    except OSError as error:
        raise PrerequisiteError(f"{path} cannot be read: {error.strerror or error}.", "Check the file.") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> Any:
    """The value of a YAML text.

    Args:
        source: what messages call it.

    Raises:
        PrerequisiteError: one sentence with the source and the reason.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _expand(node)
            value = loader.construct_document(node)
        finally:
            loader.dispose()
        _require_plain(value, "")
    except PrerequisiteError:
        raise
    except RecursionError as error:
        raise PrerequisiteError(f"{source} is not valid YAML: it nests too deeply.", "Correct the file.") from error
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, KeyError, IndexError, OverflowError) as error:
        # Beside its own errors, the library lets out what its converters raise on odd numbers, dates and tags.
        reason = _reason(error)
        raise PrerequisiteError(f"{source} is not valid YAML: {reason}.", "Correct the file.") from error
    return value


def _expand(root: yaml.Node) -> None:
    """Refuses documents that are small on disk and large, or endless, once their aliases are followed."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: yaml.Node, depth: int) -> int:
        if id(node) in open_nodes:
            raise _RefusedError(f"line {node.start_mark.line + 1}: a value contains itself")
        if depth > _MAX_DEPTH:
            raise _RefusedError(f"line {node.start_mark.line + 1}: it nests deeper than {_MAX_DEPTH} levels")
        if id(node) not in sizes:
            open_nodes.add(id(node))
            children: list[yaml.Node] = []
            if isinstance(node, yaml.MappingNode):
                children = [part for pair in node.value for part in pair]
            elif isinstance(node, yaml.SequenceNode):
                children = node.value
            sizes[id(node)] = 1 + sum(size(child, depth + 1) for child in children)
            open_nodes.discard(id(node))
        if sizes[id(node)] > _MAX_NODES:
            raise _RefusedError(f"its aliases expand to more than {_MAX_NODES:,} values")
        return sizes[id(node)]

    size(root, 0)


def _require_plain(value: Any, where: str) -> None:
    if value is None or isinstance(value, bool | str):
        if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
            raise _RefusedError(f"{where or 'a text'} holds half a character")
    elif isinstance(value, int):
        if abs(value) >= 1 << 63:
            raise _RefusedError(f"{where or 'a number'} is too large")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise _RefusedError(f"{where or 'a number'} is not finite")
    elif isinstance(value, list):
        for index, element in enumerate(value):
            _require_plain(element, f"{where}.{index}" if where else str(index))
    elif isinstance(value, dict):
        for key, element in value.items():
            _require_plain(key, f"a key of {where or 'the file'}")
            _require_plain(element, f"{where}.{key}" if where else str(key))
    else:
        raise _RefusedError(f"{where or 'it'} holds a {type(value).__name__}")


def _reason(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return one_line(f"{error.problem or error.context} at line {error.problem_mark.line + 1}")[:300]
    text = one_line(" ".join(str(error).split()))[:300].rstrip(".")
    return text if isinstance(error, yaml.YAMLError) else f"a value cannot be read ({text})"
