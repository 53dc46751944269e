"""Plans the table's runs and runs them, one after the other; what one lacks or breaks on never stops the others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from rich.console import Console
from rich.text import Text

from rvosbench.harness.data.synthetic import write_shapes
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.recipes import Recipe
from rvosbench.harness.results.reader import RUN, SCORES, read_run
from rvosbench.harness.results.schema import read_scores
from rvosbench.harness.variants import run_name
from rvosbench.methods.reproduce.cost import Method, Size, gpu_hours
from rvosbench.methods.reproduce.pieces import Piece, Pieces
from rvosbench.methods.reproduce.table import Cell, Line, Result, filled, published_cells
from rvosbench.methods.reproduce.world import SHAPES_SPLIT, World, recipe_of

State = Literal["done", "to run", "missing", "published only"]
INTERRUPTED = 130


@dataclass(frozen=True)
class Job:
    """One line on one benchmark: an ordinary run, or why there is none."""

    line: Line
    dataset: str
    state: State
    recipe: Recipe | None = None
    """None where nothing can be run."""
    missing: tuple[Piece, ...] = ()
    coming: tuple[Piece, ...] = ()
    """Pieces that come by themselves when it runs."""
    size: Size | None = None
    hours: float | None = None
    """Of one GPU; None where that cannot be said."""

    @property
    def why(self) -> str:
        """Why it is not run, in one line; "" where it is."""
        if self.state == "published only":
            return f"published only: {self.line.training} methods are not run here"
        return " ".join(piece.problem for piece in self.missing)


@dataclass(frozen=True)
class Outcome:
    """How the runs ended."""

    cells: tuple[Cell, ...]
    failed_samples: bool = False
    interrupted: bool = False


def plan(world: World, data_root: Path, runs: Path) -> list[Job]:
    """A job for every line and benchmark of the published table, in its order. Looks, runs nothing."""
    pieces = Pieces(world, data_root)
    seen = dict.fromkeys((cell.line, cell.column.dataset) for cell in published_cells())
    return [_job(world, pieces, line, dataset, data_root, runs) for line, dataset in seen]


def write_data(world: World, data_root: Path) -> None:
    """Writes the bundled world where the world asks for it; what is there already stays.

    Raises:
        PrerequisiteError: something else is in the way.
    """
    if world.shapes is not None:
        for dataset in world.datasets.values():
            assert dataset.layout is not None, "checked with the world"
            write_shapes(
                data_root,
                layout=dataset.layout,
                split=SHAPES_SPLIT,
                seed=world.shapes.seed,
                videos=world.shapes.videos,
            )


def run_all(jobs: Iterable[Job], console: Console) -> Outcome:
    """Runs what can be run, and fills the table's cells. An interrupt ends it; what was computed is kept."""
    from rvosbench.harness.pipeline.engine import Run
    from rvosbench.harness.results.writer import RunFolder
    from rvosbench.harness.trust import user_trust

    results: dict[tuple[Line, str], Result] = {}
    why: dict[tuple[Line, str], str] = {}
    failed = interrupted = False
    for job in jobs:
        key = (job.line, job.dataset)
        if job.recipe is None:
            why[key] = job.why
            continue
        if interrupted:
            why[key] = "not run: interrupted"
            continue
        console.print(Text(f"{job.line.title}, {job.dataset}", "bold"))
        try:
            user_trust().require(job.recipe)
            folder = RunFolder.create(job.recipe)
            try:
                code = Run(job.recipe, folder, console).execute()
            finally:
                folder.close()
            if code == INTERRUPTED:
                interrupted, why[key] = True, "not finished: interrupted"
                continue
            failed |= code != 0
            results[key] = Result(folder.path.name, read_scores(folder.path / SCORES))
        except PrerequisiteError as error:
            why[key] = f"failed: {error.problem}"
            console.print(Text(f"{error.problem} {error.fix}", "red"), soft_wrap=True)
    return Outcome(filled(published_cells(), results, why), failed, interrupted)


def _job(world: World, pieces: Pieces, line: Line, dataset: str, data_root: Path, runs: Path) -> Job:
    if line.method not in world.methods:
        return Job(line, dataset, "published only")
    needed = pieces.of(line, dataset)
    missing = tuple(piece for piece in needed if piece.problem)
    coming = tuple(piece for piece in needed if piece.comes)
    size = pieces.size(dataset) if dataset in world.datasets else None
    method = world.methods[line.method].method
    hours = None
    if world.cost is not None and size is not None:
        for known in get_args(Method):
            hours = gpu_hours(known, line.lvlm, size, world.cost) if known == method else hours
    if missing:
        return Job(line, dataset, "missing", None, missing, coming, size, hours)
    recipe = recipe_of(world, line.method, line.lvlm, dataset, data_root, runs)
    state: State = "done" if _finished(recipe) else "to run"
    return Job(line, dataset, state, recipe, (), coming, size, hours)


def _finished(recipe: Recipe) -> bool:
    folder = recipe.runs / run_name(recipe)
    if not (folder / RUN).is_file():
        return False
    try:
        return read_run(folder).status == "finished"
    except PrerequisiteError:
        return False
