"""Verification: what is present, complete and wrong, by name."""

from __future__ import annotations

import json
import shutil
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from rvosbench.harness.data.cards import Card, load_card
from rvosbench.harness.data.digests import file_sha256
from rvosbench.harness.data.reader import open_dataset
from rvosbench.harness.data.verify import Report, describe, render, render_cards, verify
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.scoring.score import score_predictions

META = "davis17/meta_expressions/valid/meta_expressions.json"
FRAMES = ("00000", "00001", "00002")


@pytest.fixture
def davis(tree: Any) -> Any:
    """Two sound videos: "ape" with two objects, "zebra" with one."""
    videos = {
        "ape": {
            "frames": list(FRAMES),
            "expressions": {str(i): {"exp": "x", "obj_id": str(i // 4 + 1)} for i in range(8)},
        },
        "zebra": {"frames": list(FRAMES), "expressions": {str(i): {"exp": "y", "obj_id": "1"} for i in range(4)}},
    }
    tree.json(META, {"videos": videos})
    for video in videos:
        tree.frames(f"davis17/valid/JPEGImages/{video}", FRAMES)
        for frame in FRAMES:
            labels_HW = np.zeros((6, 8), dtype=np.uint8)
            labels_HW[1, 1:3] = (1, 2 if video == "ape" else 0)
            tree.palette(f"davis17/valid/Annotations/{video}/{frame}.png", labels_HW)
    return tree


def findings(report: Report) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {finding.kind: (finding.level, finding.about) for finding in report.findings}


def check(tree: Any, mode: str = "full") -> dict[str, tuple[str, tuple[str, ...]]]:
    found = findings(verify("ref_davis17", tree.root, mode=mode))  # type: ignore[arg-type]
    assert found.pop("fewer_videos")[0] == "note"
    return found


def test_sound_data_has_nothing_to_report(davis: Any) -> None:
    for mode in ("quick", "full"):
        assert check(davis, mode) == {}
    report = verify("ref_davis17", davis.root)
    assert report.ok and not report.complete
    counts = report.found
    assert (counts.videos, counts.objects, counts.expressions, counts.frames, counts.pairs) == (2, 3, 12, 6, 36)


def test_frames_missing_unlisted_unreadable_and_of_another_size(davis: Any) -> None:
    folder = davis.root / "davis17/valid/JPEGImages"
    (folder / "ape/00001.jpg").unlink()
    (folder / "zebra/00000.jpg").rename(folder / "zebra/extra.jpg")
    shutil.copy(folder / "zebra/extra.jpg", folder / "zebra/00000.jpg")
    (folder / "zebra/00001.jpg").write_bytes(b"nothing")
    davis.frames("davis17/valid/JPEGImages/zebra", ["00002"], size=(6, 9))
    found = check(davis, "quick")
    assert found["missing_frames"] == ("error", (str(folder / "ape/00001.jpg"),))
    assert found["unlisted_frames"] == ("note", (str(folder / "zebra/extra.jpg"),))
    assert found["unreadable_frames"][0] == "error" and "zebra/00001.jpg" in found["unreadable_frames"][1][0]
    assert found["frame_sizes"] == ("error", (f"{folder / 'zebra/00002.jpg'} is 9x6, but 00000.jpg is 8x6",))
    assert "zebra/00002" in found["mask_sizes"][1][0]


def test_only_full_mode_sees_a_truncated_frame(davis: Any) -> None:
    path = davis.root / "davis17/valid/JPEGImages/ape/00001.jpg"
    path.write_bytes(path.read_bytes()[:-6])
    assert check(davis, "quick") == {}
    assert "ape/00001.jpg" in check(davis, "full")["unreadable_frames"][1][0]


def test_absent_videos_are_a_warning_and_half_ones_an_error(davis: Any) -> None:
    shutil.rmtree(davis.root / "davis17/valid/JPEGImages/zebra")
    shutil.rmtree(davis.root / "davis17/valid/Annotations/ape")
    (davis.root / "davis17/valid/Annotations/zebra/00002.png").unlink()
    found = check(davis)
    assert found["absent_frames"] == ("warning", ("zebra",))
    assert found["absent_masks"] == ("warning", ("ape",))
    assert found["missing_masks"] == ("error", ("zebra: 1 of 3 masks missing, first 00002",))


def test_masks_empty_misplaced_damaged_or_of_another_size(davis: Any) -> None:
    folder = davis.root / "davis17/valid/Annotations"
    for frame in FRAMES:
        davis.palette(f"davis17/valid/Annotations/ape/{frame}.png", np.eye(6, 8, dtype=np.uint8))
    shutil.copy(folder / "ape/00000.png", folder / "ape/00003.png")
    davis.palette("davis17/valid/Annotations/zebra/00001.png", np.ones((6, 7), dtype=np.uint8))
    quick = check(davis, "quick")
    assert quick["mask_sizes"] == ("error", ("zebra/00001 (target 1): mask 7x6, frame 8x6",))
    assert quick["unlisted_masks"] == ("warning", (str(folder / "ape/00003.png"),))
    assert "empty_ground_truth" not in quick, "pixels are decoded in full mode only"
    full = check(davis, "full")
    assert full["empty_ground_truth"] == ("warning", ("ape/4", "ape/5", "ape/6", "ape/7"))
    (folder / "zebra/00000.png").write_bytes((folder / "zebra/00000.png").read_bytes()[:60])
    assert "zebra/00000.png" in check(davis, "full")["unreadable_masks"][1][0]


def test_ids_out_of_step_with_objects_are_found(davis: Any) -> None:
    path = davis.root / META
    path.write_text(path.read_text().replace('"3": {"exp": "x", "obj_id": "1"}', '"3": {"exp": "x", "obj_id": "2"}'))
    assert check(davis, "quick") == {
        "annotator_gaps": ("error", ("ape: annotator 3, object 1",)),
        "id_contradicts_object": ("warning", ("ape/3",)),
    }


@pytest.mark.parametrize("value", [255, 38])
@pytest.mark.parametrize("mode", ["quick", "full"])
def test_masks_without_an_index_of_an_object_are_an_error(davis: Any, value: int, mode: str) -> None:
    # 255: black and white. 38: the palette's first colour as OpenCV turns it into grey.
    for frame in FRAMES:
        davis.binary(f"davis17/valid/Annotations/zebra/{frame}.png", np.eye(6, 8), value=value)
    level, about = check(davis, mode)["no_indices"]
    assert (level, len(about)) == ("error", 1) and f"values {value}" in about[0]


def test_void_beside_a_late_object_is_no_wrong_form(davis: Any) -> None:
    labels_HW = np.zeros((6, 8), dtype=np.uint8)
    labels_HW[0] = 255
    for frame in FRAMES[:2]:
        davis.palette(f"davis17/valid/Annotations/zebra/{frame}.png", labels_HW)
    assert check(davis, "quick") == check(davis, "full") == {}


def test_colours_instead_of_indices_are_an_error_in_quick_mode(davis: Any) -> None:
    for path in (davis.root / "davis17/valid/Annotations").rglob("*.png"):
        Image.open(path).convert("RGB").save(path)
    level, about = check(davis, "quick")["unreadable_masks"]
    assert (level, len(about)) == ("error", 2), "one mask a video"
    assert len(check(davis, "full")["unreadable_masks"][1]) == 6, "each mask once"


def test_a_pickle_counted_in_another_order_is_found_out(davis: Any, rle: Any) -> None:
    def pixel(x: int) -> dict[str, Any]:
        mask_HW = np.zeros((6, 8), dtype=bool)
        mask_HW[1, x] = True
        return rle(mask_HW, as_bytes=True)

    right = {str(key): [pixel(1 if key < 4 or key >= 8 else 2)] * 3 for key in range(12)}
    davis.pickle("davis17/valid/mask_dict.pkl", right)
    assert check(davis) == {}
    davis.pickle("davis17/valid/mask_dict.pkl", right | {"3": right["4"]})
    assert check(davis, "quick") == {}
    assert check(davis)["copies_differ"] == ("warning", ("ape/3",))


def test_counts_are_compared_once_every_video_is_listed(samples: Path, tree: Any) -> None:
    real = samples / "expressions/ref_davis17_valid_meta_expressions.json"
    meta = json.loads(real.read_text())
    tree.json(META, meta)
    report = verify("ref_davis17", tree.root)
    assert set(findings(report)) == {"no_frames", "no_masks"}
    assert (report.found.videos, report.found.expressions, report.found.pairs) == (30, 244, 15936)
    meta["videos"]["dog"]["expressions"].pop("3")
    tree.json(META, meta)
    messages = [finding.message for finding in verify("ref_davis17", tree.root).findings if finding.kind == "count"]
    assert messages == [
        "The metadata has 243 expressions, the card expects 244 (verified).",
        "The metadata has 15876 pairs, the card expects 15936 (verified).",
    ]


def test_dictionaries_that_do_not_fit_and_subsets_that_contradict(tree: Any, rle: Any, square: Any) -> None:
    expressions = {
        "0": {"exp": "a", "obj_id": [1], "anno_id": [1], "type_id": 2},
        "1": {"exp": "b", "obj_id": [2], "anno_id": [2], "type_id": 0},
        "2": {"exp": "c", "obj_id": [3], "anno_id": [3], "type_id": 1},
        "3": {"exp": "d", "obj_id": [], "anno_id": [], "type_id": 1},
    }
    video = {"height": 6, "width": 8, "frames": ["0", "1"], "expressions": expressions}
    tree.json("ReVOS/meta_expressions_valid_.json", {"videos": {"TAO/a": video}})
    tree.json(
        "ReVOS/mask_dict.json",
        {"1": [rle(square(0, 0))] * 2, "2": [rle(square(0, 0))] * 60, "3": [None, rle(square(0, 0) & False)]},
    )
    report = verify("revos", tree.root)
    found = findings(report)
    assert found["subset_contradicts_targets"] == ("warning", ("TAO/a/0", "TAO/a/3"))
    assert found["empty_ground_truth"] == ("warning", ("TAO/a/2",))
    assert "'2' has 60 masks for the 2 frames of 'TAO/a'" in found["misaligned_masks"][1][0]
    assert not report.ok
    assert "checksum" not in found
    full = verify("revos", tree.root, mode="full")
    assert {about for finding in full.findings if finding.kind == "checksum" for about in finding.about} == {
        str(tree.root / "ReVOS/mask_dict.json"),
        str(tree.root / "ReVOS/meta_expressions_valid_.json"),
    }
    assert f"has SHA-256 {file_sha256(tree.root / 'ReVOS/mask_dict.json')}, published is e9b43106" in str(full.findings)


def test_objects_annotated_on_some_frames_are_noted(tree: Any, square: Any) -> None:
    expressions = [{"obj_id": 1, "exp_id": 0, "exp_text": "x", "is_sent": True}]
    meta = {"v": {"source": "MOSE", "frames": ["a", "b"], "expressions": expressions}}
    tree.json("ReasonVOS/meta_expressions.json", {"videos": meta})
    tree.frames("ReasonVOS/JPEGImages/v", ["a", "b"])
    tree.binary("ReasonVOS/Annotations/MOSE_v_1/a.png", square(0, 0))
    tree.binary("ReasonVOS/Annotations/MOSE_v_1/zz.png", square(0, 0))
    found = findings(verify("reasonvos", tree.root, mode="full"))
    assert found["partly_annotated"] == ("note", ("MOSE_v_1: 1 masks for 2 frames",))
    assert found["unlisted_masks"][1] == (str(tree.root / "ReasonVOS/Annotations/MOSE_v_1/zz.png"),)


def test_the_real_sample_is_sound(samples: Path) -> None:
    report = verify("ref_davis17", samples / "mini_ref_davis17", mode="full")
    assert [finding.kind for finding in report.findings] == ["fewer_videos"]
    assert report.found.frames == 252


def test_a_complete_split_is_called_complete(tree: Any, rle: Any, square: Any) -> None:
    expressions = {"0": {"exp": "a", "obj_id": [1], "anno_id": [1]}}
    tree.json("shapes/valid/meta_expressions.json", {"videos": {"v": {"frames": ["0"], "expressions": expressions}}})
    tree.json("shapes/valid/mask_dict.json", {"1": [rle(square(0, 0))]})
    tree.frames("shapes/valid/JPEGImages/v", ["0"])
    assert verify("shapes", tree.root, mode="full").complete


def printed(lines: list[str]) -> str:
    console = Console(file=StringIO(), width=400, color_system=None)
    for line in lines:
        console.print(line)
    out = console.file
    assert isinstance(out, StringIO)
    return out.getvalue()


def test_reports_print_as_text_with_their_brackets(tree: Any, rle: Any, square: Any) -> None:
    expressions = {str(i): {"exp": "a", "obj_id": [i], "anno_id": [i]} for i in range(5)}
    video = {"frames": ["0"], "expressions": expressions}
    tree.json("shapes/valid/meta_expressions.json", {"videos": {"[bold]v": video}})
    tree.json("shapes/valid/mask_dict.json", {str(i): [None] for i in range(5)})
    text = printed(render(verify("shapes", tree.root)))
    assert "Shapes valid: ok, but not complete (quick check)" in text
    assert "1 videos, 5 objects, 5 expressions, 1 frames, 5 pairs" in text
    assert "warning 5 expressions have a target whose mask is empty in every frame." in text
    assert "[bold]v/0" in text and "and 2 more" in text


def test_nothing_there_is_a_prerequisite(tmp_path: Path) -> None:
    with pytest.raises(PrerequisiteError, match=r"ReVOS \(split valid\) is not under"):
        verify("revos", tmp_path)


def test_describe_lists_every_split_and_what_is_there(samples: Path, tree: Any) -> None:
    shutil.copytree(samples / "mini_ref_davis17/davis17", tree.root / "davis17")
    tree.json("ReVOS/meta_expressions_valid_.json", {"videos": {}})
    tree.json("ReVOS/mask_dict.json", {})
    tree.text("mevis/valid/meta_expressions.json", "{")
    (tree.root / "mevis/valid/JPEGImages").mkdir()
    states = {f"{status.dataset}/{status.split}": status.state for status in describe(tree.root)}
    cards: list[Card] = [load_card(status.dataset) for status in describe(None)]
    assert len(states) == len(cards) == 18
    assert states["ref_davis17/valid"] == "5 of 30 videos"
    assert states["ref_davis17/train"] == "absent"
    assert states["revos/valid"] == "masks only"
    assert "is not valid JSON" in states["mevis/valid"]
    assert {status.state for status in describe(None)} == {"no data root"}
    text = printed(render_cards(describe(tree.root)))
    assert "ref_davis17 valid: refdavis17/expr, refdavis17/anno4; 30 videos, 61 objects, 244 expressions" in text
    assert "ground truth public; 5 of 30 videos (referformer)" in text
    assert "ref_youtube_vos valid: server; 202 videos" in text


def test_a_list_that_does_not_fit_is_counted_once(tree: Any, rle: Any, square: Any) -> None:
    expressions = {str(i): {"exp": "a", "obj_id": [1], "anno_id": [1]} for i in range(3)}
    tree.json("mevis/valid_u/meta_expressions.json", {"videos": {"v": {"frames": ["0"], "expressions": expressions}}})
    tree.json("mevis/valid_u/mask_dict.json", {"1": [rle(square(1, 1))] * 2})
    tree.frames("mevis/valid_u/JPEGImages/v", ["0"])
    for mode in ("quick", "full"):
        found = findings(verify("mevis", tree.root, mode=mode))  # type: ignore[arg-type]
        assert {kind: len(about) for kind, (level, about) in found.items() if level == "error"} == {
            "misaligned_masks": 1
        }


def test_only_full_mode_decodes_the_last_mask_of_a_list(tree: Any, rle: Any, square: Any) -> None:
    damaged = rle(square(1, 1)) | {"counts": "zzzz"}
    expressions = {"0": {"exp": "a", "obj_id": [1], "anno_id": [1]}}
    frames = ["0", "1"]
    tree.json("mevis/valid_u/meta_expressions.json", {"videos": {"v": {"frames": frames, "expressions": expressions}}})
    tree.json("mevis/valid_u/mask_dict.json", {"1": [rle(square(1, 1)), damaged]})
    tree.frames("mevis/valid_u/JPEGImages/v", frames)
    assert verify("mevis", tree.root).ok
    assert findings(verify("mevis", tree.root, mode="full"))["unreadable_masks"][0] == "error"


def test_a_set_that_cannot_be_scored_is_never_ok(davis: Any) -> None:
    shutil.rmtree(davis.root / "davis17/valid/Annotations")
    report = verify("ref_davis17", davis.root)
    assert not report.ok and report.protocols == ()
    assert findings(report)["no_masks"][0] == "error"


def test_an_annotator_without_an_expression_for_an_object_is_named(davis: Any) -> None:
    meta = json.loads((davis.root / META).read_text())
    meta["videos"]["ape"]["expressions"].pop("6")
    davis.json(META, meta)
    report = verify("ref_davis17", davis.root)
    assert not report.ok
    assert findings(report)["annotator_gaps"] == ("error", ("ape: annotator 2, object 2",))


@pytest.mark.parametrize("name", ["ref_davis17", "Ref-DAVIS17", "DAVIS17", "refdavis17"])
def test_a_folder_in_another_spelling_is_found(davis: Any, name: str) -> None:
    (davis.root / "davis17").rename(davis.root / name)
    assert verify("ref_davis17", davis.root).ok


def test_a_data_root_on_the_wrong_level_is_named(davis: Any) -> None:
    for wrong, right in ((davis.root / "davis17", davis.root), (davis.root.parent, davis.root)):
        with pytest.raises(PrerequisiteError) as caught:
            verify("ref_davis17", wrong)
        assert str(right) in caught.value.fix
    (davis.root / "davis17").rename(davis.root / "mine")
    with pytest.raises(PrerequisiteError) as caught:
        verify("ref_davis17", davis.root / "mine")
    assert "davis17" in caught.value.fix


def test_unpadded_and_unsorted_frames_keep_one_order(tree: Any, rle: Any, tmp_path: Path) -> None:
    names = [str(number) for number in range(12)]
    masks = []
    for number in range(12):
        mask_HW = np.zeros((6, 24), dtype=bool)
        mask_HW[2:4, number : number + 2] = True
        masks.append(mask_HW)
    expression = {"exp": "it", "obj_id": [0], "anno_id": [0]}
    meta = {"v": {"frames": names, "expressions": {"0": expression}}}
    tree.json("mevis/valid_u/meta_expressions.json", {"videos": meta})
    tree.json("mevis/valid_u/mask_dict.json", {"0": [rle(mask) for mask in masks]})
    tree.frames("mevis/valid_u/JPEGImages/v", names, size=(6, 24))
    for name, mask in zip(names, masks, strict=True):
        tree.binary(f"../folder/v/0/{name}.png", mask)
    tree.json("../list.json", {"v": {"0": [rle(mask) for mask in masks]}})
    report = verify("mevis", tree.root)
    assert report.ok and findings(report)["unsorted_frames"] == ("note", ("v",))
    dataset = open_dataset("mevis", tree.root, needs="masks")
    for predictions in ("folder", "list.json"):
        scored = score_predictions(tmp_path / predictions, dataset, out=tmp_path / "out", workers=1)
        assert scored.rows[0]["J_and_F"] == 1.0
