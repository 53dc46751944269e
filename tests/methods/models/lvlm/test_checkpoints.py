"""Finding checkpoints: identity by content, and one clear sentence for each thing that can be wrong."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.settings import identity_of
from rvosbench.methods.attention.spec import RolloutSpec
from rvosbench.methods.models.lvlm.base import LvlmOptions, LvlmSettings
from rvosbench.methods.models.lvlm.checkpoints import config_of, find, folder_digest, local_folder, lvlm_settings
from rvosbench.methods.models.lvlm.estimate import clip_memory
from rvosbench.methods.models.lvlm.family import family_names
from rvosbench.methods.models.lvlm.load import load_lvlm


@pytest.fixture
def folder(checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoints["qwen2_5_vl"], tmp_path / "checkpoint"))


def test_identity_is_content_not_place(folder: Path, tmp_path: Path) -> None:
    before = lvlm_settings(str(folder), device="cpu")
    moved = Path(shutil.move(folder, tmp_path / "elsewhere"))
    after = lvlm_settings(str(moved), device="auto", frame_batch=9)
    assert identity_of(before) == identity_of(after)
    assert before.checkpoint != after.checkpoint

    path = moved / "generation_config.json"
    path.write_text(path.read_text().replace("output_attentions", "output_attention5"))
    assert identity_of(lvlm_settings(str(moved))) != identity_of(before)


def test_identity_covers_what_changes_results(folder: Path) -> None:
    names = set(identity_of(lvlm_settings(str(folder))))
    assert {"digest", "dtype", "attention", "max_new_tokens", "clip_max_tokens", "frame_scale"} <= names
    assert not {"checkpoint", "device", "frame_batch"} & names


def test_found(folder: Path) -> None:
    found = find(str(folder))
    assert (found.family, found.digest) == ("qwen2_5_vl", folder_digest(folder))
    assert local_folder(lvlm_settings(str(folder))) == folder
    assert config_of(str(folder))["model_type"] == "qwen2_5_vl"


def test_missing_folder() -> None:
    for name in ("/no/such/folder", "./nowhere", "just-a-word", "a/b/c"):
        with pytest.raises(PrerequisiteError, match="does not exist") as caught:
            find(name)
        assert "existing folder, or a hub name" in caught.value.fix
    with pytest.raises(PrerequisiteError, match="does not exist"):
        load_lvlm(LvlmSettings(checkpoint="/no/such/folder", digest="0" * 64))


@pytest.mark.parametrize("name", ["nobody-at-all/no-such-model", "nobody-at-all/no-such-model@main"])
def test_hub_name_that_cannot_be_downloaded(name: str) -> None:
    for function in (find, config_of):
        with pytest.raises(PrerequisiteError, match=f"Checkpoint {name} is not a folder and cannot be") as caught:
            function(name)
        assert "hf download" in caught.value.fix
        assert "\n" not in str(caught.value)
    with pytest.raises(PrerequisiteError, match="cannot be downloaded"):
        load_lvlm(LvlmSettings(checkpoint=name, digest=f"{name.partition('@')[0]}@{'a' * 40}"))


def test_hub_checkpoint_in_the_cache(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The layout that the hub's own client writes: refs/main names the commit, snapshots/<commit> holds the files.
    commit = "c0ffee" * 6 + "c0ff"
    home = tmp_path / "hub" / "models--someone--small"
    shutil.copytree(folder, home / "snapshots" / commit)
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("someone/small", f"someone/small@{commit}"):
        found = find(name)
        assert (found.digest, found.family) == (f"someone/small@{commit}", "qwen2_5_vl")
    assert local_folder(lvlm_settings("someone/small")) == home / "snapshots" / commit
    # A snapshot with only some of its files is not taken for the whole.
    (home / "snapshots" / commit / "model.safetensors").unlink()
    with pytest.raises(PrerequisiteError, match="someone/small is not a folder and cannot be downloaded"):
        local_folder(lvlm_settings("someone/small"))


def test_unsupported_family_names_the_nearest(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "qwen4_vl"}))
    for function in (lambda: find(str(folder)), lambda: load_lvlm(LvlmSettings(str(folder), "0" * 64))):
        with pytest.raises(PrerequisiteError, match="family 'qwen4_vl', which is not supported") as caught:
            function()
        assert "Did you mean 'qwen" in caught.value.fix and all(name in caught.value.fix for name in family_names())


@pytest.mark.parametrize(
    "window",
    [
        {"use_sliding_window": True, "text_config": {}},
        {"text_config": {"use_sliding_window": True}},
        {"text_config": {"layer_types": ["full_attention", "sliding_attention"]}},
    ],
)
def test_a_sliding_window_is_refused(folder: Path, window: dict[str, object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **window}))
    with pytest.raises(PrerequisiteError, match="sliding-window"):
        find(str(folder))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "not valid JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "not a JSON object"),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no .*safetensors weights"),
    ],
)
def test_incomplete_folder(folder: Path, break_it: Callable[[Path], object], message: str) -> None:
    break_it(folder)
    with pytest.raises(PrerequisiteError, match=message):
        find(str(folder))


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_new_tokens", 0), ("clip_max_tokens", 0), ("frame_scale", 0), ("frame_batch", 0), ("seconds_per_grid", 0.0)],
)
def test_impossible_settings(folder: Path, field: str, value: float) -> None:
    with pytest.raises(PrerequisiteError, match=field):
        lvlm_settings(str(folder), **{field: value})


NONSENSE: list[tuple[str, str, object]] = [
    ("text_config", "num_hidden_layers", 10**9),
    ("text_config", "num_hidden_layers", True),
    ("text_config", "hidden_size", "192"),
    ("text_config", "hidden_size", -1),
    ("text_config", "vocab_size", 2**40),
    ("vision_config", "depth", 2**31),
    ("vision_config", "patch_size", 1.5),
    ("", "text_config", None),
    ("", "vision_config", [1]),
    ("", "hidden_size", float("nan")),
]


@pytest.mark.parametrize(("section", "key", "value"), NONSENSE)
def test_a_configuration_of_no_model_is_one_sentence(folder: Path, section: str, key: str, value: object) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    (config[section] if section else config)[key] = value
    path.write_text(json.dumps(config))
    with pytest.raises(PrerequisiteError, match=r"config\.json"):
        find(str(folder))


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("text_config", "rope_parameters", "none"),
        ("text_config", "hidden_act", 3),
        ("text_config", "num_attention_heads", 0),
        ("vision_config", "patch_size", 0),
        ("vision_config", "spatial_merge_size", 0),
        ("vision_config", "num_heads", 7),
        ("text_config", "layer_types", [1]),
    ],
)
def test_what_transformers_cannot_build_is_one_sentence_or_an_estimate(
    folder: Path, section: str, key: str, value: object
) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config[section][key] = value
    path.write_text(json.dumps(config))
    with contextlib.suppress(PrerequisiteError):
        assert "MiB" in clip_memory(str(folder), LvlmOptions(), RolloutSpec(), 2, (64, 64))
