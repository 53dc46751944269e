"""Every layout the generator writes reads back, through the real reader, as what was generated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rvosbench.harness.data.frames import DecodedFrames
from rvosbench.harness.data.reader import Dataset, open_dataset
from rvosbench.harness.data.synthetic import Clip, make_clip, write_shapes

SEED, VIDEOS = 5, 4
Expected = list[tuple[str, tuple[int, ...]]]
"""(text, object ids) in file order."""


def every_sentence(clip: Clip) -> Expected:
    return [(sentence.text, sentence.targets) for sentence in clip.sentences]


def with_target(clip: Clip) -> Expected:
    return [(text, targets) for text, targets in every_sentence(clip) if targets]


def single_target(clip: Clip) -> Expected:
    return [(text, targets) for text, targets in every_sentence(clip) if len(targets) == 1]


def quartets(clip: Clip) -> Expected:
    return [(text, (obj,)) for obj in sorted(clip.quartets) for text in clip.quartets[obj]]


def reasons(clip: Clip) -> Expected:
    out: Expected = []
    for obj in range(1, len(clip.scene.objects) + 1):
        out += [(sentence.text, (obj,)) for sentence in clip.reasons if sentence.targets == (obj,)][:4]
    return out


CASES: list[tuple[str, str, str, str, Callable[[Clip], Expected]]] = [
    # layout, split written, card, split opened, expressions expected
    ("shapes", "valid", "shapes", "valid", every_sentence),
    ("shapes", "train", "shapes", "train", every_sentence),
    ("davis17", "valid", "ref_davis17", "valid", quartets),
    ("davis17", "train", "ref_davis17", "train", quartets),
    ("reasonvos", "valid", "reasonvos", "valid", reasons),
    ("revos", "valid", "revos", "valid", every_sentence),
    ("revos", "train", "revos", "train", every_sentence),
    ("mevis", "train", "mevis", "train", with_target),
    ("mevis", "valid_u", "mevis", "valid_u", with_target),
    ("mevis", "valid_u", "mevis", "valid_u_v2", every_sentence),
    ("mevis", "valid", "mevis", "valid", with_target),
    ("mevis", "valid", "mevis", "valid_v2", every_sentence),
    ("ref_youtube_vos", "train", "ref_youtube_vos", "train", single_target),
    ("ref_youtube_vos", "valid", "ref_youtube_vos", "valid", single_target),
]
HIDDEN = {("mevis", "valid"), ("mevis", "valid_v2"), ("ref_youtube_vos", "valid")}


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """A data root with one split in one layout; written once."""
    written: dict[tuple[str, str], Path] = {}

    def root(layout: str, split: str) -> Path:
        if (layout, split) not in written:
            written[layout, split] = tmp_path_factory.mktemp(f"{layout}-{split}")
            write_shapes(written[layout, split], layout=layout, split=split, seed=SEED, videos=VIDEOS)
        return written[layout, split]

    return root


def opened(root: Path, card: str, split: str, clips: list[Clip]) -> tuple[Dataset, dict[str, Clip]]:
    dataset = open_dataset(card, root, split)
    # Sizes and lengths pin the pairing down beyond the order in the file.
    return dataset, {video.name: clip for video, clip in zip(dataset.videos, clips, strict=True)}


@pytest.mark.parametrize(("layout", "split", "card", "card_split", "expected"), CASES)
def test_reads_back_as_generated(
    roots: Callable[[str, str], Path], layout: str, split: str, card: str, card_split: str,
    expected: Callable[[Clip], Expected],
) -> None:  # fmt: skip
    clips = [make_clip(SEED, split, index) for index in range(VIDEOS)]
    dataset, by_name = opened(roots(layout, split), card, card_split, clips)
    assert (dataset.ground_truth is None) == ((card, card_split) in HIDDEN)
    for video in dataset.videos:
        clip = by_name[video.name]
        assert len(video.frames) == clip.scene.frames
        assert [expression.text for expression in video.expressions] == [text for text, _ in expected(clip)]
        assert len({expression.id for expression in video.expressions}) == len(video.expressions)
        if dataset.ground_truth is None:
            assert all(not expression.targets for expression in video.expressions)
            continue
        for expression, (_, targets) in zip(video.expressions, expected(clip), strict=True):
            scored = dataset.ground_truth.scored_frames(video, expression)
            step = 2 if layout == "reasonvos" and clip.index % 4 == 3 else 1
            assert list(scored) == list(range(0, clip.scene.frames, step))
            for frame in scored:
                read_HW = dataset.ground_truth.mask(video, expression, frame)
                assert np.array_equal(read_HW, clip.mask(targets, frame)), (expression, frame)


@pytest.mark.parametrize("layout", ["shapes", "revos"])
def test_frames_show_the_scene(roots: Callable[[str, str], Path], layout: str) -> None:
    clips = [make_clip(SEED, "valid", index) for index in range(VIDEOS)]
    dataset, by_name = opened(roots(layout, "valid"), layout, "valid", clips)
    for video in dataset.videos[:3]:
        frames, clip = DecodedFrames(video), by_name[video.name]
        assert frames.size == (clip.scene.height, clip.scene.width)
        for index, drawn_HW3 in enumerate(clip.images()):
            # JPEG is lossy; another frame or swapped channels would be far off.
            assert np.abs(frames[index].astype(int) - drawn_HW3).mean() < 2.5


def test_subsets_and_counts_survive(roots: Callable[[str, str], Path]) -> None:
    clips = [make_clip(SEED, "valid", index) for index in range(VIDEOS)]
    for layout in ("shapes", "revos"):
        dataset, by_name = opened(roots(layout, "valid"), layout, "valid", clips)
        for video in dataset.videos:
            for expression, sentence in zip(video.expressions, by_name[video.name].sentences, strict=True):
                assert expression.subset == sentence.subset
                assert len(expression.targets) == len(sentence.targets)
                assert (expression.subset == "no_target") == (not expression.targets)


def test_davis17_has_what_protocols_rely_on(roots: Callable[[str, str], Path]) -> None:
    root = roots("davis17", "valid") / "davis17"
    dataset = open_dataset("ref_davis17", root.parent, "valid")
    assert max(len(video.expressions) for video in dataset.videos) > 10  # "10" sorts before "2"
    for video in dataset.videos:
        assert [expression.annotator for expression in video.expressions] == [
            number % 4 for number in range(len(video.expressions))
        ]
        objects = [expression.targets for expression in video.expressions]
        assert objects == [(str(number // 4 + 1),) for number in range(len(objects))]
        first = Image.open(root / "valid" / "Annotations" / video.name / "00000.png")
        assert first.mode == "P"
        # DAVIS tools take the number of objects from the first frame.
        assert np.unique(np.asarray(first)).tolist() == list(range(len(objects) // 4 + 1))
        palette = first.getpalette() or []
        assert palette[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]


def test_reasonvos_has_its_peculiarities(roots: Callable[[str, str], Path]) -> None:
    root = roots("reasonvos", "valid") / "ReasonVOS"
    videos = json.loads((root / "meta_expressions.json").read_text())["videos"]
    repeated = [
        name
        for name, video in videos.items()
        if len({entry["exp_id"] for entry in video["expressions"]}) < len(video["expressions"])
    ]
    assert repeated
    assert any(len(frame) != 5 for video in videos.values() for frame in video["frames"])
    assert {entry["is_sent"] for video in videos.values() for entry in video["expressions"]} == {True, False}
    for name, video in videos.items():
        for entry in video["expressions"]:
            folder = root / "Annotations" / f"{video['source']}_{name}_{entry['obj_id']}"
            assert np.unique(np.asarray(Image.open(min(folder.iterdir())))).tolist() in ([0, 255], [0])


def test_revos_has_its_peculiarities(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        write_shapes(tmp_path, layout="revos", split=split, seed=SEED, videos=4)
    root = tmp_path / "ReVOS"
    valid = json.loads((root / "meta_expressions_valid_.json").read_text())["videos"]
    train = json.loads((root / "meta_expressions_train_.json").read_text())["videos"]
    assert not valid.keys() & train.keys()
    last_parts = [name.rsplit("/", 1)[1] for name in valid]
    assert len(set(last_parts)) < len(last_parts)
    masks = json.loads((root / "mask_dict.json").read_text())
    foreground = json.loads((root / "mask_dict_foreground.json").read_text())
    assert foreground.keys() == valid.keys() | train.keys()
    for name, video in {**train, **valid}.items():
        assert len(foreground[name]["masks_rle"]) == len(foreground[name]["foreground_ratio"]) == len(video["frames"])
        assert None not in foreground[name]["masks_rle"]
        for entry in video["expressions"].values():
            assert (entry["type_id"] == 2) == (entry["anno_id"] == [])
            assert all(masks[str(anno_id)][0] is None or masks[str(anno_id)][0]["size"] == [
                video["height"], video["width"]
            ] for anno_id in entry["anno_id"])  # fmt: skip


def test_ref_youtube_vos_has_its_peculiarities(roots: Callable[[str, str], Path]) -> None:
    root = roots("ref_youtube_vos", "valid") / "ref-youtube-vos"
    both = json.loads((root / "meta_expressions" / "valid" / "meta_expressions.json").read_text())["videos"]
    test = json.loads((root / "meta_expressions" / "test" / "meta_expressions.json").read_text())["videos"]
    assert test
    assert test.keys() < both.keys()
    assert len(both.keys() - test.keys()) == VIDEOS
    assert all(set(entry) == {"exp"} for video in both.values() for entry in video["expressions"].values())
    assert not (root / "valid" / "Annotations").exists()
    starts = {video["frames"][0] for video in both.values()}
    assert starts > {"00000"}
    gaps = {int(b) - int(a) for v in both.values() for a, b in zip(v["frames"], v["frames"][1:], strict=False)}
    assert gaps == {5, 15}


def test_mevis_hides_valid(roots: Callable[[str, str], Path]) -> None:
    root = roots("mevis", "valid") / "mevis" / "valid"
    assert not (root / "mask_dict.json").exists()
    for file in ("meta_expressions.json", "meta_expressions_v2.json"):
        videos = json.loads((root / file).read_text())["videos"]
        assert all(set(entry) == {"exp"} for video in videos.values() for entry in video["expressions"].values())
