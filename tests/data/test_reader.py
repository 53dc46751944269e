"""Opening the real sample of Ref-DAVIS17."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rvosbench.harness.data.ground_truth import PaletteGroundTruth
from rvosbench.harness.data.reader import open_dataset
from rvosbench.harness.errors import PrerequisiteError


@pytest.fixture
def mini(samples: Path) -> Path:
    return samples / "mini_ref_davis17"


@pytest.mark.parametrize("needs", ["frames", "masks"])
def test_real_sample_is_read_as_part_of_the_split(mini: Path, needs: str) -> None:
    dataset = open_dataset("ref_davis17", mini, needs=needs)  # type: ignore[arg-type]
    assert dataset.coverage == "5 of 30 videos"
    assert dataset.layout == "referformer"
    assert [video.name for video in dataset.videos] == [
        "blackswan",
        "car-shadow",
        "dog",
        "drift-chicane",
        "drift-straight",
    ]
    samples = list(dataset.samples())
    assert len(samples) == 20
    assert samples[5].id == "ref_davis17/valid/car-shadow/1"
    assert samples[5].expression.text == "a white car crossing a signal"
    assert [sample.expression.annotator for sample in samples[:4]] == [0, 1, 2, 3]
    assert dataset.notes == ("This is part of the split: 5 of 30 videos.",)
    assert all(path.is_file() for video in dataset.videos for path in video.frame_paths)


def test_masks_of_the_real_sample_are_the_palette_indices(mini: Path) -> None:
    dataset = open_dataset("ref_davis17", mini, needs="masks")
    video = dataset.videos[2]
    assert isinstance(dataset.ground_truth, PaletteGroundTruth)
    for frame in (0, 59):
        mask_HW = dataset.ground_truth.mask(video, video.expressions[0], frame)
        with Image.open(mini / "davis17/valid/Annotations/dog" / f"{video.frames[frame]}.png") as image:
            assert np.array_equal(mask_HW, np.asarray(image) == 1)
        assert mask_HW.any()
    assert list(dataset.ground_truth.scored_frames(video, video.expressions[0])) == list(range(60))


def test_a_dataset_survives_pickling_without_its_decoded_masks(mini: Path) -> None:
    dataset = open_dataset("ref_davis17", mini)
    video = dataset.videos[0]
    truth = dataset.ground_truth
    assert truth is not None
    before = truth.mask(video, video.expressions[0], 3)
    digest = truth.digest(video, video.expressions[0])
    payload = pickle.dumps(truth)
    assert len(payload) < 1000
    again = pickle.loads(payload)
    assert np.array_equal(again.mask(video, video.expressions[0], 3), before)
    assert again.digest(video, video.expressions[0]) == digest
    assert pickle.loads(pickle.dumps(dataset)).videos == dataset.videos


def test_paths_hold_wherever_a_worker_runs(mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mini)
    dataset = open_dataset("ref_davis17", Path())
    monkeypatch.chdir(tmp_path)
    again = open_dataset(dataset.card.name, dataset.root, dataset.split)
    assert again.videos == dataset.videos
    assert again.videos[0].frame_paths[0].is_file()


def test_wrong_names_suggest_the_right_ones(mini: Path) -> None:
    with pytest.raises(PrerequisiteError, match=r"no dataset 'ref_davis16'.*Did you mean 'ref_davis17'"):
        open_dataset("ref_davis16", mini)
    with pytest.raises(PrerequisiteError, match=r"no split 'valdi'.*Did you mean 'valid'"):
        open_dataset("ref_davis17", mini, "valdi")


def test_a_root_without_the_benchmark_says_what_was_looked_for_and_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(PrerequisiteError) as caught:
        open_dataset("ref_davis17", tmp_path)
    assert f"not under {tmp_path}" in caught.value.problem
    assert "davis17/meta_expressions/valid/meta_expressions.json" in caught.value.problem
    assert "davischallenge.org" in caught.value.fix
    with pytest.raises(PrerequisiteError, match=r"not a folder\. Set --data-root or RVOSBENCH_DATA"):
        open_dataset("ref_davis17", tmp_path / "absent")
