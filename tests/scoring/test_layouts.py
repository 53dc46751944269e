"""Every layout that tools write is read back to the masks that were written, and what fits none gets a guess."""

from __future__ import annotations

import gzip
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rvosbench.harness.data.masks import run_lengths
from rvosbench.harness.data.reader import Dataset, open_dataset
from rvosbench.harness.data.types import BoolHW
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.scoring.predictions import Predictions, Problem, open_predictions
from rvosbench.harness.scoring.score import score_predictions

from .builders import (
    SIZE,
    Clip,
    Entry,
    drawn_masks,
    mevis,
    odd_names,
    ref_davis,
    rle,
    square,
    write_json,
    write_png,
    write_predictions,
)

Masks = Mapping[str, list[BoolHW]]
"""``<video>/<expression>`` -> one mask per frame."""


def read_all(predictions: Predictions, dataset: Dataset) -> dict[str, list[BoolHW]]:
    out: dict[str, list[BoolHW]] = {}
    for video in dataset.videos:
        masks = predictions.of_video(video)
        for expression in video.expressions:
            track = [masks.read(expression, frame, SIZE) for frame in range(len(video.frames))]
            problems = [str(mask) for mask in track if isinstance(mask, Problem)]
            assert not problems
            out[f"{video.name}/{expression.id}"] = [mask for mask in track if not isinstance(mask, Problem)]
    return out


def assert_same(found: Masks, wanted: Masks) -> None:
    assert found.keys() == wanted.keys()
    for name, track in wanted.items():
        assert all(np.array_equal(a, b) for a, b in zip(found[name], track, strict=True)), name


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return odd_names(tmp_path / "data")


def nested(masks: Masks, mask_of: Callable[[BoolHW], Any]) -> dict[str, dict[str, list[Any]]]:
    out: dict[str, dict[str, list[Any]]] = {}
    for name, track in masks.items():
        video, _, expression = name.rpartition("/")
        out.setdefault(video, {})[expression] = [mask_of(mask) for mask in track]
    return out


def frames_of(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    return {video.name: video.frames for video in dataset.videos}


def uncompressed(mask: BoolHW) -> dict[str, Any]:
    counts = rle(mask)
    assert counts is not None
    return {"size": list(mask.shape), "counts": run_lengths(counts["counts"]).tolist()}


def as_bytes_text(mask: BoolHW) -> dict[str, Any]:
    counts = rle(mask)
    assert counts is not None
    return {"size": list(mask.shape), "counts": str(counts["counts"].encode())}


def records(masks: Masks, dataset: Dataset, by_frame: bool) -> Iterator[dict[str, Any]]:
    frames = frames_of(dataset)
    for name, track in masks.items():
        video, _, expression = name.rpartition("/")
        own = {"video": video, "expression": expression}
        if not by_frame:
            yield own | {"masks": [rle(mask) for mask in track]}
            continue
        for frame, mask in zip(frames[video], track, strict=True):
            counts = rle(mask)
            assert counts is not None
            yield own | {"frame": frame, **counts}


def json_forms(masks: Masks, dataset: Dataset) -> dict[str, Any]:
    plain, frames = nested(masks, rle), frames_of(dataset)
    by_frame = {v: {e: dict(zip(frames[v], track, strict=True)) for e, track in es.items()} for v, es in plain.items()}
    sa2va = {
        v: {
            e: {"video_id": v, "exp_id": e, "exp": "it", "frames": list(frames[v]), "prediction_masks": track}
            for e, track in es.items()
        }
        for v, es in plain.items()
    }
    return {
        "plain": plain,
        "null where empty": nested(masks, lambda mask: rle(mask) if mask.any() else None),
        "uncompressed": nested(masks, uncompressed),
        "bytes as text": nested(masks, as_bytes_text),
        "by frame": by_frame,
        "by frame with suffix": {
            v: {e: {f"{f}.png": m for f, m in t.items()} for e, t in es.items()} for v, es in by_frame.items()
        },
        "Sa2VA": sa2va,
        "Sa2VA in another order of frames": {
            v: {
                e: r | {"frames": r["frames"][::-1], "prediction_masks": r["prediction_masks"][::-1]}
                for e, r in es.items()
            }
            for v, es in sa2va.items()
        },
        "wrapped": {"version": "1.0", "videos": plain},
        "as the metadata": {"videos": {v: {"frames": list(frames[v]), "expressions": es} for v, es in plain.items()}},
        "as the metadata, frames in another order": {
            "videos": {
                v: {"frames": list(frames[v])[::-1], "expressions": {e: {"masks": t[::-1]} for e, t in es.items()}}
                for v, es in plain.items()
            }
        },
        "joined keys": {f"{v}/{e}": track for v, es in plain.items() for e, track in es.items()},
        "records": list(records(masks, dataset, by_frame=False)),
        "records by frame": {"annotations": list(records(masks, dataset, by_frame=True))},
    }


@pytest.mark.parametrize("seed", [0, 1])
def test_every_json_form(tmp_path: Path, dataset: Dataset, seed: int) -> None:
    masks = drawn_masks(dataset, seed)
    for name, value in json_forms(masks, dataset).items():
        path = tmp_path / f"{name}.json"
        write_json(path, value)
        predictions = open_predictions(path, dataset)
        assert_same(read_all(predictions, dataset), masks)
        assert predictions.unexpected() == [], name
        assert predictions.reading.layout.startswith("RLE masks"), name


def test_compressed_files_lines_and_parquet(tmp_path: Path, dataset: Dataset) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    masks = drawn_masks(dataset)
    text = json.dumps(nested(masks, rle)).encode()
    lines = b"\n".join(json.dumps(row).encode() for row in records(masks, dataset, by_frame=True)) + b"\n\n"
    (tmp_path / "p.json.gz").write_bytes(gzip.compress(text))
    (tmp_path / "p.jsonl").write_bytes(lines)
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress(lines))
    pq.write_table(pa.Table.from_pylist(list(records(masks, dataset, by_frame=True))), tmp_path / "frames.parquet")
    whole = list(records(masks, dataset, by_frame=False))
    for row in whole:
        for mask in row["masks"]:
            mask["counts"] = mask["counts"].encode()  # as pycocotools gives them
    pq.write_table(pa.Table.from_pylist(whole), tmp_path / "bytes.parquet")
    for name in ("p.json.gz", "p.jsonl", "p.jsonl.gz", "frames.parquet", "bytes.parquet"):
        assert_same(read_all(open_predictions(tmp_path / name, dataset), dataset), masks)


def pack(folder: Path, path: Path, prefix: str) -> Path:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                archive.write(file, prefix + str(file.relative_to(folder)))
        return path
    kind = path.suffix.lstrip(".").replace("tgz", "gz")
    with tarfile.open(path, f"w:{kind}" if kind != "tar" else "w") as archive:  # type: ignore[call-overload]
        for file in files:
            archive.add(file, prefix + str(file.relative_to(folder)))
    return path


@pytest.mark.parametrize("below", ["", "Annotations/", "work_dir/valid_u/Annotations/"])
@pytest.mark.parametrize("form", ["folder", "p.zip", "p.tar", "p.tar.gz", "p.tgz", "p.tar.bz2", "p.tar.xz"])
def test_folders_and_archives(tmp_path: Path, dataset: Dataset, form: str, below: str) -> None:
    masks = drawn_masks(dataset)
    folder = write_predictions(tmp_path / "p" / below, dataset, masks)
    path = tmp_path / "p" if form == "folder" else pack(folder, tmp_path / form, f"./{below}")
    predictions = open_predictions(path, dataset)
    assert_same(read_all(predictions, dataset), masks)
    assert predictions.unexpected() == []
    assert predictions.reading.layout == "<video>/<expression>/<frame>.png" + (f" below {below}" if below else "")
    assert predictions.reading.notes == ()


def test_an_archive_made_on_windows(tmp_path: Path, dataset: Dataset) -> None:
    masks = drawn_masks(dataset)
    folder = write_predictions(tmp_path / "p", dataset, masks)
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.writestr("Masks\\", b"")
        for file in folder.rglob("*.png"):
            archive.writestr("Masks\\" + str(file.relative_to(folder)).replace("/", "\\"), file.read_bytes())
    predictions = open_predictions(tmp_path / "p.zip", dataset)
    assert_same(read_all(predictions, dataset), masks)
    assert predictions.reading.notes == ()


@pytest.mark.parametrize("kind", ["p.zip", "p.tar", "p.tar.gz", "p.tar.bz2", "p.tar.xz"])
@pytest.mark.parametrize("name", ["q.zip", "q.tar", "q.tar.gz", "q.txz"])
def test_an_archive_is_read_whatever_archive_its_name_says(
    tmp_path: Path, dataset: Dataset, kind: str, name: str
) -> None:
    masks = drawn_masks(dataset)
    path = pack(write_predictions(tmp_path / "p", dataset, masks), tmp_path / kind, "")
    assert_same(read_all(open_predictions(path.rename(tmp_path / name), dataset), dataset), masks)


def test_masks_named_as_the_files_of_their_frames(tmp_path: Path, dataset: Dataset) -> None:
    masks = drawn_masks(dataset)
    folder = write_predictions(tmp_path / "p", dataset, masks)
    for file in list(folder.rglob("*.png")):
        file.rename(file.with_name(f"{file.stem}.jpg.png"))
    predictions = open_predictions(folder, dataset)
    assert_same(read_all(predictions, dataset), masks)
    assert predictions.unexpected() == []
    # Of several files of a frame the plain one is read, and the others are said to be extra.
    write_png(folder / "c/0/00000.PNG", ~masks["c/0"][0])
    write_png(folder / "c/0/00000.png", masks["c/0"][0])
    write_png(folder / "c/0/00000.jpg.png", ~masks["c/0"][0])
    predictions = open_predictions(folder, dataset)
    assert_same(read_all(predictions, dataset), masks)
    assert [problem.where for problem in predictions.unexpected()] == ["c/0/00000.PNG", "c/0/00000.jpg.png"]


def test_ids_that_a_table_turned_into_floats(tmp_path: Path, dataset: Dataset) -> None:
    masks = drawn_masks(dataset)
    write_json(
        tmp_path / "p.json",
        [row | {"expression": float(row["expression"])} for row in records(masks, dataset, by_frame=False)],
    )
    assert_same(read_all(open_predictions(tmp_path / "p.json", dataset), dataset), masks)


@pytest.mark.parametrize("archive", [False, True])
def test_a_folder_with_one_rle_file(tmp_path: Path, dataset: Dataset, archive: bool) -> None:
    masks = drawn_masks(dataset)
    write_json(tmp_path / "work_dir/results.json", nested(masks, rle))
    (tmp_path / "work_dir/log.txt").write_text("x")
    path = pack(tmp_path / "work_dir", tmp_path / "p.zip", "") if archive else tmp_path / "work_dir"
    assert_same(read_all(open_predictions(path, dataset), dataset), masks)


def test_a_score_goes_through_worker_processes_in_every_form(tmp_path: Path, dataset: Dataset) -> None:
    masks = drawn_masks(dataset)
    folder = write_predictions(tmp_path / "plain", dataset, masks)
    write_json(tmp_path / "plain.json", nested(masks, rle))
    paths = [
        folder,
        tmp_path / "plain.json",
        pack(folder, tmp_path / "plain.zip", "Annotations/"),
        pack(folder, tmp_path / "plain.tar.gz", ""),
    ]
    scores = []
    for index, path in enumerate(paths):
        report = score_predictions(path, dataset, out=tmp_path / f"out{index}", workers=2)
        assert (report.exit_code, report.problems) == (0, ())
        scores.append([(row["method"], row["subset"], row["J"], row["F"]) for row in report.rows])
    assert scores[0] == scores[1] == scores[2] == scores[3]


def test_files_that_are_no_masks_do_not_count(tmp_path: Path, dataset: Dataset) -> None:
    masks = drawn_masks(dataset)
    folder = write_predictions(tmp_path / "p", dataset, masks)
    for name in ("log.txt", "Thumbs.db", ".DS_Store", "__MACOSX/c/._0", "scores/samples.parquet", "scores/scores.json"):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(b"\0")
    Image.new("RGB", (8, 8)).save(folder / "c/0/masked_img_0.jpg")
    predictions = open_predictions(folder, dataset)
    assert_same(read_all(predictions, dataset), masks)
    assert predictions.unexpected() == []
    [note] = predictions.reading.notes
    assert note.startswith("4 files that are no PNG were ignored")


def test_overlays_beside_the_masks_folder_do_not_count(tmp_path: Path, dataset: Dataset) -> None:
    masks = drawn_masks(dataset)
    write_predictions(tmp_path / "p/Annotations", dataset, masks)
    Image.new("RGB", (8, 8)).save(tmp_path / "p/overview.png")
    (tmp_path / "p/vis").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "p/vis/c_0.png")
    predictions = open_predictions(tmp_path / "p", dataset)
    assert_same(read_all(predictions, dataset), masks)
    assert predictions.unexpected() == []


def test_index_maps_by_annotator(tmp_path: Path) -> None:
    labels = np.zeros(SIZE, dtype=np.uint8)
    labels[square(2, 2)], labels[square(5, 8)] = 1, 2
    expressions = {str(index): "1" if index < 4 else "2" for index in range(8)}
    dataset = ref_davis(tmp_path / "data", {"v": [labels, labels]}, {"v": expressions})
    rng = np.random.default_rng(0)
    masks: dict[str, list[BoolHW]] = {f"v/{index}": [] for index in range(8)}
    for annotator in range(4):
        for frame in range(2):
            map_HW = rng.integers(0, 3, SIZE, dtype=np.uint8)
            image = Image.fromarray(map_HW, mode="P")
            image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [0] * 759)
            path = tmp_path / f"out/valid/anno_{annotator}/v/{frame:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
            masks[f"v/{annotator}"].append(map_HW == 1)
            masks[f"v/{annotator + 4}"].append(map_HW == 2)
    predictions = open_predictions(tmp_path / "out", dataset)
    assert_same(read_all(predictions, dataset), masks)
    assert predictions.unexpected() == []
    assert predictions.reading.protocol == "refdavis17/anno4"
    # The same masks as files by expression have the same score, and no other protocol is offered.
    plain = write_predictions(tmp_path / "plain", dataset, masks)
    by_map = score_predictions(tmp_path / "out", dataset, out=tmp_path / "o1")
    by_file = score_predictions(plain, dataset, ["refdavis17/anno4"], out=tmp_path / "o2")
    assert [row["protocol"] for row in by_map.rows] == ["refdavis17/anno4"]
    assert [(row["J"], row["F"]) for row in by_map.rows] == [(row["J"], row["F"]) for row in by_file.rows]
    with pytest.raises(PrerequisiteError, match=r"refdavis17/expr.*index maps"):
        score_predictions(tmp_path / "out", dataset, ["refdavis17/expr"], out=tmp_path / "o3")


def test_reasonvos_by_object(tmp_path: Path) -> None:
    texts = {"exp_text": "the one that falls", "is_sent": False}
    # The id 1 occurs twice: for two objects, and for one of them twice.
    ids = [(3, 0), (3, 1), (4, 1), (4, 1), (4, 2)]
    entries = [{"obj_id": obj, "exp_id": exp, **texts} for obj, exp in ids]
    video = {"source": "BURST", "frames": ["img_1", "img_2"], "expressions": entries}
    write_json(tmp_path / "data/ReasonVOS/meta_expressions.json", {"videos": {"v": video}})
    for target in (3, 4):
        for name in ("img_1", "img_2"):
            write_png(tmp_path / f"data/ReasonVOS/Annotations/BURST_v_{target}/{name}.png", square(2, 2))
    dataset = open_dataset("reasonvos", tmp_path / "data", needs="masks")
    rng = np.random.default_rng(0)
    by_folder = {f"BURST_v_{obj}/{exp}": [rng.random(SIZE) < 0.5 for _ in range(2)] for obj, exp in ids}
    for name, track in by_folder.items():
        for frame, mask in zip(("img_1", "img_2"), track, strict=True):
            write_png(tmp_path / f"out/{name}/{frame}.png", mask)
    predictions = open_predictions(tmp_path / "out", dataset)
    assert predictions.reading.layout == "<source>_<video>_<object>/<exp_id>/<frame>.png"
    wanted = [by_folder[f"BURST_v_{obj}/{exp}"] for obj, exp in ids]
    found = read_all(predictions, dataset)
    order = [f"v/{expression.id}" for expression in dataset.videos[0].expressions]
    assert_same(found, dict(zip(order, wanted, strict=True)))
    assert predictions.unexpected() == []


def positions(folder: Path, dataset: Dataset, masks: Masks, name: str = "{:05d}") -> Path:
    for sample in dataset.samples():
        own = f"{sample.video.name}/{sample.expression.id}"
        for index, mask in enumerate(masks[own]):
            write_png(folder / own / f"{name.format(index)}.png", mask)
    return folder


@pytest.mark.parametrize("name", ["{:05d}", "{}"])
def test_masks_named_by_position_are_mapped_and_said_so(tmp_path: Path, dataset: Dataset, name: str) -> None:
    masks = drawn_masks(dataset)
    predictions = open_predictions(positions(tmp_path / "p", dataset, masks, name), dataset)
    assert_same(read_all(predictions, dataset), masks)
    assert predictions.unexpected() == []
    assert any("named by position in 6 of 7 folders" in note for note in predictions.reading.notes)
    report = score_predictions(tmp_path / "p", dataset, out=tmp_path / "out", workers=1, absence="empty")
    provenance = report.rows[0]["provenance"]
    assert "named by position" in provenance["read_as"] and provenance["absent"] == "empty"
    keyed = {
        v: {e: {name.format(i): m for i, m in enumerate(track)} for e, track in es.items()}
        for v, es in nested(masks, rle).items()
    }
    write_json(tmp_path / "p.json", keyed)
    predictions = open_predictions(tmp_path / "p.json", dataset)
    assert_same(read_all(predictions, dataset), masks)
    assert any("named by position in 6 of 7 lists" in note for note in predictions.reading.notes)


@pytest.mark.parametrize("form", ["folder", "json"])
def test_positions_with_a_gap_are_refused(tmp_path: Path, dataset: Dataset, form: str) -> None:
    masks = drawn_masks(dataset)
    folder = positions(tmp_path / "p", dataset, masks)
    (folder / "UVO/all/-a/7/00002.png").unlink()
    path = folder
    if form == "json":
        path = tmp_path / "p.json"
        tree = {
            v: {e: {f"{i:05d}": m for i, m in enumerate(t)} for e, t in es.items()}
            for v, es in nested(masks, rle).items()
        }
        del tree["UVO/all/-a"]["7"]["00002"]
        write_json(path, tree)
    # 00000 is also the name of a frame: taking it by name would be wrong for the others.
    with pytest.raises(PrerequisiteError, match="named by position"):
        open_predictions(path, dataset)


def test_other_zeros_before_a_number_are_the_same_frame(tmp_path: Path) -> None:
    mask = square(2, 3)
    clip = Clip({"x": [mask] * 12}, {"0": Entry(("x",))}, 12, frames=tuple(str(5 * index) for index in range(12)))
    dataset = mevis(tmp_path / "data", {"v": clip})
    masks = drawn_masks(dataset)
    for frame, one in zip(dataset.videos[0].frames, masks["v/0"], strict=True):
        write_png(tmp_path / f"p/v/0/{int(frame):05d}.png", one)
    predictions = open_predictions(tmp_path / "p", dataset)
    assert_same(read_all(predictions, dataset), masks)
    assert any("leading zeros" in note for note in predictions.reading.notes)
