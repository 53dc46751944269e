"""Questions about a clip with their answers: those of the methods, and simpler ones that teach to look.

The prompts are the methods' own (``methods.reason.expression_prompts``, ``methods.steerseg.prompts``,
``methods.reason.prompts``); the simpler ones are captions, look-ups and positions.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rvosbench.harness.data.synthetic.clip import Clip
from rvosbench.harness.data.synthetic.draw import pick, shuffled
from rvosbench.harness.data.synthetic.language import NOUNS, Sentence, Writer
from rvosbench.harness.data.synthetic.view import View
from rvosbench.methods.reason.expression_prompts import (
    VERSIONS,
    background_prompt,
    choice_prompt,
    object_prompt,
    punctuated,
)
from rvosbench.methods.reason.prompts import cot_prompt
from rvosbench.methods.steerseg.prompts import attention_prompt
from toy.lvlm.phrases import (
    TRAITS,
    Traits,
    caption,
    clip_traits,
    image_traits,
    position,
    singling_out,
)

NOTHING, SEVERAL = "nothing", "shapes"
GROUNDS = {"gradient": "wall", "clouds": "clouds", "grain": "sand", "planks": "planks", "tiles": "tiles"}
"""What the background is called, by texture."""
QUESTION_FORMS = {
    "noun": "What shape is {}?",
    "colour": "What colour has {}?",
    "size": "How large is {}?",
    "place": "Where is {} at first?",
    "deed": "What is {} doing?",
}


@dataclass(frozen=True)
class Question:
    """One question with its answer."""

    kind: str
    """A key of ``CLIP_KINDS``, ``IMAGE_KINDS`` or ``TEXT_KINDS``."""
    prompt: str
    answer: str
    targets: tuple[int, ...] = ()
    """The objects it is about."""


@dataclass(frozen=True, eq=False)
class _Material:
    """What questions about one view are made from."""

    view: View
    frame: int
    """The frame of an image, the first one of a clip."""
    traits: Mapping[int, Traits]
    sentences: Sequence[Sentence]
    """Expressions with their targets."""
    texture: str
    rng: np.random.Generator

    def random_object(self) -> int:
        return pick(self.rng, sorted(self.traits))

    def sentence(self) -> Sentence:
        """Any expression; three times in four one that does not name the shape, so that it must be looked up."""
        unnamed = [sentence for sentence in self.sentences if not _nouns_in(sentence.text)]
        return pick(self.rng, unnamed if unnamed and self.rng.random() < 0.75 else self.sentences)

    def name(self, targets: Sequence[int]) -> str:
        """What several objects are called in one word."""
        nouns = {NOUNS[self.view.scene.object_by_id(id).shape][0][0] for id in targets}
        return NOTHING if not nouns else nouns.pop() if len(nouns) == 1 else SEVERAL


def _nouns_in(text: str) -> set[str]:
    return {words[0][0] for words in NOUNS.values() for style in words if style[0] in text}


def _caption(material: _Material) -> Question:
    first = pick(material.rng, [t for t in ("noun", *TRAITS) if material.traits[material.random_object()].value(t)])
    lines = [caption(material.traits[id], first) for id in shuffled(material.rng, sorted(material.traits))]
    return Question("caption", f"List every shape, its {_named(first)} first.", "; ".join(lines))


def _named(trait: str) -> str:
    return {"noun": "name", "deed": "movement"}.get(trait, trait)


def _look_up(material: _Material) -> Question | None:
    id = material.random_object()
    queried = pick(material.rng, [t for t in ("noun", *TRAITS) if material.traits[id].value(t)])
    phrase = singling_out(dict(material.traits), id, material.rng, without=queried)
    if phrase is None:
        return None
    return Question(
        f"look up {_named(queried)}", QUESTION_FORMS[queried].format(phrase), material.traits[id].value(queried), (id,)
    )


def _point(material: _Material) -> Question | None:
    id = material.random_object()
    phrase = singling_out(dict(material.traits), id, material.rng)
    if phrase is None or material.view.visible_fraction_NT[id - 1, material.frame] < 0.5:
        return None
    where = position(material.view, id, material.frame)
    return Question("point", f"Point to {phrase} at first: column and row.", where, (id,))


def _at(material: _Material) -> Question | None:
    id = material.random_object()
    if material.view.visible_fraction_NT[id - 1, material.frame] < 0.5:
        return None
    where = position(material.view, id, material.frame)
    own = material.traits[id]
    return Question("at", f"What is at column and row {where} at first?", f"{own.size} {own.colour} {own.noun}", (id,))


def _object(material: _Material) -> Question:
    sentence = material.sentence()
    version = "v0" if material.rng.random() < 0.7 else pick(material.rng, VERSIONS)
    name = material.name(sentence.targets)
    return Question(f"object, {sentence.subset}", object_prompt(version, sentence.text), name, sentence.targets)


def _bare(material: _Material) -> Question:
    sentence = material.sentence()
    return Question("bare", sentence.text, material.name(sentence.targets), sentence.targets)


def _describe(material: _Material) -> Question | None:
    sentence = material.sentence()
    if len(sentence.targets) != 1 or sentence.targets[0] not in material.traits:
        return None
    own = material.traits[sentence.targets[0]]
    description = " ".join(word for word in (own.size, own.colour, own.noun, own.place, own.deed) if word)
    return Question("describe", f"{punctuated(sentence.text)} Describe it.", description, sentence.targets)


def attributes(own: Traits) -> tuple[str, ...]:
    """What distinguishes an object from others, as the reasoning call should answer: appearance, position, motion or
    size."""
    return own.colour, own.place, own.deed or own.size


def _reason(material: _Material) -> Question | None:
    sentence = material.sentence()
    if len(sentence.targets) > 1:
        return None
    if sentence.targets:
        own = material.traits[sentence.targets[0]]
        content = {"reasons": f"it is the {own.size} {own.colour} {own.noun}", "attributes": list(attributes(own))}
    else:
        content = {"reasons": NOTHING, "attributes": []}
    return Question("reason", cot_prompt(sentence.text), json.dumps(content), sentence.targets)


def _steered(material: _Material) -> Question | None:
    sentence = material.sentence()
    if len(sentence.targets) != 1 or sentence.targets[0] not in material.traits:
        return None
    object_attributes = attributes(material.traits[sentence.targets[0]])
    prompt = attention_prompt(sentence.text, object_attributes)
    return Question("steered", prompt, material.name(sentence.targets), sentence.targets)


def _background(material: _Material) -> Question:
    sentence = material.sentence()
    version = "v0" if material.rng.random() < 0.5 else pick(material.rng, VERSIONS)
    name = material.name(sentence.targets)
    return Question("background", background_prompt(version, sentence.text, name), GROUNDS[material.texture])


def _choice(material: _Material) -> Question:
    sentence = material.sentence()
    right = material.name(sentence.targets)
    nouns = [words[0][0] for words in NOUNS.values()]
    listed = [right if material.rng.random() < 0.6 else pick(material.rng, nouns) for _ in range(9)]
    version = "v0" if material.rng.random() < 0.7 else pick(material.rng, VERSIONS[:3])
    named = _nouns_in(sentence.text)
    # A name in the expression counts; otherwise the most frequent candidate, the first of equals.
    answer = named.pop() if len(named) == 1 else Counter(listed).most_common(1)[0][0]
    return Question("choice", choice_prompt(version, sentence.text, listed), answer)


Maker = Callable[[_Material], Question | None]
CLIP_KINDS: Mapping[Maker, float] = {
    _caption: 0.18, _look_up: 0.17, _point: 0.08, _at: 0.08, _object: 0.2, _bare: 0.03, _describe: 0.1,
    _reason: 0.07, _steered: 0.05, _background: 0.04,
}  # fmt: skip
"""How often each kind is asked of a clip; several times as many look-ups as what the methods ask."""
IMAGE_KINDS: Mapping[Maker, float] = {
    _caption: 0.18, _look_up: 0.17, _point: 0.1, _at: 0.1, _object: 0.25, _bare: 0.03, _describe: 0.08,
    _steered: 0.05, _background: 0.04,
}  # fmt: skip


def clip_questions(clip: Clip, count: int, rng: np.random.Generator) -> list[Question]:
    """About a whole clip."""
    view = View(clip.scene, clip.ids_THW)
    material = _Material(
        view, 0, clip_traits(view), [*clip.sentences, *_extra(clip, view, rng)], clip.scene.backdrop.texture, rng
    )
    return _drawn(material, CLIP_KINDS, count)


def image_questions(clip: Clip, frame: int, count: int, rng: np.random.Generator) -> list[Question]:
    """About one frame, seen alone; only objects that are seen on it occur in questions."""
    view = View(clip.scene, clip.ids_THW)
    traits = image_traits(view, frame)
    if not traits:
        return []
    phrases = [(singling_out(traits, id, rng), id) for id in traits for _ in range(3)]
    here = [Sentence(text, (id,), "referring") for text, id in phrases if text is not None]
    # Questions about the whole clip are put to every keyframe too, whether or not one frame shows the answer.
    whole = [s for s in (*clip.sentences, *clip.reasons) if s.targets and all(id in traits for id in s.targets)]
    sentences = [*here, *shuffled(rng, whole)[: max(1, len(here) // 2)]]
    if not sentences:
        return []
    return _drawn(_Material(view, frame, traits, sentences, clip.scene.backdrop.texture, rng), IMAGE_KINDS, count)


def text_questions(clip: Clip, count: int, rng: np.random.Generator) -> list[Question]:
    """Without any image."""
    view = View(clip.scene, clip.ids_THW)
    material = _Material(view, 0, {}, clip.sentences, clip.scene.backdrop.texture, rng)
    return [_choice(material) for _ in range(count)]


def _extra(clip: Clip, view: View, rng: np.random.Generator) -> list[Sentence]:
    """More expressions than the benchmark asks: all wordings of reasons, and descriptions in both styles."""
    writer = Writer(view, rng)
    described = [
        Sentence(text, (id,), "referring")
        for id in view.ids
        for style in (0, 1)
        if (text := writer.describe((id,), style=style, when="whole", motion=None)) is not None
    ]
    return [*clip.reasons, *described]


def _drawn(material: _Material, kinds: Mapping[Maker, float], count: int) -> list[Question]:
    makers = list(kinds)
    chosen = material.rng.choice(len(makers), size=count, p=np.array(list(kinds.values())))
    made = [makers[index](material) for index in chosen]
    return [question for question in made if question is not None]
