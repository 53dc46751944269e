"""Soft prompts on disk: a folder with one safetensors file a prompt and a card that says where they come from.

    card.json
    clip.safetensors, frame.safetensors     or shared.safetensors, one prompt for both calls

A file holds the tensor ``vectors`` (n, D) in the type the model embedded it in while it was trained. What a run
depends on is the digest of the vectors and of where they stand; the folder may move, and the card's history of the
training does not enter. No torch is imported before vectors are read or written.

Shape legend: n soft tokens, D hidden size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

import rvosbench
from rvosbench.harness.data.digests import file_sha256
from rvosbench.harness.data.parsing import brief, load_json, why_no_name
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.paths import given_path
from rvosbench.harness.recipes import describe
from rvosbench.harness.requirements import Requirement
from rvosbench.harness.settings import Json, Settings, identity, runtime
from rvosbench.harness.store.keys import digest_of
from rvosbench.methods.models.requirements import found_checkpoint

if TYPE_CHECKING:
    from rvosbench.methods.models.lvlm.model import Lvlm
    from rvosbench.methods.models.lvlm.soft import Position, SoftPrompt, SoftPrompts

CARD = "card.json"
SCHEMA = 1
TENSOR = "vectors"
Role = Literal["clip", "frame", "shared"]
"""Which calls a prompt enters: the clip call, the frame calls, or both."""
_FIX = "Copy the folder again, or train the prompts again (rvosbench train steerseg RECIPE)."


class _Card(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BaseModelFacts(_Card):
    """The model whose embeddings the vectors live among."""

    name: str
    """Hub name or folder, as the recipe had it."""
    digest: str
    """Of its files, or ``owner/name@commit``: prompts are for exactly this model."""
    revision: str | None = None
    """The commit, where it came from the hub."""
    family: str
    width: int
    """D."""
    dtype: str
    """It ran in."""


class PromptFacts(_Card):
    """One prompt."""

    file: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    count: int = Field(ge=1)
    position: Literal["front", "before_vision", "after_vision"]
    initialisation: str
    steps: int = Field(ge=0)
    losses: dict[str, FiniteFloat]
    """Name -> value, e.g. first, last, and held-out figures before and after."""


class DataFacts(_Card):
    """What they were trained on."""

    dataset: str
    split: str
    digest: str
    """Of the videos, expressions and masks used."""
    seed: int | None = None
    """Of generated data."""
    videos: int
    held_out_videos: int
    samples: int
    """Expressions trained on."""


class PromptCard(_Card):
    """``card.json``."""

    schema_version: int = SCHEMA
    base_model: BaseModelFacts
    prompts: dict[Role, PromptFacts] = Field(min_length=1)
    data: DataFacts
    seed: int
    recipe: dict[str, Any]
    """Of the training, resolved; only what decides its results."""
    package_version: str
    note: str | None = None


@dataclass(frozen=True)
class SoftPromptSettings(Settings):
    """Which prompts. Fill ``digest`` with ``with_digest`` before settings are hashed into keys."""

    folder: str = runtime()
    digest: str = identity("")
    """Of the vectors and where they stand; loading others is refused."""


def with_digest(settings: SoftPromptSettings) -> SoftPromptSettings:
    """The same settings with the digest of what the folder holds.

    Raises:
        PrerequisiteError: there is no card, or a file is missing or damaged.
    """
    folder = given_path(settings.folder)
    return replace(settings, digest=_digest(_checked_card(folder)))


def prompts_requirement(settings: SoftPromptSettings | None, lvlm: str) -> Requirement:
    """The soft prompts of a model, as far as they can be checked: whose they are needs the checkpoint."""
    fix = f"Train them (rvosbench train steerseg RECIPE) with {lvlm}, and name their folder in soft_prompts.folder."
    if settings is None:
        return Requirement("soft prompts", lvlm, "missing", f"No soft prompts are named for {lvlm}.", fix)
    try:
        with_digest(settings)
        base = read_card(given_path(settings.folder)).base_model
    except PrerequisiteError as error:
        return Requirement("soft prompts", lvlm, "missing", error.problem, fix)
    found = found_checkpoint(lvlm)
    if not isinstance(found, PrerequisiteError) and found.digest != base.digest:
        problem = f"The soft prompts in {settings.folder} were trained for {base.name}, another checkpoint."
        return Requirement("soft prompts", lvlm, "missing", problem, fix)
    return Requirement("soft prompts", lvlm)


def read_card(folder: Path) -> PromptCard:
    """The card of a folder.

    Raises:
        PrerequisiteError: missing, not valid, or of a later schema.
    """
    path = folder / CARD
    if not path.is_file():
        raise PrerequisiteError(
            f"{folder} holds no soft prompts: there is no {CARD}.",
            "Give the folder that `rvosbench train steerseg RECIPE` wrote its prompts to.",
        )
    raw = load_json(path)
    if isinstance(raw, dict) and isinstance(raw.get("schema_version"), int) and raw["schema_version"] > SCHEMA:
        raise PrerequisiteError(f"{path} has schema {raw['schema_version']}, newer than {SCHEMA}.", "Update rvosbench.")
    try:
        # Strict, so that true is no count; as JSON, where lists are tuples.
        return PromptCard.model_validate_json(json.dumps(raw), strict=True)
    except ValidationError as error:
        raise PrerequisiteError(f"{path} is not a card of soft prompts: {describe(error)}.", _FIX) from error


def save_soft_prompts(
    folder: Path,
    prompts: Mapping[Role, SoftPrompt],
    *,
    base_model: BaseModelFacts,
    training: Mapping[Role, tuple[str, int, Mapping[str, float]]],
    data: DataFacts,
    seed: int,
    recipe: Mapping[str, Any],
    note: str | None = None,
) -> PromptCard:
    """Writes the prompts, the card last: a folder with a card is complete.

    Args:
        folder: made if needed; prompts of an earlier training are replaced.
        prompts: "clip" and "frame", one of them, or "shared".
        base_model, data, seed, recipe, note: for the card.
        training: of each prompt, how it began, steps, and its losses.
    """
    import torch
    from safetensors.torch import save_file

    if not prompts or ("shared" in prompts and len(prompts) > 1):
        raise ValueError(f"prompts {sorted(prompts)} do not make a folder")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD).unlink(missing_ok=True)
    for old in folder.glob("*.safetensors"):
        old.unlink()
    facts: dict[Role, PromptFacts] = {}
    for role, soft in prompts.items():
        path = folder / f"{role}.safetensors"
        vectors_nD = soft.vectors_nD.detach().to("cpu", getattr(torch, base_model.dtype)).contiguous()
        save_file({TENSOR: vectors_nD}, path)
        # Written for their owner alone; prompts are for every worker.
        path.chmod(0o644)
        began, steps, losses = training[role]
        facts[role] = PromptFacts(
            file=path.name,
            sha256=file_sha256(path),
            count=soft.count,
            position=soft.position,
            initialisation=began,
            steps=steps,
            losses=dict(losses),
        )
    card = PromptCard(
        base_model=base_model,
        prompts=facts,
        data=data,
        seed=seed,
        recipe=dict(recipe),
        package_version=rvosbench.__version__,
        note=note,
    )
    temporary = folder / f".{CARD}.tmp"
    temporary.write_text(card.model_dump_json(indent=2) + "\n", encoding="utf-8")
    temporary.replace(folder / CARD)
    return card


def load_soft_prompts(settings: SoftPromptSettings, lvlm: Lvlm) -> SoftPrompts:
    """The prompts on the model's device, checked against it.

    Raises:
        PrerequisiteError: of another model, of another width, damaged, or not the ones the settings were made for.
    """
    from rvosbench.methods.models.lvlm.soft import SoftPrompts

    folder = given_path(settings.folder)
    card = _checked_card(folder)
    if settings.digest and _digest(card) != settings.digest:
        raise PrerequisiteError(
            f"The soft prompts in {folder} are not those this run began with: they changed since.",
            "Start a new run, or restore the folder.",
        )
    base = card.base_model
    if (base.family, base.digest) != (lvlm.family, lvlm.settings.digest):
        raise PrerequisiteError(
            f"The soft prompts in {folder} were trained for {base.name} ({base.family}, {_short(base.digest)}), not "
            f"for {lvlm.settings.checkpoint} ({lvlm.family}, {_short(lvlm.settings.digest)}).",
            "Name the model they were trained for, or train prompts for this one (rvosbench train steerseg RECIPE).",
        )
    width = int(lvlm.text_model.get_input_embeddings().weight.shape[1])
    if base.width != width:
        raise PrerequisiteError(
            f"The soft prompts in {folder} are {base.width} wide, the embeddings of {lvlm.settings.checkpoint} "
            f"{width}.",
            "Use prompts that were trained for this model.",
        )
    soft = {
        role: _read_vectors(folder / facts.file, facts, width, lvlm.model.device)
        for role, facts in card.prompts.items()
    }
    shared = soft.get("shared")
    return SoftPrompts(soft.get("clip", shared), soft.get("frame", shared))


def _checked_card(folder: Path) -> PromptCard:
    """The card, its files' digests compared."""
    card = read_card(folder)
    if "shared" in card.prompts and len(card.prompts) > 1:
        raise PrerequisiteError(f"{folder / CARD} lists a shared prompt beside others.", _FIX)
    for facts in card.prompts.values():
        if why_no_name(facts.file) is not None:
            raise PrerequisiteError(f"{folder / CARD} names {brief(facts.file)}, which is outside its folder.", _FIX)
        path = folder / facts.file
        try:
            found = file_sha256(path)
        except OSError as error:
            raise PrerequisiteError(f"{path} cannot be read: {error.strerror or error}.", _FIX) from error
        if found != facts.sha256:
            raise PrerequisiteError(f"{path} is damaged: its SHA-256 is not the one of {CARD}.", _FIX)
    return card


def _read_vectors(path: Path, facts: PromptFacts, width: int, device: Any) -> SoftPrompt:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from rvosbench.methods.models.lvlm.soft import SoftPrompt

    try:
        vectors_nD = load_file(path)[TENSOR]
    except (SafetensorError, OSError, KeyError) as error:
        raise PrerequisiteError(f"{path} holds no tensor '{TENSOR}': {error}.", _FIX) from error
    if tuple(vectors_nD.shape) != (facts.count, width) or not vectors_nD.is_floating_point():
        raise PrerequisiteError(
            f"{path} holds {vectors_nD.dtype} vectors of shape {tuple(vectors_nD.shape)}, {CARD} says "
            f"{facts.count} of width {width}.",
            _FIX,
        )
    if not bool(vectors_nD.isfinite().all()):
        raise PrerequisiteError(f"{path} holds values that are not finite.", _FIX)
    position: Position = facts.position
    return SoftPrompt(vectors_nD.to(device), position)


def _digest(card: PromptCard) -> str:
    held: dict[str, Json] = {role: [facts.sha256, facts.position] for role, facts in sorted(card.prompts.items())}
    return digest_of(held)


def _short(digest: str) -> str:
    name, at, commit = digest.partition("@")
    return f"{name}@{commit[:8]}" if at else digest[:8]
