"""What keeps predictions from being complete: one problem, many summed up, and which of them a command refuses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rvosbench.harness.store.artefacts import atomic_write, storage_errors
from rvosbench.harness.text import one_line

Kind = Literal["missing", "no keyframe", "extra", "wrong size", "unreadable", "ground truth"]
KINDS: tuple[Kind, ...] = ("missing", "no keyframe", "extra", "wrong size", "unreadable", "ground truth")

Strictness = Literal["strict", "lenient"]
"""strict: any problem, and there is no result. lenient: what is unusable scores 0 and is counted."""
Absence = Literal["empty", "zero", "refuse"]
"""What a mask without a file means. empty: nothing was predicted, which is right where the object is absent. zero: the
frame scores 0 and is counted. refuse: there is no result."""

_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that keeps predictions from being complete."""

    kind: Kind
    """"ground truth": the data root's own mask is damaged. "no keyframe": the masks are of other frames."""
    where: str
    """Path below the predictions folder, or keys in the RLE file; a whole folder ends with a slash."""
    detail: str = ""
    masks: int = 1
    """How many masks or files it concerns."""

    def __str__(self) -> str:
        return one_line(f"{self.kind}: {self.where}" + (f" ({self.detail})" if self.detail else ""))


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Which problems a command refuses."""

    strictness: Strictness
    absence: Absence

    @staticmethod
    def of(strictness: Strictness, absence: Absence | None) -> Tolerance:
        """The requested tolerance; where absent masks are not mentioned, strict refuses them and lenient scores 0."""
        return Tolerance(strictness, absence or ("refuse" if strictness == "strict" else "zero"))

    def refuses(self, problems: Sequence[Problem]) -> bool:
        """Whether any of the problems forbids a result."""
        return any(
            self.absence == "refuse" if problem.kind == "missing" else self.strictness == "strict"
            for problem in problems
        )


def summed_up(problems: Sequence[Problem], frames: int) -> list[Problem]:
    """The problems of one expression; what concerns all its frames alike becomes one problem."""
    if len(problems) < max(frames, 2) or len({(problem.kind, problem.detail) for problem in problems}) > 1:
        return list(problems)
    first = problems[0]
    folder = first.where.rpartition("[")[0] if first.where.endswith("]") else first.where.rpartition("/")[0] + "/"
    detail = f"{first.detail}; {len(problems)} masks" if first.detail else f"{len(problems)} masks"
    return [Problem(first.kind, folder, detail, len(problems))]


def summary_lines(problems: Sequence[Problem]) -> Iterator[str]:
    """One line per kind: how many masks or files, in how many places, and the first ones."""
    for kind in KINDS:
        of_kind = [problem for problem in problems if problem.kind == kind]
        if not of_kind:
            continue
        masks = sum(problem.masks for problem in of_kind)
        first = "; ".join(str(problem).removeprefix(f"{kind}: ") for problem in of_kind[:_EXAMPLES])
        more = len(of_kind) - _EXAMPLES
        yield f"{masks} {kind}: {first}" + (f"; and {more} more" if more > 0 else "")


def write_problems(problems: Sequence[Problem], path: Path) -> None:
    """The complete list, one line each, to a text file; the list of an earlier command goes when there is nothing.

    Raises:
        PrerequisiteError: the file cannot be written.
    """
    if not problems:
        with storage_errors(path):
            path.unlink(missing_ok=True)
        return
    with atomic_write(path) as file:
        file.writelines(f"{problem}\n".encode() for problem in problems)
