"""A plain benchmark of one's own is a card in some folder and no code; hidden splits are scored where masks are."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rvosbench.harness import cli
from rvosbench.harness.data.cards import load_card
from rvosbench.harness.data.reader import open_dataset
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.recipes import load_recipe
from rvosbench.harness.results.reader import read_run
from rvosbench.harness.scoring.compare import compare
from rvosbench.harness.scoring.protocols import require_protocol

Run = Callable[..., tuple[int, str]]
FRAMES = ["00000", "00001"]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["rvosbench", *map(str, arguments)])
        code: object = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code
        captured = capsys.readouterr()
        return int(str(code or 0)), " ".join((captured.out + captured.err).split())

    return run


def card(**changes: Any) -> dict[str, Any]:
    return {
        "name": "mybench",
        "title": "My benchmark",
        "summary": "Two kinds of expressions.",
        "folders": ["my-data"],
        "default_split": "test",
        "splits": {
            "test": {
                "title": "My benchmark test",
                "folder": "test",
                "ground_truth": "public",
                "protocols": ["mybench/v1", "mybench/kinds"],
            }
        },
        "layouts": [
            {
                "name": "mine",
                "title": "one folder of PNGs per object",
                "metadata": ["{folder}.json"],
                "frames": ["frames"],
                "masks": {"kind": "binary", "key": "video_object", "paths": ["masks"], "no_file": "empty"},
            }
        ],
        "subsets": {"still": "does not move", "moving": "moves"},
        "subset_rule": {"field": "kind", "values": {"still": "still", "moving": "moving"}},
        "protocols": {
            "mybench/v1": {"text": "Mean over frames, then over expressions."},
            "mybench/kinds": {"text": "Mean of the means of the two kinds.", "average": ["still", "moving"]},
        },
        "known_defects": ["The masks are drawn by hand."],
        "licence": "own",
        "citation": "none",
        "obtain": "Ask me.",
    } | changes


@pytest.fixture
def mine(tree: Any, square: Any, tmp_path: Path) -> Path:
    """The card's file, away from the data root: 2 expressions of one kind, 1 of the other."""
    kinds = {"a": "still", "b": "still", "c": "moving"}
    expressions = {id_: {"exp": id_, "obj_id": 1 + (id_ == "c"), "kind": kind} for id_, kind in kinds.items()}
    tree.json("my-data/test.json", {"videos": {"v": {"frames": FRAMES, "expressions": expressions}}})
    tree.frames("my-data/frames/v", FRAMES)
    for frame in FRAMES:
        tree.binary(f"my-data/masks/v/1/{frame}.png", square(0, 0))
    tree.binary("my-data/masks/v/2/00000.png", square(2, 2))
    path = tmp_path / "cards/mybench.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(card()))
    # a is right, b wrong, c right on the first frame and wrong on the second, where the object is absent.
    for id_, y in (("a", 0), ("b", 4), ("c", 2)):
        for frame in FRAMES:
            tree.binary(f"../predictions/v/{id_}/{frame}.png", square(y, y))
    return path


def scores(folder: Path) -> dict[str, tuple[float, float]]:
    rows = json.loads((folder / "scores.json").read_text())["scores"]
    return {row["protocol"]: (row["J"], row["F"]) for row in rows if row["subset"] == "all"}


def test_a_card_alone_makes_a_benchmark(mine: Path, tree: Any, tmp_path: Path, run: Run) -> None:
    code, text = run("datasets", "verify", mine, "--data-root", tree.root)
    assert code == 0 and "complete" in text and "The masks are drawn by hand." in text
    out = tmp_path / "scores"
    code, text = run(
        "score", tmp_path / "predictions", "--dataset", mine, "--data-root", tree.root, "--out", out
    )  # fmt: skip
    assert code == 0, text
    assert scores(out) == {
        "mybench/v1": (pytest.approx(0.5), pytest.approx(0.5)),
        "mybench/kinds": (pytest.approx(0.5), pytest.approx(0.5)),
    }
    (tmp_path / "predictions/v/b").rename(tmp_path / "predictions/v/x")
    (tmp_path / "predictions/v/a").rename(tmp_path / "predictions/v/b")
    (tmp_path / "predictions/v/x").rename(tmp_path / "predictions/v/a")
    other = tmp_path / "other"
    code, _ = run("score", tmp_path / "predictions", "--dataset", mine, "--data-root", tree.root, "--out", other)
    mine.unlink()
    pairs = compare(read_run(out), read_run(other))
    assert {pair.first.protocol for pair in pairs} == {"mybench/v1", "mybench/kinds"}, "the folder keeps the card"


def test_the_mean_of_groups_is_not_the_mean_over_expressions(mine: Path, tree: Any, tmp_path: Path, run: Run) -> None:
    for frame in FRAMES:
        (tmp_path / f"predictions/v/b/{frame}.png").write_bytes((tmp_path / "predictions/v/a/00000.png").read_bytes())
    out = tmp_path / "scores"
    run("score", tmp_path / "predictions", "--dataset", mine, "--data-root", tree.root, "--out", out)
    # Expressions: 1, 1, 0.5. Kinds: 1 and 0.5.
    assert scores(out)["mybench/v1"][0] == pytest.approx(2.5 / 3)
    assert scores(out)["mybench/kinds"][0] == pytest.approx(0.75)


def test_a_recipe_names_a_card_relative_to_itself(mine: Path, tree: Any, tmp_path: Path, monkeypatch: Any) -> None:
    recipe = {"name": "x", "datasets": [{"card": "../cards/mybench.yaml"}], "methods": [{"method": "bright"}]}
    path = tmp_path / "recipes/r.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(recipe))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (choice,) = load_recipe(path).datasets
    assert choice.name == "mybench"
    dataset = open_dataset(choice.source, tree.root)
    assert dataset.card.title == "My benchmark" and dataset.protocols == ("mybench/v1", "mybench/kinds")
    path.write_text(yaml.safe_dump(recipe | {"datasets": [{"name": "other", "card": "../cards/mybench.yaml"}]}))
    with pytest.raises(PrerequisiteError):
        load_recipe(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"protocols": {"mybench/v1": {"text": "x", "average": ["unheard"]}}},
        {"protocols": {"mybench/v1": {"text": "x", "average": []}}},
        {"protocols": {"mybench/v1": {"text": "x", "average": "frames"}}},
        {"protocols": {"my bench": {"text": "x"}}},
        {"protocols": {"../v1": {"text": "x"}}},
        {"name": "../mybench"},
        {"file": "/etc/passwd"},
        {"unheard": 1},
        {"splits": {"test": {"title": "x", "folder": "x", "ground_truth": "public", "video_ids": "../../ids.txt"}}},
    ],
)
def test_a_wrong_card_is_one_sentence(mine: Path, tree: Any, run: Run, changes: dict[str, Any]) -> None:
    mine.write_text(yaml.safe_dump(card(**changes)))
    code, text = run("datasets", "verify", mine, "--data-root", tree.root)
    assert code == 2 and str(mine) in text


@pytest.mark.parametrize("content", [b"", b"- 1", b"a: [", b"\xff", b"x: !!timestamp x", b"[" * 5000, b"a: !!float x"])
def test_a_card_that_is_none_is_one_sentence(mine: Path, tree: Any, run: Run, content: bytes) -> None:
    mine.write_bytes(content)
    code, text = run("datasets", "verify", mine, "--data-root", tree.root)
    assert code == 2 and str(mine) in text


def test_names_and_ids_of_the_package_keep_their_meaning(mine: Path) -> None:
    own = mine.with_name("mevis.yaml")
    own.write_text(yaml.safe_dump(card(name="mevis")))
    with pytest.raises(PrerequisiteError):
        load_card(str(own))
    taken = {name: {"text": "x"} for name in ("reasonvos/v2", "davis17/semi")}
    mine.write_text(yaml.safe_dump(card(protocols=taken)))
    for name in taken:
        with pytest.raises(PrerequisiteError):
            require_protocol(name, load_card(str(mine)))
    assert require_protocol("davis17/semi").id == "davis17/semi"


def released(tree: Any, square: Any, names: list[str], *, obj_id: bool) -> None:
    """Ref-YouTube-VOS valid with masks, predictions equal to them."""
    videos = {}
    for name in names:
        entry = {"exp": "it"} | ({"obj_id": "1"} if obj_id else {})
        videos[name] = {"frames": FRAMES, "expressions": {"0": entry}}
        tree.frames(f"ref-youtube-vos/valid/JPEGImages/{name}", FRAMES)
        for frame in FRAMES:
            tree.palette(f"ref-youtube-vos/valid/Annotations/{name}/{frame}.png", square(1, 1).astype("uint8"))
            tree.binary(f"../predictions/{name}/0/{frame}.png", square(1, 1))
    tree.json("ref-youtube-vos/meta_expressions/valid/meta_expressions.json", {"videos": videos})


def test_a_hidden_split_is_scored_here_where_its_masks_are(tree: Any, square: Any, tmp_path: Path, run: Run) -> None:
    # The last is a video of the test split, which the same file lists.
    released(tree, square, ["0062f687f1", "00f88c4f0a", "zzz"], obj_id=True)
    code, text = run("datasets", "verify", "ref_youtube_vos", "--data-root", tree.root)
    assert code == 0 and "ref-youtube-vos/valid-local" in text
    _, text = run("datasets", "list", "--data-root", tree.root)
    assert "ref-youtube-vos/valid-local" in text
    command = ("score", tmp_path / "predictions", "--dataset", "ref_youtube_vos", "--data-root", tree.root)
    code, text = run(*command, "--out", tmp_path / "out")
    assert code == 0, "masks of videos of another split that the same file lists are not in the way"
    (row,) = [r for r in json.loads((tmp_path / "out/scores.json").read_text())["scores"] if r["subset"] == "all"]
    assert (row["protocol"], row["J_and_F"]) == ("ref-youtube-vos/valid-local", 1.0)
    code, text = run(*command, "--protocol", "server", "--out", tmp_path / "other")
    assert code == 2 and not (tmp_path / "other").exists()


@pytest.mark.parametrize("masks", [False, True])
def test_without_usable_masks_both_ways_are_named(
    tree: Any, square: Any, tmp_path: Path, run: Run, masks: bool
) -> None:
    released(tree, square, ["0062f687f1"], obj_id=False)
    if not masks:
        (tree.root / "ref-youtube-vos/valid/Annotations").rename(tmp_path / "gone")
    command = ("score", tmp_path / "predictions", "--dataset", "ref_youtube_vos", "--data-root", tree.root)
    code, text = run(*command, "--out", tmp_path / "o")
    assert code == 2 and "export-submission" in text and "ref-youtube-vos/valid-local" in text
    assert ("does not say which of them belong to an expression" in text) == masks
    code, text = run("datasets", "verify", "ref_youtube_vos", "--data-root", tree.root)
    assert code == 0 and "not scored here" in text and "No server is known" in text
    assert len(open_dataset("ref_youtube_vos", tree.root).videos) == 1, "methods can run on it all the same"


def test_mevis_valid_of_both_releases_is_scored_where_its_masks_are(tree: Any, square: Any, rle: Any) -> None:
    entry = {"exp": "it", "obj_id": [0], "anno_id": [7]}
    for folder, name in (("mevis/valid", "meta_expressions.json"), ("MeViSv2/valid", "meta_expressions_v2.json")):
        expressions = {"0": entry} | ({"1": {"exp": "none", "obj_id": [], "anno_id": []}} if "v2" in name else {})
        tree.json(f"{folder}/{name}", {"videos": {"v": {"frames": FRAMES, "expressions": expressions}}})
        tree.json(f"{folder}/mask_dict.json", {"7": [rle(square(1, 1)), None]})
        tree.frames(f"{folder}/JPEGImages/v", FRAMES)
    assert open_dataset("mevis", tree.root, "valid", needs="masks").protocols == ("mevis-v1/valid-local",)
    second = open_dataset("mevis", tree.root, "valid_v2", needs="masks")
    assert second.protocols == ("mevis-v2/valid-local",)
    assert [e.subset for e in second.videos[0].expressions] == [None, "no_target"]
    (tree.root / "mevis/valid/mask_dict.json").unlink()
    first = open_dataset("mevis", tree.root, "valid", needs="masks")
    assert first.protocols == ("server",) and first.ground_truth is None


def test_known_defects_reach_the_rows_they_touch(tree: Any, square: Any, rle: Any, tmp_path: Path, run: Run) -> None:
    videos = {}
    for number, name in enumerate(("TAO/a", "UVO/b", "MOSE/c")):
        expression = {"exp": "it", "obj_id": [1], "anno_id": [number], "type_id": number % 2}
        videos[name] = {"height": 6, "width": 8, "frames": FRAMES, "expressions": {"0": expression}}
        for frame in FRAMES:
            tree.binary(f"../predictions/{name}/0/{frame}.png", square(1, 1))
    tree.json("ReVOS/meta_expressions_valid_.json", {"videos": videos})
    tree.json("ReVOS/mask_dict.json", {str(n): [rle(square(1, 1))] * 2 for n in range(3)})
    _, text = run("datasets", "verify", "revos", "--data-root", tree.root)
    assert "Masks of many TAO videos" in text
    _, text = run("datasets", "list", "--data-root", tree.root)
    assert "known defects" in text
    code, text = run(
        "score", tmp_path / "predictions", "--dataset", "revos", "--data-root", tree.root, "--out", tmp_path / "out"
    )
    assert code == 0, text
    notes = {
        row["subset"]: [note for note in row["notes"] if note.startswith("Known defect")]
        for row in json.loads((tmp_path / "out/scores.json").read_text())["scores"]
    }
    assert [note.partition(")")[0] for note in notes["all"]] == ["Known defect of the data (2 of 3 samples"]
    assert [note.partition(")")[0] for note in notes["referring"]] == ["Known defect of the data (1 of 2 samples"]
