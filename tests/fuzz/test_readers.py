"""Every file that comes from outside, mutated, through the command line: no traceback, no hang, exit codes 0, 2 and 3.

``RVOSBENCH_FUZZ_SEEDS=100:200`` tries other seeds than the committed ones; the slow test makes 1,800 mutations,
and ``-k many`` with ``RVOSBENCH_FUZZ_SEEDS=1000:1139`` makes 5,000.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from clips import write_dataset

from rvosbench.harness import cli
from rvosbench.harness.data.cards import CARDS
from rvosbench.harness.data.masks import decode, track_from_masks
from rvosbench.harness.data.reader import open_dataset
from rvosbench.harness.data.synthetic import write_shapes

from . import mutations
from .mutations import Mutation

SHAPES = Path(__file__).resolve().parents[2] / "checkpoints" / "shapes"
SECONDS = 60
"""A command that takes longer hangs."""
LAYOUTS = {
    "shapes": ("shapes", "shapes/valid/meta_expressions.json"),
    "davis17": ("ref_davis17", "davis17/meta_expressions/valid/meta_expressions.json"),
    "revos": ("revos", "ReVOS/meta_expressions_valid_.json"),
    "reasonvos": ("reasonvos", "ReasonVOS/meta_expressions.json"),
    "ref_youtube_vos": ("ref_youtube_vos", "ref-youtube-vos/meta_expressions/valid/meta_expressions.json"),
}


@dataclass(frozen=True)
class Target:
    """A file to mutate and the commands that read it; ``{}`` in an argument stands for the folder."""

    folder: str
    """The example's folder, copied for each worker."""
    file: str
    """The file, or a pattern of files, inside it."""
    mutate: Mutation
    commands: tuple[tuple[str, ...], ...]


def run(arguments: tuple[str, ...], folder: Path) -> int:
    """Runs a command in this process; returns its exit code. Whatever it does not foresee is raised."""
    sys.argv = ["rvosbench", *(argument.replace("{}", str(folder)) for argument in arguments)]
    try:
        with contextlib.chdir(folder):
            cli.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    raise AssertionError("the command line ends by SystemExit")


def _recipe(path: Path, **values: Any) -> None:
    plain = {"name": "r", "data_root": "data", "runs": "runs", "datasets": [{"name": "shapes", "split": "valid"}]}
    plain |= {"executor": {"kind": "inprocess"}, "tracking": {"enabled": False}, "note": "n"}
    path.write_text(yaml.safe_dump({**plain, **values}, sort_keys=False))


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small valid files of every kind."""
    base = tmp_path_factory.mktemp("fuzz")
    for layout in LAYOUTS:
        write_shapes(base / layout, layout=layout, split="valid", seed=3, videos=1)
        (base / layout / "empty").mkdir()
    run_folder = base / "run"
    write_dataset(run_folder / "data", {"a": ["one", "two"], "b": ["three"]})
    _recipe(run_folder / "r.yaml", methods=[{"method": "bright"}])
    assert run(("run", "{}/r.yaml"), run_folder) == 0
    next((run_folder / "runs").glob("r-*")).rename(run_folder / "runs/r")
    shutil.copytree(run_folder, base / "other")
    predictions = base / "predictions"
    shutil.copytree(run_folder / "data", predictions / "data")
    _write_predictions(predictions)
    settings = {"keyframes": 2, "lvlm": {"dtype": "float32", "device": "cpu"}}
    settings |= {"sam2": {"checkpoint": "sam2", "device": "cpu"}}
    for suffix, kind in ((".tar", "w"), (".tar.gz", "w:gz")):
        with tarfile.open(predictions / f"masks{suffix}", kind) as archive:  # type: ignore[call-overload]
            archive.add(predictions / "masks", "masks")
    own = base / "own"
    shutil.copytree(run_folder / "data", own / "data")
    _write_card(own / "own.yaml")
    shutil.copy(predictions / "rle.json", own)
    _recipe(own / "r.yaml", methods=[{"method": "bright"}])
    for name, method, more in (
        ("decaf", "decaf", {}),
        ("steerseg", "steerseg", {"soft_prompts": {"folder": "soft"}}),
        ("lochead", "lochead", {"heads": "heads.json"}),
    ):
        folder = base / name
        shutil.copytree(run_folder / "data", folder / "data")
        shutil.copytree(SHAPES / "sam2", folder / "sam2")
        shutil.copytree(SHAPES / "steerseg" / "qwen2_5_vl", folder / "soft")
        shutil.copy(SHAPES / "lochead" / "qwen2_5_vl.json", folder / "heads.json")
        row = {"method": method, "settings": {**settings, **more}}
        _recipe(folder / "r.yaml", methods=[row], lvlms=[str(SHAPES / "qwen2_5_vl")])
    checkpoint = base / "checkpoint"
    shutil.copytree(base / "decaf", checkpoint)
    shutil.copytree(SHAPES / "qwen2_5_vl", checkpoint / "lvlm")
    row = {"method": "decaf", "settings": settings}
    _recipe(checkpoint / "r.yaml", methods=[row], lvlms=["lvlm"])
    _write_training(base / "training", run_folder / "data")
    configuration = base / "configuration"
    shutil.copytree(run_folder, configuration)
    (configuration / "configuration" / "rvosbench").mkdir(parents=True)
    (configuration / "configuration" / "rvosbench" / "config.yaml").write_text("allow:\n  hosts: [x.org, 10.0.0.3]\n")
    return base


def _write_card(path: Path) -> None:
    card = yaml.safe_load((CARDS / "shapes.yaml").read_text())
    card |= {"name": path.stem, "protocols": {"own/v1": card["protocols"]["shapes/v1"]}}
    for split in card["splits"].values():
        split["protocols"] = ["own/v1"]
    path.write_text(yaml.safe_dump(card, sort_keys=False))


def _write_training(folder: Path, data: Path) -> None:
    shutil.copytree(data, folder / "data")
    values = {
        "name": "t", "data_root": "data", "runs": "runs", "lvlm": str(SHAPES / "qwen2_5_vl"),
        "options": {"dtype": "float32", "frame_batch": 32}, "keyframes": 2,
        "data": {"name": "shapes", "split": "valid", "held_out": 0.5},
        "attributes": {"source": "reason"}, "loss": {"normalisation": "share"},
        "optimiser": {"rate": 0.01, "clips": 2, "frames": 2, "frames_per_sample": 2, "steps": 2},
        "evaluate_every": 1, "workers": {"executor": "inprocess", "count": 1},
    }  # fmt: skip
    (folder / "r.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def _write_predictions(folder: Path) -> None:
    import json

    from PIL import Image

    dataset = open_dataset("shapes", folder / "data", None, needs="masks")
    assert dataset.ground_truth is not None
    table: dict[str, dict[str, list[Any]]] = {}
    for video in dataset.videos:
        for expression in video.expressions:
            masks = [dataset.ground_truth.mask(video, expression, i) for i in range(len(video.frames))]
            height, width = masks[0].shape
            track = track_from_masks(masks, range(len(masks)), height, width)
            rles = [{"size": [height, width], "counts": code} for code in track.rles]
            table.setdefault(video.name, {})[expression.id] = rles
            for frame, code in zip(video.frames, track.rles, strict=True):
                path = folder / "masks" / video.name / expression.id / f"{frame}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(decode(code, height, width)).save(path)
    (folder / "rle.json").write_text(json.dumps(table))
    frames = {video.name: list(video.frames) for video in dataset.videos}
    results = {
        video: {e: {"prediction_masks": rles, "frames": frames[video]} for e, rles in found.items()}
        for video, found in table.items()
    }
    (folder / "results.json").write_text(json.dumps(results))
    records = [
        {"video": video, "expression": e, "frame": frame, **rle}
        for video, found in table.items()
        for e, rles in found.items()
        for frame, rle in zip(frames[video], rles, strict=True)
    ]
    (folder / "records.json").write_text(json.dumps(records))
    pq.write_table(pa.Table.from_pylist(records), folder / "records.parquet")
    lines = [{"video": v, "expression": e, "rles": rles} for v, found in table.items() for e, rles in found.items()]
    (folder / "rle.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with zipfile.ZipFile(folder / "masks.zip", "w") as archive:
        for path in sorted((folder / "masks").rglob("*.png")):
            archive.write(path, path.relative_to(folder / "masks"))


def _scored(card: str, where: str = "{}/empty") -> tuple[tuple[str, ...], ...]:
    verify = ("datasets", "verify", card, "--data-root", "{}")
    lenient = ("--data-root", "{}", "--lenient", "--workers", "1", "--out", "{}/out")
    return verify, ("score", where, "--dataset", card, *lenient)


def _of_predictions(name: str) -> tuple[tuple[str, ...], ...]:
    common = ("--data-root", "{}/data", "--workers", "1", "--out", "{}/out")
    return (("score", f"{{}}/{name}", "--dataset", "shapes", *common),)


_BOARD = (
    ("leaderboard", "--runs", "{}/runs", "--scores"),
    *(("leaderboard", "--runs", "{}/runs", "--export", form) for form in ("csv", "md", "latex")),
    ("compare", "{}/runs/r", "{}/../other/runs/r"),
)
_RESUME = (("run", "--resume", "{}/runs/r"),)
_PLAN = (("plan", "{}/r.yaml"),)
TARGETS = {
    **{
        f"metadata {layout}": Target(layout, file, mutations.change_json, _scored(card))
        for layout, (card, file) in LAYOUTS.items()
        if layout != "ref_youtube_vos"
    },
    "metadata ref_youtube_vos": Target(
        "ref_youtube_vos",
        LAYOUTS["ref_youtube_vos"][1],
        mutations.change_json,
        (
            ("datasets", "list", "--data-root", "{}"),
            ("export-submission", "{}/empty", "--dataset", "ref_youtube_vos", "--data-root", "{}", "--out", "{}/o.zip"),
        ),
    ),
    "mask dictionary": Target("shapes", "shapes/valid/mask_dict.json", mutations.change_json, _scored("shapes")),
    "ground-truth PNG": Target("davis17", "davis17/**/*.png", mutations.change_bytes, _scored("ref_davis17")),
    "RLE": Target("predictions", "rle.json", mutations.change_json, _of_predictions("rle.json")),
    "RLE lines": Target("predictions", "rle.jsonl", mutations.change_lines, _of_predictions("rle.jsonl")),
    "PNG": Target("predictions", "masks/*/*/*.png", mutations.change_bytes, _of_predictions("masks")),
    "RLE of Sa2VA": Target("predictions", "results.json", mutations.change_json, _of_predictions("results.json")),
    "RLE records": Target("predictions", "records.json", mutations.change_json, _of_predictions("records.json")),
    "RLE parquet": Target(
        "predictions", "records.parquet", mutations.change_parquet, _of_predictions("records.parquet")
    ),
    "archive": Target("predictions", "masks.zip", mutations.change_bytes, _of_predictions("masks.zip")),
    "tar": Target("predictions", "masks.tar", mutations.change_bytes, _of_predictions("masks.tar")),
    "compressed tar": Target("predictions", "masks.tar.gz", mutations.change_bytes, _of_predictions("masks.tar.gz")),
    "own card": Target(
        "own",
        "own.yaml",
        mutations.change_yaml,
        (
            ("datasets", "verify", "{}/own.yaml", "--data-root", "{}/data"),
            (
                "score",
                "{}/rle.json",
                "--dataset",
                "{}/own.yaml",
                "--data-root",
                "{}/data",
                "--lenient",
                "--workers",
                "1",
                "--out",
                "{}/out",
            ),
            ("plan", "{}/r.yaml", "--set", "datasets=[{name: ./own.yaml}]"),
        ),
    ),
    "training recipe": Target("training", "r.yaml", mutations.change_yaml, _PLAN),
    "checkpoint's config.json": Target("checkpoint", "lvlm/config.json", mutations.change_json, _PLAN),
    "checkpoint's files": Target("checkpoint", "lvlm/*.*", mutations.change_bytes, _PLAN),
    "user's configuration": Target(
        "configuration", "configuration/rvosbench/config.yaml", mutations.change_yaml, (("run", "{}/r.yaml"),)
    ),
    "recipe": Target("run", "r.yaml", mutations.change_yaml, _PLAN),
    "recipe of DecAF": Target("decaf", "r.yaml", mutations.change_yaml, _PLAN),
    "SAM2 folder": Target("decaf", "sam2/config.yaml", mutations.change_yaml, _PLAN),
    "soft prompts' card": Target("steerseg", "soft/card.json", mutations.change_json, _PLAN),
    "soft prompts": Target("steerseg", "soft/*.safetensors", mutations.change_bytes, _PLAN),
    "heads": Target("lochead", "heads.json", mutations.change_json, _PLAN),
    "run.json": Target("run", "runs/r/run.json", mutations.change_json, (*_BOARD, *_RESUME)),
    "scores.json": Target("run", "runs/r/scores.json", mutations.change_json, _BOARD),
    "samples.parquet": Target("run", "runs/r/samples.parquet", mutations.change_parquet, _BOARD),
    "frames.parquet": Target("run", "runs/r/frames.parquet", mutations.change_parquet, _BOARD),
    "recipe of a run": Target("run", "runs/r/recipe.yaml", mutations.change_yaml, (*_BOARD, *_RESUME)),
    "events": Target("run", "runs/r/events.jsonl", mutations.change_lines, (*_RESUME, *_BOARD)),
    **{
        f"{stage} artefact": Target("run", f"runs/artefacts/{stage}/**/*.npz", mutations.change_npz, _RESUME)
        for stage in ("ground", "segment", "score")
    },
}


class _Hang(BaseException):
    """Raised by the alarm, past every ``except Exception``."""


def _alarm(*_: object) -> None:
    raise _Hang


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A time limit for every command, a memory limit for what a mutated size may allocate, quiet pages."""
    monkeypatch.setenv("XDG_CONFIG_HOME", "configuration")
    monkeypatch.setenv("RVOSBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", sys.argv)
    before, handler = resource.getrlimit(resource.RLIMIT_AS), signal.signal(signal.SIGALRM, _alarm)
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, before[1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, handler)
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("name", TARGETS)
def test_unchanged_files_are_read(
    name: str, examples: Path, tmp_path: Path, guarded: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Otherwise mutated ones would be refused for another reason."""
    target = TARGETS[name]
    shutil.copytree(examples / "other", tmp_path / "other")
    work = shutil.copytree(examples / target.folder, tmp_path / target.folder)
    assert sorted(work.glob(target.file))
    for command in target.commands:
        code = run(command, work)
        assert code in (0, 3) or "{}/empty" in command, (command, capsys.readouterr())


def check(name: str, seeds: range, examples: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Mutates one file per seed and runs the commands that read it."""
    target = TARGETS[name]
    shutil.copytree(examples / "other", folder / "other")
    work = folder / target.folder
    failures = []
    for seed in seeds:
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(examples / target.folder, work)
        rng = random.Random(f"{name}-{seed}")
        file = rng.choice(sorted(work.glob(target.file)))
        what = target.mutate(file, rng)
        for command in target.commands:
            signal.alarm(SECONDS)
            try:
                code = run(command, work)
            except (_Hang, Exception) as error:  # noqa: BLE001 - whatever leaves the command line is the finding
                failures.append(f"seed {seed}, {what[:3]}, {command[:2]}: {type(error).__name__}: {str(error)[:200]}")
            else:
                if code not in (0, 2, 3):
                    failures.append(f"seed {seed}, {what[:3]}, {command[:2]}: exit code {code}")
            finally:
                signal.alarm(0)
        capsys.readouterr()
    assert not failures, "\n".join(failures)


def _given(default: range) -> range:
    first, _, last = os.environ.get("RVOSBENCH_FUZZ_SEEDS", "").partition(":")
    return range(int(first), int(last)) if first and last else default


Check = Callable[..., None]


@pytest.mark.parametrize("name", TARGETS)
def test_a_few_mutations(
    name: str, examples: Path, tmp_path: Path, guarded: None, capsys: pytest.CaptureFixture[str]
) -> None:
    check(name, _given(range(2)), examples, tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", TARGETS)
def test_many_mutations(
    name: str, examples: Path, tmp_path: Path, guarded: None, capsys: pytest.CaptureFixture[str]
) -> None:
    check(name, _given(range(7000, 7050)), examples, tmp_path, capsys)
