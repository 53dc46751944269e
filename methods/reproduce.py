"""``rvosbench reproduce steerseg-table``: the main table of SteerSeg's project page, run again.

Which of its lines can be run, with which checkpoints, on which data, is an ordinary recipe in ``recipes/reproduce/``
(shipped too), or one of the reader's own, whose entries name the published lines that they reproduce.
"""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

if TYPE_CHECKING:
    from rvosbench.harness.recipes import Recipe

RECIPES = {"released": "steerseg_table.yaml", "shapes": "steerseg_table_shapes.yaml"}
_NAME = "steerseg_table"
"""Of the files that are written."""


def steerseg_table(
    recipe: Annotated[
        str, typer.Option(help="released, shapes, or a recipe whose entries name what they reproduce (reference).")
    ] = "released",
    data_root: Annotated[
        Path | None, typer.Option("--data-root", help="Folder of the benchmarks. Default: the recipe's.")
    ] = None,
    runs: Annotated[Path | None, typer.Option("--runs", help="Folder of run folders. Default: the recipe's.")] = None,
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
    from rvosbench.harness.errors import PrerequisiteError
    from rvosbench.harness.pipeline.overview import overview
    from rvosbench.harness.pipeline.parts import INTERRUPTED, run_parts, survey
    from rvosbench.harness.scoring.reproduction import table_of, tables, to_csv, to_markdown
    from rvosbench.harness.store.artefacts import atomic_write
    from rvosbench.harness.text import SafeConsole
    from rvosbench.harness.trust import user_trust

    console = SafeConsole()
    chosen = _load(recipe, data_root, runs)
    user_trust().require(chosen)
    parts = survey(chosen)
    if dry_run:
        for shown in overview(parts, chosen):
            console.print(shown, soft_wrap=isinstance(shown, Text))
        return
    if all(part.missing for part in parts):
        first = parts[0].missing[0]
        raise PrerequisiteError(
            f"Nothing of the table can be run; the first thing that is missing: {first.detail}",
            f"{first.fix} The complete list: --dry-run.",
        )
    # A cluster that ends a job sends this; the runs then end as with Ctrl-C, in order.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    outcome = run_parts(parts, console)
    cells = table_of([result.attempt() for result in outcome.results])
    for shown in tables(cells, chosen.note):
        console.print(shown, soft_wrap=isinstance(shown, Text))
    folder = target or chosen.runs
    for suffix, text in ((".csv", to_csv(cells)), (".md", to_markdown(cells, chosen.name, chosen.note))):
        with atomic_write(folder / f"{_NAME}{suffix}") as file:
            file.write(text.encode())
        console.print(f"Table: {folder / _NAME}{suffix}", highlight=False, soft_wrap=True, markup=False)
    if outcome.interrupted:
        console.print("Interrupted. The same command continues.", highlight=False)
        raise typer.Exit(INTERRUPTED)
    unfinished = outcome.failed_samples or any(result.why for result in outcome.results)
    raise typer.Exit(3 if unfinished else 0)


def _load(name: str, data_root: Path | None, runs: Path | None) -> Recipe:
    import rvosbench
    from rvosbench.harness.errors import PrerequisiteError, nearest_name
    from rvosbench.harness.recipes import load_recipe

    path = Path(name).expanduser()
    if name in RECIPES:
        path = Path(rvosbench.__file__).parent / "recipes" / "reproduce" / RECIPES[name]
    elif not path.is_file():
        raise PrerequisiteError(
            f"There is no recipe '{name}', neither one that ships nor a YAML file.", nearest_name(name, RECIPES)
        )
    loaded = load_recipe(path)
    return replace(loaded, data_root=data_root or loaded.data_root, runs=runs or loaded.runs)
