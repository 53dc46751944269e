"""The conformance page: its claims hold on the sample pack, and it is what the command writes."""

from __future__ import annotations

from pathlib import Path

import conformance
import numpy as np
import pytest
from conformance import Case, Query, Result, lmms_eval, matched, protocol

from rvosbench.harness.scoring.kernel import frame_counts


def result(rule: str, case: Case) -> Result:
    found = conformance.RULES[rule](case.queries)
    assert found is not None
    return found


EXPR, SEMI, VOS, ANNO4, LMMS = (
    "`refdavis17/expr`",
    "`davis17/semi`",
    "`vosbench`",
    "`refdavis17/anno4`",
    "lmms-eval stage 2",
)


@pytest.fixture(scope="module")
def whole(samples: Path) -> Case:
    return conformance.davis17(samples)


def test_davis_rules_give_the_published_numbers(samples: Path, whole: Case) -> None:
    assert whole.official is not None
    # Published with four decimals per object.
    found = result(SEMI, whole)
    assert pytest.approx((whole.official.J, whole.official.F), abs=5e-5) == (found.J, found.F)
    case = conformance.permuted(samples)
    assert case.official is not None
    found = result(ANNO4, case)
    assert pytest.approx((case.official.J, case.official.F), abs=1e-12) == (found.J, found.F)
    assert result(EXPR, case).J < 0.01


def test_one_object_a_video_leaves_nothing_to_match(whole: Case) -> None:
    one, other = result(EXPR, whole), result(ANNO4, whole)
    assert pytest.approx((other.J, other.F), abs=1e-12) == (one.J, one.F)
    assert result(LMMS, whole) == one


def test_lost_records_and_lost_ground_truth(whole: Case) -> None:
    failed, nothing = conformance.lost(whole)
    kept = [query for query in whole.queries if query.video not in conformance.LOST]
    assert len(kept) == 10
    average_of_kept = protocol("refdavis17/expr", kept)
    assert average_of_kept is not None
    for rule in (EXPR, ANNO4):
        assert result(rule, failed).queries == 13
        assert pytest.approx(average_of_kept.J * 10 / 13) == result(rule, failed).J
        # What has no ground truth is not scored, and the number says so.
        assert result(rule, nothing).queries == 10
        assert pytest.approx(average_of_kept.J) == result(rule, nothing).J
    # The neighbour drops the failed, and gives 1 where nothing is compared with nothing.
    assert result(LMMS, failed).queries == 10
    assert pytest.approx(average_of_kept.J) == result(LMMS, failed).J
    assert pytest.approx((average_of_kept.J * 10 + 3) / 13) == result(LMMS, nothing).J


def test_absent_objects(samples: Path) -> None:
    moved, empty = conformance.absent(samples)
    # One of five objects is absent on 113 of 121 frames, others on 1 and 11.
    assert pytest.approx((1 + 0 + 11 + 113 + 0) / 121 / 5) == result(EXPR, empty).J
    assert result(LMMS, empty) == result(EXPR, empty)
    assert result(VOS, empty).J < 0.03
    assert result(VOS, moved).J < result(EXPR, moved).J
    # Overlapping objects lose pixels in an index map.
    assert result(ANNO4, moved).J < result(EXPR, moved).J - 0.1


def test_rules_by_hand() -> None:
    half, none = np.arange(16).reshape(4, 4) < 8, np.zeros((4, 4), dtype=bool)
    right, wrong = frame_counts(half, half), frame_counts(half, none)
    a = Query("v", "a", np.array([right, wrong]))
    assert lmms_eval([a, Query("v", "b", None)]) == Result(0.5, 0.5, 1)
    assert lmms_eval([Query("v", "b", None)]) is None
    assert protocol("refdavis17/expr", [a, Query("v", "b", None)]) == Result(0.25, 0.25, 2)
    assert matched([Query("v", "b", None), Query("w", "a", np.array([right]))]) == Result(0.5, 0.5, 2)


def test_points_and_identities(samples: Path) -> None:
    rows = dict(conformance.point_rows(samples))
    assert rows["one frame late"][0] == (0, 0, 0)
    assert rows["one frame late"][1] == rows["in time"][0]
    right, swapped = list(conformance.identity_rows(samples))
    assert right[2] == swapped[2] and right[4] == swapped[4]
    assert swapped[3] < right[3] - 0.2 and swapped[1] < right[1] - 0.1


@pytest.mark.slow
def test_the_page_is_what_the_command_writes(samples: Path) -> None:
    repository = Path(conformance.__file__).parent.parent
    assert (repository / "docs/conformance.md").read_text() == conformance.page(samples)
