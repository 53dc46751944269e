"""Finds one sample of a run: its row of samples.parquet and what its stages left in the artefact store."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from rvosbench.harness.errors import PrerequisiteError, nearest_name
from rvosbench.harness.results.reader import Run, read_samples
from rvosbench.harness.store.artefacts import Artefact, ArtefactStore
from rvosbench.leaderboard.viewer import KEY

_COLUMN = re.compile(r"key_([A-Za-z0-9][A-Za-z0-9_-]*)")
"""Names the artefact of a stage. The stage becomes a folder of a path, so that nothing else is taken for one."""
_COUNTS = "score"
"""The stage whose artefact holds counts of pixels, which the tables show."""


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
        """The sample's name in messages."""
        return f"video {self.row['video']}, expression {self.row['expression']}"


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


def read_artefacts(found: Found) -> tuple[dict[str, Artefact], tuple[str, ...]]:
    """The sample's artefacts by stage, in the stages' order, and a sentence on each that the row names in vain.

    Raises:
        DamagedArtefactError: the bytes of one are not those that were written.
    """
    store = ArtefactStore(found.run.artefacts)
    artefacts: dict[str, Artefact] = {}
    problems = []
    for column, key in found.row.items():
        named = _COLUMN.fullmatch(column)
        if named is None or named[1] == _COUNTS or not isinstance(key, str) or not key:
            continue
        if not KEY.fullmatch(key):
            problems.append(f"The key of the {named[1]} artefact is malformed")
        elif not store.has(named[1], key):
            problems.append(f"The {named[1]} artefact {key[:12]} is not in the run's store")
        else:
            artefacts[named[1]] = store.read(named[1], key)
    return artefacts, tuple(problems)


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
    return value is None or value is pd.NA or (isinstance(value, float) and value != value)
