"""The synthetic dataset: masks against a slow definition, expressions against what the masks and pixels show."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pytest
from numpy.typing import NDArray

from rvosbench.harness.data.synthetic import Clip, make_clip, predicates, render
from rvosbench.harness.data.synthetic.language import Writer
from rvosbench.harness.data.synthetic.outlines import SHAPES, outline, signed_distance
from rvosbench.harness.data.synthetic.reasoning import CLAIMS
from rvosbench.harness.data.synthetic.render import COLOURS
from rvosbench.harness.data.synthetic.scenarios import SCENARIOS
from rvosbench.harness.data.synthetic.scene import Backdrop, Scene, SceneObject
from rvosbench.harness.data.synthetic.view import View, answer, between, both

CLIPS = [make_clip(2, "valid", index) for index in range(3 * len(SCENARIOS))]


def inside(polygon: NDArray[np.float64], x: float, y: float) -> bool:
    """Even-odd rule, one edge at a time."""
    result = False
    for (ax, ay), (bx, by) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if (ay > y) != (by > y) and x < ax + (y - ay) * (bx - ax) / (by - ay):
            result = not result
    return result


def obj(id: int, shape: str, colour: str, path: list[tuple[float, float]], **changed: object) -> SceneObject:
    frames = len(path)
    values: dict[str, object] = {
        "size": "small", "motion": "steady", "radius_T": np.full(frames, 10.0), "angle_T": np.zeros(frames),
        "depth": float(id), **changed,
    }  # fmt: skip
    return SceneObject(id=id, shape=shape, colour=colour, centre_T2=np.array(path, dtype=float), **values)  # type: ignore[arg-type]


def view_of(*objects: SceneObject, height: int = 100, width: int = 100) -> View:
    ground = Backdrop((120, 120, 120), (140, 140, 140), 0.0, "gradient", 0)
    scene = Scene("by hand", height, width, len(objects[0].centre_T2), ground, objects)
    return View(scene, render.id_maps(scene))


def line(start: tuple[float, float], end: tuple[float, float], frames: int = 11) -> list[tuple[float, float]]:
    fraction = np.linspace(0, 1, frames)
    return [(start[0] + s * (end[0] - start[0]), start[1] + s * (end[1] - start[1])) for s in fraction]


# Outlines and masks.


@pytest.mark.parametrize("shape", SHAPES)
def test_outlines_have_equal_area_and_exact_sign(shape: str) -> None:
    points = outline(shape)
    x, y = points.T
    area = 0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))
    assert area == pytest.approx(math.pi)
    grid = np.linspace(-1.9, 1.9, 41, dtype=np.float32) + np.float32(0.013)
    x_HW, y_HW = np.meshgrid(grid, grid)
    distance_HW = signed_distance(shape, x_HW, y_HW)
    for row, column in itertools.product(range(0, 41, 2), repeat=2):
        at = float(x_HW[row, column]), float(y_HW[row, column])
        edges = zip(points, np.roll(points, -1, axis=0), strict=True)
        steps = np.linspace(0, 1, 60)[:, None]
        near = min(np.hypot(*((a * (1 - steps) + b * steps) - at).T).min() for a, b in edges)
        assert abs(distance_HW[row, column]) == pytest.approx(near, abs=0.02)
        if near > 0.01:  # the circle's polygon differs from the disc by less
            assert (distance_HW[row, column] < 0) == inside(points, *at)


@pytest.mark.parametrize("clip", CLIPS[:6], ids=lambda clip: clip.scene.scenario)
def test_masks_are_what_is_in_front(clip: Clip) -> None:
    frame = clip.scene.frames // 2
    polygons = {}
    for each in clip.scene.objects:
        cos, sin = math.cos(each.angle_T[frame]), math.sin(each.angle_T[frame])
        turned = outline(each.shape) @ np.array([[cos, sin], [-sin, cos]])
        polygons[each.id] = turned * each.radius_T[frame] + each.centre_T2[frame]
    nearest_first = sorted(clip.scene.objects, key=lambda each: each.depth)
    wrong = 0
    for row, column in itertools.product(range(0, clip.scene.height, 3), range(0, clip.scene.width, 3)):
        seen = next((each.id for each in nearest_first if inside(polygons[each.id], column, row)), 0)
        wrong += clip.ids_THW[frame, row, column] != seen
    # The circle's polygon is a hair smaller than the disc.
    assert wrong <= 1


@pytest.mark.parametrize("shape", SHAPES)
def test_mask_area_is_pi_r_squared(shape: str) -> None:
    # Averaged over positions within a pixel: one position rounds the straight sides of a square.
    places = [(50 + x / 4, 50 + y / 4) for x in range(4) for y in range(4)]
    view = view_of(obj(1, shape, "red", places, radius_T=np.full(16, 18.0)))
    assert view.visible_fraction_NT.mean() == pytest.approx(1, abs=0.01)


def test_pictures_show_each_thing_in_its_colour() -> None:
    for clip in CLIPS[:11]:
        for picture_HW3, ids_HW in zip(clip.images(), clip.ids_THW, strict=True):
            assert picture_HW3.shape == (clip.scene.height, clip.scene.width, 3)
            for each in clip.scene.objects:
                here = picture_HW3[ids_HW == each.id]
                if len(here) < 60:
                    continue
                mean = np.median(here.astype(float), axis=0)
                closest = min(COLOURS, key=lambda name: float(np.abs(mean - COLOURS[name]).sum()))
                assert closest == each.colour


def test_backgrounds_are_unlike_any_thing() -> None:
    for clip in CLIPS:
        ground_HW3 = render.backdrop(clip.scene.backdrop, clip.scene.height, clip.scene.width)
        for colour in COLOURS.values():
            assert np.linalg.norm(ground_HW3.reshape(-1, 3).mean(axis=0) - colour) > 60


def test_sizes_and_lengths_vary() -> None:
    assert len({(clip.scene.height, clip.scene.width) for clip in CLIPS}) >= 6
    assert any(clip.scene.height % 2 or clip.scene.width % 2 for clip in CLIPS)
    assert {8 <= clip.scene.frames <= 40 for clip in CLIPS} == {True}
    assert len({clip.scene.frames for clip in CLIPS}) >= 10
    assert {clip.scene.scenario for clip in CLIPS} == {story.__name__ for story in SCENARIOS}


# Truths with three values.


def test_between() -> None:
    assert [between(value, no=0.1, yes=0.3) for value in (0.05, 0.1, 0.2, 0.3)] == [False, False, None, True]
    assert [between(value, no=0.3, yes=0.1) for value in (0.05, 0.1, 0.2, 0.3)] == [True, True, None, False]


def test_both() -> None:
    first = dict(enumerate([True, True, True, False, False, None]))
    second = dict(enumerate([True, False, None, False, None, None]))
    assert both(first, second) == dict(enumerate([True, False, None, False, False, None]))
    assert answer({1: True, 2: False, 3: True}) == (1, 3)
    assert answer({1: True, 2: None}) is None


def test_direction_by_hand() -> None:
    view = view_of(
        obj(1, "circle", "red", line((80, 20), (40, 20))),
        obj(2, "square", "red", line((20, 50), (60, 80))),  # diagonal: arguable
        obj(3, "star", "red", [(50, 50)] * 11),
    )
    assert predicates.heads(view, "left") == {1: True, 2: False, 3: False}
    assert predicates.heads(view, "right") == {1: False, 2: None, 3: False}
    assert predicates.rests(view) == {1: False, 2: False, 3: True}


def test_stopping_by_hand() -> None:
    half = line((20, 20), (60, 20), 6)
    view = view_of(
        obj(1, "circle", "red", half + [half[-1]] * 5, motion="stops"),
        obj(2, "circle", "blue", [(20, 50)] * 5 + line((20, 50), (60, 50), 6), motion="starts"),
        obj(3, "circle", "green", line((20, 80), (60, 80))),
    )
    assert predicates.stops(view) == {1: True, 2: False, 3: False}
    assert predicates.starts(view) == {1: False, 2: True, 3: False}


def test_a_medium_thing_is_neither_small_nor_large() -> None:
    view = view_of(
        obj(1, "circle", "red", [(20, 20)] * 3),
        obj(2, "circle", "red", [(70, 70)] * 3, size="medium", radius_T=np.full(3, 14.0)),
    )
    assert predicates.size(view, "small") == {1: True, 2: None}
    writer = Writer(view, np.random.default_rng(0))
    # "The small red circle" is arguable here, so only the place tells them apart.
    text = writer.describe((1,), style=0, when="whole", motion=False)
    assert text is not None
    assert re.search("left|top", text)


def test_flight_pursuit_and_opposition_by_hand() -> None:
    fleeing = view_of(
        obj(1, "star", "red", [(50, 50)] * 11),
        obj(2, "circle", "red", line((30, 50), (10, 50))),
        obj(3, "circle", "blue", line((70, 50), (90, 50))),
    )
    assert answer(predicates.target_of_others(fleeing, away=True)) == (1,)
    assert answer(predicates.target_of_others(fleeing, away=False)) == ()
    chase = view_of(
        obj(1, "circle", "red", line((40, 50), (90, 50))), obj(2, "circle", "blue", line((15, 50), (65, 50)))
    )
    assert answer(predicates.follows(chase)) == (2,)
    assert answer(predicates.is_followed(chase)) == (1,)
    opposed = view_of(
        obj(1, "circle", "red", line((20, 20), (70, 20))),
        obj(2, "circle", "blue", line((20, 50), (70, 50))),
        obj(3, "circle", "green", line((70, 80), (20, 80))),
    )
    assert answer(predicates.against_others(opposed)) == (3,)


def test_hiding_by_hand() -> None:
    view = view_of(
        obj(1, "square", "red", [(50, 50)] * 11, radius_T=np.full(11, 20.0), depth=0.0),
        obj(2, "circle", "blue", line((10, 50), (90, 50)), radius_T=np.full(11, 8.0), depth=1.0),
    )
    assert answer(predicates.hides(view)) == (2,)
    assert answer(predicates.covers(view)) == (1,)


def test_close_sizes_are_arguable() -> None:
    star, square = obj(1, "star", "red", [(25, 25)] * 3), obj(2, "square", "red", [(70, 70)] * 3)
    square.radius_T[:] = 13.5  # larger in area, but the star's points reach as far
    assert answer(predicates.largest(view_of(star, square))) is None
    square.radius_T[:] = 22.0
    assert answer(predicates.largest(view_of(star, square))) == (2,)


# Expressions, judged from masks alone.


def areas(clip: Clip, id: int) -> NDArray[np.int64]:
    return (clip.ids_THW == id).sum(axis=(1, 2))


def centres(clip: Clip, id: int) -> NDArray[np.float64]:
    """Centre of the visible mask on frames that show the whole object."""
    visible_fraction_T = areas(clip, id) / clip.scene.object_by_id(id).radius_T ** 2
    full = np.flatnonzero(visible_fraction_T >= 0.97 * visible_fraction_T.max())
    return np.array([np.argwhere(clip.ids_THW[frame] == id).mean(axis=0)[::-1] for frame in full])


def judge(clip: Clip, text: str, id: int) -> None:
    """Asserts what the words of an expression say about one of its targets."""
    area_T, path = areas(clip, id), centres(clip, id)
    others = [each.id for each in clip.scene.objects if each.id != id]
    travelled = path[-1] - path[0]
    for word, axis, sign in (("to the left", 0, -1), ("to the right", 0, 1)):
        if re.search(f"mov.* {word}", text):
            assert travelled[axis] * sign > 0
            assert abs(travelled[axis]) > abs(travelled[1 - axis])
    if re.search(r"moving (up|down)|moves? (up|down)", text):
        assert travelled[1] * (-1 if "up" in text.split() else 1) > 0
    if re.search("standing still|not move|keeps its place|blur", text):
        assert np.abs(path - path[0]).max() < 1
    if re.search("growing|becomes? larger|swells|larger in the end", text):
        assert area_T[-1] > 2 * area_T[0]
    if re.search("shrinking|becomes? smaller|loses size|smaller in the end", text):
        assert area_T[0] > 2 * area_T[-1]
    if re.search("missing at first|missing at the beginning|arrives late|coming into|comes? into", text):
        assert area_T[0] == 0
        assert area_T[-1] > 0
    if re.search("missing at the end|for good|gone at the end|leaving the|leaves? the", text):
        assert area_T[-1] == 0
        assert area_T[0] > 0
    if re.search("stops?( before)?|stopping|out of energy", text):
        assert np.abs(path[-3:] - path[-1]).max() < 0.5
        assert np.hypot(*travelled) > 8
    if re.search("largest|most paint", text):
        assert all(area_T.max() > 1.3 * areas(clip, other).max() for other in others)
    if re.search("the smallest|narrowest gap", text):
        assert all(areas(clip, other).max() > 1.3 * area_T.max() for other in others)
    if re.search("hide and seek|hidden for a while|cannot be seen", text):
        full = math.pi * clip.scene.object_by_id(id).radius_T[0] ** 2
        hidden = np.flatnonzero(area_T < 0.1 * full)
        assert area_T[: hidden[0]].max() > 0.6 * full
        assert area_T[hidden[-1] :].max() > 0.6 * full


def test_expressions_hold_in_the_masks() -> None:
    judged = 0
    for clip in CLIPS:
        for sentence in [*clip.sentences, *clip.reasons]:
            if " and the " in sentence.text:  # two descriptions, one per target
                continue
            for id in sentence.targets:
                judge(clip, sentence.text, id)
                judged += 1
    assert judged > 400


def test_attribute_words_fit_exactly_the_targets() -> None:
    """A description by colour, shape and size only selects its targets and nothing else, by a plain reading."""
    nouns = {"round shape": "circle", "square block": "square", "triangular shape": "triangle", "pointed star": "star",
             "plus sign": "cross", "heart shape": "heart", "upright bar": "pillar", "crosses": "cross"}  # fmt: skip
    read = 0
    for clip, sentence in ((each, sentence) for each in CLIPS for sentence in each.sentences):
        text = sentence.text
        for phrase, shape in nouns.items():
            text = re.sub(rf"\b{phrase}s?\b", shape, text)
        pattern = (
            r"the (?:two |three |four )?(small |little |large |big )?(\w+ )?"
            rf"({'|'.join(SHAPES)}|shape|thing)s?$"
        )
        match = re.match(pattern, text)
        if match is None or (match[2] and match[2].strip() not in COLOURS):
            continue
        size = {"small": "small", "little": "small", "large": "large", "big": "large", None: None}[
            match[1] and match[1].strip()
        ]
        fitting = tuple(
            each.id
            for each in clip.scene.objects
            if size in (None, each.size)
            and (not match[2] or each.colour == match[2].strip())
            and match[3] in (each.shape, "shape", "thing")
        )
        assert fitting == sentence.targets, sentence.text
        read += 1
    assert read > 80


def test_claims_occur_and_their_words_do_not_clash() -> None:
    seen = {sentence.text for index in range(77) for sentence in make_clip(9, "train", index).reasons}
    words = [text for claim in CLAIMS for text in (*claim.one, *claim.ask, *claim.many)]
    assert len(set(words)) == len(words)
    absent = [claim.one[0] for claim in CLAIMS if not seen & {*claim.one, *claim.ask}]
    assert len(absent) <= 2, absent


def test_every_clip_has_all_kinds_of_expressions() -> None:
    multi = 0
    for clip in CLIPS:
        by_subset = {s: [e for e in clip.sentences if e.subset == s] for s in ("referring", "reasoning", "no_target")}
        assert all(by_subset.values())
        assert all(not sentence.targets for sentence in by_subset["no_target"])
        assert all(sentence.targets for sentence in by_subset["referring"] + by_subset["reasoning"])
        assert len({sentence.text for sentence in clip.sentences}) == len(clip.sentences)
        multi += any(len(sentence.targets) > 1 for sentence in clip.sentences)
        assert all(list(s.targets) == sorted(set(s.targets)) for s in clip.sentences)
    assert multi > len(CLIPS) * 0.7


def test_first_frame_annotators_say_nothing_of_motion() -> None:
    motion = re.compile(r"mov|still|bounc|stop|spin|turn|grow|shrink|larger|smaller|faster|speed|wait|com(es|ing)|leav")
    with_motion = 0
    for clip in CLIPS:
        for id, (first, whole, second_first, second_whole) in clip.quartets.items():
            assert not motion.search(first)
            assert not motion.search(second_first)
            assert first.startswith(("a ", "an "))
            assert second_first.startswith("the ")
            assert first.split()[1:] != second_first.split()[1:] or len(first.split()) <= 3
            assert (clip.ids_THW[0] == id).any()
            with_motion += bool(motion.search(whole)) and bool(motion.search(second_whole))
    assert with_motion > 0.6 * sum(len(clip.quartets) for clip in CLIPS)


def test_same_seed_same_clip_and_splits_differ() -> None:
    again = make_clip(2, "valid", 3)
    assert np.array_equal(again.ids_THW, CLIPS[3].ids_THW)
    assert again.sentences == CLIPS[3].sentences
    assert again.quartets == CLIPS[3].quartets
    assert all(np.array_equal(a, b) for a, b in zip(again.images(), CLIPS[3].images(), strict=True))
    assert make_clip(2, "train", 3).sentences != CLIPS[3].sentences
    assert make_clip(2, "train", 3).name != CLIPS[3].name
