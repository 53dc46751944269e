"""Localization heads: published ones, and files that ``rvosbench calibrate lochead`` wrote. No torch here."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from rvosbench.harness.data.parsing import brief, load_json
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.paths import given_path
from rvosbench.harness.recipes import describe
from rvosbench.harness.requirements import Requirement
from rvosbench.harness.store.artefacts import write_json
from rvosbench.methods.lochead.settings import Head
from rvosbench.methods.models.lvlm.base import LvlmSettings
from rvosbench.methods.models.lvlm.checkpoints import config_of
from rvosbench.methods.models.requirements import found_checkpoint

_HEAD = re.compile(r"L(\d+)H(\d+)", re.IGNORECASE)
_Heads = Field(min_length=1)
_Index = Annotated[int, Field(ge=0)]
_Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class KnownHeads(_Record):
    """Heads published for a model."""

    checkpoints: tuple[str, ...]
    """Its names on the hub."""
    family: str
    layers: int
    heads_per_layer: int
    heads: tuple[Head, ...] = _Heads
    source: str


class OfModel(_Record):
    """The model that heads were found in."""

    checkpoint: str
    """As it was named; for people."""
    digest: str
    family: str
    layers: int
    heads_per_layer: int


class Frequency(_Record):
    """How often a head was selected."""

    layer: _Index
    head: _Index
    frequency: _Share
    """Of a trial's pairs, averaged over trials."""
    by_trial: tuple[_Share, ...]
    attention_sum: FiniteFloat
    """Mean over all trials' pairs."""


class HeadFile(_Record):
    """What calibration writes: the heads, and everything that led to them."""

    kind: Literal["rvosbench lochead heads"] = "rvosbench lochead heads"
    version: Literal[1] = 1
    model: OfModel
    heads: tuple[Head, ...] = _Heads
    frequencies: tuple[Frequency, ...]
    """The most frequent first; heads that were never selected are left out."""
    thresholds: tuple[FiniteFloat | None, ...]
    """The attention sum at the elbow, trial by trial; null where every pair has its own."""
    data: Mapping[str, Any]
    """Which pairs: source, how many, digest of those drawn, what could not be read."""
    settings: Mapping[str, Any]
    """Identity settings of the calibration."""
    versions: Mapping[str, str]
    """Of the packages that computed."""

    @model_validator(mode="after")
    def _once(self) -> HeadFile:
        counted = [(entry.layer, entry.head) for entry in self.frequencies]
        if len(set(counted)) < len(counted):
            raise ValueError("a head's frequency is given twice")
        return self


@cache
def known_heads() -> Mapping[str, KnownHeads]:
    """Published heads by the name they have here."""
    text = files("rvosbench.methods.lochead").joinpath("known_heads.yaml").read_text(encoding="utf-8")
    return {name: KnownHeads.model_validate(entry) for name, entry in yaml.safe_load(text).items()}


def find_heads(where: str, lvlm: LvlmSettings) -> tuple[Head, ...]:
    """The heads that ``LocHeadSettings.heads`` leads to, for one model.

    Raises:
        PrerequisiteError: none are known, the file is missing or malformed, or it is of another checkpoint.
    """
    written = _HEAD.findall(where)
    if written and not _HEAD.sub("", where).strip(" ,"):
        return _fitting(tuple((int(layer), int(head)) for layer, head in written), lvlm, where)
    if where == "known":
        return _published(lvlm)
    if where in known_heads():
        return _by_name(where, lvlm)
    path = given_path(where)
    if path.is_dir():
        return _in_folder(path, lvlm)
    found = read_heads(path)
    if found.model.digest != lvlm.digest:
        raise PrerequisiteError(
            f"{path} holds the heads of {found.model.checkpoint} ({_short(found.model.digest)}), not of "
            f"{lvlm.checkpoint} ({_short(lvlm.digest)}).",
            f"Find this checkpoint's: {calibrate_command(lvlm)}",
        )
    return _fitting(found.heads, lvlm, str(path))


def heads_requirement(where: str, lvlm: str) -> Requirement:
    """The heads of a model, as far as they can be checked: of which checkpoint a file is needs the checkpoint.

    Args:
        where: see ``LocHeadSettings.heads``.
    """
    out = where if where.endswith(".json") else f"{where}/{Path(lvlm).name}.json" if "/" in where else "heads.json"
    fix = f"Find them: rvosbench calibrate lochead --lvlm {lvlm} --dataset NAME --out {out}"
    try:
        path = given_path(where)
        found = found_checkpoint(lvlm)
        if isinstance(found, PrerequisiteError):
            if path.is_dir() and not any(path.glob("*.json")):
                raise PrerequisiteError(f"There are no heads files in {where}.")
            if where != "known" and where not in known_heads() and not _HEAD.search(where) and not path.is_dir():
                read_heads(path)
        else:
            find_heads(where, LvlmSettings(checkpoint=lvlm, digest=found.digest))
    except PrerequisiteError as error:
        return Requirement("heads", lvlm, "missing", error.problem, fix)
    return Requirement("heads", lvlm)


def read_heads(path: Path) -> HeadFile:
    """A heads file.

    Raises:
        PrerequisiteError: missing, or not one.
    """
    fix = "Write it with rvosbench calibrate lochead."
    if not path.is_file():
        raise PrerequisiteError(
            f"There are no heads at {brief(str(path), 200)}: it is no file.",
            f"Write the file with rvosbench calibrate lochead, or set heads to one of: known, "
            f"{', '.join(known_heads())}, or heads such as 'L14H24 L14H13'.",
        )
    try:
        # Strict, so that true is no frequency and "3" no layer; as JSON, where lists are tuples.
        return HeadFile.model_validate_json(json.dumps(load_json(path)), strict=True)
    except ValidationError as error:
        raise PrerequisiteError(f"{path} is no heads file: {describe(error)}.", fix) from error


def write_heads(path: Path, found: HeadFile) -> None:
    """Writes a heads file, whole or not at all.

    Raises:
        PrerequisiteError: the disk refuses.
    """
    write_json(path, found.model_dump(mode="json"))


def check_sizes(heads: tuple[Head, ...], layers: int, heads_per_layer: int, checkpoint: str) -> None:
    """Refuses heads that a model does not have.

    Raises:
        PrerequisiteError: names the first one.
    """
    for layer, head in heads:
        if not (0 <= layer < layers and 0 <= head < heads_per_layer):
            raise PrerequisiteError(
                f"{checkpoint} has no head L{layer}H{head}: it has {layers} layers of {heads_per_layer} heads.",
                "Correct heads, or calibrate this checkpoint with rvosbench calibrate lochead.",
            )


def calibrate_command(lvlm: LvlmSettings) -> str:
    """What to type for a model's heads."""
    return f"rvosbench calibrate lochead --lvlm {lvlm.checkpoint} --dataset NAME --out heads.json"


def _published(lvlm: LvlmSettings) -> tuple[Head, ...]:
    name = lvlm.digest.partition("@")[0]
    for entry in known_heads().values():
        if name in entry.checkpoints:
            return entry.heads
    raise PrerequisiteError(
        f"No localization heads are published for {lvlm.checkpoint}.",
        f"Find them: {calibrate_command(lvlm)}, then set heads: heads.json. "
        f"Published, for copies in a folder too: {', '.join(known_heads())}.",
    )


def _by_name(name: str, lvlm: LvlmSettings) -> tuple[Head, ...]:
    entry = known_heads()[name]
    config = config_of(lvlm.checkpoint)
    layers, heads_per_layer = _sizes(config)
    told = (config.get("model_type"), layers or entry.layers, heads_per_layer or entry.heads_per_layer)
    if told != (entry.family, entry.layers, entry.heads_per_layer):
        raise PrerequisiteError(
            f"The heads of {name} are not those of {lvlm.checkpoint}, a '{told[0]}' model of {told[1]} layers of "
            f"{told[2]} heads.",
            f"Find this checkpoint's: {calibrate_command(lvlm)}",
        )
    return entry.heads


def _in_folder(folder: Path, lvlm: LvlmSettings) -> tuple[Head, ...]:
    paths = sorted(folder.glob("*.json"))
    for path in paths:
        found = read_heads(path)
        if found.model.digest == lvlm.digest:
            return _fitting(found.heads, lvlm, str(path))
    raise PrerequisiteError(
        f"None of the {len(paths)} heads files in {folder} is of {lvlm.checkpoint} ({_short(lvlm.digest)}).",
        f"Find its heads: {calibrate_command(lvlm).replace('heads.json', str(folder / 'heads.json'))}",
    )


def _fitting(heads: tuple[Head, ...], lvlm: LvlmSettings, where: str) -> tuple[Head, ...]:
    """The heads, held against what the checkpoint's configuration says; once it is loaded, ``check_sizes`` again."""
    if len(set(heads)) < len(heads):
        raise PrerequisiteError(f"heads '{where}' names a head twice.", "Name each once.")
    layers, heads_per_layer = _sizes(config_of(lvlm.checkpoint))
    if layers and heads_per_layer:
        check_sizes(heads, layers, heads_per_layer, lvlm.checkpoint)
    return heads


def _sizes(config: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Layers and heads of the language model; None where the configuration leaves them to its class."""
    text = {**config, **config.get("text_config", {})}
    return text.get("num_hidden_layers"), text.get("num_attention_heads")


def _short(digest: str) -> str:
    """A digest for people."""
    return f"digest {digest[:12]}" if re.fullmatch(r"[0-9a-f]{64}", digest) else digest
