"""What a sheet must know of a method's settings. Another method that leaves such artefacts adds a function here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.recipes import MethodChoice, Recipe, load_recipe, method_settings
from rvosbench.harness.registry import load_method
from rvosbench.harness.results.reader import RECIPE, Run
from rvosbench.harness.stages import Method
from rvosbench.methods.decaf import DecafSettings
from rvosbench.methods.ground.fusion import FusionSettings
from rvosbench.methods.steerseg.settings import SteersegSettings


@dataclass(frozen=True)
class Look:
    """How maps became masks."""

    fusion: FusionSettings
    masks: Literal["sam2", "attention"]
    tau_point: float
    points_from: Literal["fused", "frame"] = "fused"
    """The map that points are on."""


def _of_decaf(settings: DecafSettings) -> Look:
    return Look(settings.fusion, settings.masks, settings.tau_point)


def _of_steerseg(settings: SteersegSettings) -> Look:
    return Look(settings.fusion(), settings.masks, settings.tau_point, settings.points_from)


_LOOKS: Mapping[str, Callable[[Any], Look]] = {"decaf": _of_decaf, "steerseg": _of_steerseg}
"""By the method's name, from its settings."""


def look_of(run: Run, label: str, lvlm: str | None) -> Look:
    """The settings behind a row of the tables.

    Raises:
        PrerequisiteError: the run has no recipe, or the method is not one whose artefacts can be read.
    """
    if run.info is None:
        raise PrerequisiteError(
            f"{run.folder} holds scores of finished masks, not a run.", "Pictures need the folder of a run."
        )
    recipe = load_recipe(run.folder / RECIPE)
    for choice in recipe.methods:
        method = load_method(choice.method)
        if (choice.label or method.title) != label or lvlm not in _lvlms(choice, recipe, method):
            continue
        if choice.method in _LOOKS:
            settings = method_settings(method.settings_type, choice.settings, choice.method)
            return _LOOKS[choice.method](settings)
        raise PrerequisiteError(
            f"'{label}' is the method {choice.method}, whose maps this command cannot read.",
            f"It reads those of {' and '.join(_LOOKS)}. Others can call rvosbench.methods.picture.sheet.draw_sheet.",
        )
    raise PrerequisiteError(
        f"{run.folder / RECIPE} has no method '{label}'" + (f" on {lvlm}." if lvlm else "."),
        "The tables belong to another recipe: run it again.",
    )


def _lvlms(choice: MethodChoice, recipe: Recipe, method: Method[Any]) -> set[str | None]:
    """LVLMs of a recipe's entry as tables print them."""
    if not method.needs_lvlm:
        return {None}
    named = recipe.lvlms if choice.lvlms is None else choice.lvlms
    return {name.rstrip("/").rpartition("/")[2] for name in named}
