"""Training data from disk and from memory: the same clips, and what cannot be trained on.

Shape legend: T keyframes.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rvosbench.harness.data.synthetic.write import write_shapes
from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.methods.steerseg.training.recipe import DataChoice
from rvosbench.methods.steerseg.training.sources import Source, open_source


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_shapes(folder, layout="shapes", split="train", seed=0, videos=3)
    write_shapes(folder, layout="ref_youtube_vos", split="train", seed=0, videos=2)
    return folder


def opened(root: Path, keyframes: int = 4, **choice: object) -> Source:
    return open_source(DataChoice(**{"name": "shapes", **choice}), root, root / "index", keyframes)  # type: ignore[arg-type]


def test_clips_on_disk_and_in_memory_are_the_same(root: Path) -> None:
    disk, memory = opened(root), opened(root, generate=3)
    assert list(disk.videos) == list(memory.videos)
    for video in disk.videos:
        ours, theirs = disk.frames(video), memory.frames(video)
        assert len(ours) == len(theirs) == 4
        for one, other in zip(ours, theirs, strict=True):
            # Frames on disk are JPEG.
            assert np.abs(one.astype(int) - other.astype(int)).mean() < 6
        texts = {candidate.text: candidate.id for candidate in memory.expressions(video)}
        for candidate in disk.expressions(video):
            masks = disk.masks(video, candidate.id)
            assert masks.dtype == bool and masks.any()
            np.testing.assert_array_equal(masks, memory.masks(video, texts[candidate.text]))


def test_the_official_training_set(root: Path) -> None:
    source = opened(root, name="ref_youtube_vos")
    assert len(source.videos) == 2
    for video in source.videos:
        for candidate in source.expressions(video):
            masks = source.masks(video, candidate.id)
            assert masks.shape == (4, *source.frames(video)[0].shape[:2]) and masks.any()


def test_the_digest_is_of_the_content(root: Path, tmp_path: Path) -> None:
    whole = opened(root).digest
    assert opened(root).digest == whole != opened(root, limit_videos=2).digest
    write_shapes(tmp_path, layout="shapes", split="train", seed=0, videos=3)
    assert opened(tmp_path).digest == whole
    masks = tmp_path / "shapes/train/mask_dict.json"
    table = json.loads(masks.read_text())
    first = next(iter(table))
    table[first] = [None] * len(table[first])
    masks.write_text(json.dumps(table))
    assert opened(tmp_path).digest != whole
    assert opened(root, generate=3).digest != opened(root, generate=3, seed=1).digest


def test_videos_without_masks_are_refused(root: Path, tmp_path: Path) -> None:
    write_shapes(tmp_path, layout="ref_youtube_vos", split="valid", seed=0, videos=1)
    with pytest.raises(PrerequisiteError, match="split valid, has no masks") as hidden:
        opened(tmp_path, name="ref_youtube_vos", split="valid")
    assert "ref_youtube_vos: train" in hidden.value.fix
    write_shapes(tmp_path, layout="shapes", split="train", seed=0, videos=3)
    masks = tmp_path / "shapes/train/mask_dict.json"
    table = json.loads(masks.read_text())
    source = opened(tmp_path)
    gone = source.videos[0]
    meta = json.loads((tmp_path / "shapes/train/meta_expressions.json").read_text())["videos"][gone]
    lost = {str(key) for candidate in meta["expressions"].values() for key in candidate["anno_id"]}
    masks.write_text(json.dumps({key: value for key, value in table.items() if key not in lost}))
    rest = opened(tmp_path)
    assert list(rest.videos) == list(source.videos)[1:]
    assert any("1 of 3 videos lack masks" in note for note in rest.notes)
    masks.unlink()
    with pytest.raises(PrerequisiteError, match="no masks"):
        opened(tmp_path)


def test_a_damaged_frame_is_named(root: Path, tmp_path: Path) -> None:
    write_shapes(tmp_path, layout="shapes", split="train", seed=0, videos=2)
    source = opened(tmp_path)
    frame = sorted((tmp_path / "shapes/train/JPEGImages" / source.videos[0]).iterdir())[0]
    frame.write_bytes(frame.read_bytes()[:100])
    with pytest.raises(SampleError, match=frame.name):
        source.frames(source.videos[0])


def test_choices_are_checked() -> None:
    with pytest.raises(PrerequisiteError, match="not generated"):
        DataChoice(name="mevis", generate=3)
    with pytest.raises(PrerequisiteError, match="held_out is 1"):
        DataChoice(name="shapes", held_out=1.0)
    with pytest.raises(PrerequisiteError, match="no split 'nowhere'"):
        open_source(DataChoice(name="shapes", generate=3, split="nowhere"), Path(), Path(), 4)
