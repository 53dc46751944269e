"""Writing the synthetic dataset: same bytes for the same seed, all or nothing, never over other data."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rvosbench.harness.cli import app
from rvosbench.harness.data.synthetic import layouts, make_clip, write_shapes
from rvosbench.harness.errors import PrerequisiteError


def tree(folder: Path) -> dict[str, str]:
    """Relative path -> hash of every file under a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_layout_is_mevis_form(tmp_path: Path) -> None:
    folder = write_shapes(tmp_path, layout="shapes", split="valid", seed=1, videos=2)
    assert folder == tmp_path / "shapes"
    videos = json.loads((folder / "valid" / "meta_expressions.json").read_text())["videos"]
    masks = json.loads((folder / "valid" / "mask_dict.json").read_text())
    assert list(videos) == ["valid-0000", "valid-0001"]
    for name, video in videos.items():
        assert sorted(path.stem for path in (folder / "valid" / "JPEGImages" / name).iterdir()) == video["frames"]
        for entry in video["expressions"].values():
            assert set(entry) == {"exp", "obj_id", "anno_id", "subset"}
            assert entry["subset"] in ("referring", "reasoning", "no_target")
            for anno_id in entry["anno_id"]:
                assert len(masks[str(anno_id)]) == len(video["frames"])
                assert all(rle is None or isinstance(rle["counts"], str) for rle in masks[str(anno_id)])


@pytest.mark.parametrize("layout", ["shapes", "davis17", "reasonvos", "revos", "mevis", "ref_youtube_vos"])
def test_same_seed_gives_the_same_bytes(tmp_path: Path, layout: str) -> None:
    for root in ("a", "b"):
        write_shapes(tmp_path / root, layout=layout, split="valid", seed=4, videos=2)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert len(tree(tmp_path / "a")) > 10


def test_other_seed_gives_other_videos(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_shapes(tmp_path / str(seed), layout="shapes", split="valid", seed=seed, videos=1)
    first, second = (set(tree(tmp_path / str(seed) / "shapes" / "valid").values()) for seed in (0, 1))
    assert not first & second


def test_first_videos_do_not_depend_on_the_number(tmp_path: Path) -> None:
    for videos in (1, 3):
        write_shapes(tmp_path / str(videos), layout="shapes", split="train", seed=0, videos=videos)
    few, many = (tree(tmp_path / str(videos) / "shapes" / "train" / "JPEGImages") for videos in (1, 3))
    assert few.items() < many.items()


def test_splits_share_no_name_and_no_scene(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        write_shapes(tmp_path, layout="shapes", split=split, seed=0, videos=3)
    train, valid = (tree(tmp_path / "shapes" / split / "JPEGImages") for split in ("train", "valid"))
    assert not train.keys() & valid.keys()
    assert not set(train.values()) & set(valid.values())


def test_calling_again_changes_nothing(tmp_path: Path) -> None:
    folder = write_shapes(tmp_path, layout="davis17", split="valid", seed=0, videos=1)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert write_shapes(tmp_path, layout="davis17", split="valid", seed=0, videos=1) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(("seed", "videos"), [(1, 1), (0, 2)])
def test_refuses_the_same_split_from_other_arguments(tmp_path: Path, seed: int, videos: int) -> None:
    folder = write_shapes(tmp_path, layout="shapes", split="valid", seed=0, videos=1)
    before = tree(folder)
    with pytest.raises(PrerequisiteError, match="already holds the split 'valid' from other arguments"):
        write_shapes(tmp_path, layout="shapes", split="valid", seed=seed, videos=videos)
    assert tree(folder) == before


def test_refuses_a_folder_of_others(tmp_path: Path) -> None:
    (tmp_path / "davis17" / "valid").mkdir(parents=True)
    (tmp_path / "davis17" / "valid" / "meta.json").write_text("{}")
    with pytest.raises(PrerequisiteError, match="was not written by the shapes generator"):
        write_shapes(tmp_path, layout="davis17", split="valid", seed=0, videos=1)
    assert tree(tmp_path) == {"davis17/valid/meta.json": hashlib.sha256(b"{}").hexdigest()}


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(seed: int, split: str, index: int) -> object:
        if index == 1:
            raise OSError("disk full")
        return make_clip(seed, split, index)

    monkeypatch.setattr(layouts, "make_clip", fail)
    with pytest.raises(OSError, match="disk full"):
        write_shapes(tmp_path, layout="shapes", split="valid", seed=0, videos=2)
    assert list(tmp_path.iterdir()) == []


def test_revos_splits_share_one_mask_file_in_any_order(tmp_path: Path) -> None:
    for root, order in (("a", ("train", "valid")), ("b", ("valid", "train"))):
        for split in order:
            write_shapes(tmp_path / root, layout="revos", split=split, seed=0, videos=2)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    masks = json.loads((tmp_path / "a" / "ReVOS" / "mask_dict.json").read_text())
    for split in ("train", "valid"):
        videos = json.loads((tmp_path / "a" / "ReVOS" / f"meta_expressions_{split}_.json").read_text())["videos"]
        named = [anno_id for v in videos.values() for e in v["expressions"].values() for anno_id in e["anno_id"]]
        assert named
        assert all(str(anno_id) in masks for anno_id in named)


def test_an_interrupted_second_split_is_finished_by_the_next_call(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        write_shapes(tmp_path, layout="revos", split=split, seed=0, videos=2)
    whole = tree(tmp_path)
    folder = tmp_path / "ReVOS"
    (folder / "shapes.valid.json").unlink()  # the manifest comes last
    shutil.rmtree(folder / "JPEGImages" / "SHAPES" / "all" / "valid-0000")
    write_shapes(tmp_path, layout="revos", split="valid", seed=0, videos=2)
    assert tree(tmp_path) == whole


def test_a_second_split_moves_nothing_when_a_file_is_in_the_way(tmp_path: Path) -> None:
    folder = write_shapes(tmp_path, layout="davis17", split="train", seed=0, videos=1)
    (folder / "valid").mkdir()
    (folder / "valid" / "meta.json").write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(PrerequisiteError, match=r"meta\.json is in the way"):
        write_shapes(tmp_path, layout="davis17", split="valid", seed=0, videos=1)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"layout": "davis"}, "Did you mean 'davis17'"),
        ({"split": "valid_u"}, "has no split 'valid_u'. Did you mean 'valid'"),
        ({"seed": -1}, "must not be negative"),
        ({"videos": 0}, "must be from 1 to 9999, found 0"),
        ({"layout": "ref_youtube_vos", "videos": 203}, "must be from 1 to 202, found 203"),
    ],
)
def test_bad_arguments_are_named(tmp_path: Path, changed: dict[str, object], sentence: str) -> None:
    arguments = {"layout": "shapes", "split": "valid", "seed": 0, "videos": 1, **changed}
    with pytest.raises(PrerequisiteError, match=sentence):
        write_shapes(tmp_path, **arguments)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_command(tmp_path: Path) -> None:
    def generate(videos: int) -> Result:
        arguments = ["--data-root", str(tmp_path), "--videos", str(videos), "--seed", "3", "--split", "train"]
        return CliRunner().invoke(app, ["datasets", "shapes", *arguments])

    assert generate(1).exit_code == 0
    assert (tmp_path / "shapes" / "train" / "mask_dict.json").is_file()
    again = generate(2)
    assert isinstance(again.exception, PrerequisiteError)
    assert "other arguments" in str(again.exception)


def test_base_install_suffices() -> None:
    code = "import sys, rvosbench.harness.data.synthetic; print(sorted({'torch', 'ray', 'mlflow'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
