"""The pages, run headless: no exception whatever the runs folder holds, filters that filter, text that stays text."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("streamlit", reason="the leaderboard extra is not installed")

from streamlit.testing.v1 import AppTest

import rvosbench.leaderboard
from rvosbench.harness.store.artefacts import Artefact, ArtefactStore

APP = Path(rvosbench.leaderboard.__file__).with_name("app.py")
RUN, RUNS = "views/run.py", "views/runs.py"
PROSE = ("info", "warning", "error", "caption", "markdown", "subheader", "metric")

Open = Callable[..., AppTest]


@pytest.fixture
def open_app(monkeypatch: pytest.MonkeyPatch) -> Open:
    def start(runs: Path, page: str | None = None, **query: str) -> AppTest:
        monkeypatch.setenv("RVOSBENCH_RUNS", str(runs))
        monkeypatch.delenv("RVOSBENCH_DATA", raising=False)
        app = AppTest.from_file(str(APP), default_timeout=120)
        app.query_params.update(query)
        app.run()
        return app.switch_page(page).run() if page else app

    return start


def html(app: AppTest) -> str:
    return "".join(element.proto.body for element in app.get("html"))


def prose(app: AppTest) -> str:
    return "\n".join(str(element.value) for name in PROSE for element in app.get(name))


@pytest.fixture
def runs(tmp_path: Path, write_run: Any) -> Path:
    write_run(tmp_path / "runs" / "example-1")
    return tmp_path / "runs"


def test_an_empty_runs_folder_shows_published_numbers(tmp_path: Path, open_app: Open) -> None:
    app = open_app(tmp_path / "nowhere")
    assert not app.exception
    assert "81.4" in html(app) and "SteerSeg" in html(app) and "reproduced here" not in html(app)
    assert "only published numbers" in prose(app)
    for page in (RUNS, RUN):
        app = app.switch_page(page).run()
        assert not app.exception and "No runs in" in prose(app)


def test_a_run_stands_beside_published_numbers(runs: Path, open_app: Open) -> None:
    app = open_app(runs)
    assert not app.exception
    text = html(app)
    assert "reproduced here" in text and "example-1" in text and "41.2" in text and "36.2–46.2" in text
    assert "SteerSeg authors" in text and "its authors" in text
    (every,) = [table.value for table in app.dataframe]
    assert len(every) == 83 + 2 and set(every["kind"]) == {
        "published", "published, run by others", "reproduced here",
    }  # fmt: skip


def test_filters_filter(runs: Path, open_app: Open) -> None:
    app = open_app(runs)
    app.multiselect(key="dataset").set_value(["ReVOS"]).run()
    assert not app.exception and set(app.dataframe[0].value["dataset"]) == {"ReVOS"}
    app.multiselect(key="subset").set_value(["reasoning"]).run()
    app.multiselect(key="lvlm").set_value(["Qwen2.5VL-7B"]).run()
    shown = app.dataframe[0].value
    assert set(shown["subset"]) == {"reasoning"} and set(shown["lvlm"]) == {"Qwen2.5VL-7B"} and len(shown) == 4
    app.multiselect(key="kind").set_value(["reproduced"]).run()
    assert not app.exception and "No number fits these filters" in prose(app)


def test_scopes_widen_the_table(runs: Path, open_app: Open) -> None:
    app = open_app(runs)
    app.button_group(key="scope").set_value("everything").run()
    assert not app.exception and len(app.dataframe[0].value) == 668 + 2
    assert "MeViS" in app.multiselect(key="dataset").options


def test_a_link_carries_the_filters(runs: Path, open_app: Open) -> None:
    app = open_app(runs, dataset="ReasonVOS", lvlm="no such thing")
    assert not app.exception
    assert app.multiselect(key="dataset").value == ["ReasonVOS"] and app.multiselect(key="lvlm").value == []
    assert set(app.dataframe[0].value["dataset"]) == {"ReasonVOS"}


def test_every_benchmark_has_a_chart(runs: Path, open_app: Open) -> None:
    app = open_app(runs)
    for heading in app.selectbox(key="benchmark").options:
        app.selectbox(key="benchmark").set_value(heading).run()
        assert not app.exception
        (chart,) = app.get("vega_lite_chart")
        assert json.loads(chart.proto.spec)["layer"]


def test_runs_are_listed_with_their_counts_and_broken_ones_with_reasons(
    runs: Path, write_run: Any, open_app: Open
) -> None:
    (write_run(runs / "half") / "run.json").unlink()
    (write_run(runs / "newer") / "scores.json").write_text('{"schema": 7}')
    busy = write_run(runs / "busy", info={"status": "running", "finished": None, "exit_code": None})
    for name in ("scores.json", "samples.parquet", "frames.parquet"):
        (busy / name).unlink()
    app = open_app(runs, RUNS)
    assert not app.exception
    listed, broken = (table.value for table in app.dataframe)
    rows = listed.set_index("run")[["status", "attempted", "scored", "failed", "missing", "time"]]
    assert rows.loc["example-1"].tolist() == ["finished", 8, 6, 1, 1, "1 h 30 min"]
    assert rows.loc["busy"].tolist() == ["running", 0, 0, 0, 0, "–"]
    assert dict(zip(broken["Folder"], broken["Reason"], strict=True)) == {
        "half": "Half-written: run.json is missing.",
        "newer": "scores.json has schema 7; this version reads up to 1.",
    }
    app = app.switch_page(RUN).run()
    assert "2 run folders could not be read" in prose(app)
    for run_id in ("busy", "example-1"):
        app.selectbox(key="run").set_value(run_id).run()
        assert not app.exception


def test_a_run_without_its_data_keeps_its_page(runs: Path, open_app: Open) -> None:
    app = open_app(runs, RUN)
    assert not app.exception
    assert [metric.value for metric in app.metric] == ["finished", "8", "6", "1", "1", "1 h 30 min"]
    assert r"cannot be shown" in prose(app) and not app.get("image")
    app.multiselect(key="status").set_value(["failed"]).run()
    assert not app.exception
    assert app.dataframe[-1].value["video"].tolist() == ["goat"]
    assert "cannot be read" in prose(app).replace("\\", "")
    app.multiselect(key="status").set_value(["scored"]).run()
    scored = app.dataframe[-1].value["J_and_F"]
    assert scored.is_monotonic_increasing and scored.iloc[0] == pytest.approx(20.0)
    app.selectbox(key="order").set_value("highest").run()
    assert app.dataframe[-1].value["J_and_F"].iloc[0] == pytest.approx(85.0)


def test_a_run_with_its_data_shows_frames(davis_run: Path, open_app: Open) -> None:
    app = open_app(davis_run.parent, RUN)
    assert not app.exception
    assert not app.warning
    assert len(app.get("image")) == 7, "the frame and a strip of six"
    assert "in the prediction only" in html(app)
    app.slider[0].set_value(3).run()
    assert not app.exception and "J on frame 00003" in [metric.label for metric in app.metric]
    app.slider[0].set_value(30).run()
    assert not app.exception and "The method gives no mask on this frame." in prose(app)
    for view in ("prediction", "truth", "frame"):
        app.button_group(key="view").set_value(view).run()
        assert not app.exception and len(app.get("image")) == 7


def test_the_figure_of_the_selected_sample_is_shown_where_it_is_asked_for(
    davis_run: Path, tmp_path: Path, open_app: Open
) -> None:
    app = open_app(davis_run.parent, RUN)
    assert not app.get("download_button"), "drawing takes a second: nobody waits for it unasked"
    app.toggle(key="figure").set_value(True).run()
    assert not app.exception and not app.warning
    (file,) = app.get("download_button")
    assert len(app.get("image")) == 8 and file.proto.label == "Download the figure"
    app.selectbox(key="order").set_value("highest").run()
    assert not app.exception and len(app.get("image")) == 8, "the next sample has its figure at once"


def test_a_figure_that_cannot_be_drawn_says_why(davis_run: Path, tmp_path: Path, open_app: Open) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(davis_run.parent, runs)
    for artefact in (runs / "artefacts" / "segment").rglob("*.npz"):
        artefact.write_bytes(b"no zip")
    app = open_app(runs, RUN)
    app.toggle(key="figure").set_value(True).run()
    assert not app.exception and not app.get("download_button")
    assert any("damaged" in warning.value for warning in app.warning)


def test_an_unreadable_frame_is_named_and_the_page_stays(davis_run: Path, tmp_path: Path, open_app: Open) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(davis_run.parent, runs)
    recipe = runs / "davis" / "recipe.yaml"
    source = Path(yaml.safe_load(recipe.read_text())["data_root"])
    shutil.copytree(source, tmp_path / "data")
    recipe.write_text(recipe.read_text().replace(str(source), str(tmp_path / "data")))
    for frame in (tmp_path / "data").rglob("00000.jpg"):
        frame.chmod(0o644)
        frame.write_bytes(b"")
    app = open_app(runs, RUN)
    assert not app.exception
    assert "00000" in prose(app) and len(app.get("image")) == 6


ATTACK = "<script>alert(1)</script>![x](https://evil.example/p.png):red[x]"


def test_names_are_text_on_every_page(tmp_path: Path, write_run: Any, rows: Any, open_app: Open) -> None:
    samples = rows(ATTACK, ATTACK, {"cows/0": (0.5, 0.5), "goat/0": "failed"})
    for row in samples:
        row.update(text=ATTACK, error=ATTACK, video=ATTACK)
    folder = tmp_path / "runs" / "<b>run<"
    write_run(folder, samples=samples, recipe={"note": ATTACK}, info={"name": ATTACK, "device": ATTACK})
    (tmp_path / "runs" / "<i>broken<").mkdir()
    (tmp_path / "runs" / "<i>broken<" / "recipe.yaml").write_text("a: 1")
    app = open_app(tmp_path / "runs")
    for page in (None, RUNS, RUN):
        app = app.switch_page(page).run() if page else app
        assert not app.exception
        assert "<script" not in html(app) and "<b>run" not in html(app)
        for element in (text for name in PROSE for text in app.get(name)):
            text = str(element.value) + str(getattr(element, "label", ""))
            live = re.sub(r"\\[^\w\s]", "", text)
            assert not re.search(r"[<!\[\]:]", live), text
    app = open_app(tmp_path / "runs")
    assert "&lt;script&gt;" in html(app)


def test_a_score_in_doubt_carries_a_warning_and_its_origin(
    tmp_path: Path, write_run: Any, rows: Any, score: Any, open_app: Open
) -> None:
    samples = rows("SteerSeg", "x", {"cows/0": (0.5, 0.5)})
    origin = {name: name * 2 for name in ("data_root", "layout", "metadata", "ground_truth", "masks", "rvosbench")}
    origin |= {"predictions": "/masks", "read_as": "folders"}
    notes = [f"Warning: 7 masks are odd {ATTACK}", "a plain note"]
    write_run(tmp_path / "runs" / "one", samples=samples, scores=[score(samples, notes=notes, provenance=origin)])
    app = open_app(tmp_path / "runs", RUN)
    assert not app.exception
    [warning] = [text.value.replace("\\", "") for text in app.warning if "masks" in text.value]
    assert warning == f"7 masks are odd {ATTACK}"
    assert any("ground_truthground_truth" in text.value for text in app.code)


def test_reasons_attributes_and_fallbacks_are_shown_as_text(
    tmp_path: Path, write_run: Any, rows: Any, open_app: Open
) -> None:
    samples = rows("SteerSeg", "x", {"cows/0": (0.5, 0.5), "cows/1": (0.9, 0.9)})
    for row, key in zip(samples, ("ab" * 32, "cd" * 32), strict=True):
        row.update(key_reason=key, fallback=None)
    samples[1]["fallback"] = "reason: " + ATTACK
    store = ArtefactStore(tmp_path / "runs" / "artefacts")
    said = {"attributes": ["grey", "on the left"], "reasons": "It lies " + ATTACK, "raw": "{}", "fallback": ""}
    store.write("reason", "ab" * 32, Artefact(said))
    used = {"method": "SteerSeg", "lvlm": "x", "stage": "reason", "used": 1, "of": 2}
    unused = {**used, "stage": "segment", "used": 0}
    write_run(tmp_path / "runs" / "one", samples=samples, info={"fallbacks": [used, unused]})
    app = open_app(tmp_path / "runs", RUN)
    assert not app.exception
    text = prose(app).replace("\\", "")
    assert "SteerSeg on x: 1 of 2 samples used the fallback of reason." in text and "of segment" not in text
    assert "Attributes: grey; on the left" in text and f"Reasons: It lies {ATTACK}" in text
    assert "Fallback used" not in text, "the worst sample stands first, and it used none"
    assert app.dataframe[-1].value["fallback"].dropna().tolist() == ["reason: " + ATTACK]
    app.selectbox(key="order").set_value("highest").run()
    assert not app.exception
    text = prose(app).replace("\\", "")
    assert f"Fallback used in reason: {ATTACK}" in text
    assert "is missing" in text and "Attributes" not in text, "its artefact is not there"
    for element in (text for name in PROSE for text in app.get(name)):
        assert not re.search(r"[<!\[\]:]", re.sub(r"\\[^\w\s]", "", str(element.value)))


def test_many_runs_do_not_break_the_board(tmp_path: Path, write_run: Any, open_app: Open) -> None:
    first = write_run(tmp_path / "runs" / "r000")
    for number in range(1, 60):
        shutil.copytree(first, tmp_path / "runs" / f"r{number:03d}")
    app = open_app(tmp_path / "runs")
    assert not app.exception and len(app.dataframe[0].value) == 83 + 120
