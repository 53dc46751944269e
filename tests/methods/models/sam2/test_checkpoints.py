"""Checkpoints are found by name, file and folder, and what is wrong is said in one sentence with the fix."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.recipes import method_settings
from rvosbench.harness.settings import identity_of
from rvosbench.methods.models.sam2 import checkpoints
from rvosbench.methods.models.sam2.checkpoints import (
    Sam2Settings,
    digest,
    model_names,
    require_on_hub,
    resolve,
    with_digest,
)
from rvosbench.methods.models.sam2.overrides import configured, parse_override
from rvosbench.methods.models.sam2.prompts import Masks
from tests.methods.models.sam2.videos import boxes, moving_blocks


@pytest.fixture(autouse=True)
def without_folder_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(checkpoints.FOLDER_VARIABLE, raising=False)


def write_folder(folder: Path, config: str, weights: bytes = b"weights") -> Path:
    """A folder whose weights are one tensor of these bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(config)
    header = json.dumps({"x": {"dtype": "U8", "shape": [len(weights)], "data_offsets": [0, len(weights)]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + weights)
    return folder


def test_released_names_are_those_of_the_package() -> None:
    pytest.importorskip("sam2")
    from sam2.build_sam import HF_MODEL_ID_TO_FILENAMES

    ours = {f"facebook/{name}": checkpoints._released(name) for name in model_names()}
    assert ours == HF_MODEL_ID_TO_FILENAMES


def test_a_released_file_says_which_model_it_is(tmp_path: Path) -> None:
    path = tmp_path / "sam2.1_hiera_base_plus.pt"
    path.write_bytes(b"x")
    found = resolve(str(path))
    assert (found.config, found.overrides, found.weights) == ("configs/sam2.1/sam2.1_hiera_b+.yaml", (), path)


def test_a_file_of_unknown_name_is_refused_with_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "sam2_hiera_big.pt"
    path.write_bytes(b"x")
    with pytest.raises(PrerequisiteError, match=r"sam2_hiera_big\.pt.*Did you mean 'sam2_hiera_"):
        resolve(str(path))
    with pytest.raises(PrerequisiteError, match=r"no SAM2 checkpoint at .*missing\.pt"):
        resolve(str(tmp_path / "missing.pt"))


def test_names_are_looked_up_below_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(checkpoints.FOLDER_VARIABLE, str(tmp_path))
    flat, nested = tmp_path / "sam2_hiera_large.pt", tmp_path / "sam2-hiera-tiny" / "sam2_hiera_tiny.pt"
    nested.parent.mkdir()
    flat.write_bytes(b"x")
    nested.write_bytes(b"x")
    assert resolve("sam2-hiera-large").weights == flat
    assert resolve("facebook/sam2-hiera-large").weights == flat
    assert resolve("sam2-hiera-tiny").weights == nested
    folder = write_folder(
        tmp_path / "shapes-sam2", "base: configs/sam2/sam2_hiera_t.yaml\noverrides: [model.image_size=128]\n"
    )
    assert resolve("shapes-sam2").weights == folder / "model.safetensors"
    assert resolve("shapes-sam2").overrides == ("model.image_size=128",)
    monkeypatch.setenv(checkpoints.FOLDER_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(PrerequisiteError, match=r"RVOSBENCH_CHECKPOINTS points to .*nowhere"):
        resolve("sam2-hiera-large")


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(PrerequisiteError, match="Did you mean 'sam2-hiera-large'"):
        resolve("sam2-heira-large")


def test_a_model_that_is_nowhere_names_every_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked = []

    def offline(*, repo_id: str, filename: str) -> str:
        asked.append((repo_id, filename))
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(hub, "hf_hub_download", offline)
    with pytest.raises(PrerequisiteError, match=r"'sam2.1-hiera-small'.*RVOSBENCH_CHECKPOINTS.*sam2\.checkpoint"):
        resolve("sam2.1-hiera-small")
    assert asked == [("facebook/sam2.1-hiera-small", "sam2.1_hiera_small.pt")]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("base: configs/sam2/sam2_hiera_x.yaml\n", "names no SAM2 configuration: 'configs/sam2/sam2_hiera_x.yaml'"),
        ("overrides: []\n", "malformed"),
        ("base: [", "not valid YAML"),
        ("base: configs/sam2/sam2_hiera_t.yaml\nextra: 1\n", "malformed"),
        ("base: configs/sam2/sam2_hiera_t.yaml\noverrides: ['model._target_=os.system']\n", "model._target_=os.system"),
        ("base: configs/sam2/sam2_hiera_t.yaml\noverrides: ['model.a={_target_: os.abort}']\n", "has the override"),
        ("base: configs/sam2/sam2_hiera_t.yaml\noverrides: ['model.a._args_.0=1']\n", "has the override"),
        ("base: configs/sam2/sam2_hiera_t.yaml\noverrides: ['image_size=128']\n", "has the override 'image_size=128'"),
    ],
)
def test_malformed_folders_are_refused(tmp_path: Path, config: str, message: str) -> None:
    with pytest.raises(PrerequisiteError, match=message.replace("(", r"\(").replace("[", r"\[")):
        resolve(str(write_folder(tmp_path, config)))


BASE = "base: configs/sam2/sam2_hiera_t.yaml\noverrides:\n"
MARKER = "model.note=\\n  _target_: pathlib.Path.touch\\n  _args_: [{marker}]"
ATTACKS = {
    "YAML in a value": f'- "{MARKER}"\n',
    "YAML in the value of a real key": '- "model.image_encoder.trunk=\\n  _target_: pathlib.Path.touch"\n',
    "flow mapping": "- 'model.memory_encoder={_target_: os.abort}'\n",
    "flow mapping after a blank": "- 'model.memory_encoder= {_target_: os.abort}'\n",
    "list of mappings": '- "model.image_encoder.trunk.stages=\\n- _target_: os.abort"\n',
    "list with a mapping": "- 'model.image_encoder.trunk.stages=[1, {_target_: os.abort}]'\n",
    "nested list": "- 'model.image_encoder.trunk.stages=[[1], 2]'\n",
    "target": "- model._target_=os.abort\n",
    "nested target": "- model.image_encoder.trunk._target_=os.abort\n",
    "partial": "- model._partial_=true\n",
    "arguments": "- model.image_encoder._args_=[1]\n",
    "arguments by place": "- model.image_encoder._args_.0=1\n",
    "element of a list": "- model.image_encoder.trunk.stages.0=1\n",
    "interpolation": "- 'model.image_size=${oc.env:HOME}'\n",
    "interpolation in a key": "- 'model.${oc.env:HOME}=1'\n",
    "tag": "- 'model.image_size=!!python/object/apply:os.abort []'\n",
    "anchor": "- 'model.image_size=&a 1'\n",
    "text": "- model.image_encoder.neck.fpn_interp_model=bilinear\n",
    "null": "- model.image_encoder.neck.position_encoding.scale=null\n",
    "infinity": "- model.image_size=1e999\n",
    "a huge number": "- model.image_size=99999999999\n",
    "not a number": "- model.image_size=nan\n",
    "a very long list": f"- 'model.image_encoder.trunk.stages={[1] * 1000}'\n",
    "bracket key": "- 'model[image_size]=1'\n",
    "line break in a key": '- "model.image_size\\n=1"\n',
    "too many": "- model.image_size=128\n" * 500,
    "mapping in place of text": "- {model.image_size: 128}\n",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_folder_cannot_say_what_is_called(tmp_path: Path, attack: str) -> None:
    marker = tmp_path / "marker"
    folder = write_folder(tmp_path / "folder", BASE + ATTACKS[attack].replace("{marker}", str(marker)))
    with pytest.raises(PrerequisiteError):
        resolve(str(folder))
    assert not marker.exists()


@pytest.mark.parametrize(
    "override",
    [
        "model.note=1",
        "model.image_encoder=1",
        "model.image_encoder.neck.fpn_interp_model=1",
        "model.image_encoder.trunk.drop_everything=true",
        "model.nothing.here=1",
        "model.image_size.x=1",
        "model.image_encoder.trunk.embed_dim=-3",
        "model.image_encoder.trunk.stages=[]",
        "model._target_=os.abort",
    ],
)
def test_overrides_that_describe_no_network_are_refused(override: str) -> None:
    pytest.importorskip("sam2")
    from rvosbench.methods.models.sam2.model import build

    with pytest.raises(PrerequisiteError):
        build("configs/sam2/sam2_hiera_t.yaml", [override])


def test_overrides_are_values() -> None:
    assert parse_override("model.a.b_1=true").value is True
    assert parse_override("model.a=-2.5e-3").value == -0.0025
    assert parse_override("model.a=7").value == 7 and isinstance(parse_override("model.a=7").value, int)
    assert parse_override("model.a=[1, 2,3]").value == [1, 2, 3] and parse_override("model.a=[]").value == []


def test_what_a_folder_sets_leaves_the_classes_alone() -> None:
    base = {"model": {"_target_": "a.B", "size": 1, "part": {"_target_": "c.D", "on": False}, "scale": None}}
    merged = configured(base, ["model.size=2", "model.part.on=true", "model.scale=0.5"])
    assert merged == {"model": {"_target_": "a.B", "size": 2, "part": {"_target_": "c.D", "on": True}, "scale": 0.5}}
    assert base["model"]["size"] == 1


class Touch:
    """A pickle of it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("kind", ["pickle", "archive", "object in an archive", "other names", "cut", "empty", "text"])
def test_weights_that_are_no_tensors_get_one_sentence(sam2_1: Path, tmp_path: Path, kind: str, suffix: str) -> None:
    import torch

    from rvosbench.methods.models.sam2.model import read_tensors

    path, marker = tmp_path / f"sam2_hiera_tiny{suffix}", tmp_path / "marker"
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"model": Touch(marker)}))
    elif kind == "archive":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps({"model": Touch(marker)}))
    elif kind == "object in an archive":
        torch.save({"model": Touch(marker)}, path)
    elif kind == "other names":
        torch.save({"weights": torch.zeros(1)}, path)
    elif kind == "cut":
        path.write_bytes((sam2_1 / "model.safetensors").read_bytes()[:1000])
    else:
        path.write_bytes(b"" if kind == "empty" else b"not weights")
    with pytest.raises(PrerequisiteError) as caught:
        read_tensors(path)
    assert path.name in caught.value.problem and "\n" not in caught.value.problem
    assert not marker.exists()


def test_a_file_that_is_no_weights_is_refused_when_planning(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, "base: configs/sam2/sam2_hiera_t.yaml\n")
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(PrerequisiteError, match="safetensors"):
        with_digest(Sam2Settings(checkpoint=str(folder)))
    path = tmp_path / "sam2_hiera_tiny.pt"
    path.write_bytes(b"not an archive")
    with pytest.raises(PrerequisiteError, match="sam2_hiera_tiny"):
        with_digest(Sam2Settings(checkpoint=str(path)))


def test_a_folder_without_weights_says_what_it_needs(tmp_path: Path) -> None:
    (write_folder(tmp_path, "base: configs/sam2/sam2_hiera_t.yaml\n") / "model.safetensors").unlink()
    with pytest.raises(PrerequisiteError, match=r"has no model\.safetensors"):
        resolve(str(tmp_path))


def test_the_digest_follows_weights_and_configuration_and_not_the_place(tmp_path: Path) -> None:
    config = "base: configs/sam2/sam2_hiera_t.yaml\noverrides: [model.image_size=128]\n"
    first = digest(resolve(str(write_folder(tmp_path / "a", config))))
    assert first == digest(resolve(str(write_folder(tmp_path / "b", config))))
    assert first != digest(resolve(str(write_folder(tmp_path / "c", config, b"other"))))
    assert first != digest(resolve(str(write_folder(tmp_path / "d", config.replace("128", "256")))))
    settings = [with_digest(Sam2Settings(checkpoint=str(tmp_path / name), device="cpu")) for name in "ab"]
    assert identity_of(settings[0]) == identity_of(settings[1])
    assert identity_of(settings[0])["digest"] == first


def test_settings_out_of_range_are_refused() -> None:
    for wrong in ({"object_batch": 0}, {"feature_budget_bytes": 0}, {"fill_hole_area": -1}, {"dtype": "float16"}):
        with pytest.raises(PrerequisiteError, match=next(iter(wrong))):
            method_settings(Sam2Settings, wrong, "toy")


def test_small_models_are_deterministic_and_leave_the_generator_alone(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("sam2")
    from toy.tiny_sam2 import write_small

    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    paths = [write_small(tmp_path / name, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    assert torch.equal(torch.rand(3), expected)
    weights = [(path / "model.safetensors").read_bytes() for path in paths]
    assert weights[0] == weights[1] != weights[2]
    assert (paths[0] / "config.yaml").read_bytes() == (paths[1] / "config.yaml").read_bytes()


def test_several_models_live_in_one_process_whoever_holds_hydra(sam2_1: Path, sam2_0: Path) -> None:
    from hydra.core.global_hydra import GlobalHydra

    from rvosbench.methods.models.sam2.model import load
    from rvosbench.methods.models.sam2.tracking import Sam2Video

    state = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        models = [load(Sam2Settings(checkpoint=str(folder), device="cpu")) for folder in (sam2_1, sam2_0, sam2_1)]
    finally:
        GlobalHydra.instance().hydra = state
    frames, prompts = moving_blocks(3, (40, 60)), boxes(1, (40, 60))
    tracks = [
        [tracked.masks for tracked in Sam2Video(model, frames).propagate(range(3), Masks(0, prompts))]
        for model in models
    ]
    np.testing.assert_array_equal(tracks[0], tracks[2])
    assert (np.array(tracks[0]) != np.array(tracks[1])).any()


def test_loading_refuses_other_weights_than_planned(sam2_1: Path, sam2_0: Path, tmp_path: Path) -> None:
    from rvosbench.methods.models.sam2.model import load

    planned = with_digest(Sam2Settings(checkpoint=str(sam2_1), device="cpu"))
    assert load(planned).network.image_size == 128
    with pytest.raises(PrerequisiteError, match="other weights"):
        load(Sam2Settings(checkpoint=str(sam2_0), digest=planned.digest, device="cpu"))
    mixed = Path(shutil.copytree(sam2_0, tmp_path / "mixed"))
    shutil.copy(sam2_1 / "config.yaml", mixed / "config.yaml")
    with pytest.raises(PrerequisiteError, match="do not fit"):
        load(Sam2Settings(checkpoint=str(mixed), device="cpu"))


def test_a_released_file_loads(sam2_1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from safetensors.torch import load_file

    from rvosbench.methods.models.sam2 import model

    # A real file's size is out of reach here: the same container, with the small network in place of the released one.
    path = tmp_path / "sam2.1_hiera_tiny.pt"
    torch.save({"model": load_file(sam2_1 / "model.safetensors")}, path)
    overrides = resolve(str(sam2_1)).overrides
    build = model.build
    monkeypatch.setattr(model, "build", lambda config, extra: build(config, [*overrides, *extra]))
    loaded = model.load(Sam2Settings(checkpoint=str(path), device="cpu"))
    expected = model.load(Sam2Settings(checkpoint=str(sam2_1), device="cpu"))
    for name, weight in expected.network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], weight), name


def test_models_that_couple_objects_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("sam2")
    from toy.tiny_sam2 import write_small

    from rvosbench.methods.models.sam2.model import load

    folder = write_small(tmp_path, 0, overrides=("model.non_overlap_masks_for_mem_enc=true",))
    with pytest.raises(PrerequisiteError, match="couples objects"):
        load(Sam2Settings(checkpoint=str(folder), device="cpu"))


def test_a_clone_that_shadows_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sam2 = pytest.importorskip("sam2")
    from rvosbench.methods.models.sam2.model import build

    (tmp_path / "sam2").mkdir()
    monkeypatch.setattr(sam2, "__path__", [str(tmp_path)])
    with pytest.raises(PrerequisiteError, match="not the installed package"):
        build("configs/sam2/sam2_hiera_t.yaml", [])


def test_devices_that_do_not_exist_are_refused() -> None:
    torch = pytest.importorskip("torch")
    from rvosbench.methods.models.sam2.model import choose_device

    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(PrerequisiteError, match="'tpu'"):
        choose_device("tpu")
    with pytest.raises(PrerequisiteError, match=r"cuda:99.*GPUs"):
        choose_device("cuda:99")


def test_looking_without_downloading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(PrerequisiteError, match="SAM2 'sam2-hiera-tiny' is not on this machine"):
        resolve("sam2-hiera-tiny", download=False)
    snapshot = tmp_path / "models--facebook--sam2-hiera-tiny" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "sam2_hiera_tiny.pt").write_bytes(b"weights")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    assert resolve("sam2-hiera-tiny", download=False).weights.read_bytes() == b"weights"


def test_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(url: str) -> None:
        raise RuntimeError("no route")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", unreachable)
    with pytest.raises(PrerequisiteError, match="cannot be downloaded: no route"):
        require_on_hub("facebook/sam2-hiera-tiny")
    with pytest.raises(PrerequisiteError, match="no released SAM2 'mine'"):
        require_on_hub("mine")
