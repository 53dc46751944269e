"""A run's mask tracks as predictions for a server archive."""

from __future__ import annotations

from pathlib import Path

from rvosbench.harness.data.reader import Dataset
from rvosbench.harness.data.types import MaskTrack, Sample
from rvosbench.harness.errors import PrerequisiteError, SampleError, nearest_name
from rvosbench.harness.results.reader import read_run, read_samples
from rvosbench.harness.scoring.tracks import MasksOfVideo, masks_of_tracks
from rvosbench.harness.store.artefacts import ArtefactStore
from rvosbench.harness.store.tracks import mask_track


def masks_of_run(run_dir: Path, dataset: Dataset, method: str | None) -> MasksOfVideo:
    """Masks of one method of a run on a dataset split.

    Args:
        method: its label, or ``label on lvlm`` where a run has a label twice; None: the only one.

    Raises:
        PrerequisiteError: the run has no such method or did not run on the split.
    """
    run = read_run(run_dir)
    samples = read_samples(run)
    samples = samples[(samples["dataset"] == dataset.card.name) & (samples["split"] == dataset.split)]
    lvlms = samples["lvlm"].fillna("")
    samples = samples.assign(name=samples["method"] + lvlms.map(lambda lvlm: f" on {lvlm}" if lvlm else ""))
    names = sorted(samples["name"].unique())
    if not names:
        raise PrerequisiteError(
            f"{run_dir} has no sample of {dataset.card.name}/{dataset.split}.", "Run it on that split first."
        )
    chosen = [name for name in names if method is None or method in (name, name.split(" on ")[0])]
    if len(chosen) != 1:
        problem = "has several methods" if method is None else f"does not have exactly one method '{method}'"
        raise PrerequisiteError(f"{run_dir} {problem}.", f"Choose with --method. {nearest_name(method or '', names)}")
    rows = samples[samples["name"] == chosen[0]]
    keys = dict(zip(zip(rows["video"], rows["expression"], strict=True), rows["key_segment"], strict=True))
    store = ArtefactStore(run.artefacts)

    def track(sample: Sample) -> MaskTrack | None:
        key = keys.get((sample.video.name, sample.expression.id))
        if not isinstance(key, str) or not store.has("segment", key):
            return None
        try:
            return mask_track(store.read("segment", key))
        except SampleError as error:
            raise PrerequisiteError(
                f"The masks of video {sample.video.name}, expression {sample.expression.id} cannot be read: {error}.",
                "Delete that artefact and run the recipe again.",
            ) from error

    return masks_of_tracks(track)
