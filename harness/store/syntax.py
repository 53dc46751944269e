"""Statements of Python source: what they do, without comments, docstrings and layout, and what they name."""

from __future__ import annotations

import ast
import hashlib

BY_NAME = "import "
"""Before the name of a module that is imported by ``importlib.import_module("name")``."""


def read_statement(statement: ast.stmt) -> tuple[str, set[tuple[str, str]]]:
    """Digest of a statement, and the names it uses: (name, attribute read from it or "")."""
    names: set[tuple[str, str]] = set()
    parts: list[str] = []
    _serialise(statement, parts, names)
    return hashlib.sha256("".join(parts).encode("utf-8", "surrogatepass")).hexdigest(), names


def _serialise(
    node: object, parts: list[str], names: set[tuple[str, str]], local: frozenset[str] = frozenset()
) -> None:
    """A node without positions, empty fields (which differ between Python versions) and bare strings (docstrings).

    Args:
        parts: the node's text is appended.
        names: the names it uses are added, other than ``local``.
        local: names that mean variables of the functions around the node.
    """
    if isinstance(node, list):
        parts.append("[")
        for element in node:
            if not (isinstance(element, ast.Pass) or (isinstance(element, ast.Expr) and _is_text(element.value))):
                _serialise(element, parts, names, local)
        parts.append("]")
        return
    if not isinstance(node, ast.AST):
        parts.append(f"{node!r},")
        return
    if isinstance(node, ast.Name):
        if node.id not in local:
            names.add((node.id, ""))
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        if node.value.id not in local:
            names.add((node.value.id, node.attr))
        parts.append(f"{node.value.id}.{node.attr},")
        return
    elif isinstance(node, ast.Call) and (module := _imported_by_name(node)):
        names.add((BY_NAME + module, ""))
    inside = local | _variables(node) if isinstance(node, _FUNCTIONS) else local
    parts.append(f"{type(node).__name__}(")
    for name in node._fields:
        value = getattr(node, name, None)
        if value is not None and value != [] and name not in ("ctx", "type_comment", "kind"):
            parts.append(f"{name}=")
            _serialise(value, parts, names, inside if name == "body" else local)
    parts.append(")")


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_SCOPES = (*_FUNCTIONS, ast.ClassDef, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def _variables(function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> frozenset[str]:
    """Names that mean variables of a function everywhere in its body: arguments, and what the body assigns."""
    found = {node.arg for node in ast.walk(function.args) if isinstance(node, ast.arg)}
    elsewhere: set[str] = set()
    pending: list[ast.AST] = [function.body] if isinstance(function, ast.Lambda) else list(function.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Global | ast.Nonlocal):
            elsewhere.update(node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif not isinstance(node, _SCOPES):
            pending += ast.iter_child_nodes(node)
    return frozenset(found - elsewhere)


def _imported_by_name(call: ast.Call) -> str:
    """The module of ``importlib.import_module("module")``, or ""."""
    function = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if function not in ("import_module", "__import__") or not call.args:
        return ""
    first = call.args[0]
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else ""


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def texts_in(tree: ast.AST) -> set[str]:
    """All text constants."""
    nodes = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {value for value in nodes if isinstance(value, str)}


def is_type_checking(test: ast.expr) -> bool:
    """Whether a condition holds for type checkers alone."""
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )
