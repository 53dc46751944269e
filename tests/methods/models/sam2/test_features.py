"""Frames reach the network as the package would read them, are encoded once, and spill without effect."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("sam2")

from rvosbench.harness.errors import SampleError  # noqa: E402
from rvosbench.methods.models.sam2.checkpoints import Sam2Settings  # noqa: E402
from rvosbench.methods.models.sam2.features import FrameFeatures  # noqa: E402
from rvosbench.methods.models.sam2.frames import preprocess  # noqa: E402
from rvosbench.methods.models.sam2.model import load  # noqa: E402
from rvosbench.methods.models.sam2.prompts import Masks  # noqa: E402
from rvosbench.methods.models.sam2.tracking import Sam2Video  # noqa: E402
from tests.methods.models.sam2.videos import boxes, moving_blocks  # noqa: E402


@pytest.mark.parametrize(("height", "width"), [(60, 90), (200, 131), (128, 128), (480, 854)])
def test_preprocessing_is_the_packages_loader_bit_for_bit(tmp_path: Path, height: int, width: int) -> None:
    from sam2.utils.misc import load_video_frames

    for index, frame in enumerate(moving_blocks(3, (height, width))):
        Image.fromarray(frame).save(tmp_path / f"{index:05d}.jpg")
    images, video_height, video_width = load_video_frames(str(tmp_path), 128, False, compute_device="cpu")
    assert (video_height, video_width) == (height, width)
    for index, expected in enumerate(images):
        frame = np.asarray(Image.open(tmp_path / f"{index:05d}.jpg").convert("RGB"))
        assert torch.equal(preprocess(frame, 128), expected)


def test_each_frame_is_encoded_once_and_only_on_demand(sam2_1: Path) -> None:
    features = FrameFeatures(load(Sam2Settings(checkpoint=str(sam2_1))), moving_blocks(5, (60, 90)))
    assert features.encoder_calls == 0
    first = features.inputs(3, 2)
    assert first.features[0].shape[1] == 2 and first.sizes[-1] == (8, 8)
    features.inputs(1, 1)
    again = features.inputs(3, 2)
    assert features.encoder_calls == 2
    for level, other in zip(first.features, again.features, strict=True):
        assert torch.equal(level, other)
    assert all(torch.equal(a, b) for a, b in zip(first.positions, features.inputs(1, 2).positions, strict=True))


def test_features_beyond_the_budget_spill_and_change_nothing(sam2_1: Path) -> None:
    pictures, masks = moving_blocks(6, (60, 90)), boxes(2, (60, 90))
    roomy = Sam2Video(load(Sam2Settings(checkpoint=str(sam2_1))), pictures)
    expected = [tracked.masks for tracked in roomy.propagate(range(6), Masks(2, masks))]
    one_frame = sum(level.nbytes for level in roomy.features.inputs(0, 1).features)
    tight = Sam2Video(load(Sam2Settings(checkpoint=str(sam2_1), feature_budget_bytes=2 * one_frame)), pictures)
    for tracked, mask in zip(tight.propagate(range(6), Masks(2, masks)), expected, strict=True):
        np.testing.assert_array_equal(tracked.masks, mask)
    assert roomy.features.spilled == set()
    assert tight.features.spilled == {0, 1, 4, 5}  # the pass goes 2, 3, 4, 5, 1, 0
    assert tight.features.encoder_calls == 6


def test_frames_that_cannot_make_a_video_are_sample_errors(sam2_1: Path) -> None:
    model = load(Sam2Settings(checkpoint=str(sam2_1)))
    with pytest.raises(SampleError, match="no frames"):
        _ = Sam2Video(model, []).size
    odd = [*moving_blocks(1, (60, 90)), *moving_blocks(1, (64, 90))]
    with pytest.raises(SampleError, match=r"frame 1 has shape \(64, 90, 3\)"):
        list(Sam2Video(model, odd).propagate([0, 1], Masks(0, boxes(1, (60, 90)))))
