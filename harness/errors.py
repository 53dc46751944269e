"""The two kinds of failure.

A *prerequisite* error stops the command: something the user must fix before anything can run.
A *sample* error concerns one (video, expression): it is recorded, counted and shown, and the run goes on.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PrerequisiteError(Exception):
    """Stops the command with one clear sentence and the fix (exit code 2, no traceback)."""

    def __init__(self, problem: str, fix: str = "") -> None:
        self.problem = problem
        self.fix = fix
        super().__init__(problem, fix)

    def __str__(self) -> str:
        return f"{self.problem} {self.fix}".strip()


class SampleError(Exception):
    """One sample cannot be processed; the message names the file or value at fault."""


def nearest_name(name: str, known: Iterable[str]) -> str:
    """The sentence that helps after a wrong name: the nearest known one, then what exists.

    >>> nearest_name("decalf", ["decaf", "tam"])
    "Did you mean 'decaf'? Known: decaf, tam."
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"Did you mean '{close[0]}'? " if close else ""
    return f"{hint}Known: {', '.join(names) or 'none'}."
