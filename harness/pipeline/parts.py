"""A recipe in parts: each method on each LVLM and dataset, an ordinary run of its own.

What one part lacks, or breaks on, never stops the others. A survey says what each needs and what it would cost; running
the parts again continues where they stopped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.text import Text

from rvosbench.harness.costs import Priced, Size, gpu_hours
from rvosbench.harness.data.cards import load_card
from rvosbench.harness.data.reader import Dataset, open_dataset
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.recipes import DatasetChoice, MethodChoice, Recipe
from rvosbench.harness.requirements import Requirement, missing, requirements_of
from rvosbench.harness.results.reader import RUN, SCORES, read_run
from rvosbench.harness.results.schema import Score, read_scores
from rvosbench.harness.scoring.reproduction import Attempt
from rvosbench.harness.settings import Settings
from rvosbench.harness.stages import Method
from rvosbench.harness.variants import reference_of, resolve, run_name

if TYPE_CHECKING:
    from rvosbench.harness.published import PublishedLine

State = Literal["done", "to run", "missing"]
INTERRUPTED = 130
"""Exit code of an interrupted run."""


@dataclass(frozen=True)
class Part:
    """One method on one LVLM and one dataset."""

    recipe: Recipe
    """Recipe of the run: one method, one LVLM, one dataset."""
    method: str
    """Name of the method as printed."""
    lvlm: str | None
    """Name of the LVLM as printed; None where the method needs none."""
    reference: PublishedLine | None
    requirements: tuple[Requirement, ...]
    state: State
    size: Size | None = None
    """Size of the dataset: counted on disk, else as the recipe assumes; None where neither is known."""
    hours: float | None = None
    """Estimated hours on one GPU; None where no estimate is possible."""

    @property
    def dataset(self) -> DatasetChoice:
        """The one it runs on."""
        return self.recipe.datasets[0]

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.method} on {self.lvlm}" if self.lvlm else self.method

    @property
    def missing(self) -> tuple[Requirement, ...]:
        """What stands in its way."""
        return tuple(requirement for requirement in self.requirements if requirement.status == "missing")


@dataclass(frozen=True)
class Result:
    """How a part ended."""

    part: Part
    scores: tuple[Score, ...] = ()
    run: str = ""
    """Its folder's name; "" where there is no result."""
    why: str = ""
    """Why there are no scores."""

    def attempt(self) -> Attempt:
        """As a table beside published numbers takes it."""
        part, dataset = self.part, self.part.dataset
        card = load_card(dataset.source)
        line = part.reference
        names = (part.method, part.lvlm or "") if line is None else (line.method, line.lvlm)
        return Attempt(*names, card.name, card.split(dataset.split)[0], line, self.scores, self.run, self.why)


@dataclass(frozen=True)
class Outcome:
    """How all parts ended."""

    results: tuple[Result, ...]
    failed_samples: bool = False
    interrupted: bool = False


def survey(recipe: Recipe) -> tuple[Part, ...]:
    """Every part of a recipe in its order, with what it needs, what is missing and what it would cost.

    Looks and runs nothing; the weights of models are not downloaded for it.

    Raises:
        PrerequisiteError: a reference names what the published table does not have.
    """
    data = [_Data(choice, recipe) for choice in recipe.datasets]
    return tuple(part for choice in recipe.methods for part in _parts(recipe, choice, data))


def run_parts(parts: Iterable[Part], console: Console) -> Outcome:
    """Runs what can be run, one part after the other. An interrupt ends it; what was computed is kept."""
    from rvosbench.harness.pipeline.engine import Run
    from rvosbench.harness.results.writer import RunFolder

    results: list[Result] = []
    failed = interrupted = False
    for part in parts:
        if part.missing:
            results.append(Result(part, why=_lacks(part.missing)))
            continue
        if interrupted:
            results.append(Result(part, why="not run: interrupted"))
            continue
        console.print(Text(f"{part.title}, {part.dataset.name}", "bold"))
        try:
            with closing(RunFolder.create(part.recipe)) as folder:
                code = Run(part.recipe, folder, console).execute()
            if code == INTERRUPTED:
                interrupted = True
                results.append(Result(part, why="not finished: interrupted"))
                continue
            failed |= code != 0
            results.append(Result(part, read_scores(folder.path / SCORES), folder.path.name))
        except PrerequisiteError as error:
            results.append(Result(part, why=f"failed: {error.problem}"))
            console.print(Text(f"{error.problem} {error.fix}", "red"), soft_wrap=True)
    return Outcome(tuple(results), failed, interrupted)


class _Data:
    """A dataset of the recipe, opened once for all parts."""

    def __init__(self, choice: DatasetChoice, recipe: Recipe) -> None:
        self.choice = choice
        self.opened: Dataset | PrerequisiteError
        try:
            self.opened = open_dataset(choice.source, recipe.data_root, choice.split)
        except PrerequisiteError as error:
            self.opened = error

    def requirement(self) -> Requirement:
        """The data, with masks where they are public."""
        choice, opened = self.choice, self.opened
        if isinstance(opened, PrerequisiteError):
            if (wanted := choice.synthetic) is not None:
                detail = f"{wanted.videos} generated videos are written in the layout {wanted.layout}"
                return Requirement("data", choice.name, "automatic", detail)
            return missing("data", choice.name, opened)
        if opened.ground_truth is None and opened.card.splits[opened.split].ground_truth == "public":
            problem = f"{opened.card.title} has no masks below {opened.root}."
            return Requirement("data", choice.name, "missing", problem, opened.card.obtain)
        return Requirement("data", choice.name)

    def size(self, recipe: Recipe) -> Size | None:
        """How much of it there is."""
        if isinstance(self.opened, PrerequisiteError):
            return recipe.cost.sizes.get(self.choice.name) if recipe.cost is not None else None
        videos = self.opened.videos[: self.choice.limit_videos]
        samples = sum(len(video.expressions) for video in videos)
        return Size(videos=len(videos), samples=samples, frames=sum(len(video.frames) for video in videos))


def _parts(recipe: Recipe, choice: MethodChoice, data: Sequence[_Data]) -> Iterator[Part]:
    method: Method[Any] | None = None
    settings: Settings | None = None
    lvlms: Sequence[str | None]
    broken: Requirement | None = None
    try:
        method, settings, lvlms = resolve(choice, recipe.lvlms)
    except PrerequisiteError as error:
        lvlms = choice.lvlms or recipe.lvlms or (None,)
        broken = missing("method", choice.label or choice.method, error)
    label = choice.label or (method.title if method is not None else choice.method)
    for lvlm in lvlms:
        shown = lvlm.rstrip("/").rpartition("/")[2] if lvlm else None
        reference = reference_of(choice, lvlms, lvlm)
        needed: tuple[Requirement, ...] = (broken,) if broken is not None else ()
        if method is not None and settings is not None:
            needed = tuple(requirements_of(method, settings, lvlm))
        one = replace(choice, lvlms=None if lvlm is None else (lvlm,))
        for each in data:
            size = each.size(recipe)
            hours = None
            views = recipe.cost.views.get(lvlm or "") if recipe.cost is not None else None
            if recipe.cost is not None and views is not None and size is not None and isinstance(method, Priced):
                hours = gpu_hours(method.work(settings), views, size, recipe.cost)
            name = f"{recipe.name}.{'.'.join(_slug(part) for part in (label, shown, each.choice.name) if part)}"
            own = replace(recipe, name=name, methods=(one,), datasets=(each.choice,), lvlms=(), cost=None)
            requirements = (each.requirement(), *needed)
            yield Part(own, label, shown, reference, requirements, _state(own, requirements), size, hours)


def _state(recipe: Recipe, requirements: Sequence[Requirement]) -> State:
    statuses = {requirement.status for requirement in requirements}
    if "missing" in statuses:
        return "missing"
    # The name of a run whose models are not here yet is not known.
    return "done" if statuses == {"here"} and _finished(recipe) else "to run"


def _finished(recipe: Recipe) -> bool:
    try:
        folder = recipe.runs / run_name(recipe)
        return (folder / RUN).is_file() and read_run(folder).status == "finished"
    except PrerequisiteError:
        return False


def _lacks(requirements: Sequence[Requirement]) -> str:
    return "not run: " + " ".join(dict.fromkeys(requirement.detail for requirement in requirements))


@cache
def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")
