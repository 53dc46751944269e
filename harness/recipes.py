"""The recipe: methods x LVLMs x datasets, and where to run them. Read from YAML, validated, written back resolved.

Every field is *identity* (changes results) or *runtime* (must not), like the settings of stages; the run
folder's name hashes the identity fields, so the same recipe continues the same run on any number of workers.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import Field, ValidationError, model_validator

from rvosbench.harness.costs import Cost
from rvosbench.harness.errors import PrerequisiteError, nearest_name
from rvosbench.harness.secrets import holds_hidden, redacted
from rvosbench.harness.settings import Settings, identity, known_keys, runtime
from rvosbench.harness.text import one_line
from rvosbench.harness.yaml_files import parse_yaml, read_yaml

_KEY_VARIABLE = r"^RVOSBENCH_([A-Z0-9_]*_)?KEY([A-Z0-9_]*)$"


@dataclass(frozen=True, kw_only=True)
class SyntheticChoice(Settings):
    """A split of the synthetic benchmark that is written before a run where the data root does not hold it yet."""

    layout: str = runtime()
    """"shapes", or the layout of a benchmark: davis17, revos, mevis ..."""
    seed: Annotated[int, Field(ge=0)] = runtime(0)
    videos: Annotated[int, Field(ge=1)] = runtime(2)


@dataclass(frozen=True, kw_only=True)
class DatasetChoice(Settings):
    """A dataset split, or the first videos of it."""

    name: str = identity()
    """A card's name. Of a card of one's own it is the file's name without suffix, and may be left out."""
    card: str | None = runtime(None)
    """A card of one's own, ``./mybench.yaml``; relative to the recipe."""
    split: str | None = identity(None)
    """Default: the card's first split."""
    protocols: tuple[str, ...] = identity(())
    """Default: the split's protocols in the card."""
    limit_videos: Annotated[int | None, Field(ge=1)] = identity(None)
    """Only the first videos in name order; summaries then say "n of N videos"."""
    synthetic: SyntheticChoice | None = runtime(None)
    """Generated data in place of the benchmark's; refused where the data root holds the benchmark."""

    @model_validator(mode="before")
    @classmethod
    def _name_of_card(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("card"), str):
            return values
        name = PurePath(values["card"]).stem
        if values.get("name", name) != name:
            raise ValueError(f"name: the card {values['card']} is called '{name}'")
        return {**values, "name": name}

    @property
    def source(self) -> str:
        """What ``open_dataset`` finds the card by."""
        return self.name if self.card is None else self.card


@dataclass(frozen=True, kw_only=True)
class ReferenceChoice(Settings):
    """The line of the published table that an entry reproduces, as ``published_results.csv`` spells it."""

    method: str = runtime()
    lvlm: str | None = runtime(None)
    """Default: what the table calls the checkpoint."""


@dataclass(frozen=True, kw_only=True)
class MethodChoice(Settings):
    """A method with settings that differ from its defaults."""

    method: str = identity()
    """A registered name, ``package.module:OBJECT``, or ``./file.py:OBJECT`` with a path relative to the recipe."""
    label: str | None = identity(None)
    """The name in tables; default: the method's title."""
    lvlms: tuple[str, ...] | None = identity(None)
    """Default: the recipe's list."""
    settings: dict[str, Any] = identity(default_factory=dict)
    """Validated by the method's own settings type, unknown keys refused."""
    reference: ReferenceChoice | None = runtime(None)
    """Published numbers to set the scores beside."""


@dataclass(frozen=True, kw_only=True)
class Pool(Settings):
    """A homogeneous pool of workers for one stage."""

    workers: int | Literal["auto"] = runtime("auto")
    """"auto": as many as the cluster's GPUs (or CPUs, without GPUs) allow."""
    cpus: Annotated[float, Field(gt=0)] = runtime(1.0)
    gpus: Annotated[float, Field(ge=0)] = runtime(0.0)
    """May be a fraction: 0.5 puts two workers on one GPU."""
    memory_gb: Annotated[float | None, Field(gt=0)] = runtime(None)
    threads: Annotated[int, Field(ge=1)] = runtime(1)
    """OMP threads of each worker; one is much faster than two on a shared machine."""

    def __post_init__(self) -> None:
        if isinstance(self.workers, int) and self.workers < 1:
            raise ValueError("workers must be at least 1, or auto")


@dataclass(frozen=True, kw_only=True)
class ExecutorChoice(Settings):
    """Where the work runs and how failures of workers are handled."""

    kind: Literal["ray", "inprocess"] = runtime("ray")
    address: str | None = runtime(None)
    """A Ray cluster to join ("auto" or host:port); default: RAY_ADDRESS, else a local one is started."""
    pools: dict[str, Pool] = runtime(default_factory=dict)
    """By stage name."""
    max_attempts: Annotated[int, Field(ge=1)] = runtime(3)
    """How often an item may kill or hang its worker before it is recorded as failed."""
    deadline_seconds: Annotated[float, Field(gt=0)] = runtime(3600.0)
    """Per expression of an item; a worker past it is replaced."""
    start_seconds: Annotated[float, Field(gt=0)] = runtime(1800.0)
    """For a worker to load its models."""
    object_store_gb: Annotated[float, Field(gt=0)] = runtime(0.5)
    """Local cluster only; frames and masks travel by path, so it stays small."""

    def pool(self, stage: str) -> Pool:
        """The stage's pool, or the default one."""
        return self.pools.get(stage, Pool())


@dataclass(frozen=True, kw_only=True)
class EngineChoice(Settings):
    """Limits of a vLLM engine; None is vLLM's default. None of them changes an answer."""

    gpu_memory_utilization: Annotated[float | None, Field(gt=0, le=1)] = runtime(None)
    """The fraction of a GPU's memory that the engine takes."""
    max_num_seqs: Annotated[int | None, Field(ge=1)] = runtime(None)
    """The largest number of requests that are computed together."""
    max_num_batched_tokens: Annotated[int | None, Field(ge=1)] = runtime(None)
    """The largest number of tokens of one step."""
    cpu_offload_gb: Annotated[float | None, Field(ge=0)] = runtime(None)
    """Weights kept in host memory, in GB per GPU."""
    enforce_eager: bool | None = runtime(None)
    """Whether no CUDA graphs are captured, which saves memory and the time to start."""


@dataclass(frozen=True, kw_only=True)
class ServingChoice(Settings):
    """Where the model of a stage runs that needs a server (a ``reason`` stage with ``engine: server``)."""

    endpoints: tuple[str, ...] = runtime(())
    """Base addresses of servers that run already, e.g. http://10.0.0.3:8000; none: vLLM engines are started."""
    key_variable: Annotated[str, Field(pattern=_KEY_VARIABLE)] = runtime("RVOSBENCH_SERVER_KEY")
    """Environment variable that holds the endpoints' API key, if they want one: ``RVOSBENCH_...KEY``, so that a recipe
    cannot have other secrets of the user sent anywhere."""
    replicas: int | Literal["auto"] = runtime("auto")
    """Engines to start; "auto": as many as the cluster's GPUs allow, one without GPUs."""
    gpus: Annotated[int, Field(ge=0)] = runtime(0)
    """GPUs of each engine (tensor parallel over them); 0 computes on the CPU."""
    cpus: Annotated[float, Field(ge=0)] = runtime(0.0)
    """CPUs set aside for each engine; 0: it shares what there is."""
    engine: EngineChoice = runtime(EngineChoice())
    """Memory and batch limits of the engines that are started."""
    start_seconds: Annotated[float, Field(gt=0)] = runtime(900.0)
    """The time in which an engine must load its model, in seconds."""
    max_restarts: Annotated[int, Field(ge=0)] = runtime(3)
    """How often Ray starts an engine again that was lost."""
    concurrency: Annotated[int, Field(ge=1)] = runtime(8)
    """Requests in flight at most, per replica and worker of the stage."""
    request_seconds: Annotated[float, Field(gt=0)] = runtime(300.0)
    """For one answer."""
    attempts: Annotated[int, Field(ge=1)] = runtime(4)
    """How often a request may fail (time-out, dropped connection, error of the server) before its sample fails."""

    def __post_init__(self) -> None:
        for endpoint in self.endpoints:
            if not endpoint.startswith(("http://", "https://")):
                raise ValueError(f"endpoints: '{redacted(endpoint)}' does not begin with http:// or https://")
        if isinstance(self.replicas, int) and self.replicas < 1:
            raise ValueError("replicas must be at least 1, or auto")


@dataclass(frozen=True, kw_only=True)
class TrackingChoice(Settings):
    """MLflow mirror."""

    enabled: bool = runtime(True)
    uri: str | None = runtime(None)
    """Default: SQLite in the runs folder."""


@dataclass(frozen=True, kw_only=True)
class Recipe(Settings):
    """What to run. ``identity`` fields decide the results, ``runtime`` fields only where and how fast."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = identity()
    note: str | None = runtime(None)
    """Shown with the run's scores, e.g. "untrained models: the path is proven, not the accuracy"."""
    data_root: Path = runtime(default_factory=lambda: Path(os.environ.get("RVOSBENCH_DATA", "data")))
    """Default: RVOSBENCH_DATA, else ``data``."""
    runs: Path = runtime(default_factory=lambda: Path(os.environ.get("RVOSBENCH_RUNS", "runs")))
    """Folder of run folders and of the artefact store they share. Default: RVOSBENCH_RUNS, else ``runs``."""
    datasets: Annotated[tuple[DatasetChoice, ...], Field(min_length=1)] = identity()
    lvlms: tuple[str, ...] = identity(())
    """Hub names (owner/name[@revision]) or local folders."""
    methods: Annotated[tuple[MethodChoice, ...], Field(min_length=1)] = identity()
    executor: ExecutorChoice = runtime(ExecutorChoice())
    serving: ServingChoice = runtime(ServingChoice())
    tracking: TrackingChoice = runtime(TrackingChoice())
    cost: Cost | None = runtime(None)
    """Assumed rates, from which plans estimate GPU-hours."""


def load_recipe(path: Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """Reads a recipe and applies ``key=value`` overrides (dotted keys, YAML values, list indices).

    Raises:
        PrerequisiteError: missing file, YAML error, a recipe of something else, unknown or wrong field; one sentence
            names file and key.
    """
    values = read_values(path, overrides)
    if "methods" not in values and "datasets" not in values:
        raise PrerequisiteError(
            f"{path} is not the recipe of a run: it names neither methods nor datasets.",
            "See recipes/decaf.yaml; a recipe of a training is for `rvosbench train`.",
        )
    _resolve_cards(values, path.absolute().parent)
    try:
        recipe = Recipe.checked(values)
    except ValidationError as error:
        raise PrerequisiteError(
            f"{path}: {describe(error, Recipe)}.", "Correct the recipe or the --set value."
        ) from error
    _require_secrets(recipe, path)
    methods = tuple(replace(choice, method=_placed(choice.method, path)) for choice in recipe.methods)
    return replace(recipe, methods=methods, data_root=expanded(recipe.data_root), runs=expanded(recipe.runs))


def _require_secrets(recipe: Recipe, path: Path) -> None:
    """A recipe written into a run folder has no secrets: it can be resumed where it does not need them."""
    for key, value in (("serving.endpoints", recipe.serving.endpoints), ("tracking.uri", recipe.tracking.uri)):
        if holds_hidden(value):
            raise PrerequisiteError(
                f"{path}: {key} held a secret, which run folders do not keep.", "Run the recipe itself again."
            )


def _placed(method: str, recipe: Path) -> str:
    """The method's name, with a file's path made absolute: it is relative to the recipe."""
    file, colon, name = method.rpartition(":")
    if not colon or not file.endswith(".py"):
        return method
    return f"{(recipe.resolve().parent / expanded(file)).resolve()}:{name}"


def expanded(path: str | Path) -> Path:
    """A path with ``~`` and ``$VARIABLES`` filled in.

    Raises:
        PrerequisiteError: a variable is not set, or the user does not exist.
    """
    text = os.path.expanduser(os.path.expandvars(path))  # noqa: PTH111 - pathlib has no expandvars
    if "$" in text or text.startswith("~"):
        raise PrerequisiteError(f"The path {path} names a variable or user that does not exist.", "Write the path.")
    return Path(text)


def _resolve_cards(values: dict[str, Any], folder: Path) -> None:
    datasets = values.get("datasets")
    for choice in datasets if isinstance(datasets, list) else []:
        if isinstance(choice, dict) and isinstance(choice.get("card"), str):
            choice["card"] = str(folder / Path(os.path.expandvars(choice["card"])).expanduser())


def read_values(path: Path, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
    """What a recipe file of any kind says, with overrides applied, not validated.

    Raises:
        PrerequisiteError: missing file, YAML error (see ``read_yaml``), or an override that leads nowhere.
    """
    if not path.exists():
        raise PrerequisiteError(f"There is no recipe at {path}.", "See recipes/ for examples.")
    raw = read_yaml(path)
    if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
        raise PrerequisiteError(f"{path} holds no recipe (a mapping is expected).", "See recipes/ for examples.")
    for override in overrides:
        apply_override(raw, override)
    return raw


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML, every default written out; secrets are replaced (``harness.secrets``)."""
    return yaml.safe_dump(redacted(recipe.plain()), sort_keys=False, allow_unicode=True)


SettingsT = TypeVar("SettingsT", bound=Settings)


def method_settings(settings_type: type[SettingsT], values: dict[str, Any], method: str) -> SettingsT:
    """A method's settings from a recipe's mapping.

    Raises:
        PrerequisiteError: an unknown key or a wrong value; one sentence names it.
    """
    try:
        return settings_type.checked(values)
    except ValidationError as error:
        raise PrerequisiteError(
            f"Settings of method '{method}': {describe(error, settings_type)}.", "Correct the recipe."
        ) from error


def describe(error: ValidationError, settings_type: type[Settings] | None = None) -> str:
    """All problems of a validation error in one line, each with its key.

    Args:
        settings_type: what was validated; the nearest known key is then named after a wrong one.
    """
    parts = []
    for problem in error.errors(include_url=False, include_context=False):
        where = ".".join(str(part) for part in problem["loc"]) or "recipe"
        text = problem["msg"].rstrip(".")
        if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            text = "there is no such key"
            known = () if settings_type is None else known_keys(settings_type, problem["loc"][:-1])
            text += f" ({nearest_name(str(problem['loc'][-1]), known).rstrip('.')})" if known else ""
        elif problem["type"] in ("tuple_type", "list_type"):
            text = "should be a list, [a, b]"
        parts.append(f"{where}: {one_line(text)}")
    return "; ".join(parts)


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Sets one ``key=value`` in a mapping.

    Raises:
        PrerequisiteError: not of that form, or the key leads nowhere.
    """
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise PrerequisiteError(f"--set {override} is not key=value.", "Example: --set executor.kind=inprocess")
    value = parse_yaml(text, f"The value of --set {override}")
    *path, last = key.split(".")
    target: Any = raw
    for part in path:
        if isinstance(target, list) and part.isdigit() and int(part) < len(target):
            target = target[int(part)]
        elif isinstance(target, dict):
            target = target.setdefault(part, {})
        else:
            raise PrerequisiteError(f"--set {override}: '{part}' leads nowhere.", "Check the key in the recipe.")
    if isinstance(target, list) and last.isdigit() and int(last) < len(target):
        target[int(last)] = value
    elif isinstance(target, dict):
        target[last] = value
    else:
        raise PrerequisiteError(f"--set {override}: '{last}' leads nowhere.", "Check the key in the recipe.")
