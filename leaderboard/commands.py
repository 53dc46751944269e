"""``rvosbench leaderboard``: serve the pages, or print the board."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rvosbench.harness.errors import PrerequisiteError, nearest_name
from rvosbench.harness.extras import EXTRAS, install_command
from rvosbench.harness.text import SafeConsole
from rvosbench.leaderboard.serve import command

if TYPE_CHECKING:
    from rvosbench.leaderboard.tables import Scope


def leaderboard(
    runs: Annotated[Path, typer.Option("--runs", envvar="RVOSBENCH_RUNS", help="Folder of run folders.")] = Path(
        "runs"
    ),
    export: Annotated[str | None, typer.Option(help="Print the board instead: csv, md or latex.")] = None,
    scope: Annotated[
        str, typer.Option(help="Published rows in an export: main (one comparison), published, everything.")
    ] = "main",
    scores: Annotated[bool, typer.Option("--scores", help="Print the scores of the runs and exit.")] = False,
    port: Annotated[int, typer.Option(help="Port of the pages.")] = 8501,
    address: Annotated[str, typer.Option(help="Who may connect; the pages have no login.")] = "127.0.0.1",
) -> None:
    """Show published numbers beside the runs of a folder, in the browser or as text."""
    # Here, because every command line imports this module, and few of them need pandas.
    from rvosbench.leaderboard import exports
    from rvosbench.leaderboard.tables import Filters

    if scores:
        exports.print_scores(runs, SafeConsole())
    elif export is not None:
        sys.stdout.write(exports.export(runs, export, Filters(_scope(scope))))
    else:
        _serve(runs, port, address)


def _scope(name: str) -> Scope:
    from rvosbench.leaderboard.tables import SCOPES

    for known in SCOPES:
        if name == known:
            return known
    raise PrerequisiteError(f"There is no scope '{name}'.", nearest_name(name, SCOPES))


def _serve(runs: Path, port: int, address: str) -> None:
    for package in EXTRAS["leaderboard"]:
        if importlib.util.find_spec(package) is None:
            raise PrerequisiteError(
                f"The pages need the package '{package}', which is not installed.",
                f"Install the extra: {install_command('leaderboard')}",
            )
    raise typer.Exit(subprocess.run(command(runs, port, address), check=False).returncode)
