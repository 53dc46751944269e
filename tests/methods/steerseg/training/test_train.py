"""Whole trainings of a small model: what they write, what they resume from, where they stop.

Shape legend: n soft tokens, D hidden size.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy.tiny_qwen import write_small
from transformers import AutoTokenizer

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.methods.steerseg.prompt_files import SoftPromptSettings, load_soft_prompts, read_card, with_digest
from rvosbench.methods.steerseg.prompts import attention_prompt
from rvosbench.methods.steerseg.training.attributes import attributes_of
from rvosbench.methods.steerseg.training.files import METRICS, PROMPTS, STEPS, TrainingFolder
from rvosbench.methods.steerseg.training.launch import folder_of, launch
from rvosbench.methods.steerseg.training.recipe import TrainRecipe, dump_recipe
from rvosbench.methods.steerseg.training.sampling import UnitSampler, split
from rvosbench.methods.steerseg.training.sources import open_source

from .conftest import FAMILIES

Recipe = Callable[..., TrainRecipe]


def quiet(_: str) -> None:
    pass


def trained(recipe: TrainRecipe) -> Path:
    launch(recipe, quiet)
    return folder_of(recipe)


def losses(path: Path) -> list[float]:
    return [line["loss"] for line in TrainingFolder(path).lines(STEPS)]


def moved(recipe: TrainRecipe, to: Path) -> TrainRecipe:
    """The same training in another folder."""
    return replace(recipe, runs=to)


def test_a_training_lowers_its_loss_and_leaves_prompts_that_load(recipe: Recipe, loaded: Any) -> None:
    # Every step sees all the samples, so that losses can be compared.
    chosen = recipe(optimiser__steps=25, optimiser__clips=64, data__generate=2, options__frame_batch=64, note="tiny")
    path = trained(chosen)
    curve = losses(path)
    assert len(curve) == 25 and curve[-1] < curve[0] - 0.03
    card = read_card(path / PROMPTS)
    assert card.base_model.name == chosen.lvlm and card.note == "tiny" and card.data.held_out_videos == 1
    facts = card.prompts["clip"]
    assert (facts.count, facts.position, facts.steps) == (4, "front", 25)
    assert facts.losses["first"] == curve[0] and facts.losses["last"] == curve[-1]
    settings = with_digest(SoftPromptSettings(str(path / PROMPTS)))
    model = loaded("qwen2_5_vl")
    model = type(model)(
        model.definition, model.model, model.processor, replace(model.settings, digest=card.base_model.digest)
    )
    soft = load_soft_prompts(settings, model)
    state = TrainingFolder(path).load("clip", _fingerprint(path))
    assert soft.clip is not None and soft.frame is None and state is not None
    assert torch.equal(soft.clip.vectors_nD, state.vectors_nD)
    looks = TrainingFolder(path).lines(METRICS)
    assert [(line["step"], line["soft"]) for line in looks] == [(0, False), (0, True), (25, True)]
    assert all(0 <= line["concentration"] <= 1 and 0 <= line["pointing"] <= 1 for line in looks)
    assert [picture.name for picture in sorted((path / "pictures").iterdir())] == ["clip-clip-0.png"]
    # Given again, it is already done.
    before = {file: file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}
    trained(chosen)
    assert {file: file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()} == before


def _fingerprint(path: Path) -> str:
    held = torch.load(next(path.glob("state-*.pt")), weights_only=True)
    return str(held["fingerprint"])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_both_prompts(family: str, recipe: Recipe, checkpoints: Callable[[str], Path]) -> None:
    chosen = recipe(lvlm=str(checkpoints(family)), granularity="both", optimiser__steps=2, evaluate_samples=1)
    path = trained(chosen)
    assert len(losses(path)) == 4 and all(map(math.isfinite, losses(path)))
    for line in TrainingFolder(path).lines(STEPS):
        assert line["norm"] > 0 and line["rate"] > 0
    for role in ("clip", "frame"):
        first, last = (line for line in TrainingFolder(path).lines(METRICS) if line["soft"] and line["prompt"] == role)
        assert first["loss"] != last["loss"]


def test_two_prompts_apart_and_one_for_both(recipe: Recipe) -> None:
    both = trained(recipe(granularity="both", optimiser__steps=2))
    assert set(read_card(both / PROMPTS).prompts) == {"clip", "frame"}
    clip = trained(recipe(granularity="clip", optimiser__steps=2, name="other"))
    # Each is what it would have been alone.
    vectors = [(path / PROMPTS / "clip.safetensors").read_bytes() for path in (both, clip)]
    assert vectors[0] == vectors[1]
    shared = trained(recipe(granularity="both", sharing="shared", optimiser__steps=2))
    assert set(read_card(shared / PROMPTS).prompts) == {"shared"}
    line = TrainingFolder(shared).lines(STEPS)[0]
    assert line["loss"] == pytest.approx(
        sum(line[f"{view}_{part}"] for view in ("clip", "frame") for part in ("bce", "dice"))
    )


def test_how_it_is_computed_changes_rounding_alone(recipe: Recipe, tmp_path: Path) -> None:
    base = recipe(
        optimiser__steps=3, optimiser__clips=4, granularity="both", sharing="shared", activation_checkpointing=False
    )
    expected = losses(trained(base))
    for index, change in enumerate(
        ({"activation_checkpointing": True}, {"options": replace(base.options, frame_batch=1)})
    ):
        other = moved(replace(base, **change), tmp_path / str(index))
        assert folder_of(other).name == folder_of(base).name
        assert losses(trained(other)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("change", [{"seed": 1}, {"tokens": 5}, {"position": "after_vision"}, {"init": "normal"}])
def test_what_decides_the_vectors_makes_another_training(recipe: Recipe, change: dict[str, Any]) -> None:
    base, other = recipe(optimiser__steps=1), recipe(optimiser__steps=1, **change)
    assert folder_of(base) != folder_of(other)
    assert losses(trained(base)) != losses(trained(other))


@pytest.mark.slow
def test_killed_and_given_again_it_ends_the_same_to_the_last_byte(recipe: Recipe, tmp_path: Path) -> None:
    chosen = recipe(optimiser__steps=14, checkpoint_every=4, evaluate_every=3)
    whole = trained(chosen)
    again = moved(chosen, tmp_path / "again")
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_recipe(again))
    # As on a machine that has torch and transformers only.
    code = (
        "import runpy, sys\n"
        "sys.modules |= dict.fromkeys(('ray', 'mlflow', 'pycocotools', 'sam2', 'pandas', 'typer', 'streamlit'))\n"
        "runpy.run_module('rvosbench.methods.steerseg.training', run_name='__main__')"
    )
    command = [sys.executable, "-c", code, str(file)]
    path = folder_of(again)
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 300
        while len(TrainingFolder(path).lines(STEPS)) < 6:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = len(TrainingFolder(path).lines(STEPS))
    assert 6 <= done < 14 and not (path / PROMPTS).exists()
    trained(again)
    for name in (STEPS, METRICS, "prompts/clip.safetensors"):
        assert (path / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_line_cut_off_by_a_kill_is_written_again(recipe: Recipe, tmp_path: Path) -> None:
    chosen = recipe(optimiser__steps=4)
    whole = (trained(chosen) / STEPS).read_bytes()
    path = folder_of(chosen)
    state = torch.load(path / "state-clip.pt", weights_only=True)
    halfway = trained(moved(recipe(optimiser__steps=4), tmp_path / "b"))
    assert (halfway / STEPS).read_bytes() == whole and state["step"] == 4
    (path / STEPS).write_bytes(whole[:-20])
    assert len(TrainingFolder(path).lines(STEPS)) == 3
    TrainingFolder(path).rewind("clip", 2)
    assert (path / STEPS).read_bytes() == b"".join(whole.splitlines(keepends=True)[:2])


def test_a_loss_that_is_not_finite_stops_it_with_the_batch_named(
    recipe: Recipe, checkpoints: Callable[[str], Path], tmp_path: Path
) -> None:
    """A word whose embedding is damaged: the first batch that holds it is the one that is named."""
    model = tmp_path / "model"
    shutil.copytree(checkpoints("qwen2_5_vl"), model)
    chosen = recipe(lvlm=str(model), checkpoint_every=1, data__generate=6, optimiser__steps=20)
    source = open_source(chosen.data, tmp_path, tmp_path, chosen.keyframes)
    parts = split(chosen, source, {})
    batches = list(islice(UnitSampler(chosen, parts.trained, "clip").units(0), 20))
    tokenizer = AutoTokenizer.from_pretrained(model)
    known = {token for sample in parts.held_out for token in tokenizer(attention_prompt(sample.text, ()))["input_ids"]}
    for step, batch in enumerate(batches, 1):
        words = [set(tokenizer(unit.prompt)["input_ids"]) for unit in batch]
        new = words[0] - words[1] - known if len(words) > 1 else set()
        if step > 2 and new:
            break
        known |= set().union(*words)
    weights = load_file(model / "model.safetensors")
    name = next(name for name in weights if name.endswith("embed_tokens.weight"))
    weights[name][new.pop()] = torch.nan
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    bad, fine = (f"video '{unit.sample.video}', expression '{unit.sample.expression}'" for unit in batch)
    with pytest.raises(PrerequisiteError, match=f"not finite at step {step}, in the batch with {bad}") as caught:
        launch(chosen, quiet)
    assert fine not in str(caught.value) and "last state is kept" in str(caught.value)
    path = folder_of(chosen)
    state = TrainingFolder(path).load("clip", _fingerprint(path))
    assert state is not None and state.step == step - 1 and bool(state.vectors_nD.isfinite().all())
    assert len(losses(path)) == step - 1 and all(map(math.isfinite, losses(path)))
    assert not (path / PROMPTS).exists()


def test_a_state_of_another_model_or_a_damaged_one_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    model = write_small("qwen2_vl", tmp_path / "model", seed=0)
    chosen = recipe(lvlm=str(model), optimiser__steps=1)
    path = trained(chosen)
    write_small("qwen2_vl", model, seed=1)
    with pytest.raises(PrerequisiteError, match="another model, data or attributes"):
        launch(chosen, quiet)
    (path / "state-clip.pt").write_bytes(b"no state")
    with pytest.raises(PrerequisiteError, match=r"state-clip.pt cannot be read"):
        launch(chosen, quiet)


def test_the_model_is_asked_for_attributes_once(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    from rvosbench.methods.reason import stage

    prompts_seen: list[str] = []

    def answers(self: Any, video: str, frames: Any, prompts: Any) -> Any:
        prompts_seen.extend(prompts)
        for index, _ in enumerate(prompts):
            yield index, json.dumps({"reasons": "so", "attributes": ["red", f"number {index}"]})

    monkeypatch.setattr(stage.LocalReasoner, "answers", answers)
    chosen = recipe(data__generate=2, optimiser__steps=1, attributes__source="reason", attributes__drop=0.0)
    path = trained(chosen)
    known = attributes_of(chosen, path)
    assert len(known) == len(prompts_seen) > 8 and all(texts[0] == "red" for texts in known.values())
    count = len(prompts_seen)
    trained(chosen)
    assert len(prompts_seen) == count
    # The same attributes from a file give the same training; others give another one.
    file = path / "attributes.json"
    given = recipe(data__generate=2, optimiser__steps=1, attributes={"source": "file", "file": str(file), "drop": 0.0})
    assert losses(trained(given)) == losses(path)
    plain = recipe(data__generate=2, optimiser__steps=1)
    assert losses(trained(plain)) != losses(path)
    file.write_text('["red"]')
    with pytest.raises(PrerequisiteError, match="does not hold attributes"):
        attributes_of(given, path)
