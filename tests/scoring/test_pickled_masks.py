"""Ref-DAVIS17 with its masks in a pickle, whose keys count expressions, scores as it does with index PNGs."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rvosbench.harness.data.reader import Dataset, open_dataset
from rvosbench.harness.data.verify import verify
from rvosbench.harness.scoring.score import score_predictions

from .builders import drawn_masks, ref_davis, rle, square, write_predictions

PER_OBJECT = 4
OBJECTS = 3
LENGTH = 3


def labels(shift: int) -> np.ndarray:
    return square(0, shift) * 1 + square(4, 2 + shift) * 2 + square(8, 9) * 3


@pytest.fixture
def indexed(tmp_path: Path) -> Dataset:
    expressions = {str(index): str(index // PER_OBJECT + 1) for index in range(PER_OBJECT * OBJECTS)}
    maps = {name: [labels(shift + frame) for frame in range(LENGTH)] for shift, name in enumerate(("b", "a"))}
    return ref_davis(tmp_path / "indexed", maps, dict.fromkeys(maps, expressions))


@pytest.fixture
def pickled(tmp_path: Path, indexed: Dataset) -> Dataset:
    root = tmp_path / "pickled"
    shutil.copytree(tmp_path / "indexed/davis17/meta_expressions", root / "davis17/meta_expressions")
    assert indexed.ground_truth is not None
    table = {}
    samples = sorted(indexed.samples(), key=lambda sample: (sample.video.name, sample.expression.id))
    for key, sample in enumerate(samples):
        masks = [indexed.ground_truth.mask(sample.video, sample.expression, frame) for frame in range(LENGTH)]
        table[key] = [rle(mask) for mask in masks]
    path = root / "davis17/valid/mask_dict.pkl"
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.dumps(table))
    return open_dataset("ref_davis17", root, needs="masks")


def index_maps(folder: Path, dataset: Dataset) -> Path:
    rng = np.random.default_rng(0)
    for video in dataset.videos:
        for annotator in range(PER_OBJECT):
            for frame, name in enumerate(video.frames):
                path = folder / f"anno_{annotator}/{video.name}/{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                kept = labels(frame) * (rng.random((12, 16)) < 0.8)
                Image.fromarray(kept.astype(np.uint8)).save(path)
    return folder


@pytest.mark.parametrize("form", ["masks", "index maps"])
def test_both_forms_of_the_ground_truth_give_the_same_scores(
    tmp_path: Path, indexed: Dataset, pickled: Dataset, form: str
) -> None:
    if form == "masks":
        predictions = write_predictions(tmp_path / "p", indexed, drawn_masks(indexed))
    else:
        predictions = index_maps(tmp_path / "p", indexed)
    found = []
    for name, dataset in (("one", indexed), ("two", pickled)):
        report = score_predictions(predictions, dataset, out=tmp_path / name, workers=1)
        found.append([(row["protocol"], row["J"], row["F"], row["notes"]) for row in report.rows])
    assert found[0] == found[1]
    assert "refdavis17/anno4" in {protocol for protocol, *_ in found[0]}


def test_the_expressions_of_an_object_are_no_objects_of_their_own(pickled: Dataset) -> None:
    report = verify("ref_davis17", pickled.root)
    assert not [finding for finding in report.findings if finding.level == "error"]
