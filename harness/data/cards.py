"""Dataset cards: what a benchmark is, as data. One YAML file each, in ``datasets/`` (shipped as ``cards/``).

A card states facts and where they come from. A number that nobody could check says so in ``confidence``;
a number that nobody knows is left out. A card of one's own is named by its path and needs no code: it says how the
benchmark's expressions are averaged.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

import rvosbench
from rvosbench.harness.data.parsing import load_yaml, why_no_name
from rvosbench.harness.errors import PrerequisiteError, nearest_name
from rvosbench.harness.paths import given_path

CARDS = Path(rvosbench.__file__).parent / "cards"
KEPT = "cards"
"""The folder in a folder of scores that keeps cards of one's own."""

MaskKind = Literal["palette", "binary", "rle"]
"""palette: one PNG per frame whose pixel is the object id. binary: a folder of PNGs per object, non-zero is object.
rle: one dictionary, key -> one COCO RLE or null per frame."""
MaskKey = Literal["obj_id", "anno_id", "running_counter", "source_video_object", "video_object"]
"""How an expression names its masks. running_counter: its rank over all expressions, videos and ids sorted as
strings. source_video_object: ``<source>_<video>_<obj_id>``. video_object: ``<video>/<obj_id>``."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Masks(_Model):
    """Where a layout keeps its ground truth."""

    kind: MaskKind
    key: MaskKey
    paths: tuple[str, ...] = Field(min_length=1)
    """A folder (palette, binary) or a file (rle), relative to the benchmark's folder; the first that exists is used."""
    no_file: Literal["unscored", "empty"] = "unscored"
    """binary: what a frame without a PNG means. unscored: it is not annotated. empty: the object is not in it."""


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
    """None where nobody has the ground truth."""
    other_entries: str | None = None
    """What the file most likely is when ``expressions`` has the other form than ``entries``, and what to do."""


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
    """hidden: a server scores it. Where its masks are on disk all the same, ``local_protocols`` score it here."""
    protocols: tuple[str, ...] = ()
    """Primary first; empty for a training split, which has no protocol."""
    local_protocols: tuple[str, ...] = ()
    """Of a hidden split whose masks are on disk; their numbers are not the server's."""
    submit: str | None = None
    """Where a hidden split is submitted today."""
    released: str | None = None
    """Where masks of a hidden split come from, if anywhere."""
    expected: Expected | None = None
    no_target_expressions: bool = False
    """Whether an expression may have no target. Where False, one without is a sign of the wrong release."""
    video_ids: str | None = None
    """A text file beside the cards, one id per line, when the metadata holds other videos too."""
    checksums: tuple[Checksum, ...] = ()


class CardProtocol(_Model):
    """How a benchmark's items are averaged where no code is needed: over frames first, then as ``average`` says."""

    text: str
    """The protocol in words: what is averaged, in which order, and what is left out."""
    average: Literal["expressions"] | tuple[str, ...] = "expressions"
    """expressions: the mean over all of them. Names of subsets: the mean of their means; the others enter none."""
    temporal: bool = False
    """Whether tIoU and vIoU are reported beside the score."""


class Defect(_Model):
    """Something known to be wrong with, or easily misread in, the data as released."""

    text: str
    splits: tuple[str, ...] = ()
    """The splits it is in; empty: all."""
    touches_scores: bool = False
    """Whether rows of scores say so."""
    videos: tuple[str, ...] = ()
    """Patterns of the names of videos it is in, e.g. ``TAO/*``; empty: all."""

    @model_validator(mode="before")
    @classmethod
    def _text_alone(cls, value: Any) -> Any:
        return {"text": value} if isinstance(value, str) else value

    def counts(self, split: str, videos: Sequence[str]) -> int:
        """How many of the videos it is in."""
        if self.splits and split not in self.splits:
            return 0
        return sum(not self.videos or any(fnmatchcase(name, p) for p in self.videos) for name in videos)


class SubsetRule(_Model):
    """How the metadata says which subset an expression belongs to."""

    field: str | None = None
    required: bool = False
    values: dict[int | str, str] = {}
    """Value of ``field`` -> subset name."""
    empty_targets: str | None = None
    """The subset of expressions without a target, where no field says it."""


class Archive(_Model):
    """What a benchmark's server accepts."""

    prefix: str
    """What precedes the video folders, e.g. ``Annotations/``; may be empty."""


class KnownFile(_Model):
    """A file whose content is known."""

    path: str
    """Relative to the folder that is fetched."""
    bytes: int = Field(gt=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Link(KnownFile):
    """A file behind a plain link."""

    url: str


class HubFolder(_Model):
    """A folder of a data set on the Hugging Face Hub."""

    repository: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
    revision: str = Field(pattern=r"^[0-9a-f]{7,40}$")
    """The commit's id, or its first digits where no more is known."""
    folder: str
    files: tuple[KnownFile, ...] = ()
    """What is known of files in it beside the Hub's own list."""


class Fetch(_Model):
    """Where a program may get a split, from the owner's own place."""

    to: str
    """The folder it becomes, relative to the data root."""
    hub: HubFolder | None = None
    links: tuple[Link, ...] = ()

    @model_validator(mode="after")
    def _usable(self) -> Fetch:
        if (self.hub is None) == (not self.links):
            raise ValueError("either hub or links must be given")
        paths = [self.to, *(link.path for link in self.links), *([self.hub.folder] if self.hub else [])]
        for path in paths:
            if (why := why_no_name(path, folders=True)) is not None:
                raise ValueError(f"the path '{path}' {why}")
        return self


class Tables(_Model):
    """How tables of several benchmarks show this one."""

    position: int
    """Columns are in this order."""
    several_splits: bool = False
    """Whether papers report more than one split, so that headings name it."""


class Card(_Model):
    """A benchmark."""

    file: Path
    """The YAML file."""
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
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
    protocols: dict[str, CardProtocol] = {}
    """Id -> how items are averaged. Ids that are defined in code need no entry."""
    archive: Archive | None = None
    """None where there is no server."""
    tables: Tables | None = None
    """None: after the others, in the order of names."""
    known_defects: tuple[Defect, ...] = ()
    licence: str
    citation: str
    obtain: str
    fetch: dict[str, Fetch] = {}
    """Split -> where a program may get it; of the others ``obtain`` says how."""
    sources: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _names_exist(self) -> Card:
        if self.default_split not in self.splits:
            raise ValueError(f"default_split '{self.default_split}' is not one of the splits {sorted(self.splits)}")
        for layout in self.layouts:
            unknown = (set(layout.splits) | set(self.fetch)) - set(self.splits)
            if unknown:
                raise ValueError(f"layout '{layout.name}' names unknown splits {sorted(unknown)}")
        for name, protocol in self.protocols.items():
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9._-]+)*", name):
                raise ValueError(f"the protocol id '{name}' must be words joined by slashes")
            if protocol.average != "expressions" and (
                not protocol.average or set(protocol.average) - set(self.subsets)
            ):
                raise ValueError(f"protocol '{name}' averages subsets that the card does not have")
        for split in self.splits.values():
            if split.video_ids is not None and why_no_name(split.video_ids) is not None:
                raise ValueError(f"video_ids '{split.video_ids}' must be the name of a file beside the card")
        named = set(self.subset_rule.values.values()) | ({self.subset_rule.empty_targets} - {None})
        if named - set(self.subsets):
            raise ValueError(f"subset_rule names unknown subsets {sorted(map(str, named - set(self.subsets)))}")
        return self

    @property
    def ships(self) -> bool:
        """Whether the card comes with the package."""
        return self.file.parent == CARDS

    @property
    def source(self) -> str:
        """What `load_card` finds it by: its name, or the path of its file."""
        return self.name if self.ships else str(self.file)

    def defects(self, split: str, videos: Sequence[str]) -> Iterator[tuple[Defect, int]]:
        """The known defects of a split, each with the number of the given videos that it is in."""
        for defect in self.known_defects:
            count = defect.counts(split, videos)
            if count:
                yield defect, count

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


def load_card(name: str) -> Card:
    """The card called ``name``, or the one in the file of that path (``./mybench.yaml``).

    Raises:
        PrerequisiteError: there is none (the nearest name is suggested), the file is malformed, or a card of one's
            own has the name of one that ships.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = given_path(name).absolute()
        if path.stem in card_names() and path.parent.resolve() == CARDS.resolve():
            return _shipped(path.stem)
        card = read_card(path)
        if card.name in card_names():
            problem = f"The card {name} is called '{card.name}', which is the name of a card that ships."
            raise PrerequisiteError(problem, "Give the card and its file another name.")
        return card
    if name not in card_names():
        hint = "A card of your own is named by its path, e.g. ./mybench.yaml."
        raise PrerequisiteError(f"There is no dataset '{name}'.", f"{nearest_name(name, card_names())} {hint}")
    return _shipped(name)


@cache
def titles() -> dict[str, str]:
    """Title in papers -> name of the card, in the order of tables; cards without a place in tables are left out."""
    placed = [(card.tables.position, card) for card in map(load_card, card_names()) if card.tables is not None]
    return {card.title: card.name for _, card in sorted(placed, key=lambda pair: pair[0])}


@cache
def _shipped(name: str) -> Card:
    return read_card(CARDS / f"{name}.yaml")


def read_card(path: Path) -> Card:
    """The card in a YAML file.

    Raises:
        PrerequisiteError: not readable, not YAML, an unknown or missing key, a wrong type, or a name that
            differs from the file's.
    """
    raw: dict[Any, Any] = load_yaml(path, "card")
    try:
        if "file" in raw:
            raise PrerequisiteError(f"The card {path} has the unknown key file.", "Correct the card.")
        card = Card.model_validate({**raw, "file": path})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "the card"
        problem = f"The card {path} is malformed at {key}: {first['msg'].removeprefix('Value error, ')}."
        raise PrerequisiteError(problem, "Correct the card.") from error
    if card.name != path.stem:
        raise PrerequisiteError(f"The card {path} is named '{card.name}', expected '{path.stem}'.", "Correct the card.")
    return card


def kept_card(folder: Path, name: str) -> Card | None:
    """The card of one's own that a folder of scores keeps in ``cards/``; None for cards that ship.

    Raises:
        PrerequisiteError: the kept file is malformed.
    """
    path = folder / KEPT / f"{name}.yaml"
    if name in card_names() or why_no_name(name) is not None or not os.path.isfile(path):  # noqa: PTH113 - never raises
        return None
    return read_card(path)


def video_ids(card: Card, split: str) -> frozenset[str] | None:
    """The ids a split is limited to, from the file beside the card; None when it is not limited.

    Raises:
        PrerequisiteError: the file is missing or not text.
    """
    name = card.splits[split].video_ids
    if name is None:
        return None
    path = card.file.parent / name
    try:
        return frozenset(path.read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError) as error:
        fix = "Reinstall the package." if card.ships else "Put the file beside the card."
        raise PrerequisiteError(f"The list of video ids {path} cannot be read.", fix) from error
