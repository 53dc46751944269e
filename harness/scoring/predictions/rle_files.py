"""Reads RLE files of every form into one: ``<video>/<expression>`` -> masks.

Forms that are read, from JSON, JSON lines or parquet:

* ``{video: {expression: masks}}``, also inside one more mapping such as ``{"videos": ...}``, and
  ``{"<video>/<expression>": masks}``;
* Sa2VA's ``results.json``: in place of the masks a mapping with ``prediction_masks`` and ``frames``;
* as the metadata is written: ``{"videos": {video: {"frames": [...], "expressions": {expression: masks}}}}``;
* records, one for each expression (``video``, ``expression``, ``masks``) or for each frame (``video``, ``expression``,
  ``frame`` and either ``mask`` or ``size`` and ``counts``).

Masks are a list with one RLE or null per frame, or a mapping from frame names. Single masks are checked when they are
decoded, so that one bad mask spoils no other.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rvosbench.harness.data.parsing import parse_json
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.scoring.predictions.trees import FREE_EXPANSION, MAX_EXPANSION, bounded
from rvosbench.harness.text import one_line


@dataclass(frozen=True, slots=True)
class Unusable:
    """What stands where the masks of one expression belong."""

    reason: str

    def __len__(self) -> int:
        return 0


Track = list[Any] | dict[str, Any] | Unusable
"""One RLE or None per frame in the metadata's order, or by frame name; or why there is neither."""

RLE_SUFFIXES = (".json", ".json.gz", ".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz", ".parquet")

_FIX = 'Write {"<video>": {"<expression>": [RLE or null per frame]}}.'
_VIDEO = ("video", "video_id", "video_name", "vid")
_EXPRESSION = ("expression", "expression_id", "exp_id", "expr_id")
_FRAME = ("frame", "frame_name", "frame_id")
_MASKS = ("prediction_masks", "pred_masks", "masks", "rles", "segmentations")
_MASK = ("mask", "rle", "segmentation")
_SIZE = ("size", "height", "width", "counts")
_MAX_DEPTH = 8
_BATCH = 256


@dataclass(frozen=True)
class RleFile:
    """What a file holds."""

    title: str
    """Its form in words."""
    tracks: dict[str, Track]
    """``<video>/<expression>`` -> masks; further keys in front where the file nests deeper."""
    notes: tuple[str, ...] = ()


def is_rle_file(name: str) -> bool:
    """Whether the name says that it is an RLE file that can be read."""
    return name.lower().endswith(RLE_SUFFIXES)


def load_rle_file(content: bytes, name: str) -> RleFile:
    """Reads a file's content; its form is chosen by the suffix of its name.

    Raises:
        PrerequisiteError: not of the form that its suffix says, or it holds no masks by video and expression.
    """
    suffix = name.lower()
    try:
        if suffix.endswith(".gz"):
            suffix = suffix.removesuffix(".gz")
            with gzip.open(io.BytesIO(content)) as file:
                content = b"".join(bounded(file, len(content), name))
        if suffix.endswith(".parquet"):
            return RleFile("RLE masks (parquet)", _tracks_of_records(_parquet(content, name), name))
        if suffix.endswith(".json"):
            return _json_file(parse_json(content, name), name)
        lines = (line for line in content.splitlines() if line.strip())
        rows = (parse_json(line, f"{name}, line {number}") for number, line in enumerate(lines, 1))
        return RleFile("RLE masks (JSON lines)", _tracks_of_records(rows, name))
    except (OSError, EOFError, zlib.error) as error:
        raise PrerequisiteError(f"{name} cannot be read: {error}.", "Replace the file with an intact copy.") from error
    except MemoryError as error:
        raise PrerequisiteError(f"{name} does not fit into memory.", "Give it in parts, or as PNGs.") from error


def _json_file(raw: Any, name: str) -> RleFile:
    if isinstance(raw, list):
        return RleFile("RLE masks (JSON records)", _tracks_of_records(raw, name))
    if not isinstance(raw, dict):
        raise PrerequisiteError(f"{name} must be a mapping from video to expressions.", _FIX)
    tracks: dict[str, Track] = {}
    sa2va = False
    for key, track, is_record in _leaves(raw, (), name):
        if key in tracks:
            raise PrerequisiteError(f"{name} holds the masks of '{one_line(key)}' twice.", "Keep one of them.")
        tracks[key] = track
        sa2va |= is_record
    return RleFile("RLE masks (JSON, as Sa2VA writes its results)" if sa2va else "RLE masks (JSON)", tracks)


def _leaves(node: Mapping[str, Any], above: tuple[str, ...], name: str) -> Iterator[tuple[str, Track, bool]]:
    """Every (key, masks, whether they came as a record) below a mapping."""
    if len(above) > _MAX_DEPTH:
        raise PrerequisiteError(f"{name} nests too deeply to be a file of masks.", _FIX)
    if above and isinstance(node.get("expressions"), dict):
        frames = node.get("frames")
        children = {key: _with_frames(child, frames) for key, child in node["expressions"].items()}
    else:
        children = dict(node)
    for key, child in children.items():
        path = (*above, key)
        if isinstance(child, dict):
            if any(word in child for word in _MASKS):
                # Without masks the expression is missing, and none of the others suffers.
                if (masks := _first(child, _MASKS)) is not None:
                    yield "/".join(path), _named(masks, child.get("frames")), True
            elif "counts" in child:
                yield "/".join(path), Unusable("one mask where a list with one for every frame is expected"), False
            elif child and len(path) == 1 and "/" not in key and all(mask is None for mask in child.values()):
                continue  # a video without the masks of any expression
            elif _is_track(child):
                yield "/".join(path), child, False
            else:
                yield from _leaves(child, path, name)
        elif isinstance(child, list):
            if child and all(isinstance(row, dict) and _first(row, _VIDEO) is not None for row in child):
                for own, track in _tracks_of_records(child, name).items():
                    yield own, track, False
            else:
                yield "/".join(path), child, False
        elif len(path) > 1 and child is not None:
            yield "/".join(path), Unusable("neither a list of masks nor a mapping from frames"), False


def _with_frames(child: Any, frames: Any) -> Any:
    """Masks of an expression, with the frames that the video's entry lists."""
    if not isinstance(frames, list):
        return child
    if isinstance(child, list):
        return {"masks": child, "frames": frames}
    if isinstance(child, dict) and any(word in child for word in _MASKS) and child.get("frames") is None:
        return {**child, "frames": frames}
    return child


def _named(masks: Any, frames: Any) -> Track:
    """A record's masks, by frame name where it lists frames."""
    if isinstance(masks, dict):
        return masks
    if not isinstance(masks, list):
        return Unusable("its masks are neither a list nor a mapping from frames")
    if frames is None:
        return masks
    if not isinstance(frames, list) or not all(isinstance(frame, str | int) for frame in frames):
        return Unusable("its frames are no list of names")
    if len(frames) != len(masks) or len(set(map(str, frames))) != len(frames):
        return Unusable(f"{len(masks)} masks for {len(set(map(str, frames)))} different frames that it lists")
    return dict(zip(map(str, frames), masks, strict=True))


def _tracks_of_records(rows: Iterable[Any], name: str) -> dict[str, Track]:
    tracks: dict[str, Track] = {}
    for number, row in enumerate(rows, 1):
        where = f"{name}, record {number}"
        if not isinstance(row, dict):
            raise PrerequisiteError(f"{where} must be a mapping with a video, an expression and its masks.", _FIX)
        key = f"{_id(row, _VIDEO, where)}/{_id(row, _EXPRESSION, where)}"
        if _first(row, _FRAME) is None:
            masks = _first(row, _MASKS)
            if masks is None:
                raise PrerequisiteError(f"{where} has neither a frame nor one of {', '.join(_MASKS)}.", _FIX)
            if key in tracks:
                raise PrerequisiteError(f"{where} gives the masks of '{one_line(key)}' again.", "Keep one of them.")
            tracks[key] = _named(masks, row.get("frames"))
            continue
        frame = _id(row, _FRAME, where)
        if not any(key in row for key in (*_MASK, "counts")):
            names = f"{', '.join(_MASK)}, or size and counts; null for an empty one"
            raise PrerequisiteError(f"{where} holds no mask of its frame ({names}).", _FIX)
        track = tracks.setdefault(key, {})
        if not isinstance(track, dict) or frame in track:
            again = one_line(f"{key}, frame {frame}")
            raise PrerequisiteError(f"{where} gives the mask of '{again}' again.", "Keep one of them.")
        track[frame] = _mask_of(row)
    return tracks


def _mask_of(row: Mapping[str, Any]) -> Any:
    """The mask in a record of one frame."""
    if row.get("counts") is not None:
        size = row.get("size")
        return {"size": [row.get("height"), row.get("width")] if size is None else size, "counts": row["counts"]}
    return _first(row, _MASK)


def _id(row: Mapping[str, Any], keys: tuple[str, ...], where: str) -> str:
    value = _first(row, keys)
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # tables turn whole numbers into floats where one is absent
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise PrerequisiteError(f"{where} must name its {keys[0]} ({', '.join(keys)}).", _FIX)
    return str(value)


def _first(row: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    return next((row[key] for key in keys if row.get(key) is not None), None)


def _is_track(node: Mapping[str, Any]) -> bool:
    """Whether a mapping goes from frames to masks: some are, or are null, and none is a level or a list of masks."""
    values = node.values()
    masks = sum(isinstance(value, dict) and "counts" in value for value in values)
    if not masks:
        return bool(node) and all(value is None for value in values)
    return not any(isinstance(value, list) or (isinstance(value, dict) and "counts" not in value) for value in values)


def _parquet(content: bytes, name: str) -> Iterator[Any]:
    # Here, because it takes longer to import than most files take to read.
    import pyarrow as pa
    import pyarrow.parquet as pq

    total, limit = 0, max(FREE_EXPANSION, MAX_EXPANSION * len(content))
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        known = {*_VIDEO, *_EXPRESSION, *_FRAME, *_MASKS, *_MASK, *_SIZE, "frames"}
        columns = [column for column in file.schema_arrow.names if column in known]
        for batch in file.iter_batches(batch_size=_BATCH, columns=columns):
            total += batch.nbytes
            if total > limit:
                problem = f"{name} expands to more than {limit} bytes, {MAX_EXPANSION} times its size."
                raise PrerequisiteError(problem, "Give the masks as JSON.")
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PrerequisiteError(f"{name} is not a readable parquet file: {first}.", _FIX) from error
