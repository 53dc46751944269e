"""A run and a score of its exported masks give the same numbers, notes and extra metrics, to the last digit."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from rvosbench.harness.data.masks import encode
from rvosbench.harness.data.reader import Dataset, open_dataset
from rvosbench.harness.data.synthetic import write_shapes
from rvosbench.harness.data.types import BoolHW
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.pipeline.engine import Run
from rvosbench.harness.pipeline.exports import masks_of_run
from rvosbench.harness.recipes import Recipe
from rvosbench.harness.results.writer import RunFolder
from rvosbench.harness.scoring.predictions import Problem
from rvosbench.harness.scoring.score import score_predictions

CARDS = {"revos": ("revos", "valid"), "davis17": ("ref_davis17", "valid"), "mevis": ("mevis", "valid_u")}
Masks = Mapping[tuple[str, str], list[BoolHW]]


def run(folder: Path, card: str, split: str) -> Path:
    recipe = Recipe.checked(
        {
            "name": "trial",
            "data_root": str(folder / "data"),
            "runs": str(folder / "runs"),
            "datasets": [{"name": card, "split": split}],
            "methods": [{"method": "bright"}],
            "executor": {"kind": "inprocess"},
            "tracking": {"enabled": False},
        }
    )
    run_folder = RunFolder.create(recipe)
    assert Run(recipe, run_folder, Console(file=io.StringIO(), width=200)).execute() == 0
    return run_folder.path


def exported(run_folder: Path, dataset: Dataset) -> Masks:
    """Every mask of the run's only method, by video and expression."""
    masks_of = masks_of_run(run_folder, dataset, None)
    out: dict[tuple[str, str], list[BoolHW]] = {}
    for video in dataset.videos:
        masks = masks_of(video)
        with Image.open(video.frame_paths[0]) as image:
            size = image.height, image.width
        for expression in video.expressions:
            track = [masks.read(expression, frame, size) for frame in range(len(video.frames))]
            out[video.name, expression.id] = [mask for mask in track if not isinstance(mask, Problem)]
            assert len(out[video.name, expression.id]) == len(track)
    return out


def write_folder(folder: Path, dataset: Dataset, masks: Masks) -> Path:
    for video in dataset.videos:
        for expression in video.expressions:
            for frame, mask_HW in zip(video.frames, masks[video.name, expression.id], strict=True):
                path = folder / video.name / expression.id / f"{frame}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.ascontiguousarray(mask_HW).astype(np.uint8) * 255).save(path)
    return folder


def write_rles(path: Path, masks: Masks) -> Path:
    table: dict[str, dict[str, list[dict[str, Any] | None]]] = {}
    for (video, expression), track in masks.items():
        rles = [(list(mask_HW.shape), encode(mask_HW)) for mask_HW in track]
        table.setdefault(video, {})[expression] = [
            None if counts is None else {"size": size, "counts": counts} for size, counts in rles
        ]
    path.write_text(json.dumps(table))
    return path


def rows(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of scores.json without provenance, and the provenance."""
    found = json.loads((folder / "scores.json").read_text())["scores"]
    provenance = [row.pop("provenance") for row in found]
    return found, provenance


@pytest.mark.parametrize("layout", CARDS)
def test_exported_masks_score_what_the_run_scored(tmp_path: Path, layout: str) -> None:
    card, split = CARDS[layout]
    write_shapes(tmp_path / "data", layout=layout, split=split, seed=3, videos=2)
    done = run(tmp_path, card, split)
    dataset = open_dataset(card, tmp_path / "data", split, needs="masks")
    folder = write_folder(tmp_path / "masks", dataset, exported(done, dataset))
    report = score_predictions(folder, dataset, out=tmp_path / "scored", label="Bright", workers=1)
    assert report.exit_code == 0
    ran, from_run = rows(done)
    scored, from_folder = rows(tmp_path / "scored")
    assert ran == scored
    for a, b in zip(from_run, from_folder, strict=True):
        assert a["predictions"] is None and b["predictions"] == str(folder)
        for name in ("masks", "ground_truth", "metadata", "layout", "data_root", "rvosbench"):
            assert a[name] == b[name] and a[name]
    frames = [pd.read_parquet(place / "frames.parquet") for place in (done, tmp_path / "scored")]
    pd.testing.assert_frame_equal(*frames)
    samples = [pd.read_parquet(place / "samples.parquet") for place in (done, tmp_path / "scored")]
    for name in ("J", "F", "status", "digest_ground_truth", "digest_masks"):
        assert samples[0][name].tolist() == samples[1][name].tolist()
    extra = {name for row in ran for name in row["extra"]}
    if layout == "revos":
        assert {"R_bool_types01", "R_bool_type2", "empty_predictions_type2"} <= extra
    if layout == "davis17":
        anno4 = next(row for row in ran if row["protocol"] == "refdavis17/anno4")
        assert anno4["J"] is not None


@pytest.mark.parametrize("size", [(576, 96), (1280, 72), (64, 640), (480, 85)])
def test_every_form_of_masks_scores_alike_at_every_height(tmp_path: Path, size: tuple[int, int]) -> None:
    # Ground truth and RLE masks are decoded by columns, PNGs by rows; heights of whole words once failed when mixed.
    height, width = size
    truth_THW = np.zeros((3, height, width), dtype=bool)
    frames = tmp_path / "data/mevis/valid_u/JPEGImages/v"
    frames.mkdir(parents=True)
    for index in range(3):
        truth_THW[index, height // 4 : height // 2, 10 + 5 * index : 40 + 5 * index] = True
        picture = np.where(truth_THW[index], 220, 30).astype(np.uint8)
        Image.fromarray(np.roll(picture, 3, axis=0)).save(frames / f"{index:05d}.jpg", quality=95)
    expressions = {"0": {"exp": "it", "obj_id": [0], "anno_id": [0]}}
    names = [f"{index:05d}" for index in range(3)]
    metadata = {"videos": {"v": {"frames": names, "expressions": expressions, "height": height, "width": width}}}
    (tmp_path / "data/mevis/valid_u/meta_expressions.json").write_text(json.dumps(metadata))
    track = [{"size": [height, width], "counts": encode(mask_HW)} for mask_HW in truth_THW]
    (tmp_path / "data/mevis/valid_u/mask_dict.json").write_text(json.dumps({"0": track}))
    done = run(tmp_path, "mevis", "valid_u")
    dataset = open_dataset("mevis", tmp_path / "data", "valid_u", needs="masks")
    masks = exported(done, dataset)
    found = [rows(done)[0]]
    for path in (write_folder(tmp_path / "masks", dataset, masks), write_rles(tmp_path / "masks.json", masks)):
        out = tmp_path / f"scored-{path.name}"
        assert score_predictions(path, dataset, out=out, label="Bright", workers=1).exit_code == 0
        found.append(rows(out)[0])
    assert found[0] == found[1] == found[2]
    # The square, three rows too low: J is known, so that equal nonsense would not pass.
    side = height // 2 - height // 4
    assert found[0][0]["J"] == pytest.approx((side - 3) / (side + 3), abs=0.02)


def test_a_run_against_ground_truth_without_objects_ends_as_refused(tmp_path: Path) -> None:
    write_shapes(tmp_path / "data", layout="davis17", split="valid", seed=3, videos=1)
    for path in (tmp_path / "data").rglob("Annotations/**/*.png"):
        with Image.open(path) as image:
            labels_HW = np.asarray(image)
        Image.fromarray((labels_HW != 0).astype(np.uint8) * np.uint8(255)).save(path)
    with pytest.raises(PrerequisiteError, match="0 and 255"):
        run(tmp_path, "ref_davis17", "valid")
    [folder] = [path.parent for path in (tmp_path / "runs").glob("*/run.json")]
    summary = json.loads((folder / "run.json").read_text())
    assert (summary["status"], summary["exit_code"]) == ("interrupted", 2)
    assert not (folder / "scores.json").exists()
