"""Finds one sample of a run: its row in the tables, its data on disk, its artefacts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rvosbench.harness.data.ground_truth import DiskGroundTruth
from rvosbench.harness.data.reader import open_dataset
from rvosbench.harness.data.types import Expression, Video
from rvosbench.harness.errors import PrerequisiteError, nearest_name
from rvosbench.harness.results.reader import Run, read_samples
from rvosbench.harness.store.artefacts import Artefact, ArtefactStore

_KEY = re.compile(r"[0-9a-f]{16,128}")


@dataclass(frozen=True)
class Wanted:
    """Which sample; None where the run has only one to choose from."""

    video: str
    expression: str
    dataset: str | None = None
    split: str | None = None
    method: str | None = None
    lvlm: str | None = None


@dataclass(frozen=True)
class Found:
    """A sample of a run."""

    run: Run
    row: Mapping[str, Any]
    """Its row of samples.parquet; text that is absent is None."""

    @property
    def name(self) -> str:
        """For messages."""
        return f"video {self.row['video']}, expression {self.row['expression']}"

    def artefact(self, stage: str) -> Artefact:
        """What the stage made of the sample.

        Raises:
            PrerequisiteError: the run recorded none, or it is not in the store; says why the sample failed.
        """
        key = self.row.get(f"key_{stage}")
        error = self.row.get("error")
        because = f" ({error})" if isinstance(error, str) and error else ""
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise PrerequisiteError(
                f"The run has no {stage} artefact of {self.name}{because}.",
                "Pictures need the attention maps of a method that runs the stages ground and segment.",
            )
        store = ArtefactStore(self.run.artefacts)
        if not store.has(stage, key):
            raise PrerequisiteError(
                f"The {stage} artefact of {self.name} is missing: {store.path(stage, key)}{because}.",
                f"Compute it: rvosbench run --resume {self.run.folder}",
            )
        return store.read(stage, key)

    def data(self, data_root: Path | None) -> tuple[Video, Expression, DiskGroundTruth | None]:
        """The frames and the ground truth; under the recipe's data root, unless another one is given.

        Raises:
            PrerequisiteError: the data is not there.
        """
        root = data_root or self.run.data_root
        if root is None:
            raise PrerequisiteError("The run does not say where its data is.", "Give --data-root.")
        dataset = open_dataset(str(self.row["dataset"]), root, str(self.row["split"]))
        for sample in dataset.samples():
            if (sample.video.name, sample.expression.id) == (self.row["video"], self.row["expression"]):
                return sample.video, sample.expression, dataset.ground_truth
        raise PrerequisiteError(
            f"{self.name.capitalize()} is not in {root} ({dataset.coverage}).",
            "Give the data root that the run was made with: --data-root FOLDER.",
        )


def find_sample(run: Run, wanted: Wanted) -> Found:
    """The one sample that is meant.

    Raises:
        PrerequisiteError: no such name (the nearest is suggested), or several samples fit; names the option.
    """
    samples = read_samples(run)
    if samples.empty:
        raise PrerequisiteError(f"{run.folder} has no samples yet.", "Let the run finish first.")
    # The sample first: what it was run with is offered only from its own rows.
    for column in ("video", "expression", "dataset", "split", "method", "lvlm"):
        samples = _narrow(samples, column, getattr(wanted, column))
    if len(samples) > 1:
        raise PrerequisiteError(f"{run.folder} lists this sample {len(samples)} times.", "Run the recipe again.")
    row = samples.iloc[0].to_dict()
    return Found(run, {str(name): None if _absent(value) else value for name, value in row.items()})


def _narrow(samples: pd.DataFrame, column: str, wanted: str | None) -> pd.DataFrame:
    names = samples[column].astype(object).where(samples[column].notna(), None)
    known = sorted({name for name in names if name is not None})
    if wanted is not None:
        if wanted not in known:
            raise PrerequisiteError(
                f"The run has no {column} '{wanted}'{_here(samples, column)}.", nearest_name(wanted, known)
            )
        return samples[names == wanted]
    if names.nunique(dropna=False) > 1:
        raise PrerequisiteError(
            f"The run has this sample under more than one {column}.", f"Choose with --{column}: {', '.join(known)}."
        )
    return samples


def _here(samples: pd.DataFrame, column: str) -> str:
    """Where a name was looked for."""
    if column == "video":
        return ""
    if column == "expression":
        return f" in video {samples.iloc[0]['video']}"
    return " for this sample"


def _absent(value: object) -> bool:
    return value is None or (isinstance(value, float) and value != value)
