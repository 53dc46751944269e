"""Questions of the training examples: every answer is true of the scene, and the prompts are the methods' own."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from toy.lvlm.examples import KEYFRAMES, make_example
from toy.lvlm.phrases import caption, clip_traits, image_traits, phrase, position, singling_out
from toy.lvlm.questions import (
    CLIP_KINDS,
    GROUNDS,
    IMAGE_KINDS,
    NOTHING,
    QUESTION_FORMS,
    SEVERAL,
    Question,
    clip_questions,
    image_questions,
    text_questions,
)

from rvosbench.harness.data.synthetic.clip import Clip, make_clip
from rvosbench.harness.data.synthetic.language import NOUNS
from rvosbench.harness.data.synthetic.view import View
from rvosbench.methods.reason.expression_prompts import object_prompt


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return [make_clip(0, "train", index) for index in range(4)]


def _questions(clip: Clip, count: int = 80) -> list[Question]:
    return clip_questions(clip, count, np.random.default_rng(1))


def test_a_phrase_is_true_of_exactly_one_thing(clips: list[Clip]) -> None:
    rng, count = np.random.default_rng(0), 0
    for clip in clips:
        traits = clip_traits(View(clip.scene, clip.ids_THW))
        for id, own in traits.items():
            for without in ("", "colour", "noun"):
                text = singling_out(traits, id, rng, without=without)
                if text is None:
                    continue
                count += 1
                alike = [
                    other
                    for other, words in traits.items()
                    if all(
                        words.value(trait) == own.value(trait)
                        for trait in ("noun", "colour", "size", "place", "deed")
                        if own.value(trait) and own.value(trait) in text
                    )
                ]
                assert alike == [id], text
                assert not without or own.value(without) not in text.split()
    assert count > 20


def test_a_caption_holds_all_traits_the_asked_one_first(clips: list[Clip]) -> None:
    own = next(iter(clip_traits(View(clips[0].scene, clips[0].ids_THW)).values()))
    assert caption(own, "colour") == f"{own.colour}: {own.noun}, {own.size}, {own.place}, {own.deed}"
    assert phrase(own, ("colour", "place")) == f"the {own.colour} shape {own.place}"


def test_answers_name_the_targets_of_the_expressions(clips: list[Clip]) -> None:
    seen = 0
    for clip in clips:
        shapes = {obj.id: obj.shape for obj in clip.scene.objects}
        for question in _questions(clip):
            if question.kind.split(",")[0] not in ("object", "bare", "steered"):
                continue
            seen += 1
            named = {shapes[id] for id in question.targets}
            expected = NOTHING if not named else named.pop() if len(named) == 1 else SEVERAL
            assert question.answer == expected
    assert seen > 40


def test_object_questions_are_the_methods_prompts_about_expressions_of_the_clip(clips: list[Clip]) -> None:
    known = {object_prompt("v0", s.text): s.targets for s in (*clips[0].sentences, *clips[0].reasons)}
    queries = [q for q in _questions(clips[0], 300) if q.prompt in known]
    assert len(queries) > 10
    assert all(q.targets == known[q.prompt] for q in queries)


def test_attributes_are_those_of_the_target(clips: list[Clip]) -> None:
    seen = 0
    for clip in clips:
        traits = clip_traits(View(clip.scene, clip.ids_THW))
        for question in _questions(clip, 200):
            if question.kind != "reason":
                continue
            content = json.loads(question.answer)
            assert list(content) == ["reasons", "attributes"]
            if not question.targets:
                assert content["attributes"] == []
                continue
            seen += 1
            own = traits[question.targets[0]]
            assert content["attributes"] == [own.colour, own.place, own.deed]
            assert all(len(words.split()) <= 5 for words in content["attributes"])
    assert seen > 10


def test_positions_count_columns_and_rows_from_the_top_left() -> None:
    clip = make_clip(0, "train", 0)
    view = View(clip.scene, clip.ids_THW)
    for obj in clip.scene.objects:
        x, y = obj.centre_T2[0]
        column, row = position(view, obj.id, 0).split()
        assert int(column) == min(9, max(0, int(10 * x / clip.scene.width)))
        assert int(row) == min(9, max(0, int(10 * y / clip.scene.height)))


def test_pictures_are_asked_only_about_what_they_show(clips: list[Clip]) -> None:
    for clip in clips:
        view = View(clip.scene, clip.ids_THW)
        frame = clip.scene.frames - 1
        visible = set(image_traits(view, frame))
        queries = image_questions(clip, frame, 60, np.random.default_rng(2))
        assert queries and all(set(q.targets) <= visible for q in queries)
        assert not any("doing" in q.prompt and q.prompt.startswith(QUESTION_FORMS["deed"][:8]) for q in queries)


def test_the_background_is_named_after_its_texture(clips: list[Clip]) -> None:
    for clip in clips:
        answers = {q.answer for q in _questions(clip, 300) if q.kind == "background"}
        assert answers == {GROUNDS[clip.scene.backdrop.texture]}


def test_the_choice_is_the_shape_named_or_the_most_frequent_candidate(clips: list[Clip]) -> None:
    named = unnamed = 0
    for question in (q for clip in clips for q in text_questions(clip, 30, np.random.default_rng(3))):
        (expression,) = re.findall(r"xpression:? ['‘](.*)['’]", question.prompt.split("andidate")[0])
        nouns = {forms[0][0] for forms in NOUNS.values() for style in forms if style[0] in expression}
        if len(nouns) == 1:
            named += 1
            assert question.answer in nouns
        else:
            unnamed += 1
            candidates = re.findall(r"(?: list:|classes) ([a-z]+(?:,[a-z]+)+)", question.prompt)[0].split(",")
            assert candidates.count(question.answer) == max(map(candidates.count, candidates))
    assert named > 5 and unnamed > 20


def test_shares_of_kinds_are_shares() -> None:
    assert sum(CLIP_KINDS.values()) == pytest.approx(1)
    assert sum(IMAGE_KINDS.values()) == pytest.approx(1)


def test_an_example_is_the_same_every_time_and_shows_the_keyframes() -> None:
    clip = make_clip(0, "train", 5)
    first, second = (make_example(clip, np.random.default_rng(7)) for _ in range(2))
    assert first.frames_THW3.shape[0] == KEYFRAMES == len(first.ids_THW)
    assert (first.frames_THW3 == second.frames_THW3).all()
    assert first.all_questions() == second.all_questions()
    assert len(first.labels) == len(clip.scene.objects)
