"""Reads ``meta_expressions.json`` in the forms in circulation into one shape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rvosbench.harness.data.cards import Card, Layout, MaskKey, Split
from rvosbench.harness.data.files import INTACT, load_json, malformed
from rvosbench.harness.data.types import Expression
from rvosbench.harness.errors import PrerequisiteError


@dataclass(frozen=True, slots=True)
class VideoEntry:
    """A video as the metadata lists it."""

    name: str
    frames: tuple[str, ...]
    """Sorted as strings, which is the order mask lists are aligned with."""
    expressions: tuple[Expression, ...]
    size: tuple[int, int] | None
    """(H, W) where the metadata gives it (ReVOS)."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """An expression as the file has it: its id, the raw mapping, and the words that locate it."""

    id: str
    raw: dict[str, Any]
    where: str


def read_metadata(path: Path, card: Card, split: Split, layout: Layout) -> tuple[VideoEntry, ...]:
    """Every video of the file, in file order, with targets that match the layout's ground truth.

    Raises:
        PrerequisiteError: one sentence naming the file, the key and what was expected.
    """
    raw = load_json(path)
    videos = raw.get("videos") if isinstance(raw, dict) else None
    if not isinstance(videos, dict):
        malformed(path, "'videos'", "a mapping from video name to its frames and expressions", videos)
    entries = {name: tuple(_entries(path, layout, name, video)) for name, video in videos.items()}
    counters = _running_counters(entries)
    out = []
    for name, video in videos.items():
        expressions = []
        for entry in entries[name]:
            targets: tuple[str, ...] = ()
            if split.ground_truth == "public" and layout.masks is not None:
                key = layout.masks.key
                targets = _targets(path, key, name, video, entry, counters[name, entry.id])
                if not targets and not split.no_target_expressions:
                    raise PrerequisiteError(
                        f"{path}: {entry.where} has no target, but every expression of {split.title} has one.",
                        f"Check that the file is of this release; splits: {', '.join(card.splits)}.",
                    )
            expressions.append(_expression(path, card, split, entry, targets))
        out.append(VideoEntry(name, _frames(path, name, video), tuple(expressions), _size(path, name, video)))
    return tuple(out)


def unique_ids(exp_ids: Sequence[int]) -> tuple[str, ...]:
    """One id per list position where ``exp_id`` may repeat within a video (ReasonVOS).

    The primary key is (video, list position). An ``exp_id`` that occurs once stays. When one occurs again, the
    later entry keeps it and the earlier one moves to one above the largest id so far, which is how DecAF's
    repackaged metadata numbers them: the ids are the same whichever layout is on disk. The official folder of
    an expression's masks is ``<source>_<video>_<obj_id>/<exp_id>``: its target, then the original ``exp_id``
    (which two expressions share where it was repeated).

    >>> unique_ids([0, 1, 1, 2])  # the second 1 moves position 1 to id 2; the true 2 then moves it to 3
    ('0', '3', '1', '2')
    """
    owner: dict[int, int] = {}
    for position, exp_id in enumerate(exp_ids):
        moved = owner.pop(exp_id, None)
        owner[exp_id] = position
        if moved is not None:
            owner[max(owner) + 1] = moved
    ids = {position: str(exp_id) for exp_id, position in owner.items()}
    return tuple(ids[position] for position in range(len(exp_ids)))


def _entries(path: Path, layout: Layout, name: object, video: object) -> Iterator[_Entry]:
    where = f"videos['{name}']"
    if not isinstance(name, str) or not _is_safe(name):
        raise PrerequisiteError(f"{path}: the video name {name!r} is not a relative path inside the folder.", INTACT)
    if not isinstance(video, dict):
        malformed(path, where, "a mapping with 'frames' and 'expressions'", video)
    expressions = video.get("expressions")
    if layout.entries == "mapping":
        if not isinstance(expressions, dict):
            malformed(path, f"{where}.expressions", "a mapping from expression id to its entry", expressions)
        for key, raw in expressions.items():
            at = f"{where}.expressions['{key}']"
            if "/" in key or not _is_safe(key):
                raise PrerequisiteError(f"{path}: {at} has an id that cannot name a folder.", INTACT)
            if not isinstance(raw, dict):
                malformed(path, at, "a mapping with 'exp'", raw)
            yield _Entry(key, raw, at)
        return
    if not isinstance(expressions, list):
        malformed(path, f"{where}.expressions", "a list of entries", expressions)
    exp_ids = []
    for position, raw in enumerate(expressions):
        at = f"{where}.expressions[{position}]"
        if not isinstance(raw, dict):
            malformed(path, at, "a mapping with 'exp_id' and 'exp_text'", raw)
        exp_ids.append(_integer(path, f"{at}.exp_id", raw.get("exp_id")))
    for position, exp_id in enumerate(unique_ids(exp_ids)):
        yield _Entry(exp_id, expressions[position], f"{where}.expressions[{position}]")


def _expression(path: Path, card: Card, split: Split, entry: _Entry, targets: tuple[str, ...]) -> Expression:
    raw = entry.raw
    key = "exp" if "exp" in raw else "exp_text"
    text = raw.get(key)
    if not isinstance(text, str):
        malformed(path, f"{entry.where}.{key if key in raw else 'exp'}", "text", text)
    is_sentence = raw.get("is_sent")
    if is_sentence is not None and not isinstance(is_sentence, bool):
        malformed(path, f"{entry.where}.is_sent", "true or false", is_sentence)
    annotator = None
    if card.annotators is not None:
        annotator = _integer(path, f"{entry.where}'s id", entry.id) % card.annotators
    return Expression(
        id=entry.id,
        text=text,
        targets=targets,
        subset=_subset(path, card, split, entry, targets),
        annotator=annotator,
        is_sentence=is_sentence,
    )


def _subset(path: Path, card: Card, split: Split, entry: _Entry, targets: tuple[str, ...]) -> str | None:
    rule = card.subset_rule
    if rule.field is not None and (rule.field in entry.raw or (rule.required and split.ground_truth == "public")):
        value = entry.raw.get(rule.field)
        names = {str(key): name for key, name in rule.values.items()}
        if isinstance(value, bool) or str(value) not in names:
            raise PrerequisiteError(
                f"{path}: {entry.where}.{rule.field} must be one of {', '.join(names)}, found {value!r}.", INTACT
            )
        return names[str(value)]
    if not targets and split.ground_truth == "public":
        return rule.empty_targets
    return None


def _targets(
    path: Path, key: MaskKey, name: str, video: dict[str, Any], entry: _Entry, counter: int
) -> tuple[str, ...]:
    if key == "running_counter":
        return (str(counter),)
    if key == "anno_id":
        found = _id_list(path, f"{entry.where}.anno_id", entry.raw.get("anno_id"))
        return found
    found = _id_list(path, f"{entry.where}.obj_id", entry.raw.get("obj_id"))
    if key == "obj_id":
        for target in found:
            if not target.isdecimal() or not 1 <= int(target) <= 254:
                raise PrerequisiteError(
                    f"{path}: {entry.where}.obj_id must be a palette index from 1 to 254, found {target!r}.", INTACT
                )
        return tuple(str(int(target)) for target in found)
    source = video.get("source")
    if not isinstance(source, str):
        malformed(path, f"videos['{name}'].source", "text", source)
    return tuple(f"{source}_{name}_{target}" for target in found)


def _id_list(path: Path, where: str, value: object) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    for element in values:
        if isinstance(element, bool) or not isinstance(element, int | str):
            malformed(path, where, "an id or a list of ids", value)
        if isinstance(element, str) and not _is_safe(element):
            raise PrerequisiteError(f"{path}: {where} holds {element!r}, which cannot name a file.", INTACT)
    return tuple(str(element) for element in values)


def _frames(path: Path, name: str, video: dict[str, Any]) -> tuple[str, ...]:
    where = f"videos['{name}'].frames"
    frames = video.get("frames")
    if not isinstance(frames, list) or not frames:
        malformed(path, where, "a list of frame names that is not empty", frames)
    for frame in frames:
        if not isinstance(frame, str):
            malformed(path, where, "a list of text", frame)
        if "/" in frame or not _is_safe(frame):
            raise PrerequisiteError(f"{path}: {where} holds {frame!r}, which cannot name a file.", INTACT)
    if len(set(frames)) != len(frames):
        twice = next(frame for frame in frames if frames.count(frame) > 1)
        raise PrerequisiteError(f"{path}: {where} lists '{twice}' more than once.", INTACT)
    return tuple(sorted(frames))


def _size(path: Path, name: str, video: dict[str, Any]) -> tuple[int, int] | None:
    if "height" not in video and "width" not in video:
        return None
    height = _integer(path, f"videos['{name}'].height", video.get("height"))
    width = _integer(path, f"videos['{name}'].width", video.get("width"))
    return height, width


def _integer(path: Path, where: str, value: object) -> int:
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        malformed(path, where, "an integer", value)
    return value


def _running_counters(entries: dict[str, tuple[_Entry, ...]]) -> dict[tuple[str, str], int]:
    # Over the whole file, names and ids sorted as text ("0", "1", "10", "2"): the order the pickles were built in.
    order = [(name, expression) for name in sorted(entries) for expression in sorted(e.id for e in entries[name])]
    return {key: counter for counter, key in enumerate(order)}


def _is_safe(name: str) -> bool:
    # A relative path that stays inside its folder.
    return "\0" not in name and all(part not in ("", ".", "..") for part in name.split("/"))
