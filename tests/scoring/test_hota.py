from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest

from rvosbench.harness.scoring.hota import ALPHAS, TrackedFrame, hota, mask_similarity


def frame(truths: str, predictions: str, similarity: list[list[float]] | None = None) -> TrackedFrame:
    """One letter an identity; similarity 1 where the letters are the same in lower case."""
    if similarity is None:
        similarity = [[float(p.lower() == t) for p in predictions] for t in truths]
    table = np.array(similarity, dtype=np.float64).reshape(len(truths), len(predictions))
    return TrackedFrame(tuple(truths), tuple(predictions), table)


def values(frames: list[TrackedFrame]) -> tuple[float, float, float]:
    result = hota(frames)
    assert result is not None
    return result.hota, result.det_a, result.ass_a


def test_perfect_tracks() -> None:
    assert values([frame("ab", "AB"), frame("a", "A"), frame("b", "B")]) == pytest.approx((1, 1, 1))


def test_a_swap_of_identities_costs_association_alone() -> None:
    # Two frames, then X and Y change places: each of four track pairs is matched on 2 of 4 + 4 - 2 frames.
    right = frame("ab", "XY", [[1, 0], [0, 1]])
    swapped = frame("ab", "XY", [[0, 1], [1, 0]])
    assert values([right, right, swapped, swapped]) == pytest.approx((np.sqrt(1 / 3), 1, 1 / 3))


def test_half_of_the_frames() -> None:
    # TP 2, FN 2; the pair is matched on 2 of 4 + 2 - 2 frames.
    assert values([frame("a", "A")] * 2 + [frame("a", "")] * 2) == pytest.approx((0.5, 0.5, 0.5))


def test_a_false_object_costs_detection_alone() -> None:
    assert values([frame("a", "AX")] * 3) == pytest.approx((np.sqrt(0.5), 0.5, 1))


def test_a_split_track() -> None:
    # a is followed by X for three frames and by Y for one: A is 3/4 and 1/4, weighted 3 to 1.
    frames = [frame("a", "X", [[1]])] * 3 + [frame("a", "Y", [[1]])]
    assert values(frames) == pytest.approx((np.sqrt(0.625), 1, (3 * 0.75 + 0.25) / 4))


@pytest.mark.parametrize(("similarity", "reached"), [(0.6, 12), (0.3, 6), (0.04, 0), (0.05, 1), (0.95, 19)])
def test_thresholds_reached(similarity: float, reached: int) -> None:
    assert values([frame("a", "A", [[similarity]])]) == pytest.approx((reached / 19,) * 3)


def test_association_decides_between_equal_numbers_of_pairs() -> None:
    # On the last frame X resembles b a little more than a, but has followed a: it stays with a.
    frames = [frame("a", "X", [[0.9]])] * 3 + [frame("ab", "X", [[0.8], [0.85]])]
    result = hota(frames)
    assert result is not None
    # Up to 0.8 X is a's on all four frames. TP 4, FN 1.
    assert result.det_a_A[:16] == pytest.approx(4 / 5)
    assert result.ass_a_A[:16] == pytest.approx(1)
    # At 0.85 it can only be b's there: with a on 3 of 4 + 4 - 3 frames, with b on 1 of 1 + 4 - 1.
    assert result.ass_a_A[16] == pytest.approx((3 * 3 / 5 + 1 / 4) / 4)


def test_nothing_found_and_nothing_there() -> None:
    assert values([frame("a", "")]) == (0, 0, 0)
    assert values([frame("", "A")]) == (0, 0, 0)
    assert hota([frame("", "")]) is None
    assert hota([]) is None


def test_identities_are_needed() -> None:
    with pytest.raises(ValueError, match="twice"):
        frame("aa", "A", [[1], [1]])
    with pytest.raises(ValueError, match="within 0 and 1"):
        frame("a", "A", [[1.5]])
    with pytest.raises(ValueError, match="within 0 and 1"):
        frame("a", "A", [[float("nan")]])
    with pytest.raises(ValueError, match="shape"):
        TrackedFrame(("a",), ("A",), np.ones((2, 1)))


def slow_hota(frames: list[TrackedFrame]) -> float:
    """Every matching of every frame is tried."""
    scores = []
    for alpha in ALPHAS:
        lengths: dict[object, int] = {}
        possible: dict[tuple[object, object], int] = {}
        for one in frames:
            for name in [*(("t", t) for t in one.truths), *(("p", p) for p in one.predictions)]:
                lengths[name] = lengths.get(name, 0) + 1
            for g, truth in enumerate(one.truths):
                for p, prediction in enumerate(one.predictions):
                    if one.similarity_GP[g, p] >= alpha - 1e-12:
                        possible[truth, prediction] = possible.get((truth, prediction), 0) + 1

        def accuracy(together: int, truth: object, prediction: object, lengths: dict[object, int]) -> float:
            return together / (lengths["t", truth] + lengths["p", prediction] - together)

        matched: list[tuple[object, object]] = []
        misses = 0
        for one in frames:
            best: tuple[float, float, float] = (-1, 0, 0)
            chosen: list[tuple[int, int]] = []
            for size in range(min(len(one.truths), len(one.predictions)) + 1):
                for rows in combinations(range(len(one.truths)), size):
                    for columns in permutations(range(len(one.predictions)), size):
                        pairs = list(zip(rows, columns, strict=True))
                        if any(one.similarity_GP[pair] < alpha - 1e-12 for pair in pairs):
                            continue
                        names = [(one.truths[g], one.predictions[p]) for g, p in pairs]
                        total = sum(accuracy(possible[name], *name, lengths) for name in names)
                        key = (size, round(total, 9), float(sum(one.similarity_GP[pair] for pair in pairs)))
                        if key > best:
                            best, chosen = key, pairs
            matched += [(one.truths[g], one.predictions[p]) for g, p in chosen]
            misses += len(one.truths) + len(one.predictions) - 2 * len(chosen)
        detection = len(matched) / (len(matched) + misses)
        together = {pair: matched.count(pair) for pair in set(matched)}
        association = np.mean([accuracy(together[pair], *pair, lengths) for pair in matched]) if matched else 0.0
        scores.append(np.sqrt(detection * association))
    return float(np.mean(scores))


@pytest.mark.parametrize("seed", range(8))
def test_equals_the_slow_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(6):
        truths = tuple(name for name in "abc" if rng.random() < 0.7)
        predictions = tuple(name for name in "XYZ" if rng.random() < 0.7)
        frames.append(TrackedFrame(truths, predictions, rng.random((len(truths), len(predictions)))))
    assert values(frames)[0] == pytest.approx(slow_hota(frames), abs=1e-9)
    # Names mean nothing.
    renamed = [TrackedFrame(f.truths, tuple(f"{p}2" for p in f.predictions), f.similarity_GP) for f in frames]
    assert values(renamed) == values(frames)


def test_mask_similarity() -> None:
    left, both, none = np.zeros((4, 4), bool), np.ones((4, 4), bool), np.zeros((4, 4), bool)
    left[:, :2] = True
    assert mask_similarity([left, none], [both, left, none]).tolist() == [[0.5, 1.0, 0.0], [0.0, 0.0, 0.0]]
    assert mask_similarity([], [both]).shape == (0, 1)
