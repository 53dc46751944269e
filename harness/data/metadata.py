"""Reads ``meta_expressions.json`` in the forms in circulation into one shape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rvosbench.harness.data.cards import Card, Layout, MaskKey, Split
from rvosbench.harness.data.files import IMAGE_SUFFIXES
from rvosbench.harness.data.parsing import INTACT, brief, load_json, malformed, why_no_name
from rvosbench.harness.data.types import Expression
from rvosbench.harness.errors import PrerequisiteError

_MAX_SIDE = 1 << 16
"""Pixels: larger than any video."""
_MAX_DIGITS = 18
"""Of an id or a number that is written as text."""


@dataclass(frozen=True, slots=True)
class VideoEntry:
    """A video as the metadata lists it."""

    name: str
    frames: tuple[str, ...]
    """In the file's order, which is the order mask lists are aligned with."""
    expressions: tuple[Expression, ...]
    names_targets: bool
    """Whether the metadata says which masks belong to each of its expressions; that of a hidden split need not."""
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
    key = layout.masks.key if layout.masks is not None else None
    for name, video in videos.items():
        named = key is not None and all(_names_target(key, entry) for entry in entries[name])
        # Only a hidden split may leave them out.
        reads = key is not None and (named or split.ground_truth == "public")
        expressions = []
        for entry in entries[name]:
            targets: tuple[str, ...] = ()
            if key is not None and reads:
                targets = _targets(path, key, name, video, entry, counters[name, entry.id])
                if not targets and not split.no_target_expressions:
                    raise PrerequisiteError(
                        f"{path}: {entry.where} has no target, but every expression of {split.title} has one.",
                        f"Check that the file is of this release; splits: {', '.join(card.splits)}.",
                    )
            expression = _expression(path, card, entry, targets if reads else None)
            if key == "running_counter" and "obj_id" in entry.raw:
                objects = _id_list(path, f"{entry.where}.obj_id", entry.raw["obj_id"])
                expression = replace(expression, objects=objects)
            expressions.append(expression)
        out.append(VideoEntry(name, _frames(path, name, video), tuple(expressions), named, _size(path, name, video)))
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


def _entries(path: Path, layout: Layout, name: str, video: object) -> Iterator[_Entry]:
    where = f"videos[{brief(name)}]"
    if (why := why_no_name(name, folders=True)) is not None:
        raise PrerequisiteError(f"{path}: the video name {brief(name)} {why}.", INTACT)
    if not isinstance(video, dict):
        malformed(path, where, "a mapping with 'frames' and 'expressions'", video)
    expressions = video.get("expressions")
    if layout.entries == "mapping":
        if not isinstance(expressions, dict):
            fix = (layout.other_entries if isinstance(expressions, list) else None) or INTACT
            expected = "a mapping from expression id to its entry"
            malformed(path, f"{where}.expressions", expected, expressions, fix=fix)
        for key, raw in expressions.items():
            at = f"{where}.expressions[{brief(key)}]"
            if (why := why_no_name(key)) is not None:
                raise PrerequisiteError(f"{path}: {at} has an id that {why}.", INTACT)
            if not isinstance(raw, dict):
                malformed(path, at, "a mapping with 'exp'", raw)
            yield _Entry(key, raw, at)
        return
    if not isinstance(expressions, list):
        fix = (layout.other_entries if isinstance(expressions, dict) else None) or INTACT
        malformed(path, f"{where}.expressions", "a list of entries", expressions, fix=fix)
    exp_ids = []
    for position, raw in enumerate(expressions):
        at = f"{where}.expressions[{position}]"
        if not isinstance(raw, dict):
            malformed(path, at, "a mapping with 'exp_id' and 'exp_text'", raw)
        exp_ids.append(_integer(path, f"{at}.exp_id", raw.get("exp_id")))
    for position, exp_id in enumerate(unique_ids(exp_ids)):
        yield _Entry(exp_id, expressions[position], f"{where}.expressions[{position}]")


def _names_target(key: MaskKey, entry: _Entry) -> bool:
    return key == "running_counter" or ("anno_id" if key == "anno_id" else "obj_id") in entry.raw


def _expression(path: Path, card: Card, entry: _Entry, targets: tuple[str, ...] | None) -> Expression:
    # None: nobody says.
    raw = entry.raw
    key = "exp" if "exp" in raw else "exp_text"
    text = raw.get(key)
    if not isinstance(text, str):
        malformed(path, f"{entry.where}.{key if key in raw else 'exp'}", "text", text)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        problem = f"{path}: {entry.where}.{key} holds half a character (a lone surrogate)."
        raise PrerequisiteError(problem, INTACT) from error
    is_sentence = raw.get("is_sent")
    if is_sentence is not None and not isinstance(is_sentence, bool):
        malformed(path, f"{entry.where}.is_sent", "true or false", is_sentence)
    annotator = None
    if card.annotators is not None:
        annotator = _integer(path, f"{entry.where}'s id", entry.id) % card.annotators
    return Expression(
        id=entry.id,
        text=text,
        targets=targets or (),
        subset=_subset(path, card, entry, targets),
        annotator=annotator,
        is_sentence=is_sentence,
        exp_id=str(raw["exp_id"]) if type(raw.get("exp_id")) is int else None,
    )


def _subset(path: Path, card: Card, entry: _Entry, targets: tuple[str, ...] | None) -> str | None:
    rule = card.subset_rule
    if rule.field is not None and (rule.field in entry.raw or (rule.required and targets is not None)):
        value = entry.raw.get(rule.field)
        names = {str(key): name for key, name in rule.values.items()}
        if isinstance(value, bool) or not isinstance(value, int | str) or str(value) not in names:
            raise PrerequisiteError(
                f"{path}: {entry.where}.{rule.field} must be one of {', '.join(names)}, found {brief(value)}.", INTACT
            )
        return names[str(value)]
    return rule.empty_targets if targets == () else None


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
            if not _is_number(target) or not 1 <= int(target) <= 254:
                raise PrerequisiteError(
                    f"{path}: {entry.where}.obj_id must be a palette index from 1 to 254, found {brief(target)}.",
                    INTACT,
                )
        return tuple(str(int(target)) for target in found)
    if key == "video_object":
        return tuple(f"{name}/{target}" for target in found)
    source = video.get("source")
    if not isinstance(source, str):
        malformed(path, f"videos[{brief(name)}].source", "text", source)
    keys = tuple(f"{source}_{name}_{target}" for target in found)
    for target in keys:
        _require_name(path, f"videos[{brief(name)}].source", target)
    return keys


def _id_list(path: Path, where: str, value: object) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    for element in values:
        if isinstance(element, bool) or not isinstance(element, int | str):
            malformed(path, where, "an id or a list of ids", value)
        if isinstance(element, str):
            _require_name(path, where, element)
        elif abs(element) >= 2**63:
            raise PrerequisiteError(f"{path}: {where} holds a number that is no id.", INTACT)
    return tuple(str(element) for element in values)


def _frames(path: Path, name: str, video: dict[str, Any]) -> tuple[str, ...]:
    where = f"videos[{brief(name)}].frames"
    frames = video.get("frames")
    if not isinstance(frames, list) or not frames:
        malformed(path, where, "a list of frame names that is not empty", frames)
    for frame in frames:
        if not isinstance(frame, str):
            malformed(path, where, "a list of text", frame)
        if (why := why_no_name(frame)) is not None:
            raise PrerequisiteError(f"{path}: {where} holds {brief(frame)}, which {why}.", INTACT)
        if frame.lower().endswith(IMAGE_SUFFIXES):
            problem = f"{path}: {where} holds {brief(frame)}, most likely a file name; frame names carry no suffix."
            raise PrerequisiteError(problem, "Remove the suffix from the names of the frames.")
    if len(set(frames)) != len(frames):
        twice = Counter(frames).most_common(1)[0][0]
        raise PrerequisiteError(f"{path}: {where} lists {brief(twice)} more than once.", INTACT)
    return tuple(frames)


def _size(path: Path, name: str, video: dict[str, Any]) -> tuple[int, int] | None:
    if "height" not in video and "width" not in video:
        return None
    height = _integer(path, f"videos[{brief(name)}].height", video.get("height"))
    width = _integer(path, f"videos[{brief(name)}].width", video.get("width"))
    if not (0 < height <= _MAX_SIDE and 0 < width <= _MAX_SIDE):
        raise PrerequisiteError(f"{path}: videos[{brief(name)}] has a height or width that no frame has.", INTACT)
    return height, width


def _integer(path: Path, where: str, value: object) -> int:
    if isinstance(value, str) and _is_number(value):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        malformed(path, where, "an integer", value)
    return value


def _is_number(text: str) -> bool:
    # isdecimal alone accepts digits of every script, and thousands of them.
    return text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS


def _require_name(path: Path, where: str, name: str) -> None:
    if (why := why_no_name(name, folders=True)) is not None:
        raise PrerequisiteError(f"{path}: {where} holds {brief(name)}, which {why}.", INTACT)


def _running_counters(entries: dict[str, tuple[_Entry, ...]]) -> dict[tuple[str, str], int]:
    # Over the whole file, names and ids sorted as text ("0", "1", "10", "2"): the order the pickles were built in.
    order = [(name, expression) for name in sorted(entries) for expression in sorted(e.id for e in entries[name])]
    return {key: counter for counter, key in enumerate(order)}
