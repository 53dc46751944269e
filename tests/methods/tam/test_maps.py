"""TAM's arithmetic: cases by hand, and the slow definition; the released code's first round."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rvosbench.methods.tam.maps import (
    Activations,
    answer_maps,
    filtered,
    jointly_normalised,
    rank_filter,
    without_interference,
)


@pytest.fixture(scope="module")
def plain() -> Any:
    """The definitions beside this file."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("plain_tam", Path(__file__).with_name("plain.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def activations(
    logits_SV: np.ndarray, ids: list[int], visual: list[int], prompt: list[int], length: int
) -> Activations:
    """As ``explain`` makes them."""
    relu = np.maximum(logits_SV, 0)
    answer = ids[length:]
    words = [*(ids[p] for p in prompt), *answer]
    at = [*prompt, *range(length - 1, length - 1 + len(answer))]
    first = int(logits_SV[prompt[0]].argmax())
    grid = (2, 4, 5)
    return Activations(
        ids_M=np.array(words),
        prompt=len(prompt),
        visual_Mthw=np.stack([relu[visual, word].reshape(grid) for word in words]),
        text_MM=np.stack([relu[at, word] for word in words]),
        first_thw=relu[visual, first].reshape(grid),
        first_text_p=relu[prompt, first],
        last_thw=relu[visual, ids[length - 1]].reshape(grid),
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("version", ["fixed", "released"])
def test_maps_are_the_plain_ones(plain: Any, seed: int, version: Any) -> None:
    generator = np.random.default_rng(seed)
    visual, prompt, length = list(range(2, 42)), list(range(43, 49)), 52
    ids = [*generator.integers(0, 12, length).tolist(), 3, ids_again := 7, 3]
    ids[prompt[2]] = ids_again  # a word of the prompt comes again in the answer
    logits = generator.normal(1.0, 2.0, (len(ids) - 1, 12))
    found = answer_maps(activations(logits, ids, visual, prompt, length), version, causal=True)
    expected = plain.plain_maps(logits, ids, visual, prompt, length, (2, 4, 5), released=version == "released")
    assert found.shape == (3, 2, 4, 5) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-7)
    assert found.min() >= 0 and found.max() <= 1


def test_the_released_first_token_is_another_one() -> None:
    """One word in the answer, seen in one corner; the class predicted at the first prompt token, in the other."""
    visual, prompt, newline = list(range(9)), [9, 10], 5
    logits = np.zeros((12, 6))
    logits[0, 4] = 3.0  # the answer's class at the first cell
    logits[8, 3] = 3.0  # the class predicted at the first prompt token, at the last cell
    logits[4, newline] = 3.0  # the newline's class, in the middle
    logits[9, 3] = 1.0
    relu = np.maximum(logits, 0)
    words = [1, 2, 4]
    found = Activations(
        ids_M=np.array(words),
        prompt=2,
        visual_Mthw=np.stack([relu[visual, word].reshape(1, 3, 3) for word in words]),
        text_MM=np.stack([relu[[9, 10, 11], word] for word in words]),
        first_thw=relu[visual, 3].reshape(1, 3, 3),
        first_text_p=relu[prompt, 3],
        last_thw=relu[visual, newline].reshape(1, 3, 3),
    )
    fixed, released = (answer_maps(found, version, causal=True)[0, 0] for version in ("fixed", "released"))
    assert fixed[0, 0] > 0 and fixed[2, 2] == 0
    assert released[2, 2] > 0 and released[0, 0] == 0
    # Nothing in the released map depends on what was answered.
    other = replace(found, ids_M=np.array([1, 2, 0]), visual_Mthw=np.roll(found.visual_Mthw, 4, axis=-1))
    np.testing.assert_array_equal(answer_maps(other, "released", causal=True)[0, 0], released)
    assert not np.array_equal(answer_maps(other, "fixed", causal=True)[0, 0], fixed)


def test_what_later_tokens_hold_against_the_picture_in_the_released_code() -> None:
    grid = (1, 1, 4)
    maps = np.array([[0, 0, 0, 0], [4, 0, 0, 0], [4, 4, 4, 0]], dtype=float).reshape(3, *grid)
    text = np.array([[0, 0, 0], [0, 0, 0], [0, 1.0, 0]])
    found = Activations(
        ids_M=np.array([1, 2, 3]), prompt=1, visual_Mthw=maps, text_MM=text, first_thw=np.zeros(grid),
        first_text_p=np.zeros(1), last_thw=np.array([0, 0, 4.0, 0]).reshape(grid),
    )  # fmt: skip
    # The second answer token's map is 4 4 4 0; it is predicted by the first answer token alone (weight 1), whose map
    # explains the first cell; the newline's explains the third. Text activations 0 and 1, so the maximum stays 4.
    for version, left in (("fixed", [0.0, 1.0, 1.0, 0.0]), ("released", [1.0, 1.0, 0.0, 0.0])):
        expected = filtered(np.array(left).reshape(grid))
        name: Any = version
        np.testing.assert_allclose(answer_maps(found, name, causal=True)[1], expected, atol=1e-6)
    plainly = filtered(np.array([1.0, 1.0, 1.0, 0.0]).reshape(grid))
    np.testing.assert_allclose(answer_maps(found, "fixed", causal=False)[1], plainly, atol=1e-6)


def test_interference_by_hand() -> None:
    own = np.array([[[2.0, 4.0, 0.0]]])
    others = np.array([[[[1.0, 1.0, 0.0]]], [[[0.0, 3.0, 0.0]]]])
    # Weights 3/4 and 1/4 make (3/4, 3/2, 0); least squares: (2 * 3/4 + 4 * 3/2) / (9/16 + 9/4) = 8/3; nothing is left.
    np.testing.assert_allclose(without_interference(own, others, np.array([3.0, 1.0])), 0.0, atol=1e-7)
    # Weight on the first alone: scale 3, so 2 - 3 is cut at 0 and 4 - 3 stays.
    np.testing.assert_allclose(without_interference(own, others, np.array([1.0, 0.0])), [[[0.0, 1.0, 0.0]]], atol=1e-7)
    for nothing in (np.array([0.0, 0.0]), np.array([])):
        np.testing.assert_array_equal(without_interference(own, others[: len(nothing)], nothing), own)


def test_joint_normalisation_by_hand() -> None:
    map_thw = np.array([[[1.0, 3.0]]])
    assert jointly_normalised(map_thw, np.array([5.0, 2.0])).tolist() == [[[0.0, 0.5]]]
    assert jointly_normalised(map_thw, np.array([])).tolist() == [[[0.0, 1.0]]]
    assert jointly_normalised(np.full((1, 1, 2), 2.0), np.array([2.0])).tolist() == [[[0.0, 0.0]]]


def test_rank_filter_by_hand_and_the_plain_one(plain: Any) -> None:
    generator = np.random.default_rng(3)
    for shape in ((5, 7), (2, 2), (3, 9)):
        noise = generator.exponential(1.0, shape)
        np.testing.assert_allclose(rank_filter(noise), plain.plain_filter(noise), rtol=1e-12)
    # A window of equal values, where the released code has 0 / 0; a window of zeros.
    assert rank_filter(np.full((3, 3), 0.4)) == pytest.approx(np.full((3, 3), 0.4), abs=1e-15)
    assert not rank_filter(np.zeros((3, 3))).any()
    # One outlier among equals: mean 1, deviation 2 sqrt 2, weights exp(-ax^2 / 16); only the last rank holds 9.
    spike = np.zeros((5, 5))
    spike[2, 2] = 9.0
    weights = np.exp(-(np.arange(-4, 5) ** 2) / 16.0)
    assert rank_filter(spike)[2, 2] == pytest.approx(9 * weights[-1] / weights.sum(), rel=1e-12)
    # So even that its sigma underflows.
    even = np.full((3, 3), 1.0)
    even[1, 1] = 1 + 1e-12
    assert np.isfinite(rank_filter(even)).all()


def test_a_map_one_cell_high() -> None:
    assert rank_filter(np.array([[1.0, 2.0, 3.0]])).shape == (1, 3)
