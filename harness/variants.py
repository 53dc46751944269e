"""From a recipe's methods to what runs: each method on each model, with its stages; and the name of the run.

Settings are validated and checkpoints found here, before anything is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rvosbench.harness.errors import PrerequisiteError, nearest_name
from rvosbench.harness.recipes import MethodChoice, Recipe, method_settings
from rvosbench.harness.registry import load_method, method_file
from rvosbench.harness.settings import Settings, identity_of
from rvosbench.harness.stages import Method, StageSpec
from rvosbench.harness.store.keys import digest_of

if TYPE_CHECKING:
    from rvosbench.harness.published import PublishedLine

SCORE, SEGMENT = "score", "segment"
KNOWN_STAGES = ("reason", "ground", SEGMENT, SCORE)
"""The stages of the flow; a method may have others."""
_STAGE_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


@dataclass(frozen=True)
class Variant:
    """A method on an LVLM: one row of the results table."""

    label: str
    lvlm: str | None
    """As printed: the last component of the hub name or folder."""
    stages: tuple[StageSpec, ...]
    reference: PublishedLine | None = None
    """What it reproduces."""


def variants_of(recipe: Recipe) -> tuple[Variant, ...]:
    """Every method of the recipe on each of its LVLMs.

    Raises:
        PrerequisiteError: a method, setting or checkpoint is missing or wrong; two rows would have one name; a method's
            stages do not fit together; ``executor.pools`` names a stage that none has.
    """
    variants = tuple(variant for choice in recipe.methods for variant in _variants(choice, recipe.lvlms))
    _require_unique(variants)
    _require_pools(recipe, variants)
    return variants


def run_name(recipe: Recipe) -> str:
    """``name-xxxxxxxx``: eight hex digits over what decides the results.

    These are the recipe's identity fields, and of the methods what their stages hash into keys: neither runtime
    settings nor the place of a checkpoint or of a method's file change the name, its content does.

    Raises:
        PrerequisiteError: see ``variants_of``.
    """
    values = identity_of(recipe)
    del values["methods"], values["lvlms"]
    values["variants"] = [
        {
            "label": variant.label,
            "stages": [{**spec.identity(), "consumes": list(spec.consumes)} for spec in variant.stages],
        }
        for variant in variants_of(recipe)
    ]
    return f"{recipe.name}-{digest_of(values)[:8]}"


def resolve(choice: MethodChoice, recipe_lvlms: Sequence[str]) -> tuple[Method[Any], Settings, Sequence[str | None]]:
    """The method, its settings, and the LVLMs to run it on; one None where it needs none.

    Raises:
        PrerequisiteError: there is no such method, a setting is wrong, or the method needs an LVLM and none is named.
    """
    method = load_method(choice.method)
    settings = method_settings(method.settings_type, choice.settings, choice.method)
    if not method.needs_lvlm:
        return method, settings, [None]
    lvlms = choice.lvlms if choice.lvlms is not None else recipe_lvlms
    if not lvlms:
        raise PrerequisiteError(
            f"Method '{choice.method}' needs an LVLM and the recipe names none.",
            "Add lvlms: [Qwen/Qwen2.5-VL-7B-Instruct], or a local checkpoint folder.",
        )
    return method, settings, lvlms


def _variants(choice: MethodChoice, recipe_lvlms: Sequence[str]) -> Iterator[Variant]:
    method, settings, lvlms = resolve(choice, recipe_lvlms)
    file = method_file(choice.method)
    for lvlm in lvlms:
        shown = lvlm.rstrip("/").rpartition("/")[2] if lvlm else None
        stages = tuple(method.stages(settings, lvlm))
        _require_flow(choice.method, stages)
        if file is not None:
            stages = tuple(replace(spec, file=file) for spec in stages)
        yield Variant(choice.label or method.title, shown, stages, reference_of(choice, lvlms, lvlm))


def reference_of(choice: MethodChoice, lvlms: Sequence[str | None], lvlm: str | None) -> PublishedLine | None:
    """The published line that an entry of a recipe reproduces with one of its LVLMs; None where it names none.

    Raises:
        PrerequisiteError: the table has no such method or LVLM, or one LVLM of the table is named for several.
    """
    wanted = choice.reference
    if wanted is None:
        return None
    # Here, as few recipes need it and it imports pandas.
    from rvosbench.harness.published import PublishedLine, display_lvlm, require_reference

    require_reference(wanted.method, wanted.lvlm)
    if wanted.lvlm is not None and len(lvlms) > 1:
        raise PrerequisiteError(
            f"The reference of '{choice.label or choice.method}' names one LVLM, {wanted.lvlm}, and the entry runs on "
            f"{len(lvlms)}.",
            "Leave reference.lvlm out, or give each LVLM an entry of its own.",
        )
    return PublishedLine(wanted.method, wanted.lvlm or display_lvlm(lvlm))


def _require_flow(method: str, stages: Sequence[StageSpec]) -> None:
    """Each stage reads what an earlier one wrote, and the last one writes the mask tracks."""
    fix = "Correct what its stages() returns."
    before: list[str] = []
    for spec in stages:
        if not _STAGE_NAME.fullmatch(spec.name) or spec.name == SCORE or spec.name in before:
            raise PrerequisiteError(
                f"Method '{method}' has a stage '{spec.name}', which is taken or no stage name.",
                "A name is small letters, digits and underscores, differs from the others and is not 'score'.",
            )
        unknown = [name for name in spec.consumes if name not in before]
        if unknown:
            raise PrerequisiteError(
                f"Stage '{spec.name}' of method '{method}' consumes '{unknown[0]}', which no earlier stage writes.", fix
            )
        before.append(spec.name)
    if not before or before[-1] != SEGMENT:
        raise PrerequisiteError(f"The last stage of method '{method}' is not '{SEGMENT}', which writes the masks.", fix)


def _require_unique(variants: Sequence[Variant]) -> None:
    seen: set[tuple[str, str | None]] = set()
    for variant in variants:
        name = (variant.label, variant.lvlm)
        if name in seen:
            on = f" on {variant.lvlm}" if variant.lvlm else ""
            raise PrerequisiteError(
                f"Two entries of the recipe would both be called '{variant.label}'{on}.",
                "Give each entry of methods its own label.",
            )
        seen.add(name)


def _require_pools(recipe: Recipe, variants: Sequence[Variant]) -> None:
    known = dict.fromkeys([*KNOWN_STAGES, *(spec.name for variant in variants for spec in variant.stages)])
    for name in recipe.executor.pools:
        if name not in known:
            raise PrerequisiteError(
                f"executor.pools.{name}: the recipe's methods have no stage '{name}'.", nearest_name(name, known)
            )
