"""What an entry of a recipe needs before it can run: each requirement by name, whether it is here, and how to get it.

A method may list its requirements, so that a plan names all that is missing at once and not the first alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.settings import Settings
from rvosbench.harness.stages import Method

Status = Literal["here", "automatic", "missing"]
"""Here already, obtained by itself when a run starts, or missing."""


@dataclass(frozen=True)
class Requirement:
    """Something that a run needs."""

    kind: str
    """In one or two words: "data", "checkpoint", "SAM2", "heads", "soft prompts"."""
    name: str
    """Which one: a dataset's title, a checkpoint."""
    status: Status = "here"
    detail: str = ""
    """What is wrong with it, or how it comes by itself; one sentence."""
    fix: str = ""
    """What to do where it is missing."""


@runtime_checkable
class ListsRequirements(Protocol):
    """A method that says what it needs."""

    def requirements(self, settings: Any, lvlm: str | None) -> Iterable[Requirement]:
        """Everything these settings need beside the data; downloads nothing large."""
        ...


def missing(kind: str, name: str, error: PrerequisiteError) -> Requirement:
    """The requirement that an error is about."""
    return Requirement(kind, name, "missing", error.problem, error.fix)


def requirements_of(method: Method[Any], settings: Settings, lvlm: str | None) -> Sequence[Requirement]:
    """What a method with these settings needs of an LVLM and beside it.

    Where everything that it lists is here, its stages are made too, which finds what the list leaves out.
    """
    listed = tuple(method.requirements(settings, lvlm)) if isinstance(method, ListsRequirements) else ()
    if any(requirement.status != "here" for requirement in listed):
        return listed
    try:
        method.stages(settings, lvlm)
    except PrerequisiteError as error:
        on = f" on {lvlm}" if lvlm else ""
        return (*listed, missing("method", f"{method.title}{on}", error))
    return listed
