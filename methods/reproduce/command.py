"""``rvosbench reproduce steerseg-table``."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

_FILES = ("steerseg_table.csv", "steerseg_table.md")


def steerseg_table(
    world: Annotated[
        str, typer.Option(help="released, shapes, or a YAML file that names checkpoints and data.")
    ] = "released",
    data_root: Annotated[
        Path | None,
        typer.Option(
            "--data-root", envvar="RVOSBENCH_DATA", help="Folder of the benchmarks. Default: the world's, else data."
        ),
    ] = None,
    runs: Annotated[Path, typer.Option("--runs", envvar="RVOSBENCH_RUNS", help="Folder of run folders.")] = Path(
        "runs"
    ),
    target: Annotated[
        Path | None, typer.Option("--out", help="Folder for the table as CSV and Markdown. Default: the runs folder.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would run, what is missing and GPU-hours; run nothing.")
    ] = False,
) -> None:
    """Run the main table of SteerSeg's page and set it beside the published numbers.

    Every line on every benchmark is an ordinary run; the same command continues where it stopped.
    """
    # Here, as every other command of rvosbench loads this file too.
    from rich.console import Console

    from rvosbench.harness.errors import PrerequisiteError
    from rvosbench.methods.reproduce import report
    from rvosbench.methods.reproduce.running import INTERRUPTED, plan, run_all, write_data
    from rvosbench.methods.reproduce.world import load_world

    console = Console()
    chosen = load_world(world)
    root = data_root or chosen.data_root or Path("data")
    if not dry_run:
        write_data(chosen, root)
    jobs = plan(chosen, root, runs)
    if dry_run:
        report.show(report.plan_tables(jobs, chosen), console)
        return
    if all(job.recipe is None for job in jobs):
        lacks = next(job for job in jobs if job.missing)
        raise PrerequisiteError(
            f"Nothing of the table can be run; the first thing that is missing: {lacks.missing[0].problem}",
            f"{lacks.missing[0].fix} The complete list: --dry-run.",
        )
    # A cluster that ends a job sends this; the runs then end as with Ctrl-C, in order.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    outcome = run_all(jobs, console)
    report.show(report.tables(outcome.cells, chosen), console)
    folder = target or runs
    _write(folder, (report.to_csv(outcome.cells), report.to_markdown(outcome.cells, chosen)))
    console.print(f"Table: {folder / _FILES[0]}, {folder / _FILES[1]}", highlight=False, soft_wrap=True, markup=False)
    if outcome.interrupted:
        console.print("Interrupted. The same command continues.", highlight=False)
        raise typer.Exit(INTERRUPTED)
    unfinished = any(cell.why and cell.line.method in chosen.methods for cell in outcome.cells)
    raise typer.Exit(3 if outcome.failed_samples or unfinished else 0)


def _write(folder: Path, texts: tuple[str, str]) -> None:
    from rvosbench.harness.store.artefacts import atomic_write

    for name, text in zip(_FILES, texts, strict=True):
        with atomic_write(folder / name) as file:
            file.write(text.encode())
