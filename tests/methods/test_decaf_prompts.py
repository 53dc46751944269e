"""Prompts and keyframes against the golden text of the reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rvosbench.harness.errors import SampleError
from rvosbench.methods.models.lvlm.keyframes import keyframe_indices
from rvosbench.methods.reason import expression_prompts as prompts


@pytest.fixture(scope="module")
def golden(samples: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((samples / "golden/decaf/text/prompts.json").read_text(encoding="utf-8"))
    return loaded


def test_prompts_are_equal_letter_by_letter(golden: dict[str, Any]) -> None:
    assert len(golden["prompts"]) >= 6
    candidates = [prompts.candidate(answer) for answer in golden["candidate_answers"]]
    for expected in golden["prompts"]:
        expression = expected["expression"]
        assert prompts.punctuated(expression) == expected["expression_punctuated"]
        for version in prompts.VERSIONS:
            assert prompts.object_prompt(version, expression) == expected["object"][version]
            assert prompts.choice_prompt(version, expression, candidates) == expected["choice"][version]
            for name, texts in expected["background"].items():
                assert prompts.background_prompt(version, expression, name) == texts[version]


def test_answers_are_cleaned_as_the_reference_does(golden: dict[str, Any]) -> None:
    answers = golden["answers"]
    assert [prompts.candidate(raw) for raw in answers["raw"]] == answers["candidates"]
    names = [prompts.object_name(raw) for raw in answers["raw"]]
    assert names == answers["object_name_if_this_is_the_choice_answer"]


def test_the_conversations_of_the_reference_hold_these_texts(samples: Path) -> None:
    messages = json.loads((samples / "golden/decaf/text/messages.json").read_text(encoding="utf-8"))
    expected = {
        prompts.object_prompt("v0", "the dog running on the left"),
        prompts.choice_prompt("v0", "the dog running on the left", ["Dog", "dog", "Puppy", "dog", "Cat"]),
    }
    found: set[str] = set()

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if node.get("type") == "text" and "dog" in node["text"]:
                found.add(node["text"])
            for child in node.values():
                walk(child)
        elif isinstance(node, list):
            for child in node:
                walk(child)

    walk(messages)
    assert found == expected


def test_only_v0_and_v2_name_the_object() -> None:
    assert [v for v in prompts.VERSIONS if prompts.background_needs_name(v)] == ["v0", "v2"]
    with pytest.raises(ValueError, match="name"):
        prompts.background_prompt("v0", "a dog", None)
    assert "'a dog.'" in prompts.background_prompt("v3", "a dog", None)


def test_braces_in_an_expression_or_a_name_are_kept() -> None:
    assert prompts.object_prompt("v1", "the {name} sign {0}").startswith("the {name} sign {0}. \n")
    assert "any {sentence}." in prompts.background_prompt("v0", "a dog", "{sentence}")


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
def test_an_empty_expression_is_a_sample_error(text: str) -> None:
    with pytest.raises(SampleError, match="empty"):
        prompts.sentence(text)


def test_keyframes_of_the_reference(samples: Path) -> None:
    golden = json.loads((samples / "golden/decaf/frames/key_frames.json").read_text(encoding="utf-8"))
    for frames, expected in golden["T16"].items():
        assert list(keyframe_indices(int(frames), 16)) == expected


def test_keyframes_equal_truncated_even_spacing() -> None:
    for frames in range(1, 2000):
        expected = range(frames) if frames <= 16 else np.linspace(0, frames - 1, 16).astype(int).tolist()
        assert keyframe_indices(frames, 16) == tuple(expected)


def test_keyframes_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="at least one"):
        keyframe_indices(0, 16)
    with pytest.raises(ValueError, match="1 keyframes"):
        keyframe_indices(5, 1)
    assert keyframe_indices(1, 1) == (0,)
