"""A method that is one file beside the recipe: found, run in process and on Ray, its code in the keys."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
import yaml
from clips import write_dataset
from rich.console import Console

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.pipeline.engine import Run
from rvosbench.harness.recipes import load_recipe
from rvosbench.harness.registry import load_method
from rvosbench.harness.results.writer import RunFolder
from rvosbench.harness.variants import run_name, variants_of

METHOD = '''
"""Masks of what is brighter than a level that a stage of its own chooses."""

from dataclasses import dataclass

import numpy as np
from own_helper import LEVEL

from rvosbench.harness.data import masks
from rvosbench.harness.settings import Settings, identity
from rvosbench.harness.stages import StageSpec, one_by_one
from rvosbench.harness.store.artefacts import Artefact
from rvosbench.harness.store.tracks import segment_artefact


@dataclass(frozen=True)
class OwnSettings(Settings):
    offset: float = identity(0.0)


class Choose:
    def __init__(self, settings: OwnSettings) -> None:
        assert isinstance(settings, OwnSettings)
        self.level = LEVEL + settings.offset

    def run(self, video, requests):
        return one_by_one(requests, lambda request: Artefact(meta={"level": self.level}))


class Keep:
    def __init__(self, settings: OwnSettings) -> None:
        pass

    def run(self, video, requests):
        return one_by_one(requests, lambda request: request.inputs["select_level"])


class Cut:
    def __init__(self, settings: OwnSettings) -> None:
        pass

    def run(self, video, requests):
        def cut(request):
            bright = [video[index].mean(axis=2) > request.inputs["ground"].meta["level"] for index in range(len(video))]
            return segment_artefact(masks.track_from_masks(bright, range(len(video)), *video.size))

        return one_by_one(requests, cut)


class Own:
    name, title, paper, settings_type, needs_lvlm = "own", "Own", "none", OwnSettings, False

    def stages(self, settings, lvlm):
        return (
            StageSpec("reason", f"{__name__}:Choose", settings),
            StageSpec("select_level", f"{__name__}:Choose", settings),
            StageSpec("ground", f"{__name__}:Keep", settings, ("select_level",)),
            StageSpec("segment", "own_method:Cut", settings, ("ground",)),
        )

    def memory(self, settings, lvlm, size):
        return ""


METHOD = Own()
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "data", {"a": ["one", "two"], "b": ["three"]})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/own_method.py").write_text(METHOD)
    (tmp_path / "mine/own_helper.py").write_text("LEVEL = 120.0\n")
    return tmp_path


def recipe_of(folder: Path, **changes: object) -> Path:
    recipe = {
        "name": "trial",
        "data_root": str(folder / "data"),
        "runs": str(folder / "runs"),
        "datasets": [{"name": "shapes"}],
        "methods": [{"method": "./own_method.py:METHOD"}],
        "executor": {"kind": "inprocess", "pools": {"select_level": {"workers": 1, "cpus": 0.5}}},
        "tracking": {"enabled": False},
        **changes,
    }
    path = folder / "mine/recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def execute(path: Path) -> tuple[int, Path]:
    recipe = load_recipe(path)
    run_folder = RunFolder.create(recipe)
    code = Run(recipe, run_folder, Console(file=io.StringIO())).execute()
    run_folder.close()
    return code, run_folder.path


def test_a_file_beside_the_recipe_runs_and_its_stages_are_in_the_tables(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    code, run = execute(recipe_of(folder))
    assert code == 0
    samples = pd.read_parquet(run / "samples.parquet")
    assert list(samples["status"]) == ["scored"] * 3
    assert (samples["J_and_F"] == 1.0).all(), "the square is brighter than 120, the rest is not"
    assert samples["seconds_select_level"].notna().all() and samples["key_select_level"].notna().all()
    assert str(folder / "mine/own_method.py") in (run / "recipe.yaml").read_text(), "resuming needs no working folder"


def test_a_file_runs_on_ray_workers(folder: Path, ray_cluster: str) -> None:
    executor = {"kind": "ray", "address": ray_cluster, "pools": {"select_level": {"workers": 1, "cpus": 0.5}}}
    code, run = execute(recipe_of(folder, executor=executor))
    assert code == 0
    assert list(pd.read_parquet(run / "samples.parquet")["status"]) == ["scored"] * 3


def test_the_file_may_move_and_its_content_is_in_the_keys_not_in_the_name(folder: Path) -> None:
    recipe = load_recipe(recipe_of(folder))
    name, (variant,) = run_name(recipe), variants_of(recipe)
    digests = [spec.code().digest for spec in variant.stages]
    (folder / "mine").rename(folder / "moved")
    (folder / "moved/own_helper.py").write_text("LEVEL = 121.0  # brighter\n")
    moved = load_recipe(folder / "moved/recipe.yaml")
    assert run_name(moved) == name
    (again,) = variants_of(moved)
    changed = [old != spec.code().digest for old, spec in zip(digests, again.stages, strict=True)]
    assert changed == [True, True, False, False], "only what reads LEVEL"


FILE = """
from rvosbench.harness.settings import Settings
{}

class Own:
    name, title, paper, settings_type, needs_lvlm = "own", "Own", "none", Settings, False

    def stages(self, settings, lvlm):
        return ()

    def memory(self, settings, lvlm, size):
        {}
        return str(LEVEL)

METHOD = Own()
"""


def write_method(folder: Path, imports: str, late: str = "pass", **others: str) -> str:
    """A method whose memory is what it finds beside it; its name for a recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "way.py").write_text(FILE.format(imports, late))
    for name, text in others.items():
        (folder / f"{name}.py").write_text(text)
    return f"{folder / 'way.py'}:METHOD"


@pytest.mark.parametrize(
    ("imports", "late"),
    [
        ("from utils import LEVEL", "pass"),
        ("import utils; LEVEL = utils.LEVEL", "pass"),
        ("", "from utils import LEVEL"),
        ("from .utils import LEVEL", "pass"),
        ("from between import LEVEL", "pass"),
    ],
)
def test_helpers_of_one_name_in_two_folders_are_two_modules(tmp_path: Path, imports: str, late: str) -> None:
    between = "def __getattr__(name):\n    import utils\n    return getattr(utils, name)\n"
    names = [
        write_method(tmp_path / folder, imports, late, utils=f"LEVEL = {level}\n", between=between)
        for folder, level in (("a", 1), ("b", 2))
    ]
    methods = [load_method(name) for name in names]
    assert [method.memory(None, None, (1, 1)) for method in methods] == ["1", "2"]


def test_a_package_beside_the_file_is_imported_with_its_modules(tmp_path: Path) -> None:
    name = write_method(
        tmp_path, "import parts.inner\nfrom parts import inner\nLEVEL = parts.inner.LEVEL + inner.LEVEL"
    )
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/__init__.py").write_text("from parts.inner import LEVEL as LEVEL\n")
    (tmp_path / "parts/inner.py").write_text("import more\nLEVEL = more.LEVEL\n")
    (tmp_path / "more.py").write_text("LEVEL = 4\n")
    assert load_method(name).memory(None, None, (1, 1)) == "8"


def test_a_file_called_like_an_installed_module_means_that_module(tmp_path: Path) -> None:
    write_method(tmp_path, "import numpy, random; LEVEL = random.Random(0).getrandbits(4) + numpy.int64(0)")
    for name in ("random", "numpy"):
        (tmp_path / name).mkdir()
        (tmp_path / "way.py").replace(tmp_path / name / f"{name}.py")
        assert load_method(f"{tmp_path / name / name}.py:METHOD").memory(None, None, (1, 1)) == "13"
        (tmp_path / name / f"{name}.py").replace(tmp_path / "way.py")


@pytest.mark.parametrize("name", ["queue", "numpy", "rvosbench"])
def test_a_helper_called_like_an_installed_module_is_refused(tmp_path: Path, name: str) -> None:
    method = write_method(tmp_path, f"from {name} import LEVEL", **{name: "LEVEL = 1\n"})
    with pytest.raises(PrerequisiteError, match=f"{name}.py"):
        load_method(method)


@pytest.mark.parametrize(
    ("text", "name", "problem"),
    [
        (None, "./absent.py:METHOD", "There is no file"),
        ("", "./f.py:METHOD", "has no 'METHOD'"),
        ("METHOD = 1", "./f.py:METHOD", "is not a method"),
        ("class METHOD:\n    pass", "./f.py:METHOD", "is not a method"),
        ("import absent_package", "./f.py:METHOD", "absent_package"),
        ("x = (", "./f.py:METHOD", "SyntaxError"),
        ("raise SystemExit(0)", "./f.py:METHOD", "SystemExit"),
        ("\n1 / 0", "./f.py:METHOD", "line 2"),
        ("", "./f.py", "names a file and no object"),
        (None, "no_such_module_at_all:METHOD", "There is no module"),
        (None, "json:METHOD", "has no 'METHOD'"),
        (None, "json:loads", "is not a method"),
        (None, ":METHOD", "is no name of a module"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_sentence(
    tmp_path: Path, text: str | None, name: str, problem: str
) -> None:
    if text is not None:
        (tmp_path / "f.py").write_text(text)
    recipe = {"name": "trial", "datasets": [{"name": "shapes"}], "methods": [{"method": name}]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(PrerequisiteError) as caught:
        load_method(load_recipe(tmp_path / "recipe.yaml").methods[0].method)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)
