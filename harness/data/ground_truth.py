"""Ground truth in its three forms: palette PNGs, folders of binary PNGs, and RLE dictionaries.

All implement ``rvosbench.harness.data.types.GroundTruth``. They are cheap to send to another process: paths travel,
decoded masks and dictionaries do not. H W: pixels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np

from rvosbench.harness.data.caches import ArrayCache
from rvosbench.harness.data.files import RleTable, images_by_stem, load_rle_table
from rvosbench.harness.data.images import Uint8HW, image_size, read_binary, read_labels
from rvosbench.harness.data.masks import decode
from rvosbench.harness.data.types import BoolHW, Expression, GroundTruth, Video
from rvosbench.harness.errors import SampleError

ValueT = TypeVar("ValueT")

NoFile = Literal["unscored", "empty"]
CACHE_BYTES = 8 * 2**20
VOID = 255
"""Palette index of pixels that count for no object."""


class DiskGroundTruth(GroundTruth, Protocol):
    """Ground truth that can say, without decoding a pixel, whether a video's masks are on disk."""

    def absence(self, video: Video) -> str | None:
        """Why a video cannot be scored, in a few words; None when its masks are complete."""
        ...

    def size(self, video: Video, expression: Expression, frame: int) -> tuple[int, int]:
        """(H, W) of the expression's mask on a frame, without decoding it."""
        ...


class PaletteGroundTruth(DiskGroundTruth):
    """``<root>/<video>/<frame>.png`` with object ids as pixels (DAVIS, YouTube-VOS). Every frame is annotated."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._labels: ArrayCache[Uint8HW] = ArrayCache(CACHE_BYTES)
        self._digests: _Memo[str] = _Memo()

    def absence(self, video: Video) -> str | None:
        present = images_by_stem(self.root / video.name)
        missing = [frame for frame in video.frames if present.get(frame) != f"{frame}.png"]
        return missing_words(missing, len(video.frames), "masks")

    def size(self, video: Video, expression: Expression, frame: int) -> tuple[int, int]:
        return image_size(self._path(video, frame))

    def scored_frames(self, video: Video, expression: Expression) -> Sequence[int]:
        return range(len(video.frames))

    def labels(self, video: Video, frame: int) -> Uint8HW:
        """Object ids of a frame, (H, W) uint8, 255 void; read-only. Protocols that match objects need them all.

        Raises:
            SampleError: the file is missing or unreadable.
        """
        path = self._path(video, frame)
        return self._labels.get(path, lambda: read_labels(path))

    def mask(self, video: Video, expression: Expression, frame: int) -> BoolHW:
        labels_HW = self.labels(video, frame)
        mask_HW = np.zeros(labels_HW.shape, dtype=bool)
        for target in expression.targets:
            mask_HW |= labels_HW == int(target)
        return mask_HW

    def digest(self, video: Video, expression: Expression) -> str:
        paths = [self._path(video, frame) for frame in range(len(video.frames))]
        files = self._digests.get(video.name, lambda: _hash_files(paths))
        return _hash_values(["palette", list(expression.targets), list(video.frames), files])

    def _path(self, video: Video, frame: int) -> Path:
        return self.root / video.name / f"{video.frames[frame]}.png"


class BinaryGroundTruth(DiskGroundTruth):
    """``<root>/<target>/<frame>.png``, non-zero is the object (ReasonVOS, Long-RVOS).

    Args:
        root: the folder of the targets' folders.
        no_file: what a frame without a PNG means. "unscored": it has no ground truth. "empty": the object is not in it.
    """

    def __init__(self, root: Path, *, no_file: NoFile = "unscored") -> None:
        self.root = root
        self._no_file: NoFile = no_file
        self._stems: _Memo[frozenset[str]] = _Memo()
        self._masks: ArrayCache[BoolHW] = ArrayCache(CACHE_BYTES)
        self._digests: _Memo[str] = _Memo()

    def absence(self, video: Video) -> str | None:
        targets = sorted({target for expression in video.expressions for target in expression.targets})
        frames = set(video.frames)
        missing = [target for target in targets if not frames & self.annotated(target)]
        return missing_words(missing, len(targets), "mask folders")

    def size(self, video: Video, expression: Expression, frame: int) -> tuple[int, int]:
        for target in expression.targets:
            if video.frames[frame] in self.annotated(target):
                return image_size(self._path(video, target, frame))
        if self._no_file == "empty":
            return self._any_size(video, expression)
        raise SampleError(f"{self._path(video, expression.targets[0], frame)} does not exist")

    def scored_frames(self, video: Video, expression: Expression) -> Sequence[int]:
        annotated = set().union(*(self.annotated(target) for target in expression.targets))
        found = [index for index, frame in enumerate(video.frames) if frame in annotated]
        if not found:
            folders = ", ".join(str(self.root / target) for target in expression.targets)
            raise SampleError(f"no frame of '{video.name}' has a mask in {folders or self.root}")
        return range(len(video.frames)) if self._no_file == "empty" else found

    def mask(self, video: Video, expression: Expression, frame: int) -> BoolHW:
        # A target without a PNG on a frame that another target annotates is absent there.
        paths = [
            self._path(video, target, frame)
            for target in expression.targets
            if video.frames[frame] in self.annotated(target)
        ]
        if not paths and self._no_file == "empty":
            return np.zeros(self._any_size(video, expression), dtype=bool)
        if not paths:
            raise SampleError(f"{self._path(video, expression.targets[0], frame)} does not exist")
        masks = [(path, self._read(path)) for path in paths]
        return _union(masks)

    def _any_size(self, video: Video, expression: Expression) -> tuple[int, int]:
        """(H, W) of the first frame of the video that has a PNG: frames of one video are of one size."""
        for frame in self.scored_frames(video, expression):
            for target in expression.targets:
                if video.frames[frame] in self.annotated(target):
                    return image_size(self._path(video, target, frame))
        raise SampleError(f"no frame of '{video.name}' has a mask")

    def digest(self, video: Video, expression: Expression) -> str:
        form = "binary" if self._no_file == "unscored" else "binary, no file is empty"
        return _hash_values([form, list(video.frames), [self._track(video, t) for t in expression.targets]])

    def _track(self, video: Video, target: str) -> list[Any]:
        frames = [frame for frame in video.frames if frame in self.annotated(target)]
        paths = [self.root / target / f"{frame}.png" for frame in frames]
        return [frames, self._digests.get(target, lambda: _hash_files(paths))]

    def annotated(self, target: str) -> frozenset[str]:
        """Names of the frames that have a PNG in the target's folder."""
        return self._stems.get(
            target, lambda: frozenset(s for s, n in images_by_stem(self.root / target).items() if n == f"{s}.png")
        )

    def _path(self, video: Video, target: str, frame: int) -> Path:
        return self.root / target / f"{video.frames[frame]}.png"

    def _read(self, path: Path) -> BoolHW:
        return self._masks.get(path, lambda: read_binary(path))


class RleGroundTruth(DiskGroundTruth):
    """A dictionary ``{annotation: [COCO RLE or null per frame]}`` in a JSON or a pickle.

    Args:
        path: the dictionary; read on first use, once per process.
        sizes: (H, W) by video where the metadata gives it; used where no mask of a video says.
    """

    def __init__(self, path: Path, sizes: Mapping[str, tuple[int, int]]) -> None:
        self.path = path
        self._sizes = dict(sizes)

    @property
    def table(self) -> RleTable:
        """The dictionary. Raises PrerequisiteError when the file is malformed."""
        return load_rle_table(self.path)

    def absence(self, video: Video) -> str | None:
        targets = sorted({target for expression in video.expressions for target in expression.targets})
        return missing_words([target for target in targets if target not in self.table], len(targets), "mask lists")

    def scored_frames(self, video: Video, expression: Expression) -> Sequence[int]:
        for target in expression.targets:
            self._masks(video, target)
        return range(len(video.frames))

    def mask(self, video: Video, expression: Expression, frame: int) -> BoolHW:
        height, width = self.size(video, expression, frame)
        mask_HW = np.zeros((height, width), dtype=bool)
        for target in expression.targets:
            rle = self._masks(video, target)[frame]
            if rle is None:
                continue
            if tuple(rle["size"]) != (height, width):
                raise SampleError(
                    f"{self.path}: '{target}'[{frame}] has size {list(rle['size'])}, other targets [{height}, {width}]"
                )
            try:
                mask_HW |= decode(rle["counts"], height, width)
            except SampleError as error:
                raise SampleError(f"{self.path}: '{target}'[{frame}]: {error}") from error
        return mask_HW

    def digest(self, video: Video, expression: Expression) -> str:
        tracks = [[_plain_rle(rle) for rle in self._masks(video, target)] for target in expression.targets]
        # Without a target nothing but the size of the empty mask is left to hash.
        size = list(self.size(video, expression, 0)) if not any(any(track) for track in tracks) else []
        return _hash_values(["rle", list(video.frames), tracks, size])

    def size(self, video: Video, expression: Expression, frame: int) -> tuple[int, int]:
        """(H, W): of a mask on this frame, else of any mask of the expression, then of the video, then as the
        metadata says, then of the frame's image.

        Raises:
            SampleError: nothing says.
        """
        own = [self._masks(video, target) for target in expression.targets]
        for rle in [masks[frame] for masks in own] + [rle for masks in own for rle in masks]:
            if rle is not None:
                return rle["size"][0], rle["size"][1]
        table = self.table
        for other in video.expressions:
            for target in other.targets:
                for rle in table.get(target, []):
                    if rle is not None:
                        return rle["size"][0], rle["size"][1]
        if video.name in self._sizes:
            return self._sizes[video.name]
        return image_size(video.frame_paths[frame])

    def _masks(self, video: Video, target: str) -> list[dict[str, Any] | None]:
        masks = self.table.get(target)
        if masks is None:
            raise SampleError(f"{self.path} has no '{target}', which video '{video.name}' refers to")
        if len(masks) != len(video.frames):
            raise SampleError(
                f"{self.path}: '{target}' has {len(masks)} masks for the {len(video.frames)} frames of "
                f"'{video.name}', so they cannot be aligned"
            )
        return masks


class _Memo(Generic[ValueT]):
    """A dictionary that fills itself and is left behind when its owner is sent to another process."""

    def __init__(self) -> None:
        self._known: dict[str, ValueT] = {}

    def get(self, key: str, make: Callable[[], ValueT]) -> ValueT:
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def __reduce__(self) -> tuple[type[_Memo[Any]], tuple[()]]:
        return _Memo, ()


def _union(masks: Sequence[tuple[Path, BoolHW]]) -> BoolHW:
    first, union_HW = masks[0][0], masks[0][1].copy()
    for path, mask_HW in masks[1:]:
        if mask_HW.shape != union_HW.shape:
            raise SampleError(f"{path} has shape {mask_HW.shape}, but {first} has {union_HW.shape}")
        union_HW |= mask_HW
    return union_HW


def missing_words(missing: Sequence[str], total: int, what: str) -> str | None:
    """What is missing in a few words: None, "no frames" or "3 of 40 frames missing, first 00007"."""
    if not missing:
        return None
    if len(missing) == total:
        return f"no {what}"
    return f"{len(missing)} of {total} {what} missing, first {missing[0]}"


def _plain_rle(rle: dict[str, Any] | None) -> list[Any] | None:
    if rle is None:
        return None
    counts = rle["counts"]
    return [*rle["size"], counts.decode("latin-1") if isinstance(counts, bytes) else counts]


def _hash_files(paths: Iterable[Path]) -> str:
    whole = hashlib.sha256()
    for path in paths:
        try:
            whole.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError as error:
            raise SampleError(f"{path} cannot be read: {error.strerror or error}") from error
    return whole.hexdigest()


def _hash_values(values: list[Any]) -> str:
    return hashlib.sha256(json.dumps(values, separators=(",", ":")).encode()).hexdigest()
