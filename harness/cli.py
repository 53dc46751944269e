"""The command line: thin. Each command reads its arguments, calls the library, prints, and sets the exit code.

Exit codes: 0 success, 2 prerequisite or usage error (one sentence and the fix), 3 finished with failed samples,
130 interrupted.
"""

from __future__ import annotations

import signal
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from harness.errors import PrerequisiteError

COMMANDS_GROUP = "rvosbench.commands"
"""Entry points that add commands: the leaderboard's, and those of method packages."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Benchmark harness for video reasoning segmentation.",
)
datasets_app = typer.Typer(no_args_is_help=True, help="What is on disk, and whether it is complete.")
app.add_typer(datasets_app, name="datasets")

out = Console()
err = Console(stderr=True)

SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe value (dotted key).")
]
DataRoot = Annotated[
    Path, typer.Option("--data-root", envvar="RVOSBENCH_DATA", help="Folder that holds davis17/, ReVOS/, mevis/ ...")
]


@app.command()
def run(
    recipe: Annotated[Path | None, typer.Argument(help="The recipe to run.")] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN_DIR", help="Continue an interrupted run.")] = None,
    overrides: SetOption = None,
) -> None:
    """Run methods x LVLMs x datasets; continues where an interrupted run of the same recipe stopped."""
    from harness.pipeline.engine import run_recipe
    from harness.pipeline.runfolder import RunFolder
    from harness.recipes import load_recipe

    if (recipe is None) == (resume is None):
        raise PrerequisiteError("Give either a recipe or --resume RUN_DIR.", "Example: rvosbench run recipes/demo.yaml")
    signal.signal(signal.SIGTERM, _interrupt)
    if resume is not None:
        if overrides:
            raise PrerequisiteError("--set cannot change a run that is resumed.", "Start a new run from a recipe.")
        folder, loaded = RunFolder.resume(resume)
    else:
        assert recipe is not None
        loaded = load_recipe(recipe, tuple(overrides or ()))
        folder = RunFolder.create(loaded)
    raise typer.Exit(run_recipe(loaded, folder, out))


@app.command()
def plan(recipe: Annotated[Path, typer.Argument()], overrides: SetOption = None) -> None:
    """Say what a recipe would run: samples, what is reused, what is to compute. Computes nothing."""
    from harness.pipeline.engine import print_plan
    from harness.recipes import load_recipe

    print_plan(load_recipe(recipe, tuple(overrides or ())), out)


@app.command()
def methods() -> None:
    """List the registered methods."""
    from harness.registry import load_method, method_names

    for name in method_names():
        method = load_method(name)
        out.print(f"[bold]{name}[/bold]  {method.title}  {method.paper}", highlight=False)


def _interrupt(signum: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _add_plugged_commands() -> None:
    for entry in sorted(entry_points(group=COMMANDS_GROUP), key=lambda entry: entry.name):
        app.command(entry.name)(entry.load())


def main() -> None:
    """The ``rvosbench`` command."""
    _add_plugged_commands()
    try:
        app()
    except PrerequisiteError as error:
        err.print(Text.assemble(("error: ", "bold red"), error.problem), soft_wrap=True)
        if error.fix:
            err.print(Text(error.fix), soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("Interrupted.")
        sys.exit(130)
