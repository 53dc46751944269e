"""The key knows the code: a change in a stage's module recomputes what it touches, and a plan says why."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from clips import write_dataset
from rich.console import Console

from rvosbench.harness.pipeline.engine import Reuse, Run, print_plan
from rvosbench.harness.recipes import load_recipe
from rvosbench.harness.results.writer import RunFolder
from rvosbench.harness.store import code
from rvosbench.harness.store.code import ABSENT, Code, code_of
from rvosbench.methods.models.lvlm import family

PACKAGE = {
    "__init__.py": "",
    "shared.py": '''
"""Shared by two stages."""
import numpy as np
SCALE = 2.0
def scaled(value):
    return np.float64(value) * SCALE
def unused():
    return 1
if __name__ == "__main__":
    print(unused())
''',
    "reason.py": "def answer(text):\n    return text\n",
    "ground.py": "from .shared import scaled\ndef level():\n    return scaled(60.0)\n",
    "segment.py": "import cv2\ndef cut(frame, level):\n    return cv2.blur(frame, (1, 1)).mean(axis=2) > level\n",
    "method.py": """
from dataclasses import dataclass

from rvosbench.harness.data import masks
from rvosbench.harness.settings import Settings
from rvosbench.harness.stages import StageSpec, one_by_one
from rvosbench.harness.store.artefacts import Artefact
from rvosbench.harness.store.tracks import segment_artefact
from threestages import ground, segment
from threestages.reason import answer


@dataclass(frozen=True)
class None_(Settings):
    pass


class Reason:
    def __init__(self, settings):
        pass

    def run(self, video, requests):
        return one_by_one(requests, lambda request: Artefact(meta={"answer": answer(request.expression.text)}))


class Ground:
    def __init__(self, settings):
        pass

    def run(self, video, requests):
        return one_by_one(requests, lambda request: Artefact(meta={"level": float(ground.level())}))


class Segment:
    def __init__(self, settings):
        pass

    def run(self, video, requests):
        def cut(request):
            level = request.inputs["ground"].meta["level"]
            bright = [segment.cut(video[index], level) for index in range(len(video))]
            return segment_artefact(masks.track_from_masks(bright, range(len(video)), *video.size))

        return one_by_one(requests, cut)


class Three:
    name, title, paper, settings_type, needs_lvlm = "three", "Three", "none", None_, False

    def stages(self, settings, lvlm):
        return (
            StageSpec("reason", "threestages.method:Reason", settings),
            StageSpec("ground", "threestages.method:Ground", settings),
            StageSpec("segment", "threestages.method:Segment", settings, ("ground",)),
        )

    def memory(self, settings, lvlm, size):
        return ""


METHOD = Three()
""",
}


@dataclass(frozen=True)
class World:
    """A method of three modules, run once; sources can be changed for the next plan, as another process would see."""

    folder: Path
    recipe: Path
    sources: dict[str, str]

    def change(self, name: str, old: str, new: str) -> None:
        assert old in self.sources[name]
        self.sources[name] = self.sources[name].replace(old, new)

    def plan(self, reuse: Reuse = "exact") -> tuple[dict[str, int], str]:
        """(artefacts to compute by stage, what is printed)."""
        forget()
        text = io.StringIO()
        print_plan(load_recipe(self.recipe), Console(file=text, width=200), reuse)
        rows = [line.split("│")[1:-1] for line in text.getvalue().splitlines() if line.startswith("│")]
        return {row[2].strip(): int(row[-1]) for row in rows}, text.getvalue()

    def run(self, reuse: Reuse = "exact") -> str:
        forget()
        recipe, text = load_recipe(self.recipe), io.StringIO()
        run_folder = RunFolder.create(recipe)
        assert Run(recipe, run_folder, Console(file=text, width=200), reuse).execute() == 0
        run_folder.close()
        return text.getvalue()


def forget() -> None:
    """What a process remembers of sources."""
    for remembered in (code.code_of, code._parse):
        remembered.cache_clear()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    write_dataset(tmp_path / "data", {"a": ["one", "two"], "b": ["three"]})
    package = tmp_path / "code/threestages"
    package.mkdir(parents=True)
    for name, text in PACKAGE.items():
        (package / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    monkeypatch.setattr(code, "_find_installed", code._find_installed.__wrapped__)
    monkeypatch.setattr(code, "_outside_site_packages", code._outside_site_packages.__wrapped__)
    recipe = {
        "name": "trial",
        "data_root": str(tmp_path / "data"),
        "runs": str(tmp_path / "runs"),
        "datasets": [{"name": "shapes"}],
        "methods": [{"method": "threestages.method:METHOD"}],
        "executor": {"kind": "inprocess"},
        "tracking": {"enabled": False},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    sources = dict(PACKAGE)
    read = code.read_source

    def changed(path: Path) -> bytes:
        return sources[path.name].encode() if path.parent == package else read(path)

    monkeypatch.setattr(code, "read_source", changed)
    yield World(tmp_path, tmp_path / "recipe.yaml", sources)
    forget()
    for name in [name for name in sys.modules if name.partition(".")[0] == "threestages"]:
        del sys.modules[name]


NOTHING = {"reason": 0, "ground": 0, "segment": 0, "score": 0}


@pytest.mark.parametrize(
    ("file", "old", "new", "counts"),
    [
        ("reason.py", "return text", "return text + '.'", {**NOTHING, "reason": 3}),
        ("shared.py", "SCALE = 2.0", "SCALE = 2.5", {**NOTHING, "ground": 3, "segment": 3, "score": 3}),
        ("segment.py", "> level", ">= level", {**NOTHING, "segment": 3, "score": 3}),
        ("shared.py", "return 1", "return 2", NOTHING),
        ("shared.py", "SCALE = 2.0", "# Twice.\nSCALE = (\n    2.0  # two\n)", NOTHING),
        ("shared.py", '"""Shared by two stages."""', "", NOTHING),
        ("shared.py", "def scaled(value):\n", 'def scaled(value):\n    """The value, scaled."""\n', NOTHING),
    ],
)
def test_a_change_recomputes_exactly_what_it_touches(
    world: World, file: str, old: str, new: str, counts: dict[str, int]
) -> None:
    assert "to compute (" not in world.run()
    assert world.plan()[0] == NOTHING
    world.change(file, old, new)
    found, text = world.plan()
    assert found == counts
    assert (f"threestages/{file} changed" in text) == (counts != NOTHING)
    assert world.plan("force")[0] == NOTHING
    if counts["ground"]:
        assert "segment: 3 to compute (ground is new)" in text
        assert "0 computed, 12 reused" in world.run("force")
        assert "9 computed, 3 reused" in world.run()


def test_an_upgraded_package_recomputes_the_stages_that_use_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.run()
    real = code._version
    monkeypatch.setattr(code, "_version", lambda name: "99.0" if name == "cv2" else real(name))
    found, text = world.plan()
    assert found == {**NOTHING, "segment": 3, "score": 3}
    assert f"cv2 {real('cv2')} -> 99.0" in text


def test_the_forced_artefacts_are_what_later_stages_read(world: World) -> None:
    """Ground is kept though its code changed; segment, whose artefacts are gone, is computed from it."""
    world.run()
    world.change("shared.py", "SCALE = 2.0", "SCALE = 2.5")
    for path in (world.folder / "runs/artefacts/segment").rglob("*.npz"):
        path.unlink()
    assert "3 computed, 9 reused" in world.run("force")
    assert world.plan("force")[0] == NOTHING
    assert world.plan()[0] == {**NOTHING, "ground": 3, "segment": 3, "score": 3}


def test_methods_of_the_package_know_what_they_are_made_of() -> None:
    """Editing one of these files changes these stages, and no others."""
    builders = {
        "reason": "rvosbench.methods.reason.naming:build",
        "ground": "rvosbench.methods.ground.rollouts:build_contrast",
        "segment": "rvosbench.methods.segment.from_map:build",
    }
    stages = {name: code_of((builder,)) for name, builder in builders.items()}
    uses: Callable[[str], set[str]] = lambda file: {name for name, found in stages.items() if file in found.sources}  # noqa: E731
    assert uses("methods/reason/expression_prompts.py") == {"reason", "ground"}
    assert uses("methods/attention/recursion.py") == {"ground"}
    assert uses("methods/segment/nms.py") == {"segment"}
    assert uses("methods/models/sam2/tracking.py") == {"segment"}
    assert {"torch", "sam2"} <= stages["segment"].packages.keys()
    assert "sam2" not in stages["ground"].packages
    assert ABSENT not in stages["segment"].packages.values()


def test_finding_the_code_imports_no_model_library() -> None:
    program = (
        "import sys; from rvosbench.harness.store.code import code_of;"
        "code_of(('rvosbench.methods.steerseg:build_ground', 'rvosbench.methods.segment.from_map:build'));"
        "assert not {'torch', 'transformers', 'sam2', 'cv2'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def digests(folder: Path, **files: str) -> str:
    """The code of ``part.stage``, with these files beside it."""
    package = folder / "made_up_package"
    for name, text in {"__init__": "", **files}.items():
        path = package / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    forget()
    return code_of(("made_up_package.part:stage",)).digest


PART = """
import numpy as np

from made_up_package import other
from made_up_package.other import TABLE, scale
{}

def helper(x=1):
    return x

def level(x):
    return -x

first = 1

def stage(first=first):
    level = 2
    return helper, scale, TABLE, level, lambda level: [level for level in ()]
"""
OTHER = "TABLE = {}\ndef scale(x):\n    return _twice(x)\ndef _twice(x):\n    return f'{2 * x}'\n"


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("{2 * x}", "{3 * x}", False),
        ("def helper(x=1)", "def helper(x=2)", False),
        ("first = 1", "first = 2", False),
        ("return -x", "return +x", True),
        ("def helper", "@np.vectorize\ndef helper", False),
        ("def stage", "TABLE['x'] = 1\ndef stage", False),
        ("def stage", "np.seterr(all='raise')\ndef stage", False),
        ("def stage", "other.FLAG = True\ndef stage", False),
        ("def stage", "scale = helper(scale)\ndef stage", False),
        ("def stage", "import made_up_package.effects\ndef stage", False),
        ("def stage", "from made_up_package import unused as unused\ndef stage", True),
        ("def stage", "def unused():\n    return 1\ndef stage", True),
        ("def stage", "if __name__ == '__main__':\n    print(helper())\ndef stage", True),
        ("def stage(first=first):", "def stage(first=first):\n    'Text.'\n    pass", True),
        (
            "    return helper, scale, TABLE, level, lambda level: [level for level in ()]",
            "    return (\n        helper,  # it\n        scale, TABLE, level, lambda level: [level for level in ()])",
            True,
        ),
    ],
)
def test_what_counts_as_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, same: bool
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(code, "_find_installed", code._find_installed.__wrapped__)
    monkeypatch.setattr(code, "_outside_site_packages", code._outside_site_packages.__wrapped__)
    files = {"part": PART.format(""), "other": OTHER, "effects": "import numpy\nnumpy.seterr(all='ignore')\n"}
    before = digests(tmp_path, **files)
    after = digests(tmp_path, **{name: text.replace(old, new) for name, text in files.items()})
    assert (before == after) == same


def test_a_data_file_that_a_stage_names_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    part = (
        "from pathlib import Path\nFOLDER = Path(__file__).parent\n"
        "def stage():\n    return (FOLDER / 'levels.yaml').read_text(), (FOLDER / 'words' / 'few.txt').read_text()\n"
        "def unused():\n    return FOLDER / 'others.yaml'\n"
    )
    (tmp_path / "made_up_package/words").mkdir(parents=True)
    found = []
    for levels, few, others in (("1", "a", "x"), ("1", "a", "y"), ("2", "a", "y"), ("2", "b", "y")):
        files = {"levels.yaml": levels, "words/few.txt": few, "others.yaml": others}
        for name, text in files.items():
            (tmp_path / "made_up_package" / name).write_text(text)
        digests(tmp_path, part=part)
        found.append(code_of(("made_up_package.part:stage",)))
    assert found[0] == found[1]
    assert found[2].changes_since(found[1]) == ["made_up_package/levels.yaml changed"]
    assert found[3].changes_since(found[2]) == ["made_up_package/words/few.txt changed"]


def test_another_family_in_the_table_recomputes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = ("rvosbench.methods.ground.rollouts:build_contrast", "rvosbench.methods.models.lvlm.qwen2_vl:FAMILY")
    forget()
    before = code_of(stage)
    read = code.read_source
    line = b'    "llava": "rvosbench.methods.models.lvlm.llava:FAMILY",\n'
    assert line in read(Path(family.__file__))
    monkeypatch.setattr(code, "read_source", lambda path: read(path).replace(line, line + b'    "x": "y:FAMILY",\n'))
    forget()
    assert code_of(stage) == before
    forget()


def test_changes_are_said_in_words() -> None:
    old = Code({"a.py": "1", "b.py": "2"}, {"torch": "2.0"})
    new = Code({"a.py": "1", "b.py": "3", "c.py": "4"}, {"torch": "2.1", "cv2": "5"})
    assert new.changes_since(old) == ["b.py changed", "c.py changed", "cv2 unused -> 5", "torch 2.0 -> 2.1"]
    assert new.digest != old.digest == Code(dict(reversed(old.sources.items())), old.packages).digest
