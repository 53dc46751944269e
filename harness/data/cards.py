"""Dataset cards: what a benchmark is, as data. One YAML file each, in ``datasets/`` (shipped as ``cards/``).

A card states facts and where they come from. A number that nobody could check says so in ``confidence``;
a number that nobody knows is left out.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

import rvosbench
from rvosbench.harness.errors import PrerequisiteError, nearest_name

CARDS = Path(rvosbench.__file__).parent / "cards"

MaskKind = Literal["palette", "binary", "rle"]
"""palette: one PNG per frame whose pixel is the object id. binary: a folder of PNGs per object, non-zero is object.
rle: one dictionary, key -> one COCO RLE or null per frame."""
MaskKey = Literal["obj_id", "anno_id", "running_counter", "source_video_object"]
"""How an expression names its masks. running_counter: its rank over all expressions, videos and ids sorted as
strings. source_video_object: ``<source>_<video>_<obj_id>``."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Masks(_Model):
    """Where a layout keeps its ground truth."""

    kind: MaskKind
    key: MaskKey
    paths: tuple[str, ...] = Field(min_length=1)
    """A folder (palette, binary) or a file (rle), relative to the benchmark's folder; the first that exists is used."""


class Layout(_Model):
    """One way the benchmark lies on disk. Paths may hold ``{folder}`` and ``{split}`` and are tried in order."""

    name: str
    title: str
    used_by: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    """The splits it holds; empty means all of them."""
    folders: tuple[str, ...] = ()
    """Names of the benchmark's folder, when they differ from the card's."""
    entries: Literal["mapping", "list"] = "mapping"
    """Whether ``expressions`` is a mapping from id to entry, or a list (ReasonVOS)."""
    metadata: tuple[str, ...] = Field(min_length=1)
    frames: tuple[str, ...] = Field(min_length=1)
    """Folders that hold one folder of images per video."""
    masks: Masks | None = None
    """None where the ground truth is hidden."""


class Expected(_Model):
    """Counts of the complete split."""

    videos: int | None = None
    objects: int | None = None
    expressions: int | None = None
    frames: int | None = None
    pairs: int | None = None
    """(expression, frame) pairs."""
    confidence: Literal["verified", "stated", "recalled"]
    """verified: counted in the files. stated: by the owner. recalled: from a paper, unchecked."""


class Checksum(_Model):
    """SHA-256 of a file, relative to the benchmark's folder."""

    file: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Split(_Model):
    """One split: where it lies, what is public, how it is scored."""

    title: str
    folder: str
    """Fills ``{folder}`` in the layouts' paths."""
    ground_truth: Literal["public", "hidden"]
    protocols: tuple[str, ...] = ()
    """Primary first; empty for a training split, which has no protocol."""
    expected: Expected | None = None
    no_target_expressions: bool = False
    """Whether an expression may have no target. Where False, one without is a sign of the wrong release."""
    video_ids: str | None = None
    """A text file beside the cards, one id per line, when the metadata holds other videos too."""
    checksums: tuple[Checksum, ...] = ()


class SubsetRule(_Model):
    """How the metadata says which subset an expression belongs to."""

    field: str | None = None
    required: bool = False
    values: dict[int | str, str] = {}
    """Value of ``field`` -> subset name."""
    empty_targets: str | None = None
    """The subset of expressions without a target, where no field says it."""


class Card(_Model):
    """A benchmark."""

    name: str
    title: str
    summary: str
    folders: tuple[str, ...] = Field(min_length=1)
    """Names of its folder under the data root, the contract's name first."""
    default_split: str
    splits: dict[str, Split]
    layouts: tuple[Layout, ...] = Field(min_length=1)
    """The official one and the repackaged ones, in the order they are tried."""
    subsets: dict[str, str] = {}
    """Name -> what it holds."""
    subset_rule: SubsetRule = SubsetRule()
    annotators: int | None = None
    """Ref-DAVIS17: expression id modulo this number is the annotator."""
    known_defects: tuple[str, ...] = ()
    licence: str
    citation: str
    obtain: str
    sources: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _names_exist(self) -> Card:
        if self.default_split not in self.splits:
            raise ValueError(f"default_split '{self.default_split}' is not one of the splits {sorted(self.splits)}")
        for layout in self.layouts:
            unknown = set(layout.splits) - set(self.splits)
            if unknown:
                raise ValueError(f"layout '{layout.name}' names unknown splits {sorted(unknown)}")
        named = set(self.subset_rule.values.values()) | ({self.subset_rule.empty_targets} - {None})
        if named - set(self.subsets):
            raise ValueError(f"subset_rule names unknown subsets {sorted(map(str, named - set(self.subsets)))}")
        return self

    def split(self, name: str | None) -> tuple[str, Split]:
        """The split called ``name`` (None: the default one), with its name.

        Raises:
            PrerequisiteError: the card has no such split.
        """
        name = name or self.default_split
        if name not in self.splits:
            raise PrerequisiteError(f"{self.title} has no split '{name}'.", nearest_name(name, self.splits))
        return name, self.splits[name]

    def layouts_of(self, split: str) -> tuple[Layout, ...]:
        """The layouts that hold ``split``, in order."""
        return tuple(layout for layout in self.layouts if not layout.splits or split in layout.splits)


def card_names() -> list[str]:
    """Names of the cards that ship, sorted."""
    return sorted(path.stem for path in CARDS.glob("*.yaml"))


@cache
def load_card(name: str) -> Card:
    """The card called ``name``.

    Raises:
        PrerequisiteError: there is none (the nearest name is suggested), or the file is malformed.
    """
    if name not in card_names():
        raise PrerequisiteError(f"There is no dataset '{name}'.", nearest_name(name, card_names()))
    return read_card(CARDS / f"{name}.yaml")


def read_card(path: Path) -> Card:
    """The card in a YAML file.

    Raises:
        PrerequisiteError: not readable, not YAML, an unknown or missing key, a wrong type, or a name that
            differs from the file's.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise PrerequisiteError(f"The card {path} cannot be read: {error}.", "Restore the file.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""
        raise PrerequisiteError(f"The card {path} is not valid YAML{where}.", "Fix the file.") from error
    if not isinstance(raw, dict):
        raise PrerequisiteError(f"The card {path} must be a mapping, found {type(raw).__name__}.", "Fix the file.")
    try:
        card = Card.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "the card"
        problem = f"The card {path} is malformed at {key}: {first['msg'].removeprefix('Value error, ')}."
        raise PrerequisiteError(problem, "Fix the file.") from error
    if card.name != path.stem:
        raise PrerequisiteError(f"The card {path} is named '{card.name}', expected '{path.stem}'.", "Fix the file.")
    return card


def video_ids(split: Split) -> frozenset[str] | None:
    """The ids a split is limited to, from the file beside the cards; None when it is not limited."""
    if split.video_ids is None:
        return None
    path = CARDS / split.video_ids
    if not path.is_file():
        raise PrerequisiteError(f"The list of video ids {path} is missing.", "Reinstall the package.")
    return frozenset(path.read_text(encoding="utf-8").split())
