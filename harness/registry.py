"""Finds methods: by a registered name, by ``package.module:OBJECT``, or by ``path/to/file.py:OBJECT``.

Registered names are entry points of the group ``rvosbench.methods``; listing them imports nothing.
"""

from __future__ import annotations

import importlib
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, cast

from rvosbench.harness.errors import PrerequisiteError, nearest_name
from rvosbench.harness.extras import install_command
from rvosbench.harness.plugins import load_file
from rvosbench.harness.settings import Settings
from rvosbench.harness.stages import Method

GROUP = "rvosbench.methods"
_PARTS = ("name", "title", "paper", "settings_type", "needs_lvlm", "stages", "memory")


@cache
def _entries() -> dict[str, EntryPoint]:
    entries: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        other = entries.get(entry.name)
        if other is not None and other.value != entry.value:
            raise PrerequisiteError(
                f"Two methods are called '{entry.name}': {other.value} and {entry.value}.",
                "Uninstall one of the packages that provide them.",
            )
        entries[entry.name] = entry
    return entries


def method_names() -> list[str]:
    """Registered names, sorted; imports nothing."""
    return sorted(_entries())


def method_file(name: str) -> Path | None:
    """The file of ``path/to/file.py:OBJECT``; None for registered names and modules."""
    path, colon, _ = name.rpartition(":")
    return Path(path) if colon and path.endswith(".py") else None


def load_method(name: str) -> Method[Any]:
    """The method called ``name``.

    Args:
        name: a registered name, ``package.module:OBJECT`` or ``path/to/file.py:OBJECT``.

    Raises:
        PrerequisiteError: no such method, file, module or object; it is not a method, cannot be imported, or its extra
            is not installed. One sentence says which.
    """
    file = method_file(name)
    if file is not None:
        return _checked(_attribute(load_file(file), name), name)
    if ":" in name:
        return _checked(_attribute(_import(name), name), name)
    if name.endswith(".py"):
        raise PrerequisiteError(f"'{name}' names a file and no object in it.", f"Write {name}:METHOD.")
    entry = _entries().get(name)
    if entry is None:
        own = "A method of your own is path/to/file.py:METHOD."
        raise PrerequisiteError(f"There is no method '{name}'.", f"{nearest_name(name, _entries())} {own}")
    try:
        found = entry.load()
    except ModuleNotFoundError as error:
        raise _missing_package(name, error) from error
    return _checked(found, name)


def _import(name: str) -> object:
    module = name.partition(":")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise PrerequisiteError(
                f"There is no module '{module}', which method '{name}' names.",
                "Install its package, or give the file: path/to/file.py:METHOD.",
            ) from error
        raise _missing_package(name, error) from error
    except (ValueError, TypeError) as error:
        raise PrerequisiteError(f"'{module}' is no name of a module.", "Write package.module:METHOD.") from error
    except PrerequisiteError:
        raise
    except (Exception, SystemExit) as error:
        # Whatever a user's module raises is the module's fault, and no other work depends on it.
        text = " ".join(str(error).split())
        raise PrerequisiteError(
            f"Module '{module}' cannot be imported: {type(error).__name__}: {text}.", "Correct the module."
        ) from error


def _attribute(module: object, name: str) -> object:
    where, _, path = name.rpartition(":")
    found = module
    for part in path.split("."):
        if not hasattr(found, part):
            raise PrerequisiteError(
                f"{where} has no '{path}', which method '{name}' names.",
                nearest_name(path, [known for known in vars(module) if not known.startswith("_")]),
            )
        found = getattr(found, part)
    return found


def _checked(found: object, name: str) -> Method[Any]:
    absent = [part for part in _PARTS if not hasattr(found, part)]
    if absent or isinstance(found, type):
        what = f"it lacks {', '.join(absent)}" if absent else "it is a class; give an instance of it"
        raise PrerequisiteError(f"'{name}' is not a method: {what}.", "See Method in rvosbench.harness.stages.")
    settings_type: Any = cast(Method[Any], found).settings_type
    if not (isinstance(settings_type, type) and issubclass(settings_type, Settings)):
        raise PrerequisiteError(
            f"The settings_type of '{name}' is not a Settings class.", "See Settings in rvosbench.harness.settings."
        )
    return cast(Method[Any], found)


def _missing_package(name: str, error: ModuleNotFoundError) -> PrerequisiteError:
    return PrerequisiteError(
        f"Method '{name}' needs the package '{error.name}', which is not installed.",
        f"Install it; for the methods of rvosbench: {install_command('run')}",
    )
