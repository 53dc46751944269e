"""Equal to what the official tools gave: published per-frame and per-object scores, and recorded reference outputs."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from rvosbench.harness.data.images import read_binary
from rvosbench.harness.data.masks import decode
from rvosbench.harness.data.types import BoolHW
from rvosbench.harness.scoring.extras import decay, recall
from rvosbench.harness.scoring.kernel import GroundTruthFrame, f, frame_counts, j
from rvosbench.harness.scoring.matching import fuse, match
from rvosbench.harness.scoring.protocols import require_protocol
from rvosbench.harness.scoring.robustness import r_bool
from rvosbench.harness.scoring.rules import SampleCounts, average, select_frames


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def as_array(rows: list[Any]) -> NDArray[np.int64]:
    return np.array(rows, dtype=np.int64)


@pytest.fixture(scope="module")
def davis16(samples: Path) -> dict[str, list[GroundTruthFrame]]:
    """Ground truth of the 20 sequences, in frame order."""
    folders = sorted((samples / "davis16_val_gt").iterdir())
    return {
        folder.name: [GroundTruthFrame(read_binary(path)) for path in sorted(folder.glob("*.png"))]
        for folder in folders
    }


@pytest.mark.parametrize(("method", "mean_j", "mean_f"), [("osvos", 0.7977, 0.8063), ("siammask", 0.7175, 0.6776)])
def test_davis16_frames_equal_the_official_scores(
    samples: Path, davis16: dict[str, list[GroundTruthFrame]], method: str, mean_j: float, mean_f: float
) -> None:
    official = read_json(samples / "davis16_results" / f"{method}_official_per_frame.json")
    frames, sequence_j, sequence_f = 0, [], []
    with zipfile.ZipFile(samples / "davis16_results" / f"{method}.zip") as archive:
        inside = {"/".join(name.split("/")[-2:]): name for name in archive.namelist() if name.endswith(".png")}
        for sequence, truths in davis16.items():
            names = sorted(name for name in inside if name.startswith(f"{sequence}/"))
            assert len(names) == len(truths)
            rows = []
            # The official lists leave out the first and the last frame.
            for truth, name in list(zip(truths, names, strict=True))[1:-1]:
                with Image.open(io.BytesIO(archive.read(inside[name]))) as image:
                    rows.append(truth.counts(np.asarray(image) != 0))
            j_T, f_T = j(as_array(rows)), f(as_array(rows))
            # Published with three decimals; a tie may be rounded either way.
            assert np.abs(j_T - np.array(official[sequence]["J"], dtype=float)).max() <= 0.0005 + 1e-9, sequence
            assert np.abs(f_T - np.array(official[sequence]["F"], dtype=float)).max() <= 0.0005 + 1e-9, sequence
            frames += len(rows)
            sequence_j.append(j_T.mean())
            sequence_f.append(f_T.mean())
    assert frames == 1336
    assert np.mean(sequence_j) == pytest.approx(mean_j, abs=1e-4)
    assert np.mean(sequence_f) == pytest.approx(mean_f, abs=1e-4)


def test_davis17_objects_equal_the_official_scores(samples: Path, davis16: dict[str, list[GroundTruthFrame]]) -> None:
    golden = read_json(samples / "golden/osvos17_two_protocols.json")["sequences"]
    official = read_json(samples / "davis17_osvos_results/osvos_official_per_object.json")
    rule, plain = require_protocol("davis17/semi"), require_protocol("refdavis17/expr")
    assert len(golden) == 13
    for sequence, expected in golden.items():
        masks = [
            read_binary(path) for path in sorted((samples / "davis17_osvos_results/osvos" / sequence).glob("*.png"))
        ]
        counts_T6 = as_array([gt.counts(mask_HW) for gt, mask_HW in zip(davis16[sequence], masks, strict=True)])
        sample = SampleCounts(sequence, "1", None, counts_T6)
        # The file keeps six decimals per frame.
        assert j(counts_T6) == pytest.approx(expected["J"], abs=1e-6)
        assert f(counts_T6) == pytest.approx(expected["F"], abs=1e-6)
        every = average(plain, [sample]).items[0]
        assert pytest.approx((expected["rvos_all_frames"]["J"], expected["rvos_all_frames"]["F"]), abs=1e-12) == (
            every.J,
            every.F,
        )
        inner = average(rule, [sample]).items[0]
        davis = expected["davis_skip_first_last"]
        assert pytest.approx((davis["J_mean"], davis["F_mean"]), abs=1e-12) == (inner.J, inner.F)
        for name, value in (("J", j), ("F", f)):
            values_T = value(select_frames(rule, sample))
            assert recall(values_T) == pytest.approx(davis[f"{name}_recall"], abs=1e-12)
            assert decay(values_T) == pytest.approx(davis[f"{name}_decay"], abs=1e-12)
            published = official[f"{sequence}_1"][name]
            assert f"{values_T.mean():.4f}" == published == expected["published"][name]


@pytest.mark.parametrize(
    "case",
    ["self_obj1", "shift_obj1", "obj0_vs_obj2", "late_obj3_selfshift", "no_object_pred_obj0", "no_object_empty_pred"],
)
def test_revos_cases_equal_the_released_script(samples: Path, case: str) -> None:
    golden = read_json(samples / "golden/revos_style_cases.json")
    table = read_json(samples / "sav_example/mask_dict.json")
    expected = golden["cases"][case]
    indices = golden["frame_index"]
    masklets = {name: [_mask(masks[index]) for index in indices] for name, masks in table.items()}
    rows, areas = [], []
    for t, prediction in enumerate(expected["pred"]):
        pred_HW = _mask(prediction)
        foreground_HW = np.logical_or.reduce([masks[t] for masks in masklets.values()])
        gt_HW = np.zeros_like(pred_HW)
        for name in expected["gt_ids"]:
            gt_HW = gt_HW | masklets[str(name)][t]
        rows.append(frame_counts(gt_HW, pred_HW))
        areas.append((int((pred_HW & ~gt_HW).sum()), int(foreground_HW.sum())))
    counts_T6 = as_array(rows)
    for stored in ("pred_values_0_1", "pred_values_0_255"):
        # J and F do not depend on how masks were stored; the script's R does.
        assert j(counts_T6).mean() == pytest.approx(expected[stored]["J"], abs=1e-12)
        assert f(counts_T6).mean() == pytest.approx(expected[stored]["F"], abs=1e-12)
    # With 0/1 masks and without overlapping targets the script's R is the boolean one.
    assert r_bool(as_array(areas)) == pytest.approx(expected["pred_values_0_1"]["R"], abs=1e-9)


def _mask(rle: dict[str, Any] | None) -> BoolHW:
    return np.zeros((848, 480), dtype=bool) if rle is None else decode(rle["counts"], *rle["size"])


def _labels(folder: Path) -> list[NDArray[np.uint8]]:
    out = []
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as image:
            out.append(np.asarray(image))
    return out


@pytest.fixture(scope="module")
def label_maps(samples: Path) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]], Any]:
    folder = samples / "golden/multiobject"
    return _labels(folder / "gt"), _labels(folder / "pred"), read_json(folder / "expected.json")


@pytest.mark.parametrize("void", [False, True])
def test_matching_equals_the_davis_unsupervised_task(label_maps: Any, void: bool) -> None:
    truths, predictions, expected = label_maps
    counts_OPT6 = np.zeros((4, 4, len(truths), 6), dtype=np.int64)
    for t, (gt_HW, pred_HW) in enumerate(zip(truths, predictions, strict=True)):
        void_HW = None
        if void:
            void_HW = np.zeros(gt_HW.shape, dtype=bool)
            void_HW[-150:] = True
        fused = fuse([pred_HW == id_ for id_ in range(1, 5)])
        for o in range(4):
            truth = GroundTruthFrame(gt_HW == o + 1, void_HW)
            for p, mask_HW in enumerate(fused):
                assert mask_HW is not None
                counts_OPT6[o, p, t] = truth.counts(mask_HW)
    j_OT, f_OT = match(counts_OPT6)
    golden = expected["unsupervised_void_last_150_rows" if void else "unsupervised"]
    # The tool lists its results by prediction: 1 to 4 show the objects 2, 4, 1 and 3.
    by_prediction = [1, 3, 0, 2]
    assert j_OT[by_prediction] == pytest.approx(np.array(golden["J"]), abs=1e-12)
    assert f_OT[by_prediction] == pytest.approx(np.array(golden["F"]), abs=1e-12)


def test_without_matching_equals_the_davis_semi_supervised_task(label_maps: Any) -> None:
    truths, predictions, expected = label_maps
    golden = expected["semi_supervised_no_matching"]
    for index in range(4):
        pairs = zip(truths, predictions, strict=True)
        rows = as_array([frame_counts(gt_HW == index + 1, pred_HW == index + 1) for gt_HW, pred_HW in pairs])
        assert j(rows) == pytest.approx(golden["J"][index], abs=1e-12)
        assert f(rows) == pytest.approx(golden["F"][index], abs=1e-12)


def test_a_mask_of_another_width_is_a_wrong_size(samples: Path) -> None:
    # judo/00005.png is 853 pixels wide where its frame has 854.
    path = next((samples / "davis17_palette_samples").rglob("judo/**/00005.png"))
    mask_HW = read_binary(path)
    assert mask_HW.shape == (480, 853)
    with pytest.raises(ValueError, match="853"):
        frame_counts(np.zeros((480, 854), dtype=bool), mask_HW)
