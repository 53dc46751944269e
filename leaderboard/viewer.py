"""One sample of a run: its frames, its predicted masks, its ground truth. No Streamlit here.

H W: pixels.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rvosbench.harness.data.cards import card_names
from rvosbench.harness.data.images import read_rgb
from rvosbench.harness.data.masks import decode
from rvosbench.harness.data.reader import Dataset, open_dataset
from rvosbench.harness.data.types import BoolHW, Expression, FrameHW3, GroundTruth, MaskTrack, Video
from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.harness.results.reader import Run
from rvosbench.harness.store.artefacts import ArtefactStore
from rvosbench.harness.store.tracks import mask_track

DATA_VARIABLE = "RVOSBENCH_DATA"
KEY = re.compile(r"[0-9a-f]{16,128}")
"""An artefact's key. What is none never becomes part of a path."""


@dataclass(frozen=True)
class SampleView:
    """What can be shown of a sample."""

    video: Video
    expression: Expression
    ground_truth: GroundTruth | None
    track: MaskTrack | None
    """None where the run kept no masks for it."""
    problem: str = ""
    """Why there is no track, or nothing."""

    def layers(self, index: int) -> tuple[FrameHW3, BoolHW | None, BoolHW | None]:
        """Frame, prediction and ground truth; a mask is None where there is none.

        Raises:
            SampleError: the frame, the ground truth or the stored mask cannot be read.
        """
        # One file at a time: a damaged frame must not hide the others.
        return read_rgb(self.video.frame_paths[index]), self._prediction(index), self._truth(index)

    def _prediction(self, index: int) -> BoolHW | None:
        if self.track is None or index not in self.track.frames:
            return None
        return decode(self.track.rles[self.track.frames.index(index)], self.track.height, self.track.width)

    def _truth(self, index: int) -> BoolHW | None:
        if self.ground_truth is None or index not in self.ground_truth.scored_frames(self.video, self.expression):
            return None
        return self.ground_truth.mask(self.video, self.expression, index)


def data_roots(run: Run) -> list[Path]:
    """Where the run's data may be: RVOSBENCH_DATA, then the recipe's root as it was meant on the machine of the run."""
    roots = [Path(os.environ[DATA_VARIABLE])] if os.environ.get(DATA_VARIABLE) else []
    if run.data_root is not None:
        roots += (
            [run.data_root] if run.data_root.is_absolute() else [run.data_root, run.runs_root.parent / run.data_root]
        )
    return roots


def find_dataset(run: Run, name: str, split: str) -> Dataset:
    """The dataset of a sample, opened where the run's data is.

    Raises:
        PrerequisiteError: no card of that name, no data root, or the data is not there; one sentence says where it
            was looked for.
    """
    if name not in card_names():
        raise PrerequisiteError(f"There is no dataset card '{name}'.", "Install the package that provides it.")
    roots = data_roots(run)
    if not roots:
        raise PrerequisiteError("The run does not say where its data is.", f"Set {DATA_VARIABLE}.")
    problems = []
    for root in roots:
        try:
            return open_dataset(name, root, split)
        except PrerequisiteError as error:
            problems.append(error.problem)
    raise PrerequisiteError(
        f"The frames of {name} ({split}) cannot be shown: {problems[0]}",
        f"Set {DATA_VARIABLE} to the folder that holds them.",
    )


def open_sample(run: Run, dataset: Dataset, row: Mapping[str, Any]) -> SampleView:
    """The sample of a row of samples.parquet.

    Raises:
        PrerequisiteError: its video or expression is not in the dataset on disk.
    """
    video = next((video for video in dataset.videos if video.name == row["video"]), None)
    expression = next((e for e in video.expressions if e.id == row["expression"]), None) if video else None
    if video is None or expression is None:
        raise PrerequisiteError(
            f"Video {row['video']}, expression {row['expression']} is not among the {dataset.coverage} of "
            f"{dataset.card.title} in {dataset.root}.",
            "Restore the data the run was made with.",
        )
    track, problem = _track(run, row)
    return SampleView(video, expression, dataset.ground_truth, track, problem)


def reasoning(run: Run, row: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """What the reasoning stage left for people to read, as (name, text); empty where it did not run.

    Raises:
        PrerequisiteError: its artefact is missing or damaged.
    """
    key = row.get("key_reason")
    if not isinstance(key, str) or not KEY.fullmatch(key):
        return ()
    meta = ArtefactStore(run.artefacts).read_meta("reason", key)
    attributes = meta.get("attributes")
    found = {
        "Attributes": "; ".join(map(str, attributes)) if isinstance(attributes, list) else None,
        "Object": meta.get("object_name"),
        "Reasons": meta.get("reasons"),
        "Fallback": meta.get("fallback"),
    }
    return tuple((name, text) for name, text in found.items() if isinstance(text, str) and text)


def _track(run: Run, row: Mapping[str, Any]) -> tuple[MaskTrack | None, str]:
    key = row.get("key_segment")
    if not isinstance(key, str) or not key:
        return None, "No masks were kept for this sample."
    if not KEY.fullmatch(key):
        return None, "The artefact key of this sample is malformed."
    try:
        return mask_track(ArtefactStore(run.artefacts).read("segment", key)), ""
    except PrerequisiteError as error:
        return None, error.problem
    except SampleError as error:
        return None, f"Artefact {key[:12]} holds no mask track: {error}."
