"""``rvosbench calibrate lochead``: pairs from a benchmark or a list, what is written and said, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import typer
from clips import picture, write_dataset
from PIL import Image
from typer.testing import CliRunner, Result

from rvosbench.harness.data.reader import open_dataset
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.methods.lochead.command import calibrate
from rvosbench.methods.lochead.heads import find_heads, read_heads
from rvosbench.methods.lochead.pairs import DatasetPairs, ListedPairs, draw_trial
from rvosbench.methods.models.lvlm.checkpoints import lvlm_settings

SMALL = ("--set", "lvlm.dtype=float32", "--set", "lvlm.clip_max_tokens=24", "--set", "lvlm.device=cpu")
Run = Callable[..., Result]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_dataset(tmp_path / "data", {"a": ["the square", "the bright one"], "b": ["it", "that thing"]}, frames=3)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run() -> Run:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(calibrate)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments))

    return run


def refused(result: Result) -> str:
    assert isinstance(result.exception, PrerequisiteError), result.output
    return str(result.exception)


def test_the_command_is_plugged_in() -> None:
    [entry] = [entry for entry in entry_points(group="rvosbench.commands") if entry.name == "calibrate.lochead"]
    assert entry.load() is calibrate


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava"])
def test_heads_of_a_benchmark_s_frames(root: Path, run: Run, checkpoints: dict[str, str], family: str) -> None:
    arguments = ("--lvlm", checkpoints[family], "--dataset", "shapes", "--samples", "3", "--trials", "2", *SMALL)
    # On a map of 25 cells no single one is a sink for having 5% of the attention. The small models have 8 heads behind
    # layer 1, of which fewer than 3 may pass the threshold.
    arguments += ("--set", "calibration.sink_above=0.9")
    result = run(*arguments, "--out", "heads/one.json")
    assert result.exit_code == 0, result.output
    found = read_heads(root / "heads/one.json")
    model = lvlm_settings(checkpoints[family])
    assert found.model.digest == model.digest and found.model.family == family
    count = len(found.heads)
    assert 2 <= count <= 3 and all(2 <= layer < 4 and 0 <= head < 4 for layer, head in found.heads)
    assert (f"Only {count} heads were ever selected." in result.output) == (count < 3)
    frequencies = [entry.frequency for entry in found.frequencies]
    assert frequencies == sorted(frequencies, reverse=True) and frequencies[0] <= 1
    assert tuple((one.layer, one.head) for one in found.frequencies[:count]) == found.heads
    assert all(one.frequency == pytest.approx(np.mean(one.by_trial)) for one in found.frequencies)
    assert len(found.thresholds) == 2 and all(0 < one < 1 for one in found.thresholds if one is not None)
    assert found.data["pairs_per_trial"] == [3, 3] and found.data["dataset"] == "shapes"
    resolved = {"qwen2_5_vl": ("expression", []), "llava": ("role_free", ["bottom"])}[family]
    assert tuple(found.settings["resolved"].values()) == resolved
    assert all(f"L{layer}H{head}" in result.output for layer, head in found.heads)
    assert "2 trials of 3 pairs." in result.output and "kept" in result.output
    # What was written is what a recipe finds, and the same command writes the same bytes.
    assert find_heads("heads", model) == found.heads
    before = (root / "heads/one.json").read_bytes()
    assert run(*arguments, "--out", "heads/one.json").exit_code == 0
    assert (root / "heads/one.json").read_bytes() == before


def test_a_list_of_images_with_one_that_cannot_be_read(root: Path, run: Run, checkpoints: dict[str, str]) -> None:
    (root / "images").mkdir()
    lines = []
    for index in range(3):
        Image.fromarray(picture(index)).save(root / f"images/{index}.jpg")
        lines.append({"image": f"images/{index}.jpg", "expression": "the bright square"})
    (root / "images/1.jpg").write_bytes(b"nothing")
    (root / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    result = run(
        "--lvlm", checkpoints["llava_onevision"], "--pairs", "pairs.jsonl", "--out", "h.json", "--trials", "1",
        "--variant", "released", *SMALL,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    found = read_heads(root / "h.json")
    assert found.data["list"] == "pairs.jsonl" and found.data["pairs_per_trial"] == [2] and found.data["failed"] == 1
    assert "1 pairs could not be used; the first:" in result.output and "1.jpg" in result.output
    assert "Fewer than 1000 pairs: there are 3 expressions." in result.output
    # The released variant has each pair's own threshold; frames are shown without tiles.
    assert found.thresholds == (None,) and found.settings["calibration"]["threshold"] == "each_sample"
    assert found.settings["lvlm"]["frame_scale"] == 1


def test_frames_are_drawn_where_the_target_is_visible(root: Path) -> None:
    path = root / "data/shapes/valid/mask_dict.json"
    masks = json.loads(path.read_text())
    masks["0"][0] = masks["0"][2] = None  # in video a the square is there on the middle frame alone
    masks["1"] = [None] * 3  # in video b never
    path.write_text(json.dumps(masks))
    pairs = DatasetPairs(open_dataset("shapes", root / "data", "valid"))
    assert len(pairs) == 4
    for seed in range(3):
        drawn, failed = draw_trial(pairs, 10, seed, 0)
        assert sorted(pair.name for pair in drawn) == ["shapes/valid/a/0@00001", "shapes/valid/a/1@00001"]
        assert not failed and {pair.image.name for pair in drawn} == {"00001.jpg"}


def test_a_trial_is_a_draw_without_repetition_that_its_seed_decides(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps({"image": f"{i}.jpg", "expression": f"thing {i}"}) for i in range(50)))
    pairs = ListedPairs(path)
    draws = {(seed, trial): draw_trial(pairs, 20, seed, trial)[0] for seed in (0, 1) for trial in (0, 1)}
    assert len({tuple(pair.name for pair in drawn) for drawn in draws.values()}) == 4
    assert all(len({pair.name for pair in drawn}) == 20 for drawn in draws.values())
    assert draw_trial(pairs, 20, 1, 1)[0] == draws[1, 1]
    assert draws[0, 0][0].image.parent == tmp_path


def test_bad_input_is_one_sentence_and_writes_nothing(root: Path, run: Run, checkpoints: dict[str, str]) -> None:
    lvlm = checkpoints["qwen2_5_vl"]
    (root / "bad.jsonl").write_text('{"image": "a.jpg", "expression": "x"}\n{"image": "b.jpg"}\n')
    (root / "gone.jsonl").write_text('{"image": "gone.jpg", "expression": "x"}\n')
    (root / "empty.jsonl").write_text("\n")
    data = ("--dataset", "shapes", "--out", "h.json")
    for arguments, says in [
        (("--lvlm", lvlm, "--out", "h.json"), "Give either --dataset or --pairs."),
        (("--lvlm", lvlm, *data, "--pairs", "bad.jsonl"), "Give either --dataset or --pairs."),
        (("--lvlm", "nowhere/", *data), "does not exist"),
        (("--lvlm", lvlm, "--dataset", "shape", "--out", "h.json"), "shapes"),
        (("--lvlm", lvlm, *data, "--variant", "papr"), "Did you mean 'paper'?"),
        (("--lvlm", lvlm, *data, "--set", "calibration.tops=3"), "tops"),
        (("--lvlm", lvlm, *data, "--set", "prompt=role_free", *SMALL), "role_free, which"),
        (("--lvlm", lvlm, *data, "--set", "calibration.first_layer=4", *SMALL), "the model has layers 0 to 3"),
        (("--lvlm", lvlm, "--pairs", "bad.jsonl", "--out", "h.json"), "Line 2 of bad.jsonl is no pair."),
        (("--lvlm", lvlm, "--pairs", "gone.jsonl", "--out", "h.json", *SMALL), "gone.jpg"),
        (("--lvlm", lvlm, "--pairs", "empty.jsonl", "--out", "h.json"), "There is no pair"),
        (("--lvlm", lvlm, "--pairs", "absent.jsonl", "--out", "h.json"), "absent.jsonl cannot be read"),
        (("--lvlm", lvlm, "--dataset", "shapes", "--out", "data"), "--out data is a folder"),
    ]:
        assert says in refused(run(*arguments)), says
    assert not (root / "h.json").exists()
