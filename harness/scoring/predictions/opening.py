"""Opens predictions: chooses the reader by what is there."""

from __future__ import annotations

from pathlib import Path

from rvosbench.harness.data.cards import video_ids
from rvosbench.harness.data.layouts import candidates
from rvosbench.harness.data.metadata import read_metadata
from rvosbench.harness.data.reader import Dataset
from rvosbench.harness.data.types import Video
from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.harness.scoring.predictions.images import ImagePredictions
from rvosbench.harness.scoring.predictions.placing import IMAGE_SUFFIXES
from rvosbench.harness.scoring.predictions.problems import Absence, Problem
from rvosbench.harness.scoring.predictions.rle import RlePredictions
from rvosbench.harness.scoring.predictions.rle_files import RLE_SUFFIXES, is_rle_file, load_rle_file
from rvosbench.harness.scoring.predictions.sources import EmptyWhereAbsent, Predictions, Reading, VideoMasks
from rvosbench.harness.scoring.predictions.trees import ARCHIVE_SUFFIXES, FileTree, is_archive, open_tree

_FORMS = (
    f"a folder of <video>/<expression>/<frame>.png, an archive of one ({', '.join(ARCHIVE_SUFFIXES)}), or a file of "
    f"RLE masks ({', '.join(RLE_SUFFIXES)})"
)
_REFUSED = {
    (".pkl", ".pickle", ".pt", ".pth", ".bin"): "is a pickle, which can run code when it is read",
    (".npz", ".npy", ".h5", ".hdf5", ".mat"): "holds arrays, whose frames and expressions have no agreed names",
    (".rar", ".7z", ".zst"): "is an archive of a kind that is not read",
    (".mp4", ".avi", ".gif"): "is a film, whose compression changes masks",
}
_OWN_TABLES = ("scores.json", "run.json", "samples.parquet", "frames.parquet")
_LARGEST_INNER_FILE = 2**32


def open_predictions(path: Path, dataset: Dataset, absence: Absence = "refuse") -> Predictions:
    """Predictions for a dataset, in whichever layout they are.

    Args:
        path: a folder, an archive or an RLE file.
        dataset: what the masks belong to.
        absence: "empty" gives an empty mask where there is no file; otherwise that is a problem of kind "missing".

    Raises:
        PrerequisiteError: it cannot be read, or not one mask in it belongs to a sample of the dataset.
    """
    source = _opened(path, dataset, _listed_videos(dataset) - {video.name for video in dataset.videos})
    return _Filled(source) if absence == "empty" else source


def videos_not_on_disk(dataset: Dataset) -> frozenset[str]:
    """Videos of the split that the metadata lists and that are not in the dataset: some of their files are absent."""
    names = _listed_videos(dataset) - {video.name for video in dataset.videos}
    allowed = video_ids(dataset.card, dataset.split)
    return names if allowed is None else names & allowed


def _listed_videos(dataset: Dataset) -> frozenset[str]:
    """Every video of the metadata, those of other splits too: tools write masks of all that it lists."""
    split = dataset.card.splits[dataset.split]
    located = [c for c in candidates(dataset.card, dataset.split, dataset.root) if c.layout.name == dataset.layout]
    if not located:
        return frozenset()
    entries = read_metadata(located[0].metadata, dataset.card, split, located[0].layout)
    return frozenset(entry.name for entry in entries)


def _opened(path: Path, dataset: Dataset, not_on_disk: frozenset[str]) -> Predictions:
    if (path / "recipe.yaml").is_file() and (path / "run.json").is_file():
        raise PrerequisiteError(
            f"{path} is a run folder, which holds no masks as files.",
            "Its scores are in its scores.json; export-submission makes an archive of its masks.",
        )
    if path.is_dir() or (path.is_file() and is_archive(path)):
        tree = open_tree(path)
        inner = _only_rle_file(tree)
        if inner is None:
            return ImagePredictions(path, tree, dataset, not_on_disk)
        try:
            content = tree.reader.read(tree.files[inner], _LARGEST_INNER_FILE)
        except (SampleError, FileNotFoundError) as error:
            raise PrerequisiteError(f"{path / inner} cannot be read: {error}.", "Give an intact copy.") from error
        return RlePredictions(path / inner, load_rle_file(content, str(path / inner)), dataset, not_on_disk)
    if path.is_file() and is_rle_file(path.name):
        try:
            content = path.read_bytes()
        except OSError as error:
            raise PrerequisiteError(f"{path} cannot be read: {error.strerror}.", "Give an intact copy.") from error
        return RlePredictions(path, load_rle_file(content, str(path)), dataset, not_on_disk)
    if not path.exists():
        raise PrerequisiteError(f"{path} does not exist.", f"Give {_FORMS}.")
    for suffixes, reason in _REFUSED.items():
        if path.name.lower().endswith(suffixes):
            raise PrerequisiteError(f"{path} {reason}.", f"Give {_FORMS}.")
    raise PrerequisiteError(f"{path} is of no kind that holds masks.", f"Give {_FORMS}.")


def _only_rle_file(tree: FileTree) -> str | None:
    """The RLE file in a folder that holds no image, if there is exactly one."""
    if any(name.lower().endswith(IMAGE_SUFFIXES) for name in tree.files):
        return None
    found = [name for name in tree.files if is_rle_file(name) and name.rpartition("/")[2] not in _OWN_TABLES]
    return found[0] if len(found) == 1 else None


class _Filled:
    """Another source with empty masks where there is no file."""

    def __init__(self, source: Predictions) -> None:
        self._source = source

    @property
    def reading(self) -> Reading:
        return self._source.reading

    def unexpected(self) -> list[Problem]:
        return self._source.unexpected()

    def of_video(self, video: Video) -> VideoMasks:
        return EmptyWhereAbsent(self._source.of_video(video))
