"""The committed small checkpoints: small, described, and about as good as their cards say."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy.lvlm.card import read_card
from toy.lvlm.evaluate import evaluate
from toy.lvlm.examples import held_out
from toy.sam2.evaluate import evaluate as evaluate_sam2

from rvosbench.methods.attention.spec import RolloutSpec
from rvosbench.methods.lochead.heads import read_heads
from rvosbench.methods.models.lvlm.checkpoints import find
from rvosbench.methods.models.sam2.checkpoints import Sam2Settings
from rvosbench.methods.models.sam2.model import load
from rvosbench.methods.steerseg.prompt_files import read_card as read_prompt_card

SHAPES = Path(__file__).parents[3] / "checkpoints" / "shapes"
FAMILIES = ("internvl", "llava_onevision", "qwen2_5_vl", "qwen2_vl")
CHANCE = 0.2
"""Fraction of right object names without looking: the most frequent of seven shapes, and names that stand in the
expression."""


def test_checkpoints_are_small() -> None:
    sizes = {
        folder.name: sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        for folder in SHAPES.iterdir()
        if folder.is_dir()
    }
    assert {*FAMILIES, "sam2"} <= set(sizes)
    assert max(sizes.values()) < 10e6
    assert sum(sizes.values()) < 60e6


@pytest.mark.parametrize("family", FAMILIES)
def test_a_card_says_how_the_checkpoint_was_made(family: str) -> None:
    facts = read_card(SHAPES / family)
    assert find(str(SHAPES / family)).family == family
    assert facts["command"].startswith(f"python -m toy.lvlm {family} ")
    assert {"seed", "data", "schedule", "ended", "torch", "transformers", "parameters"} <= set(facts)
    assert 2e6 <= facts["parameters"] <= 8e6
    quality = facts["quality"]
    assert quality["answers"]["clip, object, reasoning"] > 2 * CHANCE
    assert quality["pointing"]["clip"]["hits"] > 2.5 * quality["pointing"]["clip"]["chance"]


@pytest.mark.parametrize("family", ["qwen2_5_vl", "internvl"])
def test_answers_and_pointing_are_as_good_as_the_card_says(family: str) -> None:
    quality = evaluate(SHAPES / family, held_out(0, 5), "cpu", RolloutSpec())
    kinds = [kind for kind in quality.answers if ", object" in kind or "steered" in kind]
    count = sum(quality.asked[kind] for kind in kinds)
    right = sum(quality.answers[kind] * quality.asked[kind] for kind in kinds) / count
    stated = read_card(SHAPES / family)["quality"]
    expected = sum(stated["answers"][kind] * stated["asked"][kind] for kind in kinds) / sum(
        stated["asked"][kind] for kind in kinds
    )
    # Five clips ask some 50 of these questions: two standard deviations are 0.14.
    assert right > expected - 0.15
    assert right > 2 * CHANCE
    assert quality.answers["text, choice"] > 0.8
    hits = sum(p.hits * p.prompts for p in quality.pointing.values())
    chance = sum(p.chance * p.prompts for p in quality.pointing.values())
    assert hits > 1.5 * chance, "raw attention must know more than chance of where the target is"


def test_heads_and_prompts_are_of_these_models() -> None:
    """Training a model again leaves its heads and prompts behind; runs refuse them."""
    digests = {family: find(str(SHAPES / family)).digest for family in FAMILIES}
    models = {name: read_heads(SHAPES / "lochead" / f"{name}.json").model for name in FAMILIES}
    assert {name: model.digest for name, model in models.items()} == digests
    cards = [read_prompt_card(path.parent) for path in (SHAPES / "steerseg").rglob("card.json")]
    assert len(cards) >= 3
    for card in cards:
        assert card.base_model.digest == digests[card.base_model.family]


def test_sam2_tracks_what_a_perfect_click_points_at() -> None:
    model = load(Sam2Settings(checkpoint=str(SHAPES / "sam2"), device="cpu"))
    quality = evaluate_sam2(model, 0, "valid", 2)
    assert quality["click"]["J_and_F"] > 0.8
    assert quality["mask"]["J_and_F"] > 0.8
