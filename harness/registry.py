"""Finds methods by name without importing them (entry-point group ``rvosbench.methods``)."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points

from rvosbench.harness.errors import PrerequisiteError, nearest_name
from rvosbench.harness.extras import install_command
from rvosbench.harness.stages import Method

GROUP = "rvosbench.methods"


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


def load_method(name: str) -> Method:
    """The method called ``name``.

    Raises:
        PrerequisiteError: no such method (the nearest name is suggested), or its extra is not installed.
    """
    entry = _entries().get(name)
    if entry is None:
        raise PrerequisiteError(f"There is no method '{name}'.", nearest_name(name, _entries()))
    try:
        method: Method = entry.load()
    except ModuleNotFoundError as error:
        raise PrerequisiteError(
            f"Method '{name}' needs the package '{error.name}', which is not installed.",
            f"Install the extra: {install_command('run')}",
        ) from error
    return method
