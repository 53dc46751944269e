"""Soft prompts on disk: what comes back, what the digest holds, what is refused.

Shape legend: n soft tokens, D hidden size.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from toy.tiny_qwen import write_small

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.settings import identity_of
from rvosbench.methods.models.lvlm.base import LvlmSettings
from rvosbench.methods.models.lvlm.load import load_lvlm
from rvosbench.methods.models.lvlm.model import Lvlm
from rvosbench.methods.models.lvlm.soft import SoftPrompt
from rvosbench.methods.steerseg.prompt_files import (
    BaseModelFacts,
    DataFacts,
    Role,
    SoftPromptSettings,
    load_soft_prompts,
    read_card,
    save_soft_prompts,
    with_digest,
)


@pytest.fixture(scope="module")
def lvlm(tmp_path_factory: pytest.TempPathFactory) -> Lvlm:
    folder = write_small("qwen2_vl", tmp_path_factory.mktemp("model"), seed=0)
    loaded = load_lvlm(LvlmSettings(checkpoint=str(folder), digest="d" * 64, dtype="float32", device="cpu"))
    return loaded


def drawn(count: int = 3, width: int = 128, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def saved(folder: Path, prompts: dict[Role, SoftPrompt] | None = None, **facts: Any) -> Path:
    prompts = prompts or {"clip": SoftPrompt(drawn()), "frame": SoftPrompt(drawn(5, seed=1), "after_vision")}
    base: dict[str, Any] = {"name": "small", "digest": "d" * 64, "family": "qwen2_vl", "width": 128, "dtype": "float32"}
    save_soft_prompts(
        folder,
        prompts,
        base_model=BaseModelFacts(**{**base, **facts}),
        training={role: ("vocabulary", 10, {"first": 1.5, "last": 1.0}) for role in prompts},
        data=DataFacts(dataset="shapes", split="train", digest="e", videos=9, held_out_videos=1, samples=20),
        seed=3,
        recipe={"name": "tiny"},
    )
    return folder


def test_what_was_saved_comes_back(tmp_path: Path, lvlm: Lvlm) -> None:
    settings = with_digest(SoftPromptSettings(str(saved(tmp_path))))
    found = load_soft_prompts(settings, lvlm)
    assert found.clip is not None and found.frame is not None
    assert torch.equal(found.clip.vectors_nD, drawn()) and found.clip.position == "front"
    assert torch.equal(found.frame.vectors_nD, drawn(5, seed=1)) and found.frame.position == "after_vision"
    card = read_card(tmp_path)
    assert card.prompts["frame"].count == 5 and card.prompts["clip"].losses == {"first": 1.5, "last": 1.0}
    assert card.data.videos == 9 and card.recipe == {"name": "tiny"} and card.package_version


def test_one_prompt_for_one_call_or_for_both(tmp_path: Path, lvlm: Lvlm) -> None:
    soft = SoftPrompt(drawn())
    alone = load_soft_prompts(with_digest(SoftPromptSettings(str(saved(tmp_path / "a", {"frame": soft})))), lvlm)
    assert alone.clip is None and alone.frame is not None
    both = load_soft_prompts(with_digest(SoftPromptSettings(str(saved(tmp_path / "b", {"shared": soft})))), lvlm)
    assert both.clip is both.frame is not None
    # A new training leaves nothing of the old one.
    saved(tmp_path / "b", {"clip": soft})
    assert {path.name for path in (tmp_path / "b").iterdir()} == {"card.json", "clip.safetensors"}


def test_the_digest_is_of_vectors_and_place_alone(tmp_path: Path) -> None:
    def digest(into: str, prompts: dict[Role, SoftPrompt], **facts: Any) -> str:
        return with_digest(SoftPromptSettings(str(saved(tmp_path / into, prompts, **facts)))).digest

    soft = SoftPrompt(drawn())
    first = digest("a", {"clip": soft})
    assert digest("b", {"clip": soft}, name="moved") == first
    others = [
        digest("c", {"clip": SoftPrompt(drawn(), "before_vision")}),
        digest("d", {"clip": SoftPrompt(drawn(seed=9))}),
        digest("e", {"frame": soft}),
        digest("f", {"shared": soft}),
    ]
    assert len({first, *others}) == 5
    assert identity_of(SoftPromptSettings("anywhere", "x")) == {"digest": "x"}


def test_vectors_are_kept_in_the_models_type(tmp_path: Path, lvlm: Lvlm) -> None:
    folder = saved(tmp_path, {"clip": SoftPrompt(drawn(64))}, dtype="bfloat16")
    found = load_soft_prompts(with_digest(SoftPromptSettings(str(folder))), lvlm).clip
    assert found is not None and torch.equal(found.vectors_nD, drawn(64).to(torch.bfloat16))
    assert 64 * 128 * 2 < (folder / "clip.safetensors").stat().st_size < 64 * 128 * 2 + 200


def rewritten(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    card = json.loads((folder / "card.json").read_text())
    change(card)
    (folder / "card.json").write_text(json.dumps(card))


def swap(folder: Path, vectors: torch.Tensor, name: str = "vectors") -> None:
    """Other vectors, with a card that matches them."""
    from rvosbench.harness.data.digests import file_sha256

    save_file({name: vectors}, folder / "clip.safetensors")
    sha256 = file_sha256(folder / "clip.safetensors")
    rewritten(folder, lambda card: card["prompts"]["clip"].update(sha256=sha256))


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no card": (lambda folder: (folder / "card.json").unlink(), "there is no card.json"),
    "no JSON": (lambda folder: (folder / "card.json").write_text("{"), "is not valid JSON"),
    "a key missing": (lambda folder: rewritten(folder, lambda card: card.pop("data")), "data: Field required"),
    "a loss that is no number": (
        lambda folder: (folder / "card.json").write_text(
            (folder / "card.json")
            .read_text()
            .replace('"losses":{', '"losses":{"first":NaN,')
            .replace('"losses": {', '"losses": {"first": NaN, ')
        ),
        "NaN|valid JSON",
    ),
    "a count that is true": (
        lambda folder: rewritten(folder, lambda card: card["prompts"]["clip"].update(count=True)),
        "count",
    ),
    "a later schema": (lambda folder: rewritten(folder, lambda card: card.update(schema_version=9)), "newer than 1"),
    "no vectors": (lambda folder: (folder / "clip.safetensors").unlink(), "No such file"),
    "a byte changed": (
        lambda folder: (folder / "clip.safetensors").write_bytes(
            (folder / "clip.safetensors").read_bytes()[:-1] + b"\x07"
        ),
        "is damaged",
    ),
    "a path": (
        lambda folder: rewritten(folder, lambda card: card["prompts"]["clip"].update(file="../clip.safetensors")),
        "outside its folder",
    ),
    "another tensor": (lambda folder: swap(folder, drawn(), "weights"), "no tensor 'vectors'"),
    "another count": (lambda folder: swap(folder, drawn(4)), r"shape \(4, 128\), card.json says 3"),
    "another width": (lambda folder: swap(folder, drawn(3, 64)), r"shape \(3, 64\)"),
    "not finite": (lambda folder: swap(folder, drawn() / 0.0), "not finite"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(name: str, tmp_path: Path, lvlm: Lvlm) -> None:
    damage, message = DAMAGE[name]
    folder = saved(tmp_path)
    damage(folder)
    with pytest.raises(PrerequisiteError, match=message) as caught:
        load_soft_prompts(with_digest(SoftPromptSettings(str(folder))), lvlm)
    assert caught.value.fix and "\n" not in str(caught.value)


def test_prompts_of_another_model_are_refused(tmp_path: Path, lvlm: Lvlm) -> None:
    folder = saved(tmp_path / "a", digest="Qwen/Qwen2-VL-7B-Instruct@0123456789", name="Qwen/Qwen2-VL-7B-Instruct")
    with pytest.raises(PrerequisiteError, match=r"trained for Qwen/Qwen2-VL-7B-Instruct .*@01234567"):
        load_soft_prompts(with_digest(SoftPromptSettings(str(folder))), lvlm)
    with pytest.raises(PrerequisiteError, match=r"qwen2_5_vl.*not for .*qwen2_vl"):
        load_soft_prompts(with_digest(SoftPromptSettings(str(saved(tmp_path / "b", family="qwen2_5_vl")))), lvlm)
    with pytest.raises(PrerequisiteError, match=r"64 wide, the embeddings of .* 128"):
        load_soft_prompts(with_digest(SoftPromptSettings(str(saved(tmp_path / "c", width=64)))), lvlm)


def test_prompts_that_changed_since_the_run_began_are_refused(tmp_path: Path, lvlm: Lvlm) -> None:
    settings = with_digest(SoftPromptSettings(str(saved(tmp_path / "a"))))
    moved = shutil.move(tmp_path / "a", tmp_path / "b")
    assert load_soft_prompts(replace(settings, folder=str(moved)), lvlm).clip is not None
    saved(Path(moved), {"clip": SoftPrompt(drawn(seed=8))})
    with pytest.raises(PrerequisiteError, match="changed since"):
        load_soft_prompts(replace(settings, folder=str(moved)), lvlm)
