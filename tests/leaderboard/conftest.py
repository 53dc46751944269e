"""Run folders for tests: written exactly as the run folder schema says, then damaged where a test wants it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from rvosbench.harness.data.masks import track_from_masks
from rvosbench.harness.data.reader import open_dataset
from rvosbench.harness.store.artefacts import ArtefactStore
from rvosbench.harness.store.tracks import segment_artefact

WriteRun = Callable[..., Path]

SAMPLE = {
    "dataset": "ref_davis17",
    "split": "valid",
    "subset": None,
    "num_frames": 4,
    "seconds_reason": 0.5,
    "seconds_ground": 1.25,
    "seconds_segment": 2.0,
    "seconds_score": 0.1,
    "error": None,
}


def sample_rows(method: str, lvlm: str | None, scores: Mapping[str, tuple[float, float] | str]) -> list[dict[str, Any]]:
    """Rows of samples.parquet from {"video/expression": (J, F) | "failed" | "missing"}."""
    rows = []
    for name, result in scores.items():
        video, expression = name.split("/")
        scored = not isinstance(result, str)
        j, f = result if not isinstance(result, str) else (0.0, 0.0)
        rows.append(
            {
                **SAMPLE,
                "method": method,
                "lvlm": lvlm,
                "video": video,
                "expression": expression,
                "text": f"the thing number {expression}",
                "status": "scored" if scored else result,
                "J": j,
                "F": f,
                "J_and_F": (j + f) / 2,
                "error": None if scored else f"frames/{video}/00002.jpg cannot be read",
                **{f"key_{stage}": "ab" * 32 if scored else None for stage in ("reason", "ground", "segment", "score")},
            }
        )
    return rows


def score_row(rows: Sequence[Mapping[str, Any]], **changes: Any) -> dict[str, Any]:
    """The row of scores.json that these samples give (plain mean over attempted samples)."""
    first = rows[0]
    count = {status: sum(row["status"] == status for row in rows) for status in ("scored", "failed", "missing")}
    j = sum(row["J"] for row in rows) / len(rows)
    f = sum(row["F"] for row in rows) / len(rows)
    return {
        "method": first["method"],
        "lvlm": first["lvlm"],
        "dataset": first["dataset"],
        "split": first["split"],
        "subset": "all",
        "protocol": "refdavis17/expr",
        "J": j,
        "F": f,
        "J_and_F": (j + f) / 2,
        "counts": {"attempted": len(rows), **count},
        "interval": {
            "level": 0.95,
            "low": max(0.0, (j + f) / 2 - 0.05),
            "high": min(1.0, (j + f) / 2 + 0.05),
            "unit": "video",
            "videos": 30,
            "degrees_of_freedom": 21.5,
        },
        "coverage": "2 of 30 videos",
        "extra": {},
        "notes": [],
        **changes,
    }


DECAF = {"cows/0": (0.9, 0.8), "cows/1": (0.5, 0.7), "goat/0": "failed", "goat/1": (0.25, 0.15)}
LOCHEAD = {"cows/0": (0.6, 0.5), "cows/1": (0.5, 0.4), "goat/0": (0.2, 0.3), "goat/1": "missing"}


def frame_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of frames.parquet: each scored sample's J and F on every frame."""
    keys = ("method", "lvlm", "dataset", "split", "video", "expression", "J", "F")
    counts = {"I": 10, "U": 20, "n_gt": 8, "n_pred": 8, "m_gt": 4, "m_pred": 4}
    return [
        {**{key: row[key] for key in keys}, **counts, "frame": f"{index:05d}"}
        for row in rows
        if row["status"] == "scored"
        for index in range(row["num_frames"])
    ]


def write_run_folder(
    folder: Path,
    *,
    samples: Sequence[Mapping[str, Any]] | None = None,
    scores: Sequence[Mapping[str, Any]] | None = None,
    recipe: Mapping[str, Any] | None = None,
    info: Mapping[str, Any] | None = None,
) -> Path:
    """A complete run folder of two methods; arguments replace parts of it."""
    folder.mkdir(parents=True)
    if samples is None:
        lvlm = "Qwen/Qwen2.5-VL-7B-Instruct"
        samples = [*sample_rows("DecAF", lvlm, DECAF), *sample_rows("Loc-Head", lvlm, LOCHEAD)]
    if scores is None:
        groups: dict[tuple[str, str | None], list[Mapping[str, Any]]] = {}
        for row in samples:
            groups.setdefault((row["method"], row["lvlm"]), []).append(row)
        scores = [score_row(rows) for rows in groups.values()]
    default_info = {
        "schema": 1,
        "name": folder.name,
        "status": "finished",
        "exit_code": 3,
        "started": "2026-11-20T08:00:00+00:00",
        "finished": "2026-11-20T09:30:00+00:00",
        "rvosbench": "0.1.0",
        "git": {"commit": "feca5ca", "dirty": False},
        "packages": {"torch": "2.13.0"},
        "device": {"platform": "Linux", "cpus": 2, "gpus": []},
        "stages": {"segment": {"seconds": 12.5, "items": 4, "reused": 1, "computed": 2, "failed": 1}},
        "methods": ["decaf", "lochead"],
        "datasets": [{"name": "ref_davis17", "split": "valid", "digest": "c0ffee" * 10}],
    }
    default_recipe = {
        "name": "example",
        "data_root": "data",
        "methods": [{"method": "decaf"}],
    }
    (folder / "run.json").write_text(json.dumps({**default_info, **(info or {})}))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(dict(recipe or default_recipe)))
    (folder / "scores.json").write_text(json.dumps({"schema": 1, "scores": list(scores)}))
    pd.DataFrame(samples).to_parquet(folder / "samples.parquet")
    pd.DataFrame(frame_rows(samples)).to_parquet(folder / "frames.parquet")
    return folder


def write_davis_run(runs: Path, samples: Path) -> Path:
    """A run over real frames: each prediction is the ground truth moved; J is its overlap, F is made up."""
    data_root = samples / "mini_ref_davis17"
    dataset = open_dataset("ref_davis17", data_root, "valid", needs="frames")
    assert dataset.ground_truth is not None
    store = ArtefactStore(runs / "artefacts")
    rows: list[dict[str, Any]] = []
    for number, sample in enumerate(dataset.samples()):
        video, expression = sample.video, sample.expression
        if number > 7:
            break
        frames = list(dataset.ground_truth.scored_frames(video, expression))[:12]
        truth_THW = [dataset.ground_truth.mask(video, expression, frame) for frame in frames]
        moved_THW = [
            np.roll(mask, (2 * step, 3 * step + 4 * number), axis=(0, 1)) for step, mask in enumerate(truth_THW)
        ]
        key = f"{number:064x}"
        height, width = truth_THW[0].shape
        store.write("segment", key, segment_artefact(track_from_masks(moved_THW, frames, height, width)))
        overlap = [(a & b).sum() / max(1, (a | b).sum()) for a, b in zip(truth_THW, moved_THW, strict=True)]
        (row,) = sample_rows("DecAF", "Qwen/Qwen2.5-VL-7B-Instruct", {"v/0": (float(np.mean(overlap)), 0.5)})
        names = {"video": video.name, "expression": expression.id, "text": expression.text}
        rows.append({**row, **names, "num_frames": len(frames), "key_segment": key})
    recipe = {"name": "davis", "data_root": str(data_root), "note": "moved ground truth: a test of the pages"}
    return write_run_folder(runs / "davis", samples=rows, recipe=recipe)


@pytest.fixture(scope="session")
def davis_run(tmp_path_factory: pytest.TempPathFactory, samples: Path) -> Path:
    """The folder of a run over real frames."""
    return write_davis_run(tmp_path_factory.mktemp("davis"), samples)


@pytest.fixture(scope="session")
def write_run() -> WriteRun:
    """``write_run_folder``: tests import nothing from this file."""
    return write_run_folder


@pytest.fixture(scope="session")
def rows() -> Callable[..., list[dict[str, Any]]]:
    """``sample_rows``."""
    return sample_rows


@pytest.fixture(scope="session")
def score() -> Callable[..., dict[str, Any]]:
    """``score_row``."""
    return score_row
