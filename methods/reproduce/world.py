"""A world: which checkpoints, files and data stand for the names that a published table prints."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

import rvosbench
from rvosbench.harness.errors import PrerequisiteError, nearest_name
from rvosbench.harness.recipes import (
    DatasetChoice,
    ExecutorChoice,
    MethodChoice,
    Recipe,
    ServingChoice,
    TrackingChoice,
    describe,
    read_values,
)
from rvosbench.methods.reproduce.cost import Cost

WORLDS = Path(rvosbench.__file__).parent / "recipes" / "reproduce"
SHAPES_SPLIT = "valid"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Lvlm(_Model):
    """What stands for a vision-language model."""

    checkpoint: str
    """Hub name or local folder."""
    heads: str | None = None
    """Loc-Head's ``heads`` setting: "known", a heads file, or a folder of such files."""
    soft_prompts: str | None = None
    """Folder of SteerSeg's prompts."""


class TableMethod(_Model):
    """What stands for a method."""

    method: str
    """Its registered name."""
    settings: dict[str, Any] = {}


class TableDataset(_Model):
    """What stands for a benchmark."""

    name: str
    """A card's."""
    split: str
    protocol: str
    limit_videos: int | None = Field(None, ge=1)
    layout: str | None = None
    """The layout in which the bundled world is written there, where ``World.shapes`` says so."""


class Shapes(_Model):
    """The bundled world, written before anything runs."""

    seed: int = 0
    videos: int = Field(2, ge=1)


class World(_Model):
    """Everything that the table's lines need."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Runs are called after it."""
    note: str | None = None
    """Shown with the table, and with every run."""
    data_root: Path | None = None
    """Where --data-root and RVOSBENCH_DATA are not given."""
    shapes: Shapes | None = None
    lvlms: dict[str, Lvlm]
    """By the name that the table prints; lines on others are missing."""
    methods: dict[str, TableMethod]
    """By the name that the table prints; others are published only."""
    datasets: dict[str, TableDataset]
    """By the name that the table prints."""
    sam2: str = "sam2-hiera-large"
    settings: dict[str, Any] = {}
    """Of every method, below its own."""
    executor: ExecutorChoice = ExecutorChoice()
    serving: ServingChoice = ServingChoice()
    tracking: TrackingChoice = TrackingChoice()
    cost: Cost | None = None
    """None: no GPU-hours are estimated."""

    @model_validator(mode="after")
    def _layouts(self) -> Self:
        without = [title for title, dataset in self.datasets.items() if dataset.layout is None]
        if self.shapes is not None and without:
            raise ValueError(f"shapes are to be written, but {without[0]} names no layout")
        return self


def load_world(where: str) -> World:
    """The world called ``where``, or the one in that YAML file.

    Raises:
        PrerequisiteError: there is none, or the file is malformed; one sentence names the key.
    """
    known = {path.stem: path for path in WORLDS.glob("*.yaml")}
    path = known.get(where, Path(where).expanduser())
    if where not in known and not path.is_file():
        raise PrerequisiteError(
            f"There is no world '{where}', neither one that ships nor a YAML file.", nearest_name(where, known)
        )
    try:
        return World.model_validate(read_values(path))
    except ValidationError as error:
        raise PrerequisiteError(f"{path}: {describe(error)}.", "Compare it with recipes/reproduce/.") from error


def method_settings(world: World, method: str, lvlm: str) -> dict[str, Any]:
    """The settings of a line, as a recipe has them.

    Args:
        method, lvlm: names of the table that the world knows.
    """
    chosen, model = world.methods[method], world.lvlms[lvlm]
    settings = merged({"sam2": {"checkpoint": world.sam2}}, merged(world.settings, chosen.settings))
    if chosen.method == "lochead" and model.heads is not None:
        settings = merged(settings, {"heads": model.heads})
    if chosen.method == "steerseg" and model.soft_prompts is not None:
        settings = merged(settings, {"soft_prompts": {"folder": model.soft_prompts}})
    return settings


def recipe_of(world: World, method: str, lvlm: str, dataset: str, data_root: Path, runs: Path) -> Recipe:
    """The run that fills the cells of one line on one dataset."""
    place = world.datasets[dataset]
    slug = ".".join(re.sub(r"[^a-z0-9.]+", "-", part.lower()).strip("-") for part in (method, lvlm, place.name))
    return Recipe(
        name=f"{world.name}.{slug}",
        note=world.note,
        data_root=data_root,
        runs=runs,
        datasets=(
            DatasetChoice(
                name=place.name, split=place.split, protocols=(place.protocol,), limit_videos=place.limit_videos
            ),
        ),
        lvlms=(world.lvlms[lvlm].checkpoint,),
        methods=(
            MethodChoice(
                method=world.methods[method].method, label=method, settings=method_settings(world, method, lvlm)
            ),
        ),
        executor=world.executor,
        serving=world.serving,
        tracking=world.tracking,
    )


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings laid over each other; ``above`` wins.

    >>> merged({"a": {"x": 1, "y": 2}}, {"a": {"x": 3}, "b": 4})
    {'a': {'x': 3, 'y': 2}, 'b': 4}
    """
    out = dict(below)
    for key, value in above.items():
        old = out.get(key)
        out[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return out
