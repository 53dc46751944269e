"""Archives for the servers that hold hidden ground truth: written, and checked as the server would.

``ref_youtube_vos``: ``Annotations/<video>/<expression>/<frame>.png`` (as ReferFormer, VISA and DecAF write it).
``mevis``: the video folders lie directly at the root. In both every listed frame has one 8-bit single-channel PNG of
the frame's size, 0 background and 255 object, and the archive holds nothing else. Members are stored uncompressed
(PNG is compressed already) in a fixed order with fixed dates: the same masks give the same bytes.

Legend: H W pixels.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from rvosbench.harness.data.cards import card_names, load_card
from rvosbench.harness.data.images import image_size
from rvosbench.harness.data.reader import Dataset
from rvosbench.harness.data.types import BoolHW, Video
from rvosbench.harness.errors import PrerequisiteError, SampleError, nearest_name
from rvosbench.harness.scoring.outputs import require_output_file
from rvosbench.harness.scoring.predictions import Absence, Problem, Strictness, Tolerance, summed_up
from rvosbench.harness.scoring.predictions.opening import videos_not_on_disk
from rvosbench.harness.scoring.predictions.sources import EmptyWhereAbsent
from rvosbench.harness.scoring.score import Progress
from rvosbench.harness.scoring.tracks import MasksOfVideo
from rvosbench.harness.store.artefacts import atomic_write

_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Submission:
    """What was written, to be kept with the server's number."""

    path: Path
    sha256: str
    bytes: int
    files: int
    """PNGs in the archive; 0 when nothing was written."""
    coverage: str
    """A server wants the whole split."""
    problems: tuple[Problem, ...]
    """Why nothing was written, or what was filled with empty masks."""
    filled: tuple[str, ...] = ()
    """Videos with masks that were filled in."""
    left_out: tuple[str, ...] = ()
    """Videos of the split that are not complete on disk, and so not in the archive."""

    @property
    def exit_code(self) -> int:
        """0: complete. 3: written with holes. 2: not written."""
        if not self.files:
            return 2
        return 3 if self.problems or self.left_out else 0


def export_submission(
    masks: MasksOfVideo,
    dataset: Dataset,
    out: Path,
    *,
    strictness: Strictness = "strict",
    absence: Absence | None = None,
    progress: Progress | None = None,
) -> Submission:
    """Writes and validates the archive of a dataset's split.

    Args:
        masks: ``open_predictions(path, dataset).of_video`` for predictions, ``masks_of_tracks`` for a run.
        dataset: opened with ``needs="frames"``: sizes are those of its images.
        strictness: strict writes nothing when a video is not on disk or a mask is unusable; lenient leaves the video
            out and fills in empty masks.
        absence: what a mask without a file means. "empty": an empty mask, which is no problem. None: strict refuses
            it, lenient fills it in. There is no "zero": an archive holds masks, not scores.
        progress: called after each video.

    Raises:
        PrerequisiteError: the dataset has no server archive, the archive cannot be written there, strict and the split
            is not complete on disk, not one mask is usable, a frame's image is unreadable, or the archive does not
            pass the validation.
    """
    root = _root(dataset)
    require_output_file(out, ".zip")
    if absence == "zero":
        raise PrerequisiteError(
            "An archive holds masks, so a mask without a file cannot score 0 in it.",
            "Use --absent empty, or --absent refuse.",
        )
    left_out = tuple(sorted(videos_not_on_disk(dataset)))
    if left_out and strictness == "strict":
        raise PrerequisiteError(
            f"{len(left_out)} of {len(left_out) + len(dataset.videos)} videos of {dataset.card.title} "
            f"({dataset.split}) are not complete on disk, and the server wants all: {_some(left_out)}.",
            "Complete the data root, or use --lenient, which leaves them out.",
        )
    source = _filled(masks) if absence == "empty" else masks
    problems: list[Problem] = []
    if strictness == "strict" or absence == "refuse":
        problems = _unusable_masks(source, dataset)
        if Tolerance(strictness, absence or "refuse").refuses(problems):
            return Submission(out, "", 0, 0, dataset.coverage, tuple(problems), left_out=left_out)
        problems = []
    files = done = usable = 0
    filled = []
    total = len(list(dataset.samples()))
    with atomic_write(out) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for video in sorted(dataset.videos, key=lambda video: video.name):
            sizes = _sizes(video)
            of_video = source(video)
            before = len(problems)
            for expression in sorted(video.expressions, key=lambda expression: expression.id):
                unusable = []
                for frame, size in enumerate(sizes):
                    mask = of_video.read(expression, frame, size)
                    if isinstance(mask, Problem):
                        unusable.append(mask)
                        mask = np.zeros(size, dtype=bool)
                    _add(archive, f"{root}{video.name}/{expression.id}/{video.frames[frame]}.png", mask)
                    files += 1
                usable += len(sizes) - len(unusable)
                problems += summed_up(unusable, len(sizes))
            if len(problems) > before:
                filled.append(video.name)
            done += len(video.expressions)
            if progress is not None:
                progress(done, total)
        if not usable:
            raise PrerequisiteError(
                f"Not one of the {files} masks is usable: {problems[0]}.", "Nothing was written; give other masks."
            )
    wrong = validate_submission(out, dataset)
    if wrong:
        out.unlink()
        raise PrerequisiteError(f"The archive written to {out} is not valid: {wrong[0]}.", "Report this as a bug.")
    return Submission(
        out,
        sha256_of(out),
        out.stat().st_size,
        files,
        dataset.coverage,
        tuple(problems),
        tuple(filled),
        left_out,
    )


def validate_submission(path: Path, dataset: Dataset) -> list[Problem]:
    """What a server would stumble over: files, folders, pixel format, values, sizes. Empty: nothing.

    Raises:
        PrerequisiteError: the dataset has no server archive, the file is not a zip archive, or a frame's image is
            unreadable.
    """
    root = _root(dataset)
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise PrerequisiteError(f"{path} is not a readable zip archive: {error}.", "Export it again.") from error
    with archive:
        return list(_check(archive, root, dataset))


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _filled(masks: MasksOfVideo) -> MasksOfVideo:
    return lambda video: EmptyWhereAbsent(masks(video))


def _some(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _root(dataset: Dataset) -> str:
    """What precedes the video folders in the archive."""
    archive = dataset.card.archive
    if archive is None:
        having = [name for name in card_names() if load_card(name).archive is not None]
        raise PrerequisiteError(f"{dataset.card.title} has no server archive.", nearest_name(dataset.card.name, having))
    return archive.prefix


def _sizes(video: Video) -> list[tuple[int, int]]:
    try:
        return [image_size(path) for path in video.frame_paths]
    except SampleError as error:
        raise PrerequisiteError(f"{error}.", "The archive needs every frame of the split on disk.") from error


def _unusable_masks(masks: MasksOfVideo, dataset: Dataset) -> list[Problem]:
    problems = []
    for video in dataset.videos:
        sizes, of_video = _sizes(video), masks(video)
        for expression in video.expressions:
            read = [of_video.read(expression, frame, size) for frame, size in enumerate(sizes)]
            problems += summed_up([mask for mask in read if isinstance(mask, Problem)], len(sizes))
    return problems


def _add(archive: zipfile.ZipFile, name: str, mask_HW: BoolHW) -> None:
    encoded = io.BytesIO()
    Image.fromarray(mask_HW.astype(np.uint8) * 255).save(encoded, "PNG", compress_level=6)
    entry = zipfile.ZipInfo(name, _DATE)
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, encoded.getvalue())


def _check(archive: zipfile.ZipFile, root: str, dataset: Dataset) -> Iterator[Problem]:
    names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
    yield from (Problem("extra", name, "twice in the archive") for name, n in Counter(names).items() if n > 1)
    present, wanted = set(names), set[str]()
    for video in dataset.videos:
        sizes = _sizes(video)
        for expression in video.expressions:
            missing = []
            for frame, size in zip(video.frames, sizes, strict=True):
                name = f"{root}{video.name}/{expression.id}/{frame}.png"
                wanted.add(name)
                if name not in present:
                    missing.append(Problem("missing", name))
                else:
                    yield from _check_png(archive, name, size)
            yield from summed_up(missing, len(sizes))
    yield from (Problem("extra", name) for name in sorted(present - wanted))


def _check_png(archive: zipfile.ZipFile, name: str, size: tuple[int, int]) -> Iterator[Problem]:
    try:
        with Image.open(io.BytesIO(archive.read(name)), formats=["PNG"]) as image:
            image.load()
            mode, found = image.mode, (image.height, image.width)
            values = set(np.unique(np.asarray(image)).tolist())
    except (OSError, SyntaxError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        yield Problem("unreadable", name, str(error))
        return
    if mode != "L":
        yield Problem("unreadable", name, f"pixel format {mode}; 8-bit single channel (L) is wanted")
    elif not values <= {0, 255}:
        yield Problem("unreadable", name, f"values {sorted(values - {0, 255})[:4]}; only 0 and 255 are wanted")
    if found != size:
        yield Problem("wrong size", name, f"{found[0]}x{found[1]} (HxW), the frame is {size[0]}x{size[1]}")
