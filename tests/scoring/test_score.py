"""Scoring folders and files of masks end to end, on tiny benchmarks and on the real sample."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from rvosbench.harness.data.reader import Dataset, open_dataset
from rvosbench.harness.data.types import BoolHW
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.results.schema import read_scores
from rvosbench.harness.scoring.score import score_predictions

from . import plain
from .builders import (
    FULL,
    NOTHING,
    Clip,
    Entry,
    hidden,
    mevis,
    ref_davis,
    revos,
    rle,
    square,
    write_json,
    write_png,
    write_predictions,
)

A, B = square(2, 2), square(5, 8)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    first = Clip({"x": [A, A, None], "y": [B, None, None]}, {"0": Entry(("x",)), "1": Entry(("x", "y"))}, 3)
    second = Clip({"z": [None, B]}, {"0": Entry(("z",))}, 2, frames=("frame_7", "frame_9"))
    return mevis(tmp_path / "data", {"a": first, "b": second})


MASKS = {"a/0": [A, NOTHING, NOTHING], "a/1": [A, B, A], "b/0": [B, square(5, 9)]}
TRUTH = {"a/0": [A, A, NOTHING], "a/1": [A | B, A, NOTHING], "b/0": [NOTHING, B]}


def expected_scores() -> dict[str, tuple[float, float]]:
    """Mean J and F of every sample by the slow definition."""
    out = {}
    for name, masks in MASKS.items():
        rows = [plain.counts(gt_HW, pred_HW) for gt_HW, pred_HW in zip(TRUTH[name], masks, strict=True)]
        out[name] = float(np.mean([plain.j(row) for row in rows])), float(np.mean([plain.f(row) for row in rows]))
    return out


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("form", ["folder", "file"])
def test_complete_predictions(tmp_path: Path, dataset: Dataset, workers: int, form: str) -> None:
    folder = write_predictions(tmp_path / "Masks", dataset, MASKS)
    if form == "file":
        folder = tmp_path / "Masks.json"
        write_json(
            folder, {v: {e: [rle(m) for m in MASKS[f"{v}/{e}"]] for e in es} for v, es in (("a", "01"), ("b", "0"))}
        )
    seen = []
    report = score_predictions(
        folder, dataset, out=tmp_path / "out", workers=workers, progress=lambda done, total: seen.append((done, total))
    )
    assert (report.exit_code, report.problems, report.statuses) == (0, (), {"scored": 3})
    assert report.coverage == "2 of 50 videos"
    assert seen[-1] == (3, 3)
    expected = expected_scores()
    table = pq.read_table(tmp_path / "out/samples.parquet").to_pylist()
    assert {f"{row['video']}/{row['expression']}": (row["J"], row["F"]) for row in table} == {
        name: pytest.approx(score) for name, score in expected.items()
    }
    assert {row["method"] for row in table} == {"Masks"} and {row["lvlm"] for row in table} == {None}
    [score] = read_scores(tmp_path / "out/scores.json")
    assert pytest.approx(np.mean([j for j, _ in expected.values()])) == score.J
    assert pytest.approx(np.mean([f for _, f in expected.values()])) == score.F
    assert score.protocol == "mevis-v1/valid_u"
    frames = pq.read_table(tmp_path / "out/frames.parquet").to_pylist()
    assert [row["frame"] for row in frames[-2:]] == ["frame_7", "frame_9"]


def test_number_of_workers_does_not_change_a_byte(tmp_path: Path, dataset: Dataset) -> None:
    folder = write_predictions(tmp_path / "p", dataset, MASKS)
    for workers in (1, 2):
        score_predictions(folder, dataset, out=tmp_path / f"out{workers}", workers=workers)
    for name in ("samples.parquet", "frames.parquet"):
        assert (tmp_path / "out1" / name).read_bytes() == (tmp_path / "out2" / name).read_bytes()
    one, two = (json.loads((tmp_path / out / "scores.json").read_text()) for out in ("out1", "out2"))
    for row in (*one["scores"], *two["scores"]):
        assert row["provenance"].pop("date")
    assert one["scores"] == two["scores"]


def damage(folder: Path) -> None:
    (folder / "a/0/00001.png").unlink()
    (folder / "a/1/00000.png").write_text("not an image")
    write_png(folder / "a/1/00001.png", np.ones((12, 17), dtype=bool))
    for path in (folder / "b/0").iterdir():
        path.unlink()
    write_png(folder / "b/3/frame_7.png", A)


def test_strict_lists_everything_and_writes_nothing(tmp_path: Path, dataset: Dataset) -> None:
    folder = write_predictions(tmp_path / "p", dataset, MASKS)
    damage(folder)
    report = score_predictions(folder, dataset, out=tmp_path / "out")
    assert (report.exit_code, report.written, report.rows) == (2, False, [])
    assert [(problem.kind, problem.where) for problem in report.problems] == [
        ("missing", "a/0/00001.png"),
        ("unreadable", "a/1/00000.png"),
        ("wrong size", "a/1/00001.png"),
        ("missing", "b/0/"),
        ("extra", "b/3/"),
    ]
    assert report.problem_counts == {"missing": 3, "extra": 1, "wrong size": 1, "unreadable": 1}
    assert not (tmp_path / "out").exists()


def test_lenient_scores_what_is_missing_as_zero(tmp_path: Path, dataset: Dataset) -> None:
    folder = write_predictions(tmp_path / "p", dataset, MASKS)
    damage(folder)
    report = score_predictions(folder, dataset, out=tmp_path / "out", strictness="lenient")
    assert report.exit_code == 3
    assert report.statuses == {"scored": 2, "missing": 1}
    table = pq.read_table(tmp_path / "out/samples.parquet").to_pylist()
    frames = pq.read_table(tmp_path / "out/frames.parquet").to_pylist()
    # a/0: right, missing, absent and empty: 1 + 0 + 1. a/1: only the last frame is left, a false alarm.
    assert [(row["status"], row["J"]) for row in table] == [
        ("scored", pytest.approx(2 / 3)),
        ("scored", 0.0),
        ("missing", 0.0),
    ]
    assert "a/0/00001.png" in table[0]["error"] and "1 more" in table[1]["error"]
    # A missing mask is 0 even where an empty one would have been right.
    by_frame = {(row["video"], row["expression"], row["frame"]): (row["J"], row["F"]) for row in frames}
    assert by_frame["b", "0", "frame_7"] == (0.0, 0.0)
    assert by_frame["a", "0", "00001"] == (0.0, 0.0)
    [score] = report.rows
    assert score["counts"] == {"attempted": 3, "scored": 2, "failed": 0, "missing": 1}
    assert score["J"] == pytest.approx(2 / 9)
    assert score["extra"]["missing_frames"] == 5.0
    # The all-empty baseline does not depend on what was predicted: 1/3, 1/3, 1/2.
    assert score["extra"]["J_and_F_all_empty"] == pytest.approx(7 / 18)


def test_files_that_are_all_unusable_fail(tmp_path: Path, dataset: Dataset) -> None:
    folder = write_predictions(tmp_path / "p", dataset, MASKS)
    for path in (folder / "b/0").iterdir():
        path.write_bytes(b"")
    report = score_predictions(folder, dataset, out=tmp_path / "out", strictness="lenient")
    assert report.statuses == {"scored": 2, "failed": 1}


def test_extra_files_alone_do_not_spoil_a_lenient_score(tmp_path: Path, dataset: Dataset) -> None:
    folder = write_predictions(tmp_path / "p", dataset, MASKS)
    write_png(folder / "a/0/00007.png", A)
    assert score_predictions(folder, dataset, out=tmp_path / "o").exit_code == 2
    assert score_predictions(folder, dataset, out=tmp_path / "o", strictness="lenient").exit_code == 0


def test_damaged_ground_truth_is_not_the_predictions_fault(tmp_path: Path, dataset: Dataset) -> None:
    folder = write_predictions(tmp_path / "p", dataset, MASKS)
    table = tmp_path / "data/mevis/valid_u/mask_dict.json"
    masks = json.loads(table.read_text())
    masks["2"] = masks["2"][:1]
    write_json(table, masks)
    broken = open_dataset("mevis", tmp_path / "data", needs="masks")
    report = score_predictions(folder, broken, out=tmp_path / "out", strictness="lenient")
    assert report.exit_code == 3
    assert report.statuses == {"scored": 2, "failed": 1}
    assert [(problem.kind, problem.where) for problem in report.problems] == [("ground truth", "b/0")]


def test_revos_reports_robustness(tmp_path: Path) -> None:
    entries = {"0": Entry(("x",), 0), "1": Entry(("x", "y"), 1), "2": Entry((), 2), "3": Entry((), 2)}
    clips = {
        "UVO/all/v": Clip({"x": [A, A], "y": [B, B]}, entries, 2),
        "w": Clip({"x": [A, A]}, {"0": Entry(("x",), 0)}, 2),
    }
    dataset = revos(tmp_path / "data", clips)
    half: BoolHW = A.copy()
    half[4:] = False
    masks = {
        "UVO/all/v/0": [A | half, A | B],
        "UVO/all/v/1": [A, FULL],
        "UVO/all/v/2": [half, NOTHING],
        "UVO/all/v/3": [NOTHING, NOTHING],
        "w/0": [A, A],
    }
    folder = write_predictions(tmp_path / "p", dataset, masks)
    report = score_predictions(folder, dataset, out=tmp_path / "out")
    extra = report.rows[0]["extra"]
    # The foreground of v is both squares, 32 pixels. Frame 0 of expression 0 has no false positive, frame 1 has B: 16.
    # Expression 1 has none, then 192 - 32 = 160, more than the foreground: 0.
    assert extra["R_bool_types01"] == pytest.approx((np.mean([(1 + 0.5) / 2, 1]) + 0.5) / 2)
    # Type 2: 8 of 32 wrong, then none, and nothing at all.
    assert extra["R_bool_type2"] == pytest.approx(np.mean([(0.75 + 1) / 2, 1]))
    assert extra["empty_predictions_type2"] == 0.5
    assert [row["subset"] for row in report.rows] == ["all", "referring", "reasoning"]


def davis(tmp_path: Path) -> Dataset:
    labels = np.zeros((12, 16), dtype=np.uint8)
    labels[A] = 1
    labels[B] = 2
    void = labels.copy()
    void[9:] = 255
    # Annotators 0 to 3 of object 1, then of object 2.
    expressions = {str(index): "1" if index < 4 else "2" for index in range(8)}
    return ref_davis(tmp_path / "data", {"v": [labels, void]}, {"v": expressions})


def test_anno4_matches_what_expr_does_not(tmp_path: Path) -> None:
    dataset = davis(tmp_path)
    visible_B = B & ~np.isin(np.arange(12), [9, 10, 11])[:, None]
    masks = {f"v/{index}": [B, visible_B] if index < 4 else [A, A] for index in range(8)}
    report = score_predictions(write_predictions(tmp_path / "p", dataset, masks), dataset, out=tmp_path / "out")
    by_protocol = {row["protocol"]: row for row in report.rows}
    assert by_protocol["refdavis17/expr"]["J"] == 0.0
    assert by_protocol["refdavis17/anno4"]["J"] == 1.0
    assert by_protocol["refdavis17/anno4"]["counts"]["attempted"] == 8


def test_anno4_gives_overlaps_to_the_lowest_id_and_removes_void(tmp_path: Path) -> None:
    dataset = davis(tmp_path)
    both = A | B
    masks = {f"v/{index}": [both, both | (square(9, 0, 3))] for index in range(8)}
    report = score_predictions(write_predictions(tmp_path / "p", dataset, masks), dataset, out=tmp_path / "out")
    [row] = [row for row in report.rows if row["protocol"] == "refdavis17/anno4"]
    # Object 1 takes both squares, 16 of 32 pixels right; object 2 is left with nothing. The square at the bottom of the
    # second frame is void and costs nothing.
    assert row["J"] == pytest.approx((0.5 + 0) / 2)


def test_anno4_scores_missing_masks_zero(tmp_path: Path) -> None:
    dataset = davis(tmp_path)
    masks = {f"v/{index}": [A, A] if index < 4 else [B, B] for index in range(8)}
    folder = write_predictions(tmp_path / "p", dataset, masks)
    for path in (folder / "v/5").iterdir():
        path.unlink()
    (folder / "v/6/00000.png").unlink()
    report = score_predictions(folder, dataset, out=tmp_path / "out", strictness="lenient")
    [row] = [row for row in report.rows if row["protocol"] == "refdavis17/anno4"]
    # Annotator 1 lost object 2, annotator 2 one of two frames of it.
    assert row["J"] == pytest.approx((1 + 0.5 + 0.75 + 1) / 4)


def test_protocols_that_do_not_fit_stop_with_a_fix(tmp_path: Path, dataset: Dataset) -> None:
    folder = write_predictions(tmp_path / "p", dataset, MASKS)
    with pytest.raises(PrerequisiteError, match="Did you mean 'mevis-v1/valid_u'"):
        score_predictions(folder, dataset, ["mevis-v1/valid"], out=tmp_path / "out")
    with pytest.raises(PrerequisiteError, match="annotator"):
        score_predictions(folder, dataset, ["refdavis17/anno4"], out=tmp_path / "out")
    with pytest.raises(PrerequisiteError, match="server"):
        score_predictions(folder, dataset, ["server"], out=tmp_path / "out")
    clips = {"0062f687f1": Clip({}, {"0": Entry()}, 1)}
    with pytest.raises(PrerequisiteError, match="export-submission"):
        score_predictions(folder, hidden(tmp_path / "h", "ref_youtube_vos", clips), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_several_protocols_and_a_label(tmp_path: Path, dataset: Dataset) -> None:
    folder = write_predictions(tmp_path / "p", dataset, MASKS)
    names = ["davis17/semi", "vosbench"]
    report = score_predictions(folder, dataset, names, out=tmp_path / "out", label="Mine")
    assert [(row["method"], row["protocol"]) for row in report.rows] == [("Mine", name) for name in names]
    # b has two frames, none of them inner.
    semi = report.rows[0]
    assert semi["counts"]["attempted"] == 2
    assert {"J_recall", "J_decay", "F_recall", "F_decay"} <= set(semi["extra"])


def test_the_real_sample(samples: Path, tmp_path: Path) -> None:
    dataset = open_dataset("ref_davis17", samples / "mini_ref_davis17", needs="masks")
    masks = samples / "davis17_osvos_results/osvos"
    folder = tmp_path / "OSVOS"
    for sample in dataset.samples():
        (folder / sample.video.name).mkdir(parents=True, exist_ok=True)
        (folder / sample.video.name / sample.expression.id).symlink_to(masks / sample.video.name)
    report = score_predictions(folder, dataset, ["refdavis17/expr"], out=tmp_path / "out")
    golden = json.loads((samples / "golden/osvos17_two_protocols.json").read_text())["sequences"]
    [row] = report.rows
    for name in ("J", "F"):
        # Four expressions for each video, all of its one object.
        mean = np.mean([golden[video.name]["rvos_all_frames"][name] for video in dataset.videos])
        assert row[name] == pytest.approx(mean, abs=1e-12)
    assert row["coverage"] == "5 of 30 videos"
    assert len(pq.read_table(tmp_path / "out/frames.parquet")) == 4 * 252


def test_scoring_never_imports_models_or_clusters() -> None:
    code = (
        "import sys, rvosbench.harness.scoring.score, harness.pipeline.score, harness.scoring.submission\n"
        "print([m for m in ('torch', 'ray', 'mlflow', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=500)
    assert done.stdout.strip() == "[]"


def test_reasonvos_counts_annotated_frames_only(tmp_path: Path) -> None:
    entries = [{"obj_id": 3, "exp_id": 0, "exp_text": "the one that falls", "is_sent": False}]
    frames = ["img_1", "img_2", "img_3"]
    video = {"source": "BURST", "frames": frames, "expressions": entries}
    write_json(tmp_path / "data/ReasonVOS/meta_expressions.json", {"videos": {"v": video}})
    for name in ("img_1", "img_3"):
        write_png(tmp_path / f"data/ReasonVOS/Annotations/BURST_v_3/{name}.png", A)
    dataset = open_dataset("reasonvos", tmp_path / "data", needs="masks")
    folder = tmp_path / "p"
    write_png(folder / "v/0/img_1.png", A)
    write_png(folder / "v/0/img_3.png", B)
    # The frame between has no ground truth: a mask there is neither wanted nor in the way.
    assert score_predictions(folder, dataset, out=tmp_path / "out").rows[0]["J"] == pytest.approx(0.5)
    write_png(folder / "v/0/img_2.png", A)
    report = score_predictions(folder, dataset, out=tmp_path / "out")
    assert (report.exit_code, report.rows[0]["J"], report.rows[0]["protocol"]) == (0, 0.5, "reasonvos/v2")
    (folder / "v/0/img_1.png").unlink()
    assert [problem.where for problem in score_predictions(folder, dataset, out=tmp_path / "o").problems] == [
        "v/0/img_1.png"
    ]


def test_mevis_v2_wants_silence_where_there_is_no_target(tmp_path: Path) -> None:
    clip = Clip({"x": [A, A]}, {"0": Entry(("x",)), "1": Entry(()), "2": Entry(())}, 2)
    dataset = mevis(tmp_path / "data", {"v": clip}, "valid_u_v2")
    masks = {"v/0": [A, A], "v/1": [NOTHING, NOTHING], "v/2": [NOTHING, B]}
    report = score_predictions(write_predictions(tmp_path / "p", dataset, masks), dataset, out=tmp_path / "out")
    by_subset = {row["subset"]: row["J_and_F"] for row in report.rows}
    assert by_subset == {"all": pytest.approx((1 + 1 + 0.5) / 3), "no_target": pytest.approx(0.75)}
    assert report.rows[0]["extra"]["J_and_F_visible"] == 1.0
    assert report.rows[0]["extra"]["J_and_F_all_empty"] == pytest.approx(2 / 3)
