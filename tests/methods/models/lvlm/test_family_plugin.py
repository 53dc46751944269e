"""A family in a folder of its own runs a chat, and a run is planned with it, without any edit elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from toy.tiny_qwen import write_small

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.methods.attention.spec import RolloutSpec
from rvosbench.methods.decaf import METHOD as DECAF
from rvosbench.methods.decaf import DecafSettings
from rvosbench.methods.models.lvlm.checkpoints import family_of, lvlm_settings
from rvosbench.methods.models.lvlm.family import Family, family_names, find_family
from rvosbench.methods.models.lvlm.load import load_lvlm
from rvosbench.methods.models.lvlm.messages import Clip, Maps, Text, user
from rvosbench.methods.tam import METHOD
from rvosbench.methods.tam.settings import TamSettings

# A Qwen2-VL by another name that is shown the last frame of a clip first.
CODE = """
from rvosbench.methods.models.lvlm.messages import Clip
from rvosbench.methods.models.lvlm.qwen import Qwen


class Backwards(Qwen):
    model_type = "backwards_vl"
    title = "Backwards-VL"
    model_class = "Qwen2VLForConditionalGeneration"
    processor_class = "Qwen2VLProcessor"
    sink_edges = ("top",)

    def prepare(self, lvlm, chat, visuals):
        return super().prepare(
            lvlm, chat, [Clip(part.frames[::-1]) if isinstance(part, Clip) else part for part in visuals]
        )


FAMILY = Backwards()
"""


def installed(folder: Path, entry: str, code: str = CODE) -> Path:
    """A folder as a package with this entry point would leave it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "backwards_vl.py").write_text(code)
    info = folder / "backwards_vl-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: backwards-vl\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[rvosbench.families]\n{entry}\n")
    return folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(installed(tmp_path / "site", "backwards_vl = backwards_vl:FAMILY"))
    monkeypatch.delitem(sys.modules, "backwards_vl", raising=False)
    checkpoint = write_small("qwen2_vl", tmp_path / "checkpoint", seed=0)
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "model_type": "backwards_vl"}))
    return checkpoint


def test_a_family_of_another_package_runs_a_chat(folder: Path, tmp_path: Path) -> None:
    assert "backwards_vl" in family_names()
    family = family_of(str(folder))
    assert isinstance(family, Family) and family.sink_edges == ("top",)
    lvlm = load_lvlm(lvlm_settings(str(folder), dtype="float32", device="cpu", clip_max_tokens=24, max_new_tokens=4))
    assert lvlm.family == "backwards_vl"
    plain = load_lvlm(
        lvlm_settings(
            str(write_small("qwen2_vl", tmp_path / "plain", seed=0)),
            dtype="float32",
            device="cpu",
            clip_max_tokens=24,
            max_new_tokens=4,
        )
    )
    frames = list(np.random.default_rng(0).integers(0, 256, (4, 90, 150, 3), dtype=np.uint8))
    ours = lvlm.chat([user(Clip(frames), Text("What is it?"))], Maps(RolloutSpec()))
    theirs = plain.chat([user(Clip(frames[::-1]), Text("What is it?"))], Maps(RolloutSpec()))
    np.testing.assert_array_equal(ours[0], theirs[0])
    assert lvlm.chat([user(Text("x"))]) == plain.chat([user(Text("x"))])


def test_a_method_is_planned_with_it(folder: Path) -> None:
    ground, _ = METHOD.stages(TamSettings(), str(folder))
    assert ground.settings.lvlm.uses() == ("backwards_vl:FAMILY",)  # type: ignore[attr-defined]
    assert "visual tokens" in DECAF.memory(DecafSettings(), str(folder), (90, 150))


@pytest.mark.parametrize(
    ("entry", "code", "says"),
    [
        ("qwen2_vl = backwards_vl:FAMILY", CODE, "Two model families are called 'qwen2_vl'"),
        ("other_vl = backwards_vl:FAMILY", CODE, "is not the model family 'other_vl'"),
        ("other_vl = backwards_vl:NOTHING", CODE, "cannot be imported"),
        ("other_vl = backwards_vl:FAMILY", "import a_package_that_is_not_there", "cannot be imported"),
        ("other_vl = backwards_vl:FAMILY", "FAMILY = 3", "is not the model family 'other_vl'"),
    ],
)
def test_a_wrong_family_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str, code: str, says: str
) -> None:
    monkeypatch.syspath_prepend(installed(tmp_path / "site", entry, code))
    monkeypatch.delitem(sys.modules, "backwards_vl", raising=False)
    with pytest.raises(PrerequisiteError, match=says):
        find_family("other_vl")


def test_families_are_read_without_torch() -> None:
    code = (
        "import sys; from rvosbench.methods.models.lvlm.family import family_names, find_family\n"
        "[find_family(name) for name in family_names()]\n"
        "import rvosbench.methods.decaf, rvosbench.methods.tam, rvosbench.methods.lochead, rvosbench.methods.steerseg\n"
        "assert not {'torch', 'transformers'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
