"""The command line on bad input: one clear sentence and the fix, the right exit code, nothing lost."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from clips import HEIGHT, WIDTH, square, write_dataset
from PIL import Image
from processes import rvosbench

from rvosbench.harness import cli
from rvosbench.harness.data.cards import CARDS


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a data root of two videos. The method "bright" is found by its entry point."""
    write_dataset(tmp_path / "data", {"a": ["the square", "the bright one"], "b": ["it"]})
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Ended:
    """How a command ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


Run = Callable[..., Ended]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["rvosbench", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Ended(int(ended.value.code or 0), captured.out, captured.err)

    return run


def write_recipe(folder: Path, **changes: object) -> str:
    recipe = {
        "name": "trial",
        "data_root": "data",
        "datasets": [{"name": "shapes"}],
        "methods": [{"method": "bright"}],
        "executor": {"kind": "inprocess"},
        "tracking": {"enabled": False},
        **changes,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return "recipe.yaml"


def table(folder: Path, name: str = "samples") -> pd.DataFrame:
    (path,) = folder.glob(f"runs/trial-*/{name}.parquet")
    return pd.read_parquet(path)


def test_a_run_on_a_card_of_ones_own(folder: Path, run: Run) -> None:
    values = yaml.safe_load((CARDS / "shapes.yaml").read_text())
    text = {"text": "Mean over frames, then over expressions."}
    values |= {"name": "mine", "folders": ["shapes"], "protocols": {"mine/v1": text}}
    for split in values["splits"].values():
        split["protocols"] = ["mine/v1"]
    (folder / "cards").mkdir()
    (folder / "cards/mine.yaml").write_text(yaml.safe_dump(values))
    assert run("run", write_recipe(folder, datasets=[{"card": "cards/mine.yaml"}])).code == 0
    (path,) = folder.glob("runs/trial-*/scores.json")
    assert {(row["dataset"], row["protocol"]) for row in json.loads(path.read_text())["scores"]} == {
        ("mine", "mine/v1")
    }
    (folder / "cards").rename(folder / "gone")
    assert run("compare", str(path.parent), str(path.parent)).code == 0, "the run folder keeps the card"


def test_a_run_writes_the_run_folder_of_the_contract(folder: Path, run: Run) -> None:
    assert run("run", write_recipe(folder)).code == 0
    (path,) = folder.glob("runs/trial-*")
    assert {p.name for p in path.iterdir()} >= {
        "recipe.yaml", "run.json", "samples.parquet", "frames.parquet", "scores.json", "events.jsonl",
    }  # fmt: skip
    samples, frames = table(folder), table(folder, "frames")
    assert list(samples["status"]) == ["scored"] * 3
    assert {"dataset", "split", "video", "expression", "text", "J", "F", "J_and_F", "error"} <= set(samples)
    assert {"seconds_ground", "seconds_segment", "key_ground", "key_segment", "key_score"} <= set(samples)
    assert {"video", "expression", "frame", "I", "U", "n_gt", "n_pred", "m_gt", "m_pred", "J", "F"} <= set(frames)
    assert len(frames) == 12
    info = json.loads((path / "run.json").read_text())
    assert (info["schema"], info["status"], info["exit_code"]) == (1, "finished", 0)
    assert info["stages"]["ground"]["computed"] == 3
    again = run("run", "recipe.yaml")
    assert again.code == 0 and "0 computed" in again.out


@pytest.mark.parametrize(
    ("changes", "sentence", "fix"),
    [
        ({"data_root": "nowhere"}, "nowhere is not a folder", "RVOSBENCH_DATA"),
        ({"datasets": [{"name": "revos"}]}, "ReVOS (split valid) is not under", ""),
        ({"datasets": [{"name": "shapez"}]}, "shapez", "Did you mean 'shapes'?"),
        ({"datasets": [{"name": "shapes", "split": "test"}]}, "test", "valid"),
        ({"datasets": [{"name": "shapes", "protocols": ["shapes/v2"]}]}, "shapes/v2", "shapes/v1"),
        ({"methods": [{"method": "decalf"}]}, "There is no method 'decalf'", "Did you mean 'decaf'?"),
        ({"methods": [{"method": "decaf"}]}, "needs an LVLM", "lvlms"),
        ({"methods": [{"method": "bright", "settings": {"offzet": 1}}]}, "offzet", ""),
        ({"methods": [{"method": "bright"}, {"method": "bright"}]}, "both be called 'Bright'", "label"),
        ({"lvlms": ["checkpoints/absent"], "methods": [{"method": "decaf"}]}, "checkpoints/absent", ""),
        ({"runs": "recipe.yaml"}, "Cannot write", "runs=FOLDER"),
        ({"name": "a/b"}, "name", ""),
    ],
)
def test_prerequisites_stop_the_command(
    folder: Path, run: Run, changes: dict[str, object], sentence: str, fix: str
) -> None:
    ended = run("run", write_recipe(folder, **changes))
    assert ended.code == 2
    assert ended.err.startswith("error: ")
    assert sentence in ended.err.replace("\n", " ")
    assert fix in ended.err.replace("\n", " ")


def test_a_corrupt_frame_is_a_counted_sample_failure(folder: Path, run: Run) -> None:
    bad = folder / "data/shapes/valid/JPEGImages/a/00001.jpg"
    bad.write_bytes(bad.read_bytes()[:300])
    ended = run("run", write_recipe(folder))
    assert ended.code == 3
    samples = table(folder)
    assert list(samples["status"]) == ["failed", "failed", "scored"]
    assert samples["error"].str.contains("00001.jpg")[:2].all()
    assert list(samples["J_and_F"][:2]) == [0, 0]
    scores = json.loads(next(folder.glob("runs/trial-*/scores.json")).read_text())["scores"][0]
    assert scores["counts"] == {"attempted": 3, "scored": 1, "failed": 2, "missing": 0}


def test_a_damaged_ground_truth_mask_is_a_counted_sample_failure(folder: Path, run: Run) -> None:
    path = folder / "data/shapes/valid/mask_dict.json"
    masks = json.loads(path.read_text())
    masks["0"][2]["size"] = [HEIGHT, WIDTH + 1]
    path.write_text(json.dumps(masks))
    ended = run("run", write_recipe(folder))
    assert ended.code == 3
    samples = table(folder)
    assert list(samples["status"]) == ["failed", "failed", "scored"]
    assert samples["error"].str.contains("mask_dict.json: '0'\\[2\\]: the RLE covers 3072 pixels of a 48x65")[:2].all()


def test_masks_that_cannot_be_aligned_are_a_counted_sample_failure(folder: Path, run: Run) -> None:
    path = folder / "data/shapes/valid/mask_dict.json"
    masks = json.loads(path.read_text())
    del masks["0"][3]
    path.write_text(json.dumps(masks))
    assert run("run", write_recipe(folder)).code == 3
    samples = table(folder)
    assert list(samples["status"]) == ["failed", "failed", "scored"]
    assert samples["error"].str.contains("'0' has 3 masks for the 4 frames of 'a'")[:2].all()


def test_one_frame_and_resume_by_folder(folder: Path, run: Run) -> None:
    write_dataset(folder / "single", {"one": ["it"]}, frames=1)
    assert run("run", write_recipe(folder, data_root="single")).code == 0
    assert list(table(folder)["num_frames"]) == [1]
    (path,) = folder.glob("runs/trial-*")
    assert "0 computed" in run("run", "--resume", str(path)).out
    assert "--set cannot change" in run("run", "--resume", str(path), "--set", "name=x").err
    assert "is not a run folder" in run("run", "--resume", str(folder / "data")).err


def test_a_limited_run_says_so(folder: Path, run: Run) -> None:
    ended = run("run", write_recipe(folder, datasets=[{"name": "shapes", "limit_videos": 1}]))
    assert ended.code == 0
    assert "1 of 2 videos" in ended.out
    (path,) = folder.glob("runs/trial-*/scores.json")
    assert {score["coverage"] for score in json.loads(path.read_text())["scores"]} == {"1 of 2 videos"}


def test_a_failed_sample_is_tried_again_and_nothing_else(folder: Path, run: Run) -> None:
    write_dataset(folder / "more", {"a": ["refuse this", "fine"]})
    for _ in range(2):
        ended = run("run", write_recipe(folder, data_root="more"))
        assert ended.code == 3
    assert "0 computed, 3 reused" in ended.out
    assert "asks to be refused" in table(folder)["error"][0]


def write_predictions(folder: Path) -> Path:
    for video, expressions in {"a": ["0", "1"], "b": ["0"]}.items():
        for expression in expressions:
            out = folder / "masks" / video / expression
            out.mkdir(parents=True)
            for index in range(4):
                Image.fromarray(square(index).astype(np.uint8) * 255).save(out / f"{index:05d}.png")
    return folder / "masks"


def test_score_is_strict_by_default_and_lenient_on_request(folder: Path, run: Run) -> None:
    masks = write_predictions(folder)
    score = ("score", "masks", "--dataset", "shapes", "--data-root", "data", "--out", "out")
    assert run(*score).code == 0
    assert set(pd.read_parquet(folder / "out/samples.parquet")["J_and_F"]) == {1.0}
    (masks / "a/0/00001.png").unlink()
    Image.new("L", (10, 10)).save(masks / "a/1/00000.png")
    (masks / "b/0/00003.png").write_bytes(b"no image")
    (masks / "b/0/00009.png").write_bytes((masks / "b/0/00000.png").read_bytes())
    ended = run(*score[:-1], "strict")
    assert ended.code == 2
    for problem in ("a/0/00001.png", "a/1/00000.png", "b/0/00003.png", "b/0/00009.png"):
        assert problem in (folder / "strict/problems.txt").read_text(), "the list is complete"
    assert not (folder / "strict/scores.json").exists()
    ended = run(*score[:-1], "lenient", "--lenient")
    assert ended.code == 3
    assert (folder / "lenient/scores.json").is_file()


def test_score_says_how_it_read_and_what_absent_masks_mean(folder: Path, run: Run) -> None:
    masks = write_predictions(folder)
    (folder / "work").mkdir()
    masks.rename(folder / "work/Annotations")
    score = ("score", "work", "--dataset", "shapes", "--data-root", "data", "--out", "work/scores")
    for _ in range(2):  # the second time its own tables lie beside the masks
        ended = run(*score)
        assert ended.code == 0
        assert "Read as <video>/<expression>/<frame>.png below Annotations/." in ended.out.replace("\n", " ")
    (folder / "work/Annotations/a/0/00001.png").unlink()
    options: list[tuple[str, ...]] = [
        (),
        ("--absent", "refuse", "--lenient"),
        ("--absent", "maybe"),
        ("--absent", "empty"),
        ("--absent", "zero"),
        ("--lenient",),
    ]
    assert [run(*score, *option).code for option in options] == [2, 2, 2, 0, 3, 3]
    table = pd.read_parquet(folder / "work/scores/samples.parquet").set_index(["video", "expression"])
    assert table.loc[("a", "0"), "J"] == 0.75
    assert "a/0/00001.png" in (folder / "work/scores/problems.txt").read_text()
    run(*score, "--absent", "empty")
    assert not (folder / "work/scores/problems.txt").exists(), "the list of an earlier command is gone"


@pytest.mark.parametrize("lenient", [(), ("--lenient",)])
def test_a_score_of_nothing_that_was_given_is_refused(folder: Path, run: Run, lenient: tuple[str, ...]) -> None:
    masks = write_predictions(folder)
    for video in ("a", "b"):
        (masks / video).rename(masks / f"other-{video}")
    ended = run("score", "masks", "--dataset", "shapes", "--data-root", "data", "--out", "out", *lenient)
    assert ended.code == 2 and "None of the" in ended.err
    assert not (folder / "out").exists()


def test_a_score_that_cannot_be_written_is_refused_before_the_work(folder: Path, run: Run) -> None:
    (folder / "file").write_text("x")
    for out in ("file", "file/out"):
        ended = run("score", "nowhere", "--dataset", "shapes", "--data-root", "data", "--out", out)
        assert ended.code == 2 and "file" in ended.err and "--out" in ended.err.replace("\n", " ")


def test_compare_two_runs(folder: Path, run: Run) -> None:
    run("run", write_recipe(folder))
    run("run", write_recipe(folder, methods=[{"method": "bright", "settings": {"offset": 60.0}}]))
    first, second = sorted(folder.glob("runs/trial-*"))
    ended = run("compare", str(first), str(second))
    assert ended.code == 0
    assert "Bright -> Bright on shapes/valid, shapes/v1" in ended.out
    assert "losses in 2 videos" in ended.out
    assert run("compare", str(first), str(folder)).code == 2


def test_lists_and_doctor(folder: Path, run: Run) -> None:
    assert "shapes valid" in run("datasets", "list", "--data-root", "data").out
    assert run("datasets", "verify", "shapes", "--data-root", "data", "--full").code == 0
    (folder / "data/shapes/valid/JPEGImages/a/00002.jpg").unlink()
    assert "00002" in run("datasets", "verify", "shapes", "--data-root", "data").out
    doctor = run("doctor", "--data-root", "data")
    assert doctor.code == 0 and "python" in doctor.out
    assert "decaf  DecAF" in run("methods").out
    assert "Usage" in run("score").err


def test_the_scorer_imports_no_torch_and_no_ray(folder: Path) -> None:
    write_predictions(folder)
    code = (
        "import sys; absent = ('torch', 'ray', 'mlflow', 'transformers', 'sam2', 'streamlit');"
        "sys.modules.update(dict.fromkeys(absent));"
        "sys.argv = ['rvosbench', 'score', 'masks', '--dataset', 'shapes', '--data-root', 'data', '--out', 'out'];"
        "from rvosbench.harness.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_dead_tracking_server_does_not_stop_a_run(folder: Path) -> None:
    recipe = write_recipe(folder, tracking={"enabled": True, "uri": "http://127.0.0.1:9"})
    code, out, err = rvosbench("run", recipe, folder=folder)
    assert code == 0, err
    assert "Not mirrored to MLflow" in out
    code, out, err = rvosbench("sync", "--runs", "runs", folder=folder)
    assert code == 0, err
    assert "mirrored" in out
    assert (folder / "runs/mlflow.db").is_file()
