"""Each protocol on cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.scoring.extras import davis_extras, decay, recall
from rvosbench.harness.scoring.protocols import PROTOCOLS, all_protocols, protocol_names, require_protocol
from rvosbench.harness.scoring.rules import SampleCounts, average, visible_and_empty
from rvosbench.harness.scoring.statistics import mean_of_groups

# The six integers of frames that are easy to name: I, U, n_gt, n_pred, m_gt, m_pred.
RIGHT = (9, 9, 12, 12, 12, 12)  # J 1, F 1
HALF = (5, 10, 10, 10, 5, 5)  # J 1/2, F 1/2
WRONG = (0, 9, 8, 8, 0, 0)  # J 0, F 0
MISSED = (0, 9, 12, 0, 0, 0)  # visible target, empty prediction: 0, 0
ABSENT = (0, 0, 0, 0, 0, 0)  # no target, empty prediction: 1, 1
ALARM = (0, 4, 0, 8, 0, 0)  # no target, a prediction: 0, 0

PLAIN = ("refdavis17/expr", "reasonvos/v2", "mevis-v1/valid_u", "mevis-v2/valid_u", "shapes/v1")


def sample(video: str, expression: str, *rows: tuple[int, ...], subset: str | None = None) -> SampleCounts:
    counts_T6: NDArray[np.int64] = np.array(rows, dtype=np.int64).reshape(-1, 6)
    return SampleCounts(video, expression, subset, counts_T6)


def failed(video: str, expression: str, subset: str | None = None) -> SampleCounts:
    return SampleCounts(video, expression, subset, None)


def score(protocol: str, *samples: SampleCounts) -> float | None:
    rule = require_protocol(protocol)
    items = average(rule, samples).items
    j = mean_of_groups([item.J for item in items], [item.group for item in items], rule.groups)
    f = mean_of_groups([item.F for item in items], [item.group for item in items], rule.groups)
    assert j == f  # every row above has equal J and F
    return j


@pytest.mark.parametrize("protocol", PLAIN)
def test_plain_means_over_frames_then_expressions(protocol: str) -> None:
    # (1 + 1/2)/2 = 3/4 and (0 + 0 + 1 + 1)/4 = 1/2: expressions weigh alike whatever their length.
    long = sample("a", "1", WRONG, MISSED, RIGHT, RIGHT)
    assert score(protocol, sample("a", "0", RIGHT, HALF), long) == pytest.approx(5 / 8)


@pytest.mark.parametrize("protocol", PLAIN)
def test_absent_objects_and_failures_count(protocol: str) -> None:
    assert score(protocol, sample("a", "0", ABSENT, ABSENT, ALARM, MISSED)) == pytest.approx(0.5)
    assert score(protocol, sample("a", "0", RIGHT), failed("a", "1")) == pytest.approx(0.5)
    assert score(protocol, failed("a", "0")) == 0.0
    assert score(protocol) is None


def test_revos_is_the_mean_of_two_means() -> None:
    samples = [
        sample("UVO/all/x", "0", RIGHT, subset="referring"),
        sample("UVO/all/x", "1", RIGHT, subset="referring"),
        sample("UVO/all/x", "2", WRONG, subset="referring"),
        sample("UVO/all/x", "3", HALF, subset="reasoning"),
        sample("UVO/all/x", "4", ALARM, subset="no_target"),
    ]
    # (2/3 + 1/2)/2, where the mean over the four expressions would be 5/8.
    assert score("revos/v1", *samples) == pytest.approx(7 / 12)
    averaged = average(require_protocol("revos/v1"), samples)
    assert [left.expression for left in averaged.left_out] == ["4"]
    # Without a reasoning expression the mean of two means does not exist.
    assert score("revos/v1", *samples[:3]) is None
    assert score("revos/v1", samples[0], failed("b", "0", "reasoning")) == pytest.approx(0.5)


def test_davis_semi_drops_the_first_and_the_last_frame() -> None:
    assert score("davis17/semi", sample("a", "0", RIGHT, HALF, WRONG, RIGHT)) == pytest.approx(0.25)
    # Empty against empty scores 1, and frames before the object appears count.
    assert score("davis17/semi", sample("a", "0", RIGHT, ABSENT, ABSENT, HALF, RIGHT)) == pytest.approx(2.5 / 3)
    # Two frames leave none.
    averaged = average(
        require_protocol("davis17/semi"), [sample("a", "0", RIGHT, RIGHT), sample("b", "0", *[HALF] * 3)]
    )
    assert [item.video for item in averaged.items] == ["b"]
    assert [left.video for left in averaged.left_out] == ["a"]


def test_davis_semi_on_keyframes_knows_the_ends() -> None:
    rule = require_protocol("davis17/semi@keyframes")
    counts_T6 = np.array([RIGHT, HALF, WRONG], dtype=np.int64)
    keyframes = SampleCounts("a", "0", None, counts_T6, np.array([True, False, False]))
    assert pytest.approx(0.25) == average(rule, [keyframes]).items[0].J


def test_vos_benchmark_starts_where_the_object_is_first_seen() -> None:
    late = sample("a", "0", ABSENT, ABSENT, ABSENT, HALF, RIGHT, ABSENT, WRONG)
    # Ends dropped: absent, absent, half, right, absent; the two before the object do not count, the one after does.
    assert score("vosbench", late) == pytest.approx((0.5 + 1 + 1) / 3)
    # A prediction before the object appears starts the count.
    early = sample("a", "0", ABSENT, ABSENT, ALARM, HALF, WRONG)
    assert score("vosbench", early) == pytest.approx((0 + 0.5) / 2)
    # Seen in the dropped first frame only: not in the ground truth that is left, so not an object at all.
    first = sample("a", "0", RIGHT, ABSENT, ALARM, WRONG)
    never = sample("b", "0", ABSENT, ALARM, ABSENT, ABSENT)
    assert score("vosbench", first, never) is None
    assert score("vosbench", first, late) == score("vosbench", late)
    assert score("vosbench", late, failed("b", "0")) == pytest.approx(2.5 / 6)


def test_hard_frames_show_how_much_is_free() -> None:
    rule = require_protocol("mevis-v2/valid_u")
    samples = [sample("a", "0", ABSENT, ABSENT, ABSENT, HALF), sample("b", "0", ALARM, ALARM)]
    extra = visible_and_empty(rule, samples, rule.groups)
    # b is never visible; a is, on one frame.
    assert extra["J_and_F_visible"] == pytest.approx(0.5)
    # Predicting nothing: 3/4 on a, 1 on b.
    assert extra["J_and_F_all_empty"] == pytest.approx(7 / 8)
    assert visible_and_empty(rule, [], rule.groups) == {"J_and_F_visible": None, "J_and_F_all_empty": None}


def test_the_empty_baseline_of_vosbench_drops_free_frames_too() -> None:
    rule = require_protocol("vosbench")
    late = sample("a", "0", ABSENT, ALARM, HALF, ABSENT, ABSENT)
    # Nothing predicted: first seen with the target; then 0 (missed) and 1 (absent).
    assert visible_and_empty(rule, [late], rule.groups)["J_and_F_all_empty"] == pytest.approx(0.5)


def test_recall_and_decay_by_hand() -> None:
    values_T = np.array([1.0, 0.9, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    assert recall(values_T) == pytest.approx(4 / 9)  # 0.5 itself is not above 0.5
    # Nine frames: edges 0, 2, 4, 6, 8; quarters [0..2] and [6..8].
    assert decay(values_T) == pytest.approx(0.9 - 0.2)
    # Seven frames: edges 1, 2.5, 4, 5.5, 7 round up to 1, 3, 4, 6, 7.
    assert decay(np.arange(7.0)) == pytest.approx(np.mean([0, 1, 2]) - np.mean([5, 6]))
    assert decay(np.zeros(256)) == 0.0
    assert decay(np.zeros(257)) is None


def test_davis_extras_average_objects_and_refuse_long_videos() -> None:
    rule = require_protocol("davis17/semi")
    notes: list[str] = []
    good, bad = sample("a", "0", *[RIGHT] * 6), sample("b", "0", *[WRONG] * 6)
    extra = davis_extras(rule, [good, bad, failed("c", "0")], notes)
    assert extra["J_recall"] == pytest.approx(1 / 3)
    assert extra["J_decay"] == 0.0
    assert notes == []
    long = sample("d", "0", *[RIGHT] * 259)
    extra = davis_extras(rule, [good, long], notes)
    assert extra["J_recall"] == 1.0
    assert extra["J_decay"] is None and extra["F_decay"] is None
    assert "256" in notes[0]


def test_unknown_protocols_name_the_nearest() -> None:
    with pytest.raises(PrerequisiteError, match=r"Did you mean 'refdavis17/expr'\?"):
        require_protocol("refdavis17/exp")
    assert require_protocol("revos/v1@keyframes") is PROTOCOLS["revos/v1"]


def test_every_protocol_says_what_it_does() -> None:
    contract = {
        "refdavis17/expr",
        "refdavis17/anno4",
        "reasonvos/v2",
        "revos/v1",
        "mevis-v1/valid_u",
        "mevis-v2/valid_u",
    }
    local = {"mevis-v1/valid-local", "mevis-v2/valid-local", "ref-youtube-vos/valid-local"}
    assert contract | local | {"davis17/semi", "vosbench", "server", "shapes/v1", "long-rvos/v1"} == set(
        protocol_names()
    )
    assert all("not the server's number" in all_protocols()[name].text for name in local)
    texts = [rule.text for rule in all_protocols().values()]
    assert len(set(texts)) == len(texts)
    assert all(len(text) > 80 for text in texts)


def test_rounding_each_expression_would_change_less_than_five_thousandths_of_a_point() -> None:
    rng = np.random.default_rng(0)
    samples = []
    for index in range(300):
        rows = [(int(i), 1000, 100, 100, int(m), int(m)) for i, m in rng.integers(0, [1000, 100], size=(7, 2))]
        samples.append(sample(f"v{index % 40}", str(index), *rows, subset=("referring", "reasoning")[index % 3 == 0]))
    items = average(require_protocol("revos/v1"), samples).items
    groups = ("referring", "reasoning")
    exact = mean_of_groups([100 * item.J for item in items], [item.group for item in items], groups)
    rounded = mean_of_groups([round(100 * item.J, 2) for item in items], [item.group for item in items], groups)
    assert exact is not None and rounded is not None
    assert exact != rounded
    assert abs(exact - rounded) < 0.005
