"""``rvosbench train steerseg RECIPE``, and ``rvosbench plan`` of such a recipe."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rvosbench.harness.errors import PrerequisiteError

if TYPE_CHECKING:
    from rvosbench.methods.steerseg.training.recipe import TrainRecipe


def train(
    recipe: Annotated[Path, typer.Argument(help="A training recipe, e.g. recipes/train_steerseg.yaml.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe value (dotted key).")
    ] = None,
    target: Annotated[
        Path | None,
        typer.Option("--out", help="Copy the prompts to this folder too, which must be new or hold soft prompts."),
    ] = None,
) -> None:
    """Train SteerSeg's soft prompts; continues where an interrupted training of the same recipe stopped."""
    # Here, as every other command of rvosbench loads this file too.
    from rvosbench.methods.steerseg.training.recipe import load_recipe

    loaded = load_recipe(recipe, tuple(overrides or ()))
    if target is not None:
        _check_target(target)
    from rvosbench.methods.steerseg.training.files import PROMPTS
    from rvosbench.methods.steerseg.training.launch import folder_of, launch
    from rvosbench.methods.steerseg.training.report import report

    path = folder_of(loaded)
    try:
        launch(loaded, typer.echo)
    finally:
        # Of a training that stopped too, as far as it came.
        _mirror(loaded, path)
    for line in report(path):
        typer.echo(line)
    prompts = path / PROMPTS
    if target is not None:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(prompts, target)
        prompts = target
    typer.echo(f"Prompts: {prompts}")


def plan(recipe: Path, overrides: tuple[str, ...]) -> Iterator[str]:
    """What a training would do and the memory it takes, line by line.

    Raises:
        PrerequisiteError: the recipe is wrong, or the model's configuration is not to be had.
    """
    from rvosbench.methods.steerseg.training.plan import planned
    from rvosbench.methods.steerseg.training.recipe import load_recipe

    return planned(load_recipe(recipe, overrides))


def _mirror(recipe: TrainRecipe, path: Path) -> None:
    from rvosbench.methods.steerseg.training.files import STEPS
    from rvosbench.methods.steerseg.training.report import mirror

    if not recipe.tracking.enabled or not (path / STEPS).is_file():
        return
    reason = mirror(recipe, path)
    if reason is not None:
        typer.echo(f"Not mirrored to MLflow: {reason} The training is unharmed.")


def _check_target(target: Path) -> None:
    if target.exists() and not (target / "card.json").is_file() and any(target.iterdir()):
        raise PrerequisiteError(f"--out {target} holds something else than soft prompts.", "Choose another folder.")
