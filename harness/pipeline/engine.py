"""Runs a plan: stage after stage over durable artefacts, then the tables, then the mirror.

Resume needs no code of its own: what is in the store is not computed again, and every table is made from the store
and the event log alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rvosbench.harness.data.cards import load_card
from rvosbench.harness.data.digests import MediaIndex
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.execute.executor import Executor, InProcessExecutor, Report
from rvosbench.harness.execute.work import WorkItem
from rvosbench.harness.pipeline.collect import collect_results, recorded_pairs
from rvosbench.harness.pipeline.plan import (
    Batch,
    ChosenDataset,
    Plan,
    make_plan,
    memory_lines,
    reasons_to_compute,
    record_code,
    work_items,
)
from rvosbench.harness.progress import RunProgress
from rvosbench.harness.recipes import Recipe
from rvosbench.harness.results.schema import FallbackUse, read_scores
from rvosbench.harness.results.writer import RunFolder, now
from rvosbench.harness.scoring.plausibility import require_plausible
from rvosbench.harness.scoring.provenance import Origin
from rvosbench.harness.scoring.report import note_lines, score_tables
from rvosbench.harness.scoring.results import write_tables
from rvosbench.harness.scoring.rows import fallback_uses
from rvosbench.harness.stages import StageSpec
from rvosbench.harness.store.artefacts import ArtefactStore, DamagedArtefactError
from rvosbench.harness.store.history import History
from rvosbench.harness.store.keys import digest_of
from rvosbench.harness.store.records import Record
from rvosbench.harness.variants import run_name

Reuse = Literal["exact", "force"]
"""Which artefacts are reused: those of the same code, or also those that differ in the code alone."""
_REASONS = 5
"""Changes that one line of the plan names."""
FAILED_SAMPLES = 3
"""Exit code of a run that finished with failed or missing samples."""


@dataclass
class StageTotals:
    """What a stage cost in this run."""

    seconds: float = 0.0
    items: int = 0
    reused: int = 0
    computed: int = 0
    failed: int = 0


class Run:
    """One execution of a recipe in its folder."""

    def __init__(self, recipe: Recipe, folder: RunFolder, console: Console, reuse: Reuse = "exact") -> None:
        self._recipe = recipe
        self._folder = folder
        self._console = console
        self._store = ArtefactStore(recipe.runs.resolve() / "artefacts")
        self._history = History(self._store)
        self._reuse = reuse
        self._totals: dict[str, StageTotals] = {}
        self._begun: set[int] = set()
        """Batches that were begun: a second pass reuses what the first one did, which is no reuse of the run."""
        self._started = now()

    def execute(self) -> int:
        """Computes what is missing, writes the tables, mirrors them. Returns the exit code (0, 3, or 130).

        Raises:
            PrerequisiteError: nothing further can succeed; what was committed is kept.
        """
        write_synthetic(self._recipe)
        plan = make_plan(self._recipe, media_index(self._recipe), self._history if self._reuse == "force" else None)
        self._say(plan)
        if self._folder.unlocked:
            self._say_line(self._folder.unlocked)
        for line in code_lines(plan, self._store, self._history):
            self._say_line(line)
        record_code(plan, self._history)
        self._summarise(plan, "running", None)
        executor = self._executor()
        try:
            exit_code = self._complete(plan, executor)
        except Exception as error:
            with suppress(PrerequisiteError):  # the disk may be what failed; the first error is the one to show
                self._summarise(plan, "interrupted", 2 if isinstance(error, PrerequisiteError) else 1)
            raise
        except KeyboardInterrupt:
            self._summarise(plan, "interrupted", 130)
            self._console.print(
                f"Interrupted. What was computed is kept. Continue: rvosbench run --resume {self._folder.path}",
                highlight=False,
                soft_wrap=True,
            )
            return 130
        finally:
            executor.close()
        self._mirror()
        self._folder.close()
        return exit_code

    def _complete(self, plan: Plan, executor: Executor) -> int:
        """Runs every batch and writes the tables; artefacts that turn out damaged are computed again."""
        discarded: set[Path] = set()
        while True:
            try:
                with RunProgress(self._console) as progress:
                    for number, batch in enumerate(plan.batches()):
                        self._run_batch(number, batch, executor, progress)
                return self._finish(plan)
            except DamagedArtefactError as error:
                if error.path in discarded:
                    raise PrerequisiteError(
                        f"{error.path} is damaged again right after it was written ({error.why}).", "Check the disk."
                    ) from error
                discarded |= self._discard_damaged(plan, error)

    def _discard_damaged(self, plan: Plan, first: DamagedArtefactError) -> set[Path]:
        """Removes every damaged artefact of the stage whose first one was found, naming each."""
        stage = first.path.parents[1].name
        keys = {planned.keys[stage] for planned in plan.samples if stage in planned.keys}
        found = {first.path: first}
        for key in keys:
            damage = self._store.damage(stage, key) if self._store.has(stage, key) else None
            if damage is not None:
                found[damage.path] = damage
        for path, damage in sorted(found.items()):
            self._say_line(f"{damage.problem} It is computed again.")
            self._store.discard(path)
        return set(found)

    def _run_batch(self, number: int, batch: Batch, executor: Executor, progress: RunProgress) -> None:
        stage = batch.spec.name
        totals = self._totals.setdefault(stage, StageTotals())
        items = work_items(batch, self._store)
        pending = sum(len(item.pending) for item in items)
        keys = {planned.keys[stage] for planned in batch.samples}
        reused = sum(self._store.has(stage, key) for key in keys)
        totals.items += len(items)
        if number not in self._begun:
            totals.reused += reused
        self._begun.add(number)
        variant = batch.samples[0].variant
        on = f" on {variant.lvlm}" if variant.lvlm else ""
        progress.begin(f"{variant.label}{on}: {stage}", pending, reused)

        def report(record: Record) -> None:
            failed = record.status == "failed"
            totals.computed += not failed
            totals.failed += failed
            self._folder.log(stage, record)
            progress.advance(failed)

        if items:
            self._compute(batch.spec, items, executor, report)
        totals.seconds += progress.end()

    def _compute(self, spec: StageSpec, items: Sequence[WorkItem], executor: Executor, report: Report) -> None:
        """Runs the stage, with its model servers up where it needs some."""
        spec = replace(spec, driver_code=spec.code())
        if spec.server is None:
            executor.run(spec, items, report)
            return
        from rvosbench.harness.serving.serving import serving

        logs = self._folder.path / "servers"
        with serving(spec.server, self._recipe.serving, executor, logs, self._say_line) as servers:
            executor.run(replace(spec, servers=servers), items, report)

    def _executor(self) -> Executor:
        if self._recipe.executor.kind == "inprocess":
            return InProcessExecutor(self._store.root)
        from rvosbench.harness.execute.ray_pool import RayExecutor

        return RayExecutor(self._recipe.executor, self._store.root, self._recipe.serving)

    def _finish(self, plan: Plan) -> int:
        results = collect_results(plan, self._store, self._folder)
        for chosen in plan.datasets:
            require_plausible(chosen.dataset, [r for r in results if chosen.holds(r.sample)])
        write_tables(
            self._folder.path,
            results,
            [chosen.scored for chosen in plan.datasets],
            pairs=recorded_pairs(plan, results, self._store),
            origin=Origin(now()),
            references={(v.label, v.lvlm): v.reference for v in plan.variants if v.reference is not None},
        )
        statuses: Counter[str] = Counter(result.status for result in results)
        exit_code = FAILED_SAMPLES if statuses["failed"] or statuses["missing"] else 0
        fallbacks = fallback_uses(results)
        self._summarise(plan, "finished", exit_code, fallbacks)
        whole = [score for score in read_scores(self._folder.path / "scores.json") if score.subset == "all"]
        for table in score_tables(whole):
            self._console.print(table)
        for line in note_lines(whole):
            self._console.print(line, soft_wrap=True)
        self._console.print(self._account(statuses), highlight=False, soft_wrap=True)
        for use in fallbacks:
            if use.used:
                self._console.print(_fallback_line(use), highlight=False, soft_wrap=True, markup=False)
        if self._recipe.note:
            self._console.print(f"Note: {self._recipe.note}", highlight=False, soft_wrap=True, markup=False)
        self._console.print(f"Run folder: {self._folder.path}", highlight=False, soft_wrap=True, markup=False)
        return exit_code

    def _account(self, statuses: Counter[str]) -> str:
        total = sum(statuses.values())
        ended = ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))
        computed = sum(totals.computed for totals in self._totals.values())
        reused = sum(totals.reused for totals in self._totals.values())
        return f"{total} samples attempted: {ended}. Artefacts: {computed} computed, {reused} reused."

    def _mirror(self) -> None:
        if not self._recipe.tracking.enabled:
            return
        from rvosbench.harness.results.mlflow import MirrorFailure, default_uri, mirror

        uri = self._recipe.tracking.uri or default_uri(self._recipe.runs)
        outcome = mirror(self._folder.path, uri)
        if isinstance(outcome, MirrorFailure):
            self._console.print(
                f"Not mirrored to MLflow: {outcome.reason} The run is complete; later: rvosbench sync",
                highlight=False,
                soft_wrap=True,
                markup=False,
            )

    def _say_line(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    def _say(self, plan: Plan) -> None:
        for chosen in plan.datasets:
            dataset = chosen.dataset
            self._console.print(
                f"{dataset.card.name}/{dataset.split}: {dataset.coverage}, {len(list(dataset.samples()))} samples",
                highlight=False,
            )

    def _summarise(self, plan: Plan, status: str, exit_code: int | None, fallbacks: Sequence[FallbackUse] = ()) -> None:
        self._folder.write_summary(
            name=self._recipe.name,
            note=self._recipe.note,
            status=status,
            exit_code=exit_code,
            started=self._started,
            finished=None if exit_code is None else now(),
            stages={stage: asdict(totals) for stage, totals in self._totals.items()},
            methods=[{"method": variant.label, "lvlm": variant.lvlm} for variant in plan.variants],
            datasets=[_dataset_summary(chosen) for chosen in plan.datasets],
            fallbacks=[asdict(use) for use in fallbacks],
        )


def _fallback_line(use: FallbackUse) -> str:
    on = f" on {use.lvlm}" if use.lvlm else ""
    return f"{use.method}{on}: {use.used} of {use.of} samples used the fallback of {use.stage}."


def print_plan(recipe: Recipe, console: Console, reuse: Reuse = "exact") -> None:
    """What a worker needs, then what the recipe would run: per stage, artefacts to compute and to reuse, and why."""
    for line in memory_lines(recipe):
        console.print(Text(line), soft_wrap=True)
    store = ArtefactStore(recipe.runs.resolve() / "artefacts")
    history = History(store)
    plan = make_plan(recipe, media_index(recipe), history if reuse == "force" else None)
    table = Table("method", "LVLM", "stage", "samples", "artefacts", "in the store", "to compute")
    for batch in plan.batches():
        variant, stage = batch.samples[0].variant, batch.spec.name
        keys = {planned.keys[stage] for planned in batch.samples}
        there = sum(store.has(stage, key) for key in keys)
        numbers = (len(batch.samples), len(keys), there, len(keys) - there)
        table.add_row(variant.label, variant.lvlm or "", stage, *map(str, numbers))
    console.print(table)
    for line in code_lines(plan, store, history):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    console.print(f"Run folder: {recipe.runs / run_name(recipe)}", highlight=False, soft_wrap=True, markup=False)


def write_synthetic(recipe: Recipe) -> None:
    """Writes the generated data that the recipe wants; what is there already stays.

    Raises:
        PrerequisiteError: other data is in the way, or the disk refuses.
    """
    for choice in recipe.datasets:
        if (wanted := choice.synthetic) is not None:
            from rvosbench.harness.data.synthetic import write_shapes

            split = load_card(choice.source).split(choice.split)[0]
            write_shapes(recipe.data_root, layout=wanted.layout, split=split, seed=wanted.seed, videos=wanted.videos)


def code_lines(plan: Plan, store: ArtefactStore, history: History) -> list[str]:
    """Per stage whose artefacts exist but for the code: how many are computed again, and what changed."""
    lines: dict[str, None] = {}
    for batch in plan.batches():
        count, reasons = reasons_to_compute(batch, store, history)
        if reasons:
            more = f" and {len(reasons) - _REASONS} more" if len(reasons) > _REASONS else ""
            why = f"{', '.join(reasons[:_REASONS])}{more}"
            lines[f"{batch.spec.name}: {count} to compute ({why}); --reuse force keeps them"] = None
    return list(lines)


def media_index(recipe: Recipe) -> MediaIndex:
    """The index of media digests shared by the runs of a folder."""
    return MediaIndex(recipe.runs / "media-index")


def _dataset_summary(chosen: ChosenDataset) -> dict[str, Any]:
    dataset = chosen.dataset
    return {
        "name": dataset.card.name,
        "split": dataset.split,
        "layout": dataset.layout,
        "coverage": dataset.coverage,
        "videos": len(dataset.videos),
        "samples": len(list(dataset.samples())),
        "digest": digest_of(dict(sorted(chosen.media.items()))),
        "notes": list(dataset.notes),
    }
