"""Ref-DAVIS17: the trees in circulation, the pickle's counter, palettes, and all real expressions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from rvosbench.harness.data.cards import load_card
from rvosbench.harness.data.ground_truth import PaletteGroundTruth, RleGroundTruth
from rvosbench.harness.data.images import read_labels
from rvosbench.harness.data.metadata import read_metadata
from rvosbench.harness.data.reader import open_dataset
from rvosbench.harness.errors import PrerequisiteError, SampleError

META = "davis17/meta_expressions/valid/meta_expressions.json"


def three_objects() -> dict[str, Any]:
    """Two videos; the first has twelve expressions about three objects, so "10" sorts before "2"."""
    first = {str(i): {"exp": f"thing {i // 4 + 1}", "obj_id": str(i // 4 + 1)} for i in range(12)}
    second = {str(i): {"exp": f"other {i}", "obj_id": "1"} for i in range(4)}
    frames = ["00000", "00001"]
    # File order differs from name order on purpose: counters follow the names.
    return {
        "videos": {"zebra": {"expressions": second, "frames": frames}, "ape": {"expressions": first, "frames": frames}}
    }


def labels(objects: int) -> Any:
    """Column k - 1 of the image belongs to object k."""
    labels_HW = np.zeros((6, 8), dtype=np.uint8)
    for number in range(1, objects + 1):
        labels_HW[:, number - 1] = number
    return labels_HW


def write_palettes(tree: Any, folder: str) -> None:
    for video, objects in (("ape", 3), ("zebra", 1)):
        for frame in ("00000", "00001"):
            tree.palette(f"{folder}/{video}/{frame}.png", labels(objects))


def write_pickle(tree: Any, rle: Any) -> None:
    """The keys worked out by hand: ape comes first, its ids in the order 0 1 10 11 2 3 ... 9; then zebra's four."""
    order = ["0", "1", "10", "11", "2", "3", "4", "5", "6", "7", "8", "9"]
    table = {str(key): [rle(labels(3) == int(i) // 4 + 1, as_bytes=True)] * 2 for key, i in enumerate(order)}
    table |= {str(12 + key): [rle(labels(1) == 1, as_bytes=True)] * 2 for key in range(4)}
    tree.pickle("davis17/valid/mask_dict.pkl", table)


LAYOUTS = {
    "referformer": ("davis17/valid/JPEGImages", "davis17/valid/Annotations"),
    "davis": ("davis17/JPEGImages/480p", "davis17/Annotations_unsupervised/480p"),
    "davis nested": ("davis17/DAVIS/JPEGImages/480p", "davis17/DAVIS/Annotations_unsupervised/480p"),
    "davis beside": ("DAVIS/JPEGImages/480p", "DAVIS/Annotations_unsupervised/480p"),
    "visa": ("davis17/valid/JPEGImages", None),
    "unipixel": ("DAVIS/JPEGImages/480p", None),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_tree_in_circulation_gives_the_same_masks(tree: Any, rle: Any, name: str) -> None:
    frames, masks = LAYOUTS[name]
    tree.json(META, three_objects())
    for video in ("ape", "zebra"):
        tree.frames(f"{frames}/{video}", ["00000", "00001"])
    if masks is not None:
        write_palettes(tree, masks)
    else:
        write_pickle(tree, rle)
    dataset = open_dataset("ref_davis17", tree.root)
    assert dataset.layout == name.split()[0].replace("unipixel", "visa")
    assert all(path.is_file() for video in dataset.videos for path in video.frame_paths)
    truth = dataset.ground_truth
    assert truth is not None
    for sample in dataset.samples():
        objects = {"ape": 3, "zebra": 1}[sample.video.name]
        for frame in truth.scored_frames(sample.video, sample.expression):
            expected_HW = labels(objects) == int(sample.expression.id) // 4 + 1
            assert np.array_equal(truth.mask(sample.video, sample.expression, frame), expected_HW), sample.id


def test_pngs_win_over_a_pickle_whatever_is_needed(tree: Any, rle: Any) -> None:
    tree.json(META, three_objects())
    write_palettes(tree, "davis17/valid/Annotations")
    write_pickle(tree, rle)
    assert isinstance(open_dataset("ref_davis17", tree.root, needs="masks").ground_truth, PaletteGroundTruth)
    for video in ("ape", "zebra"):
        tree.frames(f"davis17/valid/JPEGImages/{video}", ["00000", "00001"])
    for needs in ("frames", "masks"):
        assert isinstance(open_dataset("ref_davis17", tree.root, needs=needs).ground_truth, PaletteGroundTruth)  # type: ignore[arg-type]


def test_semi_supervised_annotations_are_not_taken_for_the_unsupervised_ones(tree: Any) -> None:
    tree.json(META, three_objects())
    write_palettes(tree, "davis17/Annotations/480p")
    with pytest.raises(PrerequisiteError, match="Annotations_unsupervised"):
        open_dataset("ref_davis17", tree.root, needs="masks")


def test_scoring_needs_no_frames_and_running_needs_no_masks(tree: Any) -> None:
    tree.json(META, three_objects())
    write_palettes(tree, "davis17/valid/Annotations")
    with pytest.raises(PrerequisiteError, match=r"but no frames: looked for .*davis17/valid/JPEGImages"):
        open_dataset("ref_davis17", tree.root)
    scoring = open_dataset("ref_davis17", tree.root, needs="masks")
    assert len(scoring.videos) == 2
    assert scoring.videos[0].frame_paths[0] == tree.root / "davis17/valid/JPEGImages/zebra/00000.jpg"
    shutil.rmtree(tree.root / "davis17/valid/Annotations")
    for video in ("ape", "zebra"):
        tree.frames(f"davis17/valid/JPEGImages/{video}", ["00000", "00001"])
    running = open_dataset("ref_davis17", tree.root)
    assert running.ground_truth is None
    assert "No masks are there, so nothing can be scored." in running.notes


def test_videos_that_are_absent_or_half_there_are_left_out_and_named(tree: Any) -> None:
    tree.json(META, three_objects())
    tree.frames("davis17/valid/JPEGImages/zebra", ["00000", "00001"])
    tree.frames("davis17/valid/JPEGImages/ape", ["00001"])
    write_palettes(tree, "davis17/valid/Annotations")
    (tree.root / "davis17/valid/Annotations/zebra/00001.png").unlink()
    running = open_dataset("ref_davis17", tree.root)
    assert [video.name for video in running.videos] == ["zebra"]
    assert running.notes[0] == "1 of 2 videos lack some frames: ape (1 of 2 frames missing, first 00000)."
    scoring = open_dataset("ref_davis17", tree.root, needs="masks")
    assert [video.name for video in scoring.videos] == ["ape"]
    assert scoring.notes[0] == "1 of 2 videos lack some masks: zebra (1 of 2 masks missing, first 00001)."
    assert scoring.coverage == "1 of 30 videos"
    shutil.rmtree(tree.root / "davis17/valid/JPEGImages/ape")
    assert open_dataset("ref_davis17", tree.root).notes[0] == "1 of 2 videos have no frames on disk: ape."
    shutil.rmtree(tree.root / "davis17/valid/JPEGImages/zebra")
    with pytest.raises(PrerequisiteError, match="no video with frames: 2 of 2 videos have no frames on disk"):
        open_dataset("ref_davis17", tree.root)


def test_void_belongs_to_no_object(samples: Path, tree: Any) -> None:
    tennis = samples / "davis17_palette_samples/davis-interactive/session/test_data/DAVIS/Annotations/480p/tennis"
    meta = {"tennis": {"frames": ["00000", "00001"], "expressions": {"0": {"exp": "a man", "obj_id": "2"}}}}
    tree.json(META, {"videos": meta})
    shutil.copytree(tennis, tree.root / "davis17/valid/Annotations/tennis")
    dataset = open_dataset("ref_davis17", tree.root, needs="masks")
    video, truth = dataset.videos[0], dataset.ground_truth
    assert isinstance(truth, PaletteGroundTruth)
    labels_HW = truth.labels(video, 0)
    assert set(np.unique(labels_HW).tolist()) == {0, 1, 2, 255}
    mask_HW = truth.mask(video, video.expressions[0], 0)
    assert mask_HW.any() and not (mask_HW & (labels_HW == 255)).any()
    with pytest.raises(ValueError, match="read-only"):
        labels_HW[0, 0] = 1


def test_palettes_are_read_as_indices_where_opencv_reads_luminance(samples: Path) -> None:
    path = samples / "mini_ref_davis17/davis17/valid/Annotations/dog/00000.png"
    assert set(np.unique(read_labels(path)).tolist()) == {0, 1}
    assert set(np.unique(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)).tolist()) == {0, 38}


def test_a_mask_may_differ_in_size_from_its_neighbours_and_is_returned_as_it_is(samples: Path) -> None:
    judo = samples / "davis17_palette_samples/cutie/examples/masks/judo"
    assert read_labels(judo / "00005.png").shape == (480, 853)
    assert read_labels(judo / "00000.png").shape == (480, 854)


def test_a_missing_or_colour_mask_is_named(tree: Any) -> None:
    tree.json(META, three_objects())
    write_palettes(tree, "davis17/valid/Annotations")
    dataset = open_dataset("ref_davis17", tree.root, needs="masks")
    video, truth = dataset.videos[1], dataset.ground_truth
    assert truth is not None
    tree.frames("davis17/valid/Annotations/ape", ["00000"], suffix=".png")
    with pytest.raises(SampleError, match=r"ape/00000\.png has pixel format RGB; an index mask must be palette"):
        truth.mask(video, video.expressions[0], 0)
    (tree.root / "davis17/valid/Annotations/ape/00001.png").unlink()
    with pytest.raises(SampleError, match=r"ape/00001\.png does not exist"):
        truth.mask(video, video.expressions[0], 1)
    with pytest.raises(SampleError, match=r"ape/00001\.png cannot be read"):
        truth.digest(video, video.expressions[0])


def test_the_digest_changes_with_the_target_and_the_masks(tree: Any) -> None:
    tree.json(META, three_objects())
    write_palettes(tree, "davis17/valid/Annotations")

    def digests() -> dict[str, str]:
        dataset = open_dataset("ref_davis17", tree.root, needs="masks")
        assert dataset.ground_truth is not None
        return {s.id: dataset.ground_truth.digest(s.video, s.expression) for s in dataset.samples()}

    before = digests()
    ape = "ref_davis17/valid/ape/"
    assert before[ape + "0"] == before[ape + "3"] != before[ape + "4"]
    assert digests() == before
    tree.palette("davis17/valid/Annotations/ape/00001.png", labels(2))
    after = digests()
    assert after[ape + "0"] != before[ape + "0"]
    assert after["ref_davis17/valid/zebra/0"] == before["ref_davis17/valid/zebra/0"]


def test_all_real_expressions(samples: Path) -> None:
    path = samples / "expressions/ref_davis17_valid_meta_expressions.json"
    card = load_card("ref_davis17")
    by_name = {layout.name: layout for layout in card.layouts}
    entries = read_metadata(path, card, card.splits["valid"], by_name["referformer"])
    expressions = [(entry.name, expression) for entry in entries for expression in entry.expressions]
    assert len(entries) == 30
    assert len(expressions) == 244
    assert len({(name, expression.targets) for name, expression in expressions}) == 61
    assert sum(len(entry.frames) for entry in entries) == 1999
    assert sum(len(entry.frames) * len(entry.expressions) for entry in entries) == 15936
    assert len({(name, expression.targets, expression.text) for name, expression in expressions}) == 217
    for _, expression in expressions:
        assert expression.targets == (str(int(expression.id) // 4 + 1),)
        assert expression.annotator == int(expression.id) % 4
    for annotator in range(4):
        assert sum(expression.annotator == annotator for _, expression in expressions) == 61

    # The pickle's counter, counted the slow way over the raw file.
    videos = json.loads(path.read_text())["videos"]
    slow: dict[tuple[str, str], str] = {}
    for name in sorted(videos):
        for key in sorted(videos[name]["expressions"], key=str):
            slow[name, key] = str(len(slow))
    counted = read_metadata(path, card, card.splits["valid"], by_name["visa"])
    assert {(e.name, x.id): x.targets[0] for e in counted for x in e.expressions} == slow
    assert slow["gold-fish", "10"] == str(int(slow["gold-fish", "1"]) + 1)


def test_a_pickle_may_come_from_any_protocol(tree: Any, rle: Any) -> None:
    meta = {"ape": {"frames": ["00000"], "expressions": {"0": {"exp": "an ape", "obj_id": "1"}}}}
    tree.json(META, {"videos": meta})
    mask_HW = labels(1) == 1
    for protocol in range(6):
        tree.pickle("davis17/valid/mask_dict.pkl", {0: [rle(mask_HW, as_bytes=True)], "1": [None]}, protocol)
        dataset = open_dataset("ref_davis17", tree.root, needs="masks")
        truth, video = dataset.ground_truth, dataset.videos[0]
        assert isinstance(truth, RleGroundTruth)
        assert np.array_equal(truth.mask(video, video.expressions[0], 0), mask_HW), protocol
