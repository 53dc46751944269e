"""Our tracker gives what the sam2 package's own predictor gives, on the same weights, frames and prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
pytest.importorskip("sam2")

from toy.tiny_sam2 import write_small  # noqa: E402

from rvosbench.methods.models.sam2.checkpoints import Sam2Settings  # noqa: E402
from rvosbench.methods.models.sam2.model import Sam2, load  # noqa: E402
from rvosbench.methods.models.sam2.prompts import Boxes, Masks, Points, Prompt, Tokens  # noqa: E402
from rvosbench.methods.models.sam2.stock import StockVideo, stock_predictor  # noqa: E402
from rvosbench.methods.models.sam2.tracking import Sam2Video, _Tracker, fill_holes  # noqa: E402
from tests.methods.models.sam2.videos import boxes, moving_blocks, points  # noqa: E402
from tests.methods.models.sam2.world import decaf_masks  # noqa: E402

# Batched and single matrix products round differently, and memories are rounded to bfloat16 on top. The logits span
# about +-5; the largest difference seen is 3e-4. In batches of one there is none.
ATOL = 1e-3


def small(folder: Path, **settings: Any) -> Sam2:
    return load(Sam2Settings(checkpoint=str(folder), device="cpu", **settings))


def ours(video: Sam2Video, frames: list[int], prompt: int, masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(N, T, H, W) logits of objects prompted by masks."""
    return tracked_logits(video, frames, Masks(prompt, masks))


def tracked_logits(video: Sam2Video, frames: list[int], prompt: Prompt) -> NDArray[np.float32]:
    """(N, T, H, W) logits; every object is seen on every frame exactly once."""
    logits = np.full((len(prompt), len(frames), *video.size), np.nan, dtype=np.float32)
    for position, objects, batch in video.propagate_logits(frames, prompt):
        assert np.isnan(logits[objects, position]).all()
        logits[objects, position] = batch.numpy()
    assert not np.isnan(logits).any()
    return logits


def stock(video: StockVideo, frames: list[int], prompt: int, masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    return stock_logits(video, frames, Masks(prompt, masks))


def stock_logits(video: StockVideo, frames: list[int], prompt: Prompt) -> NDArray[np.float32]:
    logits = np.full((len(prompt), len(frames), *video.size), np.nan, dtype=np.float32)
    for position, batch in video.propagate_logits(frames, prompt):
        assert np.isnan(logits[:, position]).all()
        logits[:, position] = batch[:, 0].numpy()
    return logits


def assert_same_tracks(mine: NDArray[np.float32], theirs: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(mine, theirs, rtol=0, atol=ATOL)
    clear = np.abs(theirs) > ATOL
    assert clear.mean() > 0.99
    np.testing.assert_array_equal((mine > 0)[clear], (theirs > 0)[clear])


def compare(model: Sam2, frames: int, prompt: int, objects: int, size: tuple[int, int]) -> NDArray[np.float32]:
    pictures = moving_blocks(frames, size)
    masks = boxes(objects, size, seed=1)
    clip = list(range(frames))
    theirs = stock(StockVideo(model, stock_predictor(model), pictures, clip), clip, prompt, masks)
    assert_same_tracks(ours(Sam2Video(model, pictures), clip, prompt, masks), theirs)
    return theirs


@pytest.mark.parametrize(
    ("frames", "prompt", "objects", "size"),
    [(7, 3, 1, (60, 90)), (7, 3, 5, (60, 90)), (5, 0, 3, (200, 260)), (5, 4, 3, (128, 128)), (1, 0, 2, (60, 90))],
)
@pytest.mark.parametrize("version", ["sam2_1", "sam2_0"])
def test_mask_prompts_are_tracked_as_by_the_package(
    version: str, frames: int, prompt: int, objects: int, size: tuple[int, int], request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(version)
    theirs = compare(small(folder, object_batch=4), frames, prompt, objects, size)
    one_by_one = Sam2Video(small(folder, object_batch=1), moving_blocks(frames, size))
    exact = ours(one_by_one, list(range(frames)), prompt, boxes(objects, size, seed=1))
    np.testing.assert_array_equal(exact, theirs)
    if frames > 1:
        # Guard against a comparison of nothing: masks neither empty nor full, and other from object to object.
        tracked = np.delete(theirs > 0, prompt, axis=1)
        assert 0.02 < tracked.mean() < 0.98
        if objects > 1:
            assert (tracked[0] != tracked[1]).any()


@pytest.mark.parametrize("version", ["sam2_1", "sam2_0"])
@pytest.mark.parametrize("size", [(60, 90), (150, 200)])
def test_point_prompts_give_the_packages_masks_and_ious(
    version: str, size: tuple[int, int], request: pytest.FixtureRequest
) -> None:
    model = small(request.getfixturevalue(version), object_batch=3)
    pictures = moving_blocks(4, size)
    where = points(7)
    video = Sam2Video(model, pictures)
    theirs, iou = StockVideo(model, stock_predictor(model), pictures, [0, 1, 2, 3]).logits_from_points(2, where)
    mine = torch.cat([batch.logits for batch in video.logits_from_points(2, where)]).numpy()
    np.testing.assert_allclose(mine, theirs[:, 0].numpy(), rtol=0, atol=1e-4)
    found = video.masks_from_points(2, where)
    np.testing.assert_array_equal(found.masks.unpack(), mine > 0)
    np.testing.assert_allclose(found.predicted_iou, iou, rtol=0, atol=1e-5)
    assert len(set(np.round(iou, 5))) > 1
    assert video.features.encoder_calls == 1


BOXES = np.array([[0.1, 0.2, 0.5, 0.7], [0.3, 0.1, 0.9, 0.6], [0.0, 0.0, 1.0, 1.0]], dtype=np.float32)
POINT_PAIRS = np.array([[[0.3, 0.4], [0.8, 0.2]], [[0.6, 0.5], [0.1, 0.9]]], dtype=np.float32)


def one_point(position: int, count: int) -> Points:
    return Points(position, points(count)[:, None], np.ones((count, 1), dtype=np.int32))


@pytest.mark.parametrize("version", ["sam2_1", "sam2_0"])
@pytest.mark.parametrize(
    "prompt",
    [
        Boxes(2, BOXES),
        one_point(2, 3),
        Points(0, POINT_PAIRS, np.array([[1, 0], [1, 1]], dtype=np.int32)),
    ],
    ids=["boxes", "a point", "points on and beside"],
)
def test_boxes_and_points_are_tracked_as_by_the_package(
    version: str, prompt: Prompt, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(version)
    pictures, clip = moving_blocks(5, (60, 90)), list(range(5))
    model = small(folder, object_batch=1)
    theirs = stock_logits(StockVideo(model, stock_predictor(model), pictures, clip), clip, prompt)
    np.testing.assert_array_equal(tracked_logits(Sam2Video(model, pictures), clip, prompt), theirs)
    batched = tracked_logits(Sam2Video(small(folder, object_batch=4), pictures), clip, prompt)
    # Masks that the decoder predicts are further from 0 and 1 than given ones: the largest difference seen is 4e-3.
    np.testing.assert_allclose(batched, theirs, rtol=0, atol=2e-2)
    assert (theirs[0] != theirs[1]).any()


def test_a_point_prompt_gives_the_masks_of_points_on_its_frame(sam2_1: Path) -> None:
    video = Sam2Video(small(sam2_1), moving_blocks(4, (60, 90)))
    found = video.masks_from_points(2, points(3)).masks.unpack()
    tracked = {one.position: one.masks for one in video.propagate([0, 1, 2, 3], one_point(2, 3))}
    np.testing.assert_array_equal(tracked[2], found)


def test_tokens_stand_where_the_prompt_encoder_s_would(sam2_1: Path) -> None:
    model = small(sam2_1)
    pictures, clip = moving_blocks(4, (60, 90)), [0, 1, 2, 3]
    network = model.network

    def encoded(prompt_points: NDArray[np.float32], labels: NDArray[np.int32]) -> NDArray[np.float32]:
        coordinates = torch.from_numpy(prompt_points) * network.image_size
        with torch.inference_mode():
            sparse, _ = network.sam_prompt_encoder((coordinates, torch.from_numpy(labels)), boxes=None, masks=None)
        return sparse.numpy()

    by_points = one_point(1, 3)
    tokens = Tokens(1, encoded(by_points.xy_NP2, by_points.label_NP))
    expected = tracked_logits(Sam2Video(model, pictures), clip, by_points)
    np.testing.assert_array_equal(tracked_logits(Sam2Video(model, pictures), clip, tokens), expected)
    # A box is two points to the encoder, which asks the decoder for one candidate.
    corners = BOXES.reshape(-1, 2, 2)
    as_tokens = Tokens(1, encoded(corners, np.tile(np.array([2, 3], dtype=np.int32), (3, 1))), candidates="one")
    of_boxes = tracked_logits(Sam2Video(model, pictures), clip, Boxes(1, BOXES))
    np.testing.assert_array_equal(tracked_logits(Sam2Video(model, pictures), clip, as_tokens), of_boxes)
    # Other tokens give other masks, and nothing of them stays in the network.
    other = Tokens(1, tokens.embedding_NkC[:, :1] * np.float32(-3))
    assert (tracked_logits(Sam2Video(model, pictures), clip, other) != expected).any()
    np.testing.assert_array_equal(tracked_logits(Sam2Video(model, pictures), clip, by_points), expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Boxes(0, np.array([[0.5, 0.1, 0.2, 0.9]], dtype=np.float32)),
        lambda: Boxes(0, np.array([0.1, 0.1, 0.2, 0.9], dtype=np.float32)),
        lambda: Boxes(0, np.array([[np.nan, 0.1, 0.2, 0.9]], dtype=np.float32)),
        lambda: Points(0, np.zeros((2, 2), np.float32), np.ones((2, 1), np.int32)),
        lambda: Points(0, np.zeros((2, 1, 2), np.float32), np.full((2, 1), 3, np.int32)),
        lambda: Masks(0, np.zeros((1, 4, 4), np.uint8)),  # type: ignore[arg-type]
        lambda: Tokens(0, np.zeros((1, 0, 256), np.float32)),
        lambda: Tokens(0, np.full((1, 1, 256), np.inf, np.float32)),
    ],
)
def test_prompts_that_are_none_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="a prompt needs"):
        make()


def test_tokens_of_another_width_are_refused(sam2_1: Path) -> None:
    video = Sam2Video(small(sam2_1), moving_blocks(2, (60, 90)))
    with pytest.raises(ValueError, match="width 8"):
        next(video.propagate([0, 1], Tokens(0, np.zeros((1, 1, 8), np.float32))))


def test_a_clip_and_the_whole_video_share_encoded_frames(sam2_1: Path) -> None:
    model = small(sam2_1)
    pictures = moving_blocks(9, (60, 90))
    masks = boxes(2, (60, 90))
    video = Sam2Video(model, pictures)
    clip = [0, 3, 4, 8]
    theirs = StockVideo(model, stock_predictor(model), pictures, clip)
    assert_same_tracks(ours(video, clip, 2, masks), stock(theirs, clip, 2, masks))
    assert video.features.encoder_calls == 4
    everything = list(range(9))
    assert_same_tracks(ours(video, everything, 4, masks), stock(theirs, everything, 4, masks))
    assert video.features.encoder_calls == 9
    ours(video, everything, 0, masks)
    video.masks_from_points(5, points(3))
    assert video.features.encoder_calls == 9


def test_objects_of_a_batch_do_not_influence_each_other(sam2_1: Path) -> None:
    pictures, masks, clip = moving_blocks(6, (60, 90)), boxes(5, (60, 90)), list(range(6))
    together = ours(Sam2Video(small(sam2_1), pictures), clip, 2, masks)
    alone = Sam2Video(small(sam2_1, object_batch=1), pictures)
    np.testing.assert_allclose(together, ours(alone, clip, 2, masks), rtol=0, atol=ATOL)
    np.testing.assert_allclose(together[3:4], ours(alone, clip, 2, masks[3:4]), rtol=0, atol=ATOL)


def test_the_backward_pass_attends_to_the_forward_pass(sam2_1: Path) -> None:
    # Backwards from the prompt in the whole video differs from the same frames where the prompt is the last one.
    model = small(sam2_1)
    pictures, masks = moving_blocks(6, (60, 90)), boxes(1, (60, 90))
    whole = ours(Sam2Video(model, pictures), list(range(6)), 2, masks)[:, :2]
    cut = ours(Sam2Video(model, pictures), list(range(3)), 2, masks)[:, :2]
    assert np.abs(whole - cut).max() > 10 * ATOL


@pytest.mark.parametrize("override", ["memory_temporal_stride_for_eval=1", "memory_temporal_stride_for_eval=3"])
def test_memories_out_of_reach_are_dropped_without_effect(tmp_path: Path, override: str) -> None:
    overrides = ("model.max_obj_ptrs_in_encoder=5", "model.num_maskmem=4", f"model.{override}")
    model = small(write_small(tmp_path, seed=3, overrides=overrides))
    compare(model, frames=32, prompt=11, objects=2, size=(40, 60))
    tracker = _Tracker(model, Sam2Video(model, moving_blocks(32, (40, 60))).features, range(32))
    tracker.start(Masks(11, boxes(2, (40, 60))))
    held, features = [], []
    for position in [*range(12, 32), *range(10, -1, -1)]:
        tracker.step(position, "forward" if position > 11 else "backward")
        outputs = tracker._outputs["non_cond_frame_outputs"].values()
        held.append(len(outputs))
        features.append(sum(output["maskmem_features"] is not None for output in outputs))
    reach = max(tracker._memory_reach, 4)
    assert max(held) <= 2 * reach
    assert max(features) <= 2 * tracker._memory_reach
    assert held[19] < 20  # twenty frames forward


def test_stability_fallback_follows_its_settings(tmp_path: Path) -> None:
    # Released configurations ask for three masks everywhere; only where one is asked for does stability decide.
    folder = write_small(tmp_path, seed=3, overrides=("model.multimask_output_in_sam=false",))
    pictures, masks, clip = moving_blocks(5, (60, 90)), boxes(2, (60, 90)), list(range(5))
    variants: dict[str, dict[str, Any]] = {
        "on": {},
        "off": {"fall_back_to_multimask": False},
        "lenient": {"stability_threshold": 0.01},
        "wide": {"stability_delta": 1.0, "stability_threshold": 0.5},
    }
    results = {}
    for name, settings in variants.items():
        model = small(folder, **settings)
        results[name] = ours(Sam2Video(model, pictures), clip, 1, masks)
        assert_same_tracks(
            results[name], stock(StockVideo(model, stock_predictor(model), pictures, clip), clip, 1, masks)
        )
    np.testing.assert_array_equal(results["off"], results["lenient"])
    assert np.abs(results["on"] - results["off"]).max() > 0.1


def test_prompted_masks_enter_the_memory_as_the_setting_says(sam2_1: Path) -> None:
    pictures, masks, clip = moving_blocks(4, (60, 90)), boxes(2, (60, 90)), list(range(4))
    hard, soft = small(sam2_1), small(sam2_1, binarise_prompted_masks=False)
    tracks = ours(Sam2Video(soft, pictures), clip, 1, masks)
    assert_same_tracks(tracks, stock(StockVideo(soft, stock_predictor(soft), pictures, clip), clip, 1, masks))
    assert np.abs(tracks - ours(Sam2Video(hard, pictures), clip, 1, masks)).max() > 0


def plain_components(background_N1HW: Any) -> tuple[Any, Any]:
    """What the package's CUDA extension returns: labels and, per pixel, the size of its 8-connected component."""
    ndimage = pytest.importorskip("scipy.ndimage")
    labels = torch.zeros(background_N1HW.shape, dtype=torch.int64)
    areas = torch.zeros(background_N1HW.shape, dtype=torch.int64)
    for i, background in enumerate(background_N1HW[:, 0].numpy()):
        labelled, count = ndimage.label(background, structure=np.ones((3, 3)))
        sizes = np.bincount(labelled.ravel(), minlength=count + 1)
        sizes[0] = 0
        labels[i, 0], areas[i, 0] = torch.from_numpy(labelled), torch.from_numpy(sizes[labelled])
    return labels, areas


def test_holes_are_filled_as_by_the_cuda_extension(sam2_1: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sam2.utils.misc.get_connected_components", plain_components)
    from sam2.utils.misc import fill_holes_in_mask_scores

    logits = torch.randn(6, 1, 40, 50, generator=torch.Generator().manual_seed(0)) + 0.4
    logits[0], logits[1] = -1.0, 1.0
    for area in (1, 8, 10_000):
        torch.testing.assert_close(fill_holes(logits, area), fill_holes_in_mask_scores(logits, area), rtol=0, atol=0)
    assert fill_holes(logits, 0) is logits
    model = small(sam2_1, fill_hole_area=8)
    filled = compare(model, frames=5, prompt=2, objects=2, size=(60, 90))
    plain = ours(Sam2Video(small(sam2_1), moving_blocks(5, (60, 90))), list(range(5)), 2, boxes(2, (60, 90), seed=1))
    assert (filled != plain).any()


def test_bfloat16_is_the_package_under_autocast(sam2_1: Path) -> None:
    model = small(sam2_1, dtype="bfloat16", object_batch=1)
    pictures, masks, clip = moving_blocks(4, (60, 90)), boxes(2, (60, 90)), list(range(4))
    mine = ours(Sam2Video(model, pictures), clip, 1, masks)
    theirs = stock(StockVideo(model, stock_predictor(model), pictures, clip), clip, 1, masks)
    np.testing.assert_array_equal(mine, theirs)
    full = ours(Sam2Video(small(sam2_1), pictures), clip, 1, masks)
    assert np.abs(mine - full).max() > 0


@pytest.mark.slow
def test_the_whole_point_stage_is_the_same_with_both(sam2_1: Path) -> None:
    model = small(sam2_1, object_batch=3)
    pictures, keyframes = moving_blocks(8, (60, 90)), [0, 2, 5, 7]
    map_Thw = np.random.default_rng(5).random((4, 4, 6)).astype(np.float32)
    prompts = _cells(map_Thw, 0.75)
    video = Sam2Video(model, pictures)
    mine = decaf_masks(video, keyframes, map_Thw, prompts, nms_iou=0.95, keep=0.5)
    reference = StockVideo(model, stock_predictor(model), pictures, keyframes)
    theirs = decaf_masks(reference, keyframes, map_Thw, prompts, nms_iou=0.95, keep=0.5)
    assert len(mine.tracklets) > 1 and len(mine.selected) > 1
    assert [t.xy for t in mine.tracklets] == [t.xy for t in theirs.tracklets]
    assert mine.selected == theirs.selected
    np.testing.assert_allclose(mine.scores["final_score"], theirs.scores["final_score"], rtol=0, atol=1e-3)
    for a, b in zip(mine.tracklets, theirs.tracklets, strict=True):
        assert (a.masks.unpack() != b.masks.unpack()).mean() < 1e-3
    assert video.features.encoder_calls == 8
    assert reference.encoder_calls > 2 * video.features.encoder_calls


def _cells(map_Thw: NDArray[np.float32], threshold: float) -> Any:
    from tests.methods.models.sam2.test_from_points import cells_at_least

    return cells_at_least(map_Thw, threshold)


def test_prompts_that_do_not_fit_are_refused(sam2_1: Path) -> None:
    video = Sam2Video(small(sam2_1), moving_blocks(3, (60, 90)))
    with pytest.raises(ValueError, match="position 3 of 3"):
        next(video.propagate([0, 1, 2], Masks(3, boxes(1, (60, 90)))))
    with pytest.raises(ValueError, match="masks of size"):
        next(video.propagate([0, 1, 2], Masks(0, boxes(1, (90, 60)))))
