"""Where heads come from: published ones, files of this checkpoint or of another, heads in so many words."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.methods.lochead.heads import (
    HeadFile,
    OfModel,
    check_sizes,
    find_heads,
    known_heads,
    read_heads,
    write_heads,
)
from rvosbench.methods.models.lvlm.base import LvlmSettings
from rvosbench.methods.models.lvlm.checkpoints import lvlm_settings

HUB = LvlmSettings(
    checkpoint="llava-hf/llava-1.5-7b-hf", digest="llava-hf/llava-1.5-7b-hf@" + "b" * 40, dtype="float16"
)


@pytest.fixture(scope="module")
def lvlm(checkpoints: dict[str, str]) -> LvlmSettings:
    return lvlm_settings(checkpoints["qwen2_5_vl"])


def head_file(lvlm: LvlmSettings, **changes: Any) -> HeadFile:
    model = OfModel(checkpoint=lvlm.checkpoint, digest=lvlm.digest, family="qwen2_5_vl", layers=4, heads_per_layer=4)
    values: dict[str, Any] = {
        "model": model, "heads": ((3, 1), (2, 0)), "frequencies": (), "thresholds": (0.5,), "data": {}, "settings": {},
        "versions": {},
    }  # fmt: skip
    return HeadFile(**{**values, **changes})


def test_published_heads_are_found_by_hub_name() -> None:
    assert find_heads("known", HUB) == ((14, 24), (14, 13), (14, 26))
    larger = dataclasses.replace(HUB, digest="llava-hf/llava-1.5-13b-hf@" + "c" * 40)
    assert find_heads("known", larger) == ((15, 39), (16, 30), (7, 2))
    for name, entry in known_heads().items():
        check_sizes(entry.heads, entry.layers, entry.heads_per_layer, name)
        assert len(entry.heads) == 3 and entry.source


def test_no_published_heads_names_the_command_that_finds_them(lvlm: LvlmSettings) -> None:
    with pytest.raises(PrerequisiteError) as raised:
        find_heads("known", lvlm)
    assert raised.value.problem == f"No localization heads are published for {lvlm.checkpoint}."
    assert f"rvosbench calibrate lochead --lvlm {lvlm.checkpoint}" in raised.value.fix


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ({"num_hidden_layers": 32, "num_attention_heads": 32}, None),
        ({}, None),  # the released 7B leaves its sizes to the class
        ({"num_hidden_layers": 40, "num_attention_heads": 40}, "a 'llava' model of 40 layers of 40 heads"),
    ],
)
def test_published_heads_for_a_copy_in_a_folder(tmp_path: Path, text: dict[str, int], says: str | None) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava", "text_config": text}))
    copy = LvlmSettings(checkpoint=str(tmp_path), digest="0")
    if says is None:
        assert find_heads("llava-1.5-7b", copy) == known_heads()["llava-1.5-7b"].heads
        return
    with pytest.raises(PrerequisiteError, match=says):
        find_heads("llava-1.5-7b", copy)


def test_published_heads_for_another_family(lvlm: LvlmSettings) -> None:
    with pytest.raises(PrerequisiteError, match="are not those of"):
        find_heads("llava-1.5-7b", lvlm)


def test_a_file_round_trips_and_is_found_in_a_folder(lvlm: LvlmSettings, tmp_path: Path) -> None:
    other = dataclasses.replace(lvlm, digest="f" * 64)
    write_heads(tmp_path / "a.json", head_file(other, heads=((0, 0),)))
    write_heads(tmp_path / "b.json", head_file(lvlm))
    assert read_heads(tmp_path / "b.json") == head_file(lvlm)
    assert find_heads(str(tmp_path / "b.json"), lvlm) == ((3, 1), (2, 0))
    assert find_heads(str(tmp_path), lvlm) == ((3, 1), (2, 0))
    (tmp_path / "b.json").unlink()
    with pytest.raises(PrerequisiteError, match=r"None of the 1 heads files in .* is of .*qwen2_5_vl"):
        find_heads(str(tmp_path), lvlm)


def test_a_file_of_another_checkpoint_is_refused_in_one_sentence(lvlm: LvlmSettings, tmp_path: Path) -> None:
    path = tmp_path / "heads.json"
    write_heads(path, head_file(HUB))
    with pytest.raises(PrerequisiteError) as raised:
        find_heads(str(path), lvlm)
    assert raised.value.problem == (
        f"{path} holds the heads of {HUB.checkpoint} ({HUB.digest}), not of {lvlm.checkpoint} "
        f"(digest {lvlm.digest[:12]})."
    )
    assert raised.value.fix.startswith("Find this checkpoint's: rvosbench calibrate lochead --lvlm ")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is not valid JSON"),
        ('{"heads": [[1, 2]]}', "is no heads file: .*model"),
        ("[]", "is no heads file"),
        ('{"kind": NaN}', "holds NaN"),
        ("[" * 5000, "nests too deeply"),
        (None, "There are no heads at"),
    ],
)
def test_a_bad_file_is_named(lvlm: LvlmSettings, tmp_path: Path, content: str | None, says: str) -> None:
    path = tmp_path / "heads.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(PrerequisiteError, match=says):
        find_heads(str(path), lvlm)


def test_heads_in_so_many_words(lvlm: LvlmSettings) -> None:
    assert find_heads("L2H3 l0h1", lvlm) == find_heads("L2H3,L0H1", lvlm) == ((2, 3), (0, 1))
    with pytest.raises(PrerequisiteError, match="has no head L4H0: it has 4 layers of 4 heads"):
        find_heads("L2H3 L4H0", lvlm)
    with pytest.raises(PrerequisiteError, match="names a head twice"):
        find_heads("L2H3 L2H3", lvlm)


@pytest.mark.parametrize("value", [True, False, -0.1, 1.5, "0.5", None])
@pytest.mark.parametrize("key", ["frequency", "layer"])
def test_nonsense_in_a_heads_file_is_refused(lvlm: LvlmSettings, tmp_path: Path, key: str, value: object) -> None:
    path = tmp_path / "heads.json"
    write_heads(path, head_file(lvlm))
    content = json.loads(path.read_text())
    entry = {"layer": 3, "head": 1, "frequency": 0.5, "by_trial": [0.5], "attention_sum": 0.1}
    path.write_text(json.dumps({**content, "frequencies": [entry]}))
    assert read_heads(path).frequencies[0].frequency == 0.5
    path.write_text(json.dumps({**content, "frequencies": [{**entry, key: value}]}))
    with pytest.raises(PrerequisiteError, match=key):
        read_heads(path)
    path.write_text(json.dumps({**content, "frequencies": [entry, entry]}))
    with pytest.raises(PrerequisiteError, match="twice"):
        read_heads(path)


@pytest.mark.parametrize("where", ["a" * 300 + ".json", "nul\0.json", "~nobody-at-all/heads.json", "/etc", "\ud800"])
def test_what_cannot_be_a_path_is_one_sentence(lvlm: LvlmSettings, where: str) -> None:
    with pytest.raises(PrerequisiteError):
        find_heads(where, lvlm)
