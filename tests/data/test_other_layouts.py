"""ReasonVOS, ReVOS, MeViS, Ref-YouTube-VOS and the shapes layout, with the traps of each."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rvosbench.harness.data.ground_truth import BinaryGroundTruth, RleGroundTruth
from rvosbench.harness.data.metadata import unique_ids
from rvosbench.harness.data.reader import Dataset, open_dataset
from rvosbench.harness.errors import PrerequisiteError, SampleError


def mask(dataset: Dataset, sample: int, frame: int) -> Any:
    chosen = list(dataset.samples())[sample]
    assert dataset.ground_truth is not None
    return dataset.ground_truth.mask(chosen.video, chosen.expression, frame)


# ReasonVOS


@pytest.mark.parametrize(
    ("exp_ids", "expected"),
    [
        ([0, 1, 2], ("0", "1", "2")),
        ([3, 3], ("4", "3")),
        ([0, 0, 0], ("1", "2", "0")),
        ([0, 1, 1, 2], ("0", "3", "1", "2")),
        ([5, 2, 5], ("6", "2", "5")),
        ([], ()),
    ],
)
def test_repeated_ids_become_unique_as_in_the_repackaged_metadata(
    exp_ids: list[int], expected: tuple[str, ...]
) -> None:
    # [0, 0, 0]: the second moves position 0 to id 1; the third moves position 1 to id 2.
    assert unique_ids(exp_ids) == expected


def reasonvos(tree: Any, square: Any) -> None:
    frames = ["img_0007", "img_0011", "img_0012"]
    expressions = [
        {"obj_id": 3, "exp_id": 0, "exp_text": "the one that runs away", "is_sent": True},
        {"obj_id": 3, "exp_id": 1, "exp_text": "the fastest", "is_sent": False},
        {"obj_id": 5, "exp_id": 1, "exp_text": "the slowest", "is_sent": False},
    ]
    meta = {"clip": {"source": "BURST", "frames": frames[::-1], "expressions": expressions}}
    tree.json("ReasonVOS/meta_expressions.json", {"videos": meta})
    tree.frames("ReasonVOS/JPEGImages/clip", frames)
    for index, frame in enumerate(frames):
        tree.binary(f"ReasonVOS/Annotations/BURST_clip_3/{frame}.png", square(0, index))
    # The second object is annotated on two of three frames, with 1 instead of 255.
    tree.binary("ReasonVOS/Annotations/BURST_clip_5/img_0007.png", square(3, 0), value=1)
    tree.binary("ReasonVOS/Annotations/BURST_clip_5/img_0012.png", square(3, 4), value=1)


def test_reasonvos_as_released(tree: Any, square: Any) -> None:
    reasonvos(tree, square)
    dataset = open_dataset("reasonvos", tree.root)
    video, truth = dataset.videos[0], dataset.ground_truth
    assert isinstance(truth, BinaryGroundTruth)
    assert dataset.layout == "original"
    assert video.frames == ("img_0012", "img_0011", "img_0007"), "the file's order, as mask lists have it"
    assert [(e.id, e.targets, e.is_sentence) for e in video.expressions] == [
        ("0", ("BURST_clip_3",), True),
        ("2", ("BURST_clip_3",), False),
        ("1", ("BURST_clip_5",), False),
    ]
    assert len({sample.id for sample in dataset.samples()}) == 3
    assert list(truth.scored_frames(video, video.expressions[0])) == [0, 1, 2]
    assert list(truth.scored_frames(video, video.expressions[2])) == [0, 2], "matched by name, not by position"
    assert np.array_equal(mask(dataset, 2, 0), square(3, 4))
    with pytest.raises(SampleError, match=r"BURST_clip_5/img_0011\.png does not exist"):
        mask(dataset, 2, 1)


def test_reasonvos_repackaged_gives_the_same_ids_and_masks(tree: Any, square: Any, rle: Any) -> None:
    reasonvos(tree, square)
    released = open_dataset("reasonvos", tree.root)
    expressions = {
        "0": {"exp": "the one that runs away", "obj_id": [3], "anno_id": ["BURST_clip_3"], "is_sent": True},
        "1": {"exp": "the slowest", "obj_id": [5], "anno_id": ["BURST_clip_5"], "is_sent": False},
        "2": {"exp": "the fastest", "obj_id": [3], "anno_id": ["BURST_clip_3"], "is_sent": False},
    }
    meta = {"clip": {"source": "BURST", "frames": list(released.videos[0].frames), "expressions": expressions}}
    tree.json("ReasonVOS/meta_expressions_v2.json", {"videos": meta})
    assert open_dataset("reasonvos", tree.root).layout == "original"
    (tree.root / "ReasonVOS/meta_expressions.json").unlink()

    def described(dataset: Dataset) -> list[tuple[str, Any]]:
        return sorted(
            (s.id, (s.expression.text, s.expression.targets, s.expression.is_sentence)) for s in dataset.samples()
        )

    with_pngs = open_dataset("reasonvos", tree.root)
    assert with_pngs.layout == "decaf-png"
    assert described(with_pngs) == described(released)
    shutil.rmtree(tree.root / "ReasonVOS/Annotations")
    table = {
        "BURST_clip_3": [rle(square(0, i), as_bytes=True) for i in range(3)],
        "BURST_clip_5": [rle(square(3, 0), as_bytes=True), rle(square(3, 4), as_bytes=True)],
    }
    tree.pickle("ReasonVOS/mask_dict_v2.pkl", table)
    pickled = open_dataset("reasonvos", tree.root)
    assert pickled.layout == "decaf"
    assert described(pickled) == described(released)
    assert np.array_equal(mask(pickled, 0, 1), square(0, 1))
    truth, video = pickled.ground_truth, pickled.videos[0]
    assert truth is not None
    # The pickle lost which frames were annotated: two masks for three frames fit nowhere.
    with pytest.raises(SampleError, match=r"'BURST_clip_5' has 2 masks for the 3 frames of 'clip', so they cannot be"):
        truth.scored_frames(video, video.expressions[1])


def test_reasonvos_masks_that_match_no_frame_leave_the_video_out(tree: Any, square: Any) -> None:
    reasonvos(tree, square)
    for path in (tree.root / "ReasonVOS/Annotations/BURST_clip_5").iterdir():
        path.rename(path.with_name(f"other_{path.name}"))
    with pytest.raises(PrerequisiteError, match=r"clip \(1 of 2 mask folders missing, first BURST_clip_5\)"):
        open_dataset("reasonvos", tree.root, needs="masks")
    dataset = open_dataset("reasonvos", tree.root)
    video, truth = dataset.videos[0], dataset.ground_truth
    assert truth is not None
    with pytest.raises(SampleError, match=r"no frame of 'clip' has a mask in .*BURST_clip_5"):
        truth.scored_frames(video, video.expressions[2])


# ReVOS


def revos(tree: Any, square: Any, rle: Any) -> None:
    expressions = {
        "0": {"exp": "the two", "obj_id": [1, 2], "anno_id": [812, 813], "type_id": 0},
        "1": {"exp": "who wins?", "obj_id": [1], "anno_id": [812], "type_id": 1},
        "2": {"exp": "the zebra on the roof", "obj_id": [], "anno_id": [], "type_id": 2},
    }
    lonely = {"0": {"exp": "a ghost", "obj_id": [], "anno_id": [], "type_id": 2}}
    size = {"height": 6, "width": 8}
    videos = {
        "UVO/all/-CiPki": {"vid_id": 7, **size, "frames": ["00000", "00005"], "expressions": expressions},
        "TAO/all/-CiPki": {"vid_id": 8, **size, "frames": ["00000"], "expressions": lonely},
    }
    tree.json("ReVOS/meta_expressions_valid_.json", {"videos": videos})
    # The two targets overlap on the first frame; the second one is absent on the second frame.
    tree.json(
        "ReVOS/mask_dict.json",
        {"812": [rle(square(0, 0)), rle(square(2, 2))], "813": [rle(square(1, 1)), None], "9": []},
    )


def test_revos_slashes_subsets_unions_and_empty_targets(tree: Any, square: Any, rle: Any) -> None:
    revos(tree, square, rle)
    tree.frames("ReVOS/JPEGImages/UVO/all/-CiPki", ["00000", "00005"])
    tree.frames("ReVOS/JPEGImages/TAO/all/-CiPki", ["00000"])
    dataset = open_dataset("revos", tree.root)
    assert dataset.layout == "official"
    assert [sample.id for sample in dataset.samples()][2:] == [
        "revos/valid/UVO/all/-CiPki/2",
        "revos/valid/TAO/all/-CiPki/0",
    ]
    assert [s.expression.subset for s in dataset.samples()] == ["referring", "reasoning", "no_target", "no_target"]
    assert np.array_equal(mask(dataset, 0, 0), square(0, 0) | square(1, 1))
    assert mask(dataset, 0, 0).dtype == bool
    assert np.array_equal(mask(dataset, 0, 1), square(2, 2))
    for sample in (2, 3):
        assert mask(dataset, sample, 0).shape == (6, 8)
        assert not mask(dataset, sample, 0).any()


def test_revos_scores_without_frames_and_knows_the_size_of_empty_masks(tree: Any, square: Any, rle: Any) -> None:
    revos(tree, square, rle)
    dataset = open_dataset("revos", tree.root, needs="masks")
    assert dataset.coverage == "2 of 416 videos"
    assert mask(dataset, 3, 0).shape == (6, 8), "from height and width, as no mask of the video says"
    truth = dataset.ground_truth
    assert isinstance(truth, RleGroundTruth)
    digests = [truth.digest(sample.video, sample.expression) for sample in dataset.samples()]
    assert len(set(digests)) == 4


# MeViS


def mevis(tree: Any, square: Any, rle: Any) -> None:
    def videos(*, no_target: bool) -> dict[str, Any]:
        expressions = {"0": {"exp": "two that move", "obj_id": [0, 1], "anno_id": [2, 3]}}
        if no_target:
            expressions["1"] = {"exp": "none that moves", "obj_id": [], "anno_id": []}
        return {"videos": {"377b": {"vid_id": 3, "frames": ["00000", "00001"], "expressions": expressions}}}

    tree.json("mevis/valid_u/meta_expressions.json", videos(no_target=False))
    tree.json("mevis/valid_u/meta_expressions_v2.json", videos(no_target=True))
    tree.json("mevis/valid_u/mask_dict.json", {"2": [rle(square(0, 0)), None], "3": [None, None]})
    tree.frames("mevis/valid_u/JPEGImages/377b", ["00000", "00001"])


def test_the_two_releases_of_mevis_are_two_splits(tree: Any, square: Any, rle: Any) -> None:
    mevis(tree, square, rle)
    first, second = (open_dataset("mevis", tree.root, split) for split in ("valid_u", "valid_u_v2"))
    assert (first.layout, second.layout) == ("v1", "v2")
    assert first.card.splits["valid_u"].protocols == ("mevis-v1/valid_u",)
    assert second.card.splits["valid_u_v2"].protocols == ("mevis-v2/valid_u",)
    assert open_dataset("mevis", tree.root).split == "valid_u"
    assert [s.expression.subset for s in first.samples()] == [None]
    assert [s.expression.subset for s in second.samples()] == [None, "no_target"]
    assert np.array_equal(mask(first, 0, 0), square(0, 0)), "null counts as absent"
    assert not mask(first, 0, 1).any()
    truth = second.ground_truth
    assert truth is not None
    nothing = list(second.samples())[1]
    assert list(truth.scored_frames(nothing.video, nothing.expression)) == [0, 1]
    assert mask(second, 1, 1).shape == (6, 8)


def test_release_two_is_not_read_as_release_one(tree: Any, square: Any, rle: Any) -> None:
    mevis(tree, square, rle)
    valid_u = tree.root / "mevis/valid_u"
    (valid_u / "meta_expressions_v2.json").rename(valid_u / "meta_expressions.json")
    with pytest.raises(PrerequisiteError, match=r"expressions\['1'\] has no target, but every expression of MeViS v1"):
        open_dataset("mevis", tree.root, "valid_u")
    with pytest.raises(PrerequisiteError, match=r"meta_expressions_v2\.json"):
        open_dataset("mevis", tree.root, "valid_u_v2")
    (tree.root / "mevis").rename(tree.root / "mevis_v2")
    assert open_dataset("mevis", tree.root, "valid_u_v2").layout == "v2-own-folder"


def test_mevis_valid_is_hidden_and_lists_every_video(tree: Any) -> None:
    videos = {name: {"frames": ["00000"], "expressions": {"0": {"exp": "it moves"}}} for name in ("a", "b")}
    tree.json("mevis/valid/meta_expressions.json", {"videos": videos})
    tree.frames("mevis/valid/JPEGImages/a", ["00000"])
    listed = open_dataset("mevis", tree.root, "valid", needs="masks")
    assert listed.ground_truth is None
    assert [video.name for video in listed.videos] == ["a", "b"]
    assert listed.videos[0].expressions[0].targets == ()
    assert listed.videos[0].expressions[0].subset is None
    assert [video.name for video in open_dataset("mevis", tree.root, "valid").videos] == ["a"]


def test_a_video_whose_annotations_are_not_in_the_dictionary_is_left_out(tree: Any, square: Any, rle: Any) -> None:
    mevis(tree, square, rle)
    extra = {"frames": ["00000"], "expressions": {"0": {"exp": "x", "obj_id": [0], "anno_id": [99]}}}
    meta = {"377b": {"frames": ["00000", "00001"], "expressions": {}}, "extra": extra}
    meta["377b"]["expressions"] = {"0": {"exp": "two", "obj_id": [0, 1], "anno_id": [2, 3]}}
    tree.json("mevis/valid_u/meta_expressions.json", {"videos": meta})
    dataset = open_dataset("mevis", tree.root, needs="masks")
    assert [video.name for video in dataset.videos] == ["377b"]
    assert dataset.notes[0] == "1 of 2 videos have no masks on disk: extra."


# Ref-YouTube-VOS


def test_real_valid_metadata_is_cut_to_the_202_videos(samples: Path, tree: Any) -> None:
    target = tree.text("ref-youtube-vos/meta_expressions/valid/meta_expressions.json", "")
    shutil.copyfile(samples / "expressions/ref_youtube_vos_valid_plus_test_meta_expressions.json", target)
    dataset = open_dataset("ref_youtube_vos", tree.root, needs="masks")
    assert dataset.ground_truth is None
    assert dataset.coverage == "202 of 202 videos"
    assert dataset.notes == ("305 of 507 videos in meta_expressions.json belong to other splits than valid.",)
    assert len(list(dataset.samples())) == 834
    assert sum(len(video.frames) for video in dataset.videos) == 5486
    assert sum(len(video.frames) * len(video.expressions) for video in dataset.videos) == 22046
    assert sum(video.frames[0] != "00000" for video in dataset.videos) == 25
    ids = (samples / "expressions/ref_youtube_vos_valid_202_ids.txt").read_text().split()
    assert {video.name for video in dataset.videos} == set(ids)


def test_real_valid_names_meet_frames_by_name(samples: Path, tree: Any) -> None:
    target = tree.text("ref-youtube-vos/meta_expressions/valid/meta_expressions.json", "")
    shutil.copyfile(samples / "expressions/ref_youtube_vos_valid_plus_test_meta_expressions.json", target)
    listed = open_dataset("ref_youtube_vos", tree.root, needs="masks")
    late = next(video for video in listed.videos if video.frames[0] != "00000")
    tree.frames(f"ref-youtube-vos/valid/JPEGImages/{late.name}", late.frames)
    dataset = open_dataset("ref_youtube_vos", tree.root)
    assert dataset.coverage == "1 of 202 videos"
    assert dataset.videos[0].frame_paths[0].stem == late.frames[0]
    assert "201 of 202 videos have no frames on disk" in dataset.notes[1]


def test_metadata_without_a_single_known_video_is_refused(tree: Any) -> None:
    meta = {"unknown": {"frames": ["00000"], "expressions": {"0": {"exp": "a dog"}}}}
    tree.json("ref-youtube-vos/meta_expressions/valid/meta_expressions.json", {"videos": meta})
    with pytest.raises(PrerequisiteError, match=r"no video with an entry: 1 of 1 videos .* belong to other splits"):
        open_dataset("ref_youtube_vos", tree.root, needs="masks")


def test_train_has_palettes(tree: Any) -> None:
    meta = {"003234408d": {"frames": ["00000", "00005"], "expressions": {"0": {"exp": "a penguin", "obj_id": "2"}}}}
    tree.json("ref-youtube-vos/meta_expressions/train/meta_expressions.json", {"videos": meta})
    tree.frames("ref-youtube-vos/train/JPEGImages/003234408d", ["00000", "00005"])
    for frame, row in (("00000", [[0, 1, 2]]), ("00005", [[2, 2, 0]])):
        tree.palette(f"ref-youtube-vos/train/Annotations/003234408d/{frame}.png", row)
    dataset = open_dataset("ref_youtube_vos", tree.root, "train")
    assert mask(dataset, 0, 0).tolist() == [[False, False, True]]
    assert mask(dataset, 0, 1).tolist() == [[True, True, False]]


# Shapes layout, with real masks


def test_real_masklets_overlap_disappear_and_unite(samples: Path, tree: Any) -> None:
    frames = [f"{index:05d}" for index in range(121)]
    expressions = {
        "0": {"exp": "everything", "obj_id": [0, 1], "anno_id": [0, 1, 2, 3, 4], "subset": "referring"},
        "1": {"exp": "the last", "obj_id": [4], "anno_id": [4]},
        "2": {"exp": "a unicorn", "obj_id": [], "anno_id": []},
    }
    tree.json("shapes/valid/meta_expressions.json", {"videos": {"sav": {"frames": frames, "expressions": expressions}}})
    shutil.copyfile(samples / "sav_example/mask_dict.json", tree.text("shapes/valid/mask_dict.json", ""))
    dataset = open_dataset("shapes", tree.root, needs="masks")
    video, truth = dataset.videos[0], dataset.ground_truth
    assert isinstance(truth, RleGroundTruth)
    assert [expression.subset for expression in video.expressions] == ["referring", None, "no_target"]
    single = [truth.table[str(annotation)] for annotation in range(5)]
    assert any(masks[0] is None for masks in single), "some object is absent at the start"
    union_HW = mask(dataset, 0, 0)
    parts = [expression_mask(truth, video, annotation, 0) for annotation in range(5)]
    assert np.array_equal(union_HW, np.logical_or.reduce(parts))
    assert any(
        sum(int(expression_mask(truth, video, a, frame).sum()) for a in range(5)) > int(mask(dataset, 0, frame).sum())
        for frame in range(0, 121, 10)
    ), "targets overlap somewhere"
    assert mask(dataset, 2, 60).shape == (848, 480)
    assert not mask(dataset, 2, 60).any()


def expression_mask(truth: RleGroundTruth, video: Any, annotation: int, frame: int) -> Any:
    from rvosbench.harness.data.types import Expression

    return truth.mask(video, Expression("x", "", (str(annotation),)), frame)


def test_two_targets_of_different_size_are_an_error(tree: Any, square: Any, rle: Any) -> None:
    mevis(tree, square, rle)
    tree.json(
        "mevis/valid_u/mask_dict.json", {"2": [rle(square(0, 0)), None], "3": [rle(square(0, 0, size=(6, 9))), None]}
    )
    with pytest.raises(SampleError, match=r"'3'\[0\] has size \[6, 9\], other targets \[6, 8\]"):
        mask(open_dataset("mevis", tree.root), 0, 0)


def test_a_dictionary_is_parsed_once_and_shared(
    tree: Any, square: Any, rle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rvosbench.harness.data import files

    mevis(tree, square, rle)
    parsed: list[str] = []
    original = files.load_json

    def counted(path: Path) -> Any:
        parsed.append(path.name)
        return original(path)

    monkeypatch.setattr(files, "load_json", counted)
    for split in ("valid_u", "valid_u_v2", "valid_u"):
        mask(open_dataset("mevis", tree.root, split, needs="masks"), 0, 0)
    assert parsed.count("mask_dict.json") == 1
