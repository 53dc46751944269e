"""Every malformed metadata, mask file or card gives one sentence: the file, the key, what was expected."""

from __future__ import annotations

import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rvosbench.harness.data.cards import CARDS, card_names, load_card, read_card, video_ids
from rvosbench.harness.data.files import load_plain_pickle, load_rle_table
from rvosbench.harness.data.parsing import load_json
from rvosbench.harness.data.reader import open_dataset
from rvosbench.harness.errors import PrerequisiteError

Change = Callable[[dict[str, Any]], Any]


def revos() -> dict[str, Any]:
    expression = {"exp": "a dog", "obj_id": [1], "anno_id": [4], "type_id": 0}
    return {"videos": {"UVO/v": {"height": 6, "width": 8, "frames": ["0", "1"], "expressions": {"0": expression}}}}


def _video(meta: dict[str, Any]) -> dict[str, Any]:
    video: dict[str, Any] = meta["videos"]["UVO/v"]
    return video


def _expression(meta: dict[str, Any]) -> dict[str, Any]:
    expression: dict[str, Any] = _video(meta)["expressions"]["0"]
    return expression


METADATA: list[tuple[Change, str]] = [
    (
        lambda m: m.pop("videos"),
        "'videos' must be a mapping from video name to its frames and expressions, found null.",
    ),
    (
        lambda m: m.update(videos=[]),
        "'videos' must be a mapping from video name to its frames and expressions, found list.",
    ),
    (
        lambda m: m["videos"].update({"UVO/v": 3}),
        "videos['UVO/v'] must be a mapping with 'frames' and 'expressions', found int.",
    ),
    (
        lambda m: m["videos"].update({"../../etc": {}}),
        "the video name '../../etc' is not a relative path inside the folder.",
    ),
    (lambda m: m["videos"].update({"/etc": {}}), "the video name '/etc' is not a relative path inside the folder."),
    (
        lambda m: _video(m).pop("frames"),
        "videos['UVO/v'].frames must be a list of frame names that is not empty, found null.",
    ),
    (
        lambda m: _video(m).update(frames=[]),
        "videos['UVO/v'].frames must be a list of frame names that is not empty, found list.",
    ),
    (lambda m: _video(m).update(frames=[0]), "videos['UVO/v'].frames must be a list of text, found int."),
    (lambda m: _video(m).update(frames=["0", "0"]), "videos['UVO/v'].frames lists '0' more than once."),
    (lambda m: _video(m).update(frames=["a/b"]), "videos['UVO/v'].frames holds 'a/b', which cannot name a file."),
    (lambda m: _video(m).update(height="tall"), "videos['UVO/v'].height must be an integer, found str."),
    (lambda m: _video(m).pop("width"), "videos['UVO/v'].width must be an integer, found null."),
    (
        lambda m: _video(m).update(expressions=[]),
        "videos['UVO/v'].expressions must be a mapping from expression id to its entry, found list.",
    ),
    (
        lambda m: _video(m).update(expressions={"0": "a dog"}),
        "videos['UVO/v'].expressions['0'] must be a mapping with 'exp', found str.",
    ),
    (
        lambda m: _video(m).update(expressions={"..": {}}),
        "videos['UVO/v'].expressions['..'] has an id that cannot name a file.",
    ),
    (
        lambda m: _video(m).update(expressions={"a/b": {}}),
        "videos['UVO/v'].expressions['a/b'] has an id that cannot name a file.",
    ),
    (lambda m: _expression(m).pop("exp"), "videos['UVO/v'].expressions['0'].exp must be text, found null."),
    (lambda m: _expression(m).update(exp=7), "videos['UVO/v'].expressions['0'].exp must be text, found int."),
    (
        lambda m: _expression(m).pop("anno_id"),
        "videos['UVO/v'].expressions['0'].anno_id must be an id or a list of ids, found null.",
    ),
    (
        lambda m: _expression(m).update(anno_id=[True]),
        "videos['UVO/v'].expressions['0'].anno_id must be an id or a list of ids, found list.",
    ),
    (
        lambda m: _expression(m).update(anno_id=1.5),
        "videos['UVO/v'].expressions['0'].anno_id must be an id or a list of ids, found float.",
    ),
    (
        lambda m: _expression(m).update(anno_id="../x"),
        "videos['UVO/v'].expressions['0'].anno_id holds '../x', which is not a relative path inside the folder.",
    ),
    (
        lambda m: _expression(m).pop("type_id"),
        "videos['UVO/v'].expressions['0'].type_id must be one of 0, 1, 2, found None.",
    ),
    (
        lambda m: _expression(m).update(type_id=3),
        "videos['UVO/v'].expressions['0'].type_id must be one of 0, 1, 2, found 3.",
    ),
    (
        lambda m: _expression(m).update(is_sent="yes"),
        "videos['UVO/v'].expressions['0'].is_sent must be true or false, found str.",
    ),
]


@pytest.mark.parametrize(("change", "sentence"), METADATA)
def test_malformed_metadata(tree: Any, change: Change, sentence: str) -> None:
    meta = revos()
    tree.json("ReVOS/mask_dict.json", {"4": [None, None]})
    path = tree.json("ReVOS/meta_expressions_valid_.json", meta)
    open_dataset("revos", tree.root, needs="masks")
    change(meta)
    path.write_text(json.dumps(meta))
    with pytest.raises(PrerequisiteError) as caught:
        open_dataset("revos", tree.root, needs="masks")
    assert caught.value.problem == f"{path}: {sentence}"
    assert caught.value.fix


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty, not JSON."),
        (b'{"videos": {\n"a": ', "is not valid JSON: Expecting value at line 2, column 6."),
        (b'{"videos": "\xff"}', "is not UTF-8 text (byte 12)."),
        (b"[" * 100_000, "is not valid JSON: it nests too deeply."),
        (b'"text"', ": 'videos' must be a mapping from video name to its frames and expressions, found null."),
    ],
)
def test_metadata_that_is_no_json(tree: Any, content: bytes, sentence: str) -> None:
    path = tree.text("shapes/valid/meta_expressions.json", "")
    tree.json("shapes/valid/mask_dict.json", {})
    path.write_bytes(content)
    with pytest.raises(PrerequisiteError) as caught:
        open_dataset("shapes", tree.root, needs="masks")
    assert caught.value.problem.removeprefix(str(path)).strip() == sentence


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "meta.json"
    path.write_bytes(b'\xef\xbb\xbf{"videos": {}}')
    assert load_json(path) == {"videos": {}}


@pytest.mark.parametrize("obj_id", ["0", 255, "sheep", -1])
def test_a_palette_index_that_is_none(tree: Any, obj_id: object) -> None:
    expressions = {"0": {"exp": "a sheep", "obj_id": obj_id}}
    meta = {"v": {"frames": ["00000"], "expressions": expressions}}
    path = tree.json("davis17/meta_expressions/valid/meta_expressions.json", {"videos": meta})
    tree.palette("davis17/valid/Annotations/v/00000.png", [[0, 1]])
    with pytest.raises(PrerequisiteError) as caught:
        open_dataset("ref_davis17", tree.root, needs="masks")
    assert caught.value.problem == (
        f"{path}: videos['v'].expressions['0'].obj_id must be a palette index from 1 to 254, found '{obj_id}'."
    )


def test_malformed_reasonvos_lists(tree: Any) -> None:
    tree.json("ReasonVOS/keep.json", {})
    (tree.root / "ReasonVOS/Annotations").mkdir()
    entry = {"obj_id": 1, "exp_id": 0, "exp_text": "x", "is_sent": True}
    for video, sentence in (
        ({"source": "MOSE", "expressions": {}}, "videos['v'].expressions must be a list of entries, found dict."),
        (
            {"source": "MOSE", "expressions": [1]},
            "expressions[0] must be a mapping with 'exp_id' and 'exp_text', found int.",
        ),
        ({"source": "MOSE", "expressions": [{}]}, "videos['v'].expressions[0].exp_id must be an integer, found null."),
        ({"expressions": [entry]}, "videos['v'].source must be text, found null."),
    ):
        path = tree.json("ReasonVOS/meta_expressions.json", {"videos": {"v": {"frames": ["0"], **video}}})
        with pytest.raises(PrerequisiteError) as caught:
            open_dataset("reasonvos", tree.root, needs="masks")
        assert caught.value.problem.startswith(f"{path}: ")
        assert caught.value.problem.endswith(sentence)


RLE = {"size": [2, 2], "counts": "04"}


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ([], "the file must be a mapping from annotation id to masks, found list."),
        ({"4": None}, "'4' must be a list with one mask or null per frame, found null."),
        ({"4": {"0": RLE}}, "'4' must be a list with one mask or null per frame, found dict."),
        ({"4": [RLE, 5]}, '\'4\'[1] must be null or a COCO RLE {"size": [H, W], "counts": text}, found int.'),
        ({"4": [{"counts": "04"}]}, "'4'[0].size must be [H, W], two positive integers, found null."),
        ({"4": [{"size": [2], "counts": "04"}]}, "'4'[0].size must be [H, W], two positive integers, found list."),
        ({"4": [{"size": [2, 0], "counts": "04"}]}, "'4'[0].size must be [H, W], two positive integers, found list."),
        ({"4": [{"size": [2, 2]}]}, "'4'[0].counts must be text (compressed COCO RLE), found null."),
        ({"4": [{"size": [2, 2], "counts": [4]}]}, "'4'[0].counts must be text (compressed COCO RLE), found list."),
    ],
)
@pytest.mark.parametrize("suffix", [".json", ".pkl"])
def test_malformed_mask_dictionaries(tmp_path: Path, table: Any, sentence: str, suffix: str) -> None:
    path = tmp_path / f"mask_dict{suffix}"
    path.write_bytes(json.dumps(table).encode() if suffix == ".json" else pickle.dumps(table))
    with pytest.raises(PrerequisiteError) as caught:
        load_rle_table(path)
    assert caught.value.problem == f"{path}: {sentence}"


class _Hostile:
    def __init__(self, *call: Any) -> None:
        self._call = call

    def __reduce__(self) -> Any:
        return self._call


def _numpy_pickle() -> bytes:
    import numpy as np

    return pickle.dumps({"4": np.zeros(3)})


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_cannot_run_code(tmp_path: Path, protocol: int) -> None:
    path, proof = tmp_path / "mask_dict.pkl", tmp_path / "proof"
    import codecs

    for hostile in (
        _Hostile(os.system, (f"touch {proof}",)),
        _Hostile(exec, (f"open({str(proof)!r}, 'w')",)),
        _Hostile(codecs.encode, ("secret", "rot13")),
        _Hostile(bytes, (10**9,)),
        _Hostile(getattr, ({}, "clear")),
    ):
        path.write_bytes(pickle.dumps({"4": [hostile]}, protocol))
        with pytest.raises(PrerequisiteError, match="is not a pickle of plain data"):
            load_plain_pickle(path)
    assert not proof.exists()


def test_pickles_of_arrays_and_damaged_pickles_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mask_dict.pkl"
    path.write_bytes(_numpy_pickle())
    with pytest.raises(PrerequisiteError, match=r"is not a pickle of plain data: it asks for numpy"):
        load_plain_pickle(path)
    whole = pickle.dumps({"4": [{"size": [2, 2], "counts": b"04"}]})
    assert pickle.load(io.BytesIO(whole)) == load_plain_pickle(_written(path, whole))
    for length in range(len(whole)):
        with pytest.raises(PrerequisiteError, match=str(path)):
            load_plain_pickle(_written(path, whole[:length]))
    for garbage in (b"not a pickle", b"\x80\x05" + bytes(range(256)), b"\0" * 40):
        with pytest.raises(PrerequisiteError, match=str(path)):
            load_plain_pickle(_written(path, garbage))


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


# Cards


def test_every_shipped_card_is_whole() -> None:
    assert card_names() == ["long_rvos", "mevis", "reasonvos", "ref_davis17", "ref_youtube_vos", "revos", "shapes"]
    folders = {name: load_card(name).folders[0] for name in card_names()}
    assert folders == {
        "long_rvos": "long_rvos",
        "mevis": "mevis",
        "reasonvos": "ReasonVOS",
        "ref_davis17": "davis17",
        "ref_youtube_vos": "ref-youtube-vos",
        "revos": "ReVOS",
        "shapes": "shapes",
    }
    protocols = {
        f"{name}/{split}": facts.protocols for name in card_names() for split, facts in load_card(name).splits.items()
    }
    assert {key: value for key, value in protocols.items() if value} == {
        "long_rvos/valid": ("long-rvos/v1",),
        "long_rvos/test": ("long-rvos/v1",),
        "mevis/valid_u": ("mevis-v1/valid_u",),
        "mevis/valid_u_v2": ("mevis-v2/valid_u",),
        "mevis/valid": ("server",),
        "mevis/valid_v2": ("server",),
        "reasonvos/valid": ("reasonvos/v2",),
        "ref_davis17/valid": ("refdavis17/expr", "refdavis17/anno4"),
        "ref_youtube_vos/valid": ("server",),
        "revos/valid": ("revos/v1",),
        "shapes/valid": ("shapes/v1",),
        "shapes/train": ("shapes/v1",),
    }
    for name in card_names():
        card = load_card(name)
        for split, facts in card.splits.items():
            layouts = card.layouts_of(split)
            assert layouts, f"{name}/{split} lies nowhere"
            assert all(layout.masks is not None for layout in layouts), "a hidden split's masks may be on disk too"
            hidden = facts.ground_truth == "hidden"
            assert hidden == (facts.protocols == ("server",)) == bool(facts.local_protocols) == bool(facts.submit)
            assert set(facts.local_protocols) <= set(card.protocols)
    ids = video_ids(load_card("ref_youtube_vos"), "valid")
    assert ids is not None and len(ids) == 202


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda c: c.pop("title"), "is malformed at title: Field required."),
        (lambda c: c.update(colour="red"), "is malformed at colour: Extra inputs are not permitted."),
        (
            lambda c: c["splits"]["valid"].update(ground_truth="secret"),
            "is malformed at splits.valid.ground_truth: Input should be 'public' or 'hidden'.",
        ),
        (
            lambda c: c.update(default_split="test"),
            "is malformed at the card: default_split 'test' is not one of the splits ['train', 'valid'].",
        ),
        (
            lambda c: c["layouts"][0].update(splits=["test"]),
            "is malformed at the card: layout 'shapes' names unknown splits ['test'].",
        ),
        (
            lambda c: c["subset_rule"].update(empty_targets="nothing"),
            "is malformed at the card: subset_rule names unknown subsets ['nothing'].",
        ),
        (lambda c: c.update(name="other"), "is named 'other', expected 'shapes'."),
    ],
)
def test_malformed_cards(tmp_path: Path, change: Callable[[dict[str, Any]], Any], sentence: str) -> None:
    path = tmp_path / "shapes.yaml"
    raw = yaml.safe_load((CARDS / "shapes.yaml").read_text())
    change(raw)
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(PrerequisiteError) as caught:
        read_card(path)
    assert caught.value.problem == f"The card {path} {sentence}"


def test_cards_that_are_no_yaml(tmp_path: Path) -> None:
    path = tmp_path / "shapes.yaml"
    for content, sentence in (("a: [", "at line 1"), ("- a", "must be a mapping, found list")):
        path.write_text(content)
        with pytest.raises(PrerequisiteError) as caught:
            read_card(path)
        assert sentence in caught.value.problem
    with pytest.raises(PrerequisiteError, match="There is no file"):
        read_card(tmp_path / "absent.yaml")
