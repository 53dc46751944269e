"""What a training of soft prompts is made of: read from YAML, validated, written back resolved.

Identity fields decide the vectors; runtime fields only where and how fast. Defaults are what SteerSeg
(arXiv 2605.14908) states, and where it states nothing, this project's choice; see the card in ``methods.steerseg``.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import TypeAdapter, ValidationError

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.recipes import TrackingChoice, describe, read_values
from rvosbench.harness.settings import Settings, identity, identity_of, runtime
from rvosbench.harness.store.keys import digest_of
from rvosbench.methods.attention.spec import RolloutSpec
from rvosbench.methods.models.lvlm.base import LvlmOptions
from rvosbench.methods.reason.settings import ReasoningSettings
from rvosbench.methods.steerseg.prompt_files import Role

View = Literal["clip", "frame"]


def at_least_one(settings: Settings, *names: str) -> None:
    """Refuses fields below 1; None is passed over.

    Raises:
        PrerequisiteError: names the field.
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise PrerequisiteError(f"{name} is {value}.", "Choose at least 1.")


@dataclass(frozen=True, kw_only=True)
class DataChoice(Settings):
    """What is trained on. Expressions without a target are left out."""

    name: str = identity()
    """A dataset card with public masks."""
    split: str = identity("train")
    limit_videos: int | None = identity(None)
    """Only the first videos in name order."""
    generate: int | None = identity(None)
    """Of the card "shapes" only: so many clips are made in memory and no file is read."""
    seed: int = identity(0)
    """Of generated clips."""
    held_out: float = identity(0.05)
    """Fraction of the videos that is never trained on, drawn by name and seed; at least one video."""

    def __post_init__(self) -> None:
        at_least_one(self, "limit_videos", "generate")
        if not 0.0 < self.held_out < 1.0:
            raise PrerequisiteError(f"data.held_out is {self.held_out}.", "Choose a fraction between 0 and 1.")
        if self.generate is not None and self.name != "shapes":
            raise PrerequisiteError(
                f"data.generate is set, but '{self.name}' is not generated.", "Leave it out, or choose shapes."
            )


@dataclass(frozen=True, kw_only=True)
class AttributesChoice(Settings):
    """The chain-of-thought attributes in the prompts trained on."""

    source: Literal["none", "file", "reason"] = identity("none")
    """"reason" asks the frozen model itself, once for every expression, as SteerSeg does at inference, and keeps the
    answers in the training's folder; "file" reads such a file."""
    file: Path | None = runtime(None)
    """JSON: "video/expression id" -> list of attributes. Its texts enter the data's digest, its place does not."""
    reasoning: ReasoningSettings = identity(ReasoningSettings())
    """Of the reasoning call; its engine must be local."""
    drop: float = identity(0.5)
    """Chance that a prompt is shown without its attributes, so that one soft prompt serves both forms."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.drop <= 1.0:
            raise PrerequisiteError(f"attributes.drop is {self.drop}.", "Choose a chance from 0 to 1.")
        if self.source == "reason" and self.reasoning.engine != "local":
            raise PrerequisiteError(
                f"attributes.reasoning.engine is {self.reasoning.engine}.",
                "Use local, or give the attributes of a run as a file.",
            )
        if (self.source == "file") != (self.file is not None):
            raise PrerequisiteError(
                f"attributes.source is {self.source}, attributes.file is {self.file}.",
                "Give a file with source file, and none otherwise.",
            )


@dataclass(frozen=True, kw_only=True)
class LossChoice(Settings):
    """Loss of a map: binary cross-entropy plus Dice, on its own grid."""

    normalisation: Literal["standardised", "min_max", "share"] = identity("standardised")
    """"standardised": p = sigmoid(2 (z - 1)), z the map minus its mean over its standard deviation. "min_max": the
    normalisation of inference, with gradients through both extremes; a sink that holds the maximum then gets next to
    none. "share": p = the cell's fraction of the map's attention mass, times the target's area in cells. Its Dice is
    the mass off the target, up to the 1 that both sides have; a cell may exceed 1."""
    bce: float = identity(1.0)
    dice: float = identity(1.0)
    target: Literal["area", "binary"] = identity("area")
    """The fraction of each cell that the mask covers, or 1 where that is at least a half."""

    def __post_init__(self) -> None:
        if self.bce < 0 or self.dice < 0 or self.bce + self.dice == 0:
            raise PrerequisiteError(
                f"loss.bce is {self.bce}, loss.dice is {self.dice}.", "Give weights of 0 or more, not both 0."
            )


@dataclass(frozen=True, kw_only=True)
class Optimisation(Settings):
    """AdamW with a linear warm-up and a cosine to 0."""

    rate: float = identity(1e-3)
    weight_decay: float = identity(0.0)
    warm_up: float = identity(0.03)
    """Fraction of the steps."""
    clip_norm: float = identity(1.0)
    """Largest norm of a prompt's gradient."""
    clips: int = identity(8)
    """Clip calls to a step."""
    frames: int = identity(32)
    """Frame calls to a step."""
    frames_per_sample: int = identity(4)
    """Keyframes with the object drawn of each expression and epoch for the frame calls."""
    epochs: int = identity(1)
    steps: int | None = identity(None)
    """Instead of epochs; the order goes on through as many as needed."""

    def __post_init__(self) -> None:
        at_least_one(self, "clips", "frames", "frames_per_sample", "epochs", "steps")
        if not (self.rate > 0 and self.clip_norm > 0 and self.weight_decay >= 0 and 0 <= self.warm_up < 1):
            raise PrerequisiteError(
                "optimiser: rate and clip_norm must be positive, weight_decay at least 0, warm_up in [0, 1).",
                "Correct the recipe.",
            )

    def factor(self, step: int, steps: int) -> float:
        """Of the learning rate at step 0..steps-1."""
        warm = round(self.warm_up * steps)
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


@dataclass(frozen=True, kw_only=True)
class WorkersChoice(Settings):
    """Where a training runs. The numbers are those of one worker up to rounding: the order of samples is the same."""

    executor: Literal["ray", "inprocess"] = runtime("ray")
    """"inprocess" is one worker without Ray."""
    count: int = runtime(1)
    gpus_per_worker: float = runtime(0.0)
    cpus_per_worker: float = runtime(1.0)
    address: str | None = runtime(None)
    """A Ray cluster to join, whose machines share the runs folder; default: RAY_ADDRESS, else a local one."""
    restarts: int = runtime(2)
    """How often a lost worker is replaced; the training goes on from its last checkpoint."""

    def __post_init__(self) -> None:
        at_least_one(self, "count")
        if self.executor == "inprocess" and self.count > 1:
            raise PrerequisiteError(f"workers.count is {self.count} without Ray.", "Set workers.executor to ray.")


@dataclass(frozen=True, kw_only=True)
class TrainRecipe(Settings):
    """A training of the soft prompts of one model."""

    name: str = identity()
    note: str | None = runtime(None)
    """Goes into the prompts' card."""
    lvlm: str = runtime()
    """Hub name (owner/name[@revision]) or local folder; its digest is identity."""
    options: LvlmOptions = identity(LvlmOptions())
    """How the model runs and sees images. ``frame_batch`` also bounds the calls of one forward pass here."""
    data: DataChoice = identity()
    attributes: AttributesChoice = identity(AttributesChoice())
    granularity: Literal["clip", "frame", "both"] = identity("both")
    """Which calls get a prompt."""
    sharing: Literal["separate", "shared"] = identity("separate")
    """With "both": a prompt for each call, trained on its own, or one for both, trained on both at once."""
    tokens: int = identity(64)
    """Vectors of a prompt."""
    position: Literal["front", "before_vision", "after_vision"] = identity("front")
    init: Literal["vocabulary", "normal"] = identity("vocabulary")
    """The embeddings of random tokens, or normal with standard deviation 0.02."""
    keyframes: int = identity(16)
    rollout: RolloutSpec = identity(RolloutSpec())
    weight_gradient: bool = identity(False)
    """Whether gradients go through the rollout's head weights."""
    loss: LossChoice = identity(LossChoice())
    optimiser: Optimisation = identity(Optimisation())
    seed: int = identity(0)
    activation_checkpointing: bool = runtime(True)
    """Computes the language model's layers again in the backward pass instead of keeping what they did."""
    evaluate_every: int | None = runtime(None)
    """Steps between looks at the held-out videos; they are looked at before and after in any case."""
    evaluate_samples: int = runtime(64)
    """At most so many held-out expressions are looked at."""
    checkpoint_every: int = runtime(50)
    """Steps."""
    cache_gb: float = runtime(2.0)
    """Of processed frames kept by a worker."""
    pictures: int = runtime(4)
    """Held-out expressions drawn before and after."""
    workers: WorkersChoice = runtime(WorkersChoice())
    tracking: TrackingChoice = runtime(TrackingChoice())
    data_root: Path = runtime(default_factory=lambda: Path(os.environ.get("RVOSBENCH_DATA", "data")))
    runs: Path = runtime(default_factory=lambda: Path(os.environ.get("RVOSBENCH_RUNS", "runs")))
    """The training's folder is made in ``training/`` below it."""

    def __post_init__(self) -> None:
        at_least_one(self, "tokens", "evaluate_every", "evaluate_samples", "checkpoint_every")
        if self.keyframes < 2:
            raise PrerequisiteError(f"keyframes is {self.keyframes}.", "Choose at least 2.")
        if self.rollout.visual_columns == "reference_span":
            raise PrerequisiteError(
                "rollout.visual_columns is reference_span, which depends on what else is computed together.", "Use own."
            )
        if self.sharing == "shared" and self.granularity != "both":
            raise PrerequisiteError(
                f"sharing is shared, but granularity is {self.granularity}.",
                "Set granularity to both, or sharing to separate.",
            )

    @property
    def prompts(self) -> dict[Role, tuple[View, ...]]:
        """The prompts that are trained, one after the other, and the calls each enters."""
        if self.sharing == "shared":
            return {"shared": ("clip", "frame")}
        views: tuple[View, ...] = ("clip", "frame") if self.granularity == "both" else (self.granularity,)
        return {view: (view,) for view in views}

    @property
    def folder_name(self) -> str:
        """``name-xxxxxxxx``: the same recipe continues the same training."""
        return f"{self.name}-{digest_of({'lvlm': self.lvlm, **identity_of(self)})[:8]}"


def load_recipe(path: Path, overrides: tuple[str, ...] = ()) -> TrainRecipe:
    """Reads a training recipe and applies ``key=value`` overrides.

    Raises:
        PrerequisiteError: missing file, YAML error, the recipe of a run, unknown or wrong field; one sentence names
            file and key.
    """
    values = read_values(path, overrides)
    if "methods" in values:
        raise PrerequisiteError(
            f"{path} is the recipe of a run, not of a training.",
            "See recipes/train_steerseg.yaml; a run is started by `rvosbench run`.",
        )
    try:
        return TypeAdapter(TrainRecipe).validate_python(values)
    except ValidationError as error:
        raise PrerequisiteError(f"{path}: {describe(error)}.", "Correct the recipe or the --set value.") from error


def dump_recipe(recipe: TrainRecipe) -> str:
    """The resolved recipe as YAML, every default written out."""
    return yaml.safe_dump(plain(recipe), sort_keys=False, allow_unicode=True)


def plain(recipe: TrainRecipe) -> dict[str, Any]:
    """The resolved recipe as JSON values."""
    values: dict[str, Any] = TypeAdapter(TrainRecipe).dump_python(recipe, mode="json")
    return values
