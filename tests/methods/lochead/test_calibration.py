"""Calibration of Loc-Head: entropy, elbow, selection, frequency, against cases by hand and slow definitions."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.recipes import method_settings
from rvosbench.methods.lochead.calibration import (
    PairHeads,
    elbow,
    most_frequent,
    read_maps,
    run_trial,
    select,
    spatial_entropy,
)
from rvosbench.methods.lochead.settings import VARIANTS, CalibrationSettings
from rvosbench.methods.models.lvlm.family import find_family

PAPER = CalibrationSettings(sink_edges=())
RELEASED = CalibrationSettings(**{**VARIANTS["released"], "sink_edges": ()})

# Six cells of 1 (then 2 in one) on a 4x4 map: a pair that touches at a corner, a row of three, one alone.
PIECES = np.array([[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]], dtype=np.float64)


def plain_entropy(map_hw: np.ndarray, settings: CalibrationSettings) -> float:
    """Flood fill, one cell at a time."""
    over = np.maximum(map_hw - settings.over_mean * map_hw.mean(), 0)
    height, width = over.shape
    left = {(y, x) for y in range(height) for x in range(width) if over[y, x] > settings.cut}
    pieces = []
    while left:
        stack, piece = [left.pop()], []
        while stack:
            y, x = stack.pop()
            piece.append((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            stack += near
        pieces.append(piece)
    if not pieces:
        return math.inf
    if settings.weight == "area":
        whole = sum(map(len, pieces))
        shares = [len(piece) / whole for piece in pieces]
    else:
        shares = [sum(over[cell] for cell in piece) / over.sum() for piece in pieces]
    return -sum(fraction * math.log(fraction) for fraction in shares)


def test_entropy_of_three_pieces_by_hand() -> None:
    expected = -(2 / 6 * math.log(2 / 6) + 3 / 6 * math.log(3 / 6) + 1 / 6 * math.log(1 / 6))
    [entropy] = spatial_entropy(PIECES[None], PAPER)
    assert entropy == pytest.approx(expected, abs=1e-15)
    # By mass the lone cell weighs what exceeds the mean: 2 - 7/16 against five times 1 - 7/16.
    heavy = PIECES.copy()
    heavy[0, 3] = 2
    excess = [2 * 9 / 16, 3 * 9 / 16, 25 / 16]
    shares = [one / sum(excess) for one in excess]
    [entropy] = spatial_entropy(heavy[None], replace(PAPER, weight="mass"))
    assert entropy == pytest.approx(-sum(p * math.log(p) for p in shares), abs=1e-15)


def test_entropy_is_zero_for_one_piece_and_infinite_for_none() -> None:
    one = np.zeros((3, 3))
    one[1, 1] = 1
    flat, empty = np.full((3, 3), 0.2), np.zeros((3, 3))
    assert spatial_entropy(np.stack([one, flat, empty]), PAPER).tolist() == [0, math.inf, math.inf]
    # What the released cut removes leaves nothing; its code gives such a map the best entropy there is.
    assert spatial_entropy(one[None] * 0.001, RELEASED).tolist() == [math.inf]
    assert spatial_entropy(np.zeros((0, 3, 3)), PAPER).shape == (0,)


@pytest.mark.parametrize("settings", [PAPER, RELEASED, CalibrationSettings(**VARIANTS["first_release"])])
def test_entropy_is_the_plain_one_map_by_map(settings: CalibrationSettings) -> None:
    generator = np.random.default_rng(0)
    maps = generator.dirichlet(np.full(6 * 9, 0.3), 40).reshape(40, 6, 9)
    expected = [plain_entropy(one, settings) for one in maps]
    np.testing.assert_allclose(spatial_entropy(maps, settings), expected, atol=1e-12)
    assert len({round(one, 6) for one in expected}) > 20


def test_elbow_is_the_point_farthest_from_the_chord() -> None:
    assert elbow(np.array([0.9, 0.0, 0.1, 0.05])) == 2
    generator = np.random.default_rng(1)
    for _ in range(20):
        values = generator.beta(0.4, 4, 30)
        order = np.argsort(values)
        points = np.stack([np.arange(30), values[order]], axis=1)
        along = (points[-1] - points[0]) / np.linalg.norm(points[-1] - points[0])
        foot = points[0] + np.outer((points - points[0]) @ along, along)
        assert elbow(values) == order[np.linalg.norm(points - foot, axis=1).argmax()]


def pair(sums: list[float], entropies: list[float], sinks: list[int] | None = None) -> PairHeads:
    sink = np.zeros(len(sums), dtype=bool)
    sink[sinks or []] = True
    return PairHeads(np.array(sums), np.array(entropies), sink)


def test_selection_takes_the_lowest_entropies_of_those_that_pass() -> None:
    one = pair([0.5, 0.6, 0.7, 0.8, 0.9, 0.1], [2.0, 0.0, 0.0, 1.0, math.inf, 0.0], sinks=[3])
    passing = np.array([True, True, True, True, True, False])
    assert select(one, replace(PAPER, top=2), passing).tolist() == [2, 1]
    assert select(one, replace(PAPER, top=2, ties="order"), passing).tolist() == [1, 2]
    # A sink, a map with nothing in it and a head below the threshold are never taken.
    assert select(one, PAPER, passing).tolist() == [2, 1, 0]


def test_threshold_of_the_mean_sums_and_of_each_pair() -> None:
    # Means 0, .1, .2, .9; the elbow is head 2. On the second pair alone it is head 1.
    low, high = [0.0, 0.1, 0.35, 0.9], [0.0, 0.1, 0.05, 0.9]
    pairs = [pair(low, [1.0, 1.0, 1.0, 1.0]), pair(high, [1.0, 1.0, 1.0, 1.0])]
    trial = run_trial(pairs, PAPER)
    assert trial.threshold == pytest.approx(0.2)
    assert trial.frequency_M.tolist() == [0, 0, 1, 1]
    own = run_trial(pairs, replace(PAPER, threshold="each_sample"))
    assert own.threshold is None
    assert own.frequency_M.tolist() == [0, 0.5, 0.5, 1]
    # By number: everything from the elbow's head on, also head 2 with its 0.05 on the second pair.
    assert run_trial(pairs, replace(PAPER, threshold="head_index")).frequency_M.tolist() == [0, 0.5, 1, 1]


def test_frequencies_are_averaged_over_trials() -> None:
    sums = [0.0, 0.5, 0.5, 0.5]
    first = run_trial([pair(sums, [9, 0, 1, 2])], replace(PAPER, top=2))
    second = run_trial([pair(sums, [9, 2, 0, 1]), pair(sums, [9, 2, 0, 1])], replace(PAPER, top=2))
    assert first.frequency_M.tolist() == [0, 1, 1, 0]
    assert second.frequency_M.tolist() == [0, 0, 1, 1]
    # 1 and 3 are equal at one half and come in order; 0 never came.
    assert most_frequent([first, second], 9) == [2, 1, 3]
    assert most_frequent([first, second], 1) == [2]
    with pytest.raises(ValueError, match="at least one pair"):
        run_trial([], PAPER)


def test_sinks_are_cells_above_the_limit_on_the_named_edges() -> None:
    maps = np.zeros((1, 4, 3, 4), dtype=np.float32)
    for head, cell in enumerate([(2, 1), (1, 3), (1, 0), (1, 1)]):
        maps[0, head][cell] = 0.06
    edges: list[tuple[Any, list[bool]]] = [
        (["bottom"], [True, False, False, False]),
        (["right"], [False, True, False, False]),
        (["bottom", "left"], [True, False, True, False]),
        (["top"], [False] * 4),
        ([], [False] * 4),
    ]
    for names, expected in edges:
        assert read_maps(maps, PAPER, names).sink_M.tolist() == expected
    assert not read_maps(maps, replace(PAPER, sink_above=0.07), ["bottom"]).sink_M.any()


def test_the_sink_rule_changes_who_is_found() -> None:
    """Planted heads: one compact at the object, one compact at the bottom row, the others noise."""
    generator = np.random.default_rng(2)
    pairs = []
    for _ in range(30):
        maps = generator.dirichlet(np.full(48, 0.2), 12).reshape(2, 6, 6, 8).astype(np.float32) * 0.3
        y, x = generator.integers(1, 4), generator.integers(1, 6)
        maps[0, 4] = maps[1, 2] = 0.002
        maps[0, 4, y : y + 2, x : x + 2] = 0.2
        maps[1, 2, 5, 3:5] = 0.4
        pairs.append(maps)
    best = replace(PAPER, top=2)
    ruled = run_trial([read_maps(one, PAPER, ["bottom"]) for one in pairs], best)
    assert most_frequent([ruled], 1) == [4] and ruled.frequency_M[4] == 1 and ruled.frequency_M[8] == 0
    free = run_trial([read_maps(one, PAPER, []) for one in pairs], best)
    assert {4, 8} == set(most_frequent([free], 2)) and free.frequency_M[8] == 1


def test_families_have_their_edges_unless_told() -> None:
    default = CalibrationSettings()
    found = {
        family: default.edges(find_family(family)) for family in ("llava", "llava_onevision", "qwen2_vl", "qwen2_5_vl")
    }
    assert found == {
        "llava": ("bottom",),
        "llava_onevision": ("bottom", "left"),
        "qwen2_vl": ("right",),
        "qwen2_5_vl": (),
    }
    assert CalibrationSettings(sink_edges=("top",)).edges(find_family("llava")) == ("top",)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"top": 0}, "top"),
        ({"first_layer": -1}, "first_layer"),
        ({"threshold": "mean"}, "threshold"),
        ({"weight": "count"}, "weight"),
        ({"ties": "random"}, "ties"),
        ({"sink_edges": ("botom",)}, "sink_edges"),
        ({"sink_above": float("nan")}, "sink_above"),
    ],
)
def test_wrong_settings_are_named(values: dict[str, Any], says: str) -> None:
    with pytest.raises(PrerequisiteError, match=says):
        method_settings(CalibrationSettings, values, "lochead")


def test_variants_differ_where_they_say() -> None:
    variants = [CalibrationSettings(**values) for values in VARIANTS.values()]
    assert variants[0] == CalibrationSettings()
    assert all(one != other for one, other in pairwise(variants))
