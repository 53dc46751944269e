"""Scores that cannot be right: refused where the ground truth is at fault, said in a warning where the masks are."""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from rvosbench.harness.cli import app
from rvosbench.harness.data.masks import encode
from rvosbench.harness.data.reader import Dataset, open_dataset
from rvosbench.harness.data.types import BoolHW
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.results.reader import read_run
from rvosbench.harness.scoring.compare import compare
from rvosbench.harness.scoring.kernel import GroundTruthFrame
from rvosbench.harness.scoring.oddities import WARNING, misreading
from rvosbench.harness.scoring.plausibility import verify_command
from rvosbench.harness.scoring.report import comparison_lines, note_lines
from rvosbench.harness.scoring.score import ScoreReport, score_predictions

from .builders import NOTHING, SIZE, Clip, Entry, mevis, ref_davis, revos, square, write_json, write_predictions

A, B = square(2, 2), square(5, 8)
LARGE = (96, 128)


def davis_labels() -> np.ndarray:
    labels = np.zeros(SIZE, dtype=np.uint8)
    labels[A], labels[B] = 1, 2
    return labels


def davis(tmp_path: Path, labels: np.ndarray, left_out: tuple[str, ...] = ()) -> Dataset:
    expressions = {str(index): "1" if index < 4 else "2" for index in range(8) if str(index) not in left_out}
    return ref_davis(tmp_path / "data", {"v": [labels, labels]}, {"v": expressions})


def right_masks(dataset: Dataset) -> dict[str, list[BoolHW]]:
    return {f"v/{e.id}": [A, A] if int(e.id) < 4 else [B, B] for e in dataset.videos[0].expressions}


def warnings(report: ScoreReport) -> list[str]:
    return [note for note in report.rows[0]["notes"] if note.startswith(WARNING)]


@pytest.mark.parametrize("protocol", ["refdavis17/expr", "refdavis17/anno4"])
def test_black_and_white_ground_truth_is_refused(tmp_path: Path, protocol: str) -> None:
    dataset = davis(tmp_path, (davis_labels() > 0).astype(np.uint8) * np.uint8(255))
    empty = {f"v/{index}": [NOTHING, NOTHING] for index in range(8)}
    folder = write_predictions(tmp_path / "p", dataset, empty)
    with pytest.raises(PrerequisiteError) as caught:
        score_predictions(folder, dataset, [protocol], out=tmp_path / "out", strictness="lenient")
    assert "0 and 255" in caught.value.problem
    assert caught.value.fix is not None and "datasets verify ref_davis17" in caught.value.fix
    assert not (tmp_path / "out").exists()


def test_ground_truth_without_a_pixel_is_refused(tmp_path: Path) -> None:
    clip = Clip({"x": [None, None]}, {"0": Entry(("x",)), "1": Entry(())}, 2)
    dataset = mevis(tmp_path / "data", {"v": clip}, "valid_u_v2")
    folder = write_predictions(tmp_path / "p", dataset, {"v/0": [NOTHING] * 2, "v/1": [NOTHING] * 2})
    with pytest.raises(PrerequisiteError, match="pixel"):
        score_predictions(folder, dataset, out=tmp_path / "out")


def test_the_command_that_is_named_can_be_pasted(tmp_path: Path) -> None:
    dataset = ref_davis(tmp_path / "it's a [root]", {"v": [np.zeros(SIZE)]}, {"v": {"0": "1"}})
    words = shlex.split(verify_command(dataset))
    assert words[words.index("--data-root") + 1] == str(dataset.root)


def test_expressions_without_a_target_alone_are_no_fault(tmp_path: Path) -> None:
    clip = Clip({"x": [A, A]}, {"0": Entry(())}, 2)
    dataset = mevis(tmp_path / "data", {"v": clip}, "valid_u_v2")
    folder = write_predictions(tmp_path / "p", dataset, {"v/0": [NOTHING] * 2})
    assert score_predictions(folder, dataset, out=tmp_path / "out").rows[0]["J"] == 1.0


def test_the_command_charges_the_data_root_with_its_faults(tmp_path: Path) -> None:
    dataset = davis(tmp_path, davis_labels())
    folder = write_predictions(tmp_path / "p", dataset, right_masks(dataset))
    for path in (tmp_path / "data").rglob("*.png"):
        Image.open(path).convert("RGB").save(path)
    command = ["score", str(folder), "--dataset", "ref_davis17", "--data-root", str(tmp_path / "data")]
    done = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "out")])
    assert isinstance(done.exception, PrerequisiteError)
    assert "8 samples" in done.exception.problem and "predicted masks" not in done.exception.problem
    assert done.exception.fix is not None and "datasets verify ref_davis17" in done.exception.fix
    (folder / "v/0/00000.png").unlink()
    both = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "out")])
    assert isinstance(both.exception, PrerequisiteError) and "8 samples" in both.exception.problem


def test_a_damaged_mask_fails_the_samples_that_use_it(tmp_path: Path) -> None:
    entries = {"0": Entry(("x",), 0), "1": Entry(("x", "y"), 1), "2": Entry(("y",), 1), "3": Entry((), 2)}
    revos(tmp_path / "data", {"v": Clip({"x": [A, A], "y": [B, B]}, entries, 2)})
    path = tmp_path / "data/ReVOS/mask_dict.json"
    table = json.loads(path.read_text())
    table["0"][1]["counts"] = "zzzz"
    write_json(path, table)
    dataset = open_dataset("revos", tmp_path / "data", needs="masks")
    masks = {"v/0": [A, A], "v/1": [A | B, A | B], "v/2": [B, B], "v/3": [NOTHING, NOTHING]}
    folder = write_predictions(tmp_path / "p", dataset, masks)
    report = score_predictions(folder, dataset, out=tmp_path / "out", strictness="lenient")
    assert report.exit_code == 3
    assert report.statuses == {"failed": 2, "scored": 2}
    assert [(problem.kind, problem.where) for problem in report.problems] == [
        ("ground truth", "v/0"),
        ("ground truth", "v/1"),
    ]
    by_subset = {row["subset"]: row for row in report.rows}
    # Referring: v/0 failed. Reasoning: v/1 failed, v/2 right.
    assert (by_subset["referring"]["J"], by_subset["reasoning"]["J"]) == (0.0, 0.5)
    # Where the foreground is not known, robustness is left out, and a note gives the reason.
    assert "R_bool_types01" not in by_subset["all"]["extra"]
    assert any("foreground" in note for note in by_subset["all"]["notes"])


def test_a_damaged_index_map_scores_its_objects_zero_under_anno4(tmp_path: Path) -> None:
    labels = [davis_labels()] * 2
    expressions = {str(index): "1" if index < 4 else "2" for index in range(8)}
    dataset = ref_davis(tmp_path / "data", {"v": labels, "w": labels}, {"v": expressions, "w": expressions})
    masks = right_masks(dataset)
    masks |= {name.replace("v/", "w/"): track for name, track in masks.items()}
    folder = write_predictions(tmp_path / "p", dataset, masks)
    next((tmp_path / "data").rglob("w/00001.png")).write_bytes(b"no image")
    report = score_predictions(folder, dataset, out=tmp_path / "out", strictness="lenient")
    assert {row["protocol"]: (row["J"], row["counts"]["failed"]) for row in report.rows} == {
        "refdavis17/expr": (0.5, 8),
        "refdavis17/anno4": (0.5, 8),
    }


def test_an_object_that_an_annotator_does_not_describe_counts_as_zero(tmp_path: Path) -> None:
    dataset = davis(tmp_path, davis_labels(), left_out=("6",))
    folder = write_predictions(tmp_path / "p", dataset, right_masks(dataset))
    report = score_predictions(folder, dataset, out=tmp_path / "out")
    by_protocol = {row["protocol"]: row for row in report.rows}
    assert by_protocol["refdavis17/expr"]["J"] == 1.0
    # Annotator 2 has one of two objects.
    assert by_protocol["refdavis17/anno4"]["J"] == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    assert any("object 2 of v (annotator 2)" in note for note in by_protocol["refdavis17/anno4"]["notes"])


def test_an_annotator_absent_from_a_video_counts_as_zero_there(tmp_path: Path) -> None:
    labels = [davis_labels()] * 2
    every = {str(index): "1" if index < 4 else "2" for index in range(8)}
    short = {name: target for name, target in every.items() if int(name) % 4 != 3}
    dataset = ref_davis(tmp_path / "data", {"v": labels, "w": labels}, {"v": every, "w": short})
    masks = {f"{s.video.name}/{s.expression.id}": [A, A] for s in dataset.samples() if int(s.expression.id) < 4}
    masks |= {f"{s.video.name}/{s.expression.id}": [B, B] for s in dataset.samples() if int(s.expression.id) >= 4}
    report = score_predictions(write_predictions(tmp_path / "p", dataset, masks), dataset, out=tmp_path / "out")
    [row] = [row for row in report.rows if row["protocol"] == "refdavis17/anno4"]
    assert row["J"] == pytest.approx((1 + 1 + 1 + 0.5) / 4)


def grey(mask_HW: BoolHW) -> Image.Image:
    return Image.fromarray(mask_HW.astype(np.uint8) * 255)


def through_jpeg(mask_HW: BoolHW) -> Image.Image:
    content = io.BytesIO()
    grey(mask_HW).save(content, "JPEG", quality=60)
    return Image.open(content)


def soft(mask_HW: BoolHW) -> Image.Image:
    height, width = mask_HW.shape
    return grey(mask_HW).resize((width // 4, height // 4), Image.Resampling.BILINEAR).resize((width, height))


def white_first(mask_HW: BoolHW) -> Image.Image:
    image = Image.fromarray((~mask_HW).astype(np.uint8), mode="P")
    image.putpalette([255, 255, 255, 0, 0, 0] + [0] * 762)
    return image


FORMS: dict[str, tuple[Callable[[BoolHW], Image.Image], tuple[str, ...]]] = {
    "plain": (grey, ()),
    "one bit": (Image.fromarray, ()),
    "JPEG": (through_jpeg, ("close to zero",)),
    "soft": (soft, ("more than two values",)),
    "inverted": (lambda mask_HW: grey(~mask_HW), ("swapped", "J is 0 and F is 100")),
    "palette": (white_first, ("palette", "swapped", "J is 0 and F is 100")),
}


@pytest.mark.parametrize("form", FORMS)
def test_files_that_are_no_masks_get_one_warning_with_a_count(tmp_path: Path, form: str) -> None:
    save, expected = FORMS[form]
    tracks = [square(20 + 5 * index, 30, 32, LARGE) for index in range(2)]
    dataset = mevis(tmp_path / "data", {"v": Clip({"x": list(tracks)}, {"0": Entry(("x",))}, 2, LARGE)})
    for index, mask_HW in enumerate(tracks):
        path = tmp_path / f"p/v/0/{index:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        save(mask_HW).save(path, format="PNG")
    report = score_predictions(tmp_path / "p", dataset, out=tmp_path / "out")
    found = warnings(report)
    assert len(found) == len(expected)
    assert all(any(words in note for note in found) for words in expected)
    assert all("2 masks" in note or "1 samples" in note for note in found)


def test_run_lengths_in_row_order_are_noticed(tmp_path: Path) -> None:
    tracks = [square(20 + 5 * index, 30, 32, LARGE) for index in range(3)]
    dataset = mevis(tmp_path / "data", {"v": Clip({"x": list(tracks)}, {"0": Entry(("x",))}, 3, LARGE)})

    def rles(by_rows: bool) -> list[dict[str, object]]:
        # Rows written one after the other are the columns of the transposed mask.
        return [{"size": list(LARGE), "counts": encode(m.T if by_rows else m)} for m in tracks]

    for by_rows, count in ((False, 0), (True, 1)):
        write_json(tmp_path / "p.json", {"v": {"0": rles(by_rows)}})
        report = score_predictions(tmp_path / "p.json", dataset, out=tmp_path / "out")
        found = [note for note in warnings(report) if "row order" in note]
        assert len(found) == count
        assert all("3 masks" in note for note in found)


def test_bad_but_honest_masks_are_not_suspected() -> None:
    rng = np.random.default_rng(0)
    blobs = [square(int(y), int(x), int(side), LARGE) for y, x, side in rng.integers(4, 40, size=(40, 3))]
    lines = [square(30, 0, 1, LARGE), np.zeros(LARGE, dtype=bool)]
    lines[0][30] = True
    noise = [rng.random(LARGE) < 0.5, rng.random(LARGE) < 0.02]
    for truth_HW in (*blobs[:8], np.zeros(LARGE, dtype=bool), np.ones(LARGE, dtype=bool)):
        truth = GroundTruthFrame(truth_HW)
        for mask_HW in (*blobs, *lines, *noise, truth_HW):
            assert misreading(truth, mask_HW, truth.counts(mask_HW)) is None


def test_other_ground_truth_gives_no_difference(tmp_path: Path) -> None:
    runs = {}
    for name, shift in (("a", 0), ("b", 1)):
        moved = [np.roll(A, shift, axis=1)] * 2
        clips = {video: Clip({"x": list(moved)}, {"0": Entry(("x",))}, 2) for video in ("v", "w")}
        dataset = mevis(tmp_path / name, clips)
        folder = write_predictions(tmp_path / "p", dataset, {"v/0": [A, A], "w/0": [A, A]})
        score_predictions(folder, dataset, out=tmp_path / f"runs/{name}", label="M")
        runs[name] = read_run(tmp_path / f"runs/{name}")
    [row] = compare(runs["a"], runs["b"])
    assert row.difference is None and row.other_ground_truth
    assert any("different ground truth" in line.plain for line in comparison_lines([row]))
    first, second = (runs[name].scores[0].provenance for name in ("a", "b"))
    assert first is not None and second is not None
    assert first.ground_truth != second.ground_truth and first.masks == second.masks
    assert (first.data_root, first.predictions) == (str(tmp_path / "a"), str(tmp_path / "p"))
    assert first.date is not None and first.rvosbench
    done = CliRunner().invoke(app, ["compare", str(tmp_path / "runs/a"), str(tmp_path / "runs/b")])
    assert isinstance(done.exception, PrerequisiteError)
    [same] = compare(runs["a"], runs["a"])
    assert same.difference is not None and same.difference.J_and_F == 0.0


def test_notes_reach_the_terminal_warnings_first_and_in_red(tmp_path: Path) -> None:
    dataset = mevis(tmp_path / "data", {"v": Clip({"x": [A, A]}, {"0": Entry(("x",))}, 2)})
    folder = write_predictions(tmp_path / "p", dataset, {"v/0": [~A, ~A]})
    score_predictions(folder, dataset, out=tmp_path / "out")
    scores = read_run(tmp_path / "out").scores
    lines = list(note_lines(scores))
    assert [line.plain for line in lines] == sorted(scores[0].notes, key=lambda note: not note.startswith(WARNING))
    assert [str(line.style) for line in lines] == [
        "bold red" if line.plain.startswith(WARNING) else "" for line in lines
    ]
    assert str(lines[0].style) == "bold red"
    command = ["score", str(folder), "--dataset", "mevis", "--split", "valid_u", "--data-root", str(tmp_path / "data")]
    printed = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "again")])
    assert printed.exit_code == 0
    assert all(note[:40] in printed.output for note in scores[0].notes)


def test_ground_truth_that_is_all_damaged_is_refused_in_lenient_mode_too(tmp_path: Path) -> None:
    dataset = davis(tmp_path, davis_labels())
    folder = write_predictions(tmp_path / "p", dataset, right_masks(dataset))
    for path in (tmp_path / "data").rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(PrerequisiteError) as caught:
        score_predictions(folder, dataset, out=tmp_path / "out", strictness="lenient")
    assert "all 8 samples" in caught.value.problem
    assert caught.value.fix is not None and "datasets verify ref_davis17 --split valid" in caught.value.fix
    assert not (tmp_path / "out").exists()
