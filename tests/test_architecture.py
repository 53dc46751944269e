"""The arrows between parts of the project point one way, and no files import each other in a circle.

Imports are read from the source, those inside functions and for type checks included: an arrow that is drawn late is
still an arrow. The one that still points the wrong way is listed by name; the list may only shrink.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOP = ("harness", "methods", "leaderboard")
TOP_ARROWS = {
    "harness": {"harness"},
    "methods": {"methods", "harness"},
    "leaderboard": {"leaderboard", "harness"},
}
SHARED = ("models", "attention", "reason", "ground", "segment")
"""The flow's shared parts of methods; everything else there is a method's definition or a command."""
METHOD_ARROWS = {
    "models": {"models", "attention"},
    "attention": {"attention", "models"},
    "reason": {"reason", "models", "attention"},
    "ground": {"ground", "reason", "models", "attention"},
    "segment": {"segment", "ground", "models", "attention"},
}
COMMANDS = ("reproduce",)
"""Not methods: commands that know several methods."""
HARNESS_ARROWS = {
    "data": {"data"},
    "store": {"store", "data"},
    "results": {"results", "store", "data"},
    "scoring": {"scoring", "results", "store", "data"},
    "serving": {"serving", "store", "data"},
    "execute": {"execute", "serving", "store", "data"},
}
"""What folders of the harness may import of its folders; ``pipeline``, on top, and files beside them have no rule."""


def files() -> list[Path]:
    return sorted(path for top in TOP for path in (ROOT / top).rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    return {module_of(path): path for path in files()}


@cache
def imports(path: Path) -> tuple[tuple[str, bool], ...]:
    """Modules of the project that a file imports, and whether it does so when it is loaded."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    late = {id(node) for scope in ast.walk(tree) if _is_late(scope) for node in ast.walk(scope)}
    found = []
    for node in ast.walk(tree):
        for name in _imported(node):
            if name.startswith("rvosbench."):
                target = name.removeprefix("rvosbench.")
                # ``from package import name`` may name a module or what is in one.
                while target not in modules() and "." in target:
                    target = target.rpartition(".")[0]
                found.append((target, id(node) not in late))
    return tuple(found)


def _is_late(node: ast.AST) -> bool:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return True
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def arrows() -> Iterator[tuple[str, str]]:
    for name, path in modules().items():
        for target, _ in imports(path):
            yield name, target


def test_there_is_something_to_look_at() -> None:
    assert len(modules()) > 150 and len(set(arrows())) > 500


def test_nothing_is_imported_relatively() -> None:
    """Relative imports would escape the other tests."""
    relative = [
        str(path.relative_to(ROOT))
        for path in files()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert not relative


@pytest.mark.parametrize("top", TOP)
def test_the_three_packages_point_one_way(top: str) -> None:
    wrong = {
        (source, target)
        for source, target in arrows()
        if source.partition(".")[0] == top and target.partition(".")[0] not in TOP_ARROWS[top]
    }
    assert not wrong


def room_of(module: str) -> str:
    """The folder below methods, or the file's own name."""
    return module.split(".")[1] if "." in module else ""


def test_shared_parts_know_no_method_and_point_down_the_flow() -> None:
    wrong = {
        (source, target)
        for source, target in arrows()
        if source.startswith("methods.") and target.startswith("methods.") and room_of(source) in SHARED
        if room_of(target) not in METHOD_ARROWS[room_of(source)]
    }
    assert not wrong


def test_no_method_imports_another() -> None:
    rooms = {room_of(module) for module in modules() if module.startswith("methods.")}
    definitions = rooms - {*SHARED, *COMMANDS}
    assert {"decaf", "steerseg", "lochead", "tam"} <= definitions
    wrong = {
        (source, target)
        for source, target in arrows()
        if source.startswith("methods.") and target.startswith("methods.")
        if room_of(source) in definitions and room_of(target) not in {*SHARED, room_of(source)}
    }
    assert not wrong


@pytest.mark.parametrize("folder", sorted(HARNESS_ARROWS))
def test_folders_of_the_harness_do_not_look_up(folder: str) -> None:
    folders = {path.name for path in (ROOT / "harness").iterdir() if (path / "__init__.py").is_file()}
    wrong = {
        (source, target)
        for source, target in arrows()
        if source.startswith(f"harness.{folder}.") and target.startswith("harness.")
        if room_of(target) in folders - HARNESS_ARROWS[folder]
    }
    assert not wrong


def test_no_files_import_each_other_in_a_circle() -> None:
    """When they are loaded; a package counts as the file it begins with."""
    graph = {
        name: {target for target, at_once in imports(path) if at_once} - {name} for name, path in modules().items()
    }
    assert sorted(circles(graph)) == []


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Sets of two or more nodes that reach each other (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(graph.get(node, ())):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            component = [stack.pop()]
            while component[-1] != node:
                component.append(stack.pop())
            if len(component) > 1:
                found.append(sorted(component))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
