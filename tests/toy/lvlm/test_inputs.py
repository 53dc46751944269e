"""Training examples as the model takes them: labels of cells, token ids equal to the processor's, packed questions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy.lvlm.evaluate import target_fraction
from toy.lvlm.examples import Example, held_out
from toy.lvlm.inputs import (
    IGNORED,
    Bucket,
    buckets,
    cell_labels,
    label_counts,
    object_fractions,
    shown,
    tails,
    training_settings,
)
from toy.lvlm.loop import Schedule, glances, pack, train
from toy.lvlm.network import GLANCING, Learner, initialise
from toy.lvlm.questions import Question
from toy.tiny_qwen import SmallShape, write_small

from rvosbench.methods.attention.capture import capture
from rvosbench.methods.models.lvlm.load import load_lvlm
from rvosbench.methods.reason.expression_prompts import object_prompt

FAMILIES = ("internvl", "llava_onevision", "qwen2_5_vl", "qwen2_vl")
SHAPE = SmallShape(
    layers=2, hidden=64, heads=2, kv_heads=1, vision_depth=2, vision_hidden=32, tile_patches=6, window=64
)


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return held_out(0, 2)


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small(request.param, tmp_path_factory.mktemp("small") / request.param, 0, shape=SHAPE)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small("qwen2_5_vl", tmp_path_factory.mktemp("small") / "qwen2_5_vl", 0, shape=SHAPE)


def _example(ids_THW: np.ndarray) -> Example:
    return Example(
        frames_THW3=np.zeros((*ids_THW.shape, 3), dtype=np.uint8),
        ids_THW=ids_THW.astype(np.uint8),
        labels=np.array([[3, 1, 0], [5, 2, 2]]),
        texture=4,
        images=(),
        clip=(),
        by_image=(),
        text=(),
    )


def test_cells_are_labelled_by_what_fills_them() -> None:
    ids_THW = np.zeros((2, 4, 4))
    ids_THW[:, :2, :2] = 1
    ids_THW[0, 2:, 2:] = 2  # fills the last cell on one frame of two
    ids_THW[:, 2, 0] = 2  # a quarter of the third cell: neither an object nor background
    headings = np.array([[1, 2]], dtype=np.int8)
    example = _example(ids_THW)
    labels = cell_labels(example, [0, 1], object_fractions(example, [0, 1], (1, 2, 2)), headings)[0]
    assert labels[0, 0].tolist() == [1 + 3, 1, 0, 1, IGNORED, 2, 2]
    assert labels[1, 1].tolist() == [1 + 5, 2, 2, 2, IGNORED, 5, 7]  # column (0.5 * 7.5 + 0.25 * 2.5) / 0.75
    assert labels[0, 1].tolist() == [0, IGNORED, IGNORED, IGNORED, 4, IGNORED, IGNORED]
    assert labels[1, 0].tolist() == [IGNORED] * 7


def test_a_single_frame_has_no_heading() -> None:
    example = _example(np.ones((2, 4, 4)))
    labels = cell_labels(example, [1], object_fractions(example, [1], (1, 2, 2)), np.zeros((1, 2), dtype=np.int8))
    assert (labels[..., 3] == IGNORED).all() and (labels[..., 0] == 4).all()


def test_tokens_are_the_processors_own(checkpoint: Path, examples: list[Example]) -> None:
    lvlm: Any = load_lvlm(training_settings(checkpoint, "cpu"))
    prompt = object_prompt("v0", "the red circle")
    frames = list(examples[0].frames_THW3)
    clip = lvlm.clip(frames, prompt)
    made = {
        "clip": clip,
        "picture": lvlm.frame(frames[examples[0].images[0]], prompt, clip.grid),
        "text": lvlm.text(prompt),
    }
    views = {view.kind: view for view in reversed(shown(lvlm, examples[0]))}
    for kind, prompted in made.items():
        view = views[kind]  # type: ignore[index]
        ((tokens, start),) = tails(lvlm.tokenizer, view.tail, [Question("object", prompt, "circle")])
        assert [*view.prefix_P, *tokens[:start]] == prompted.inputs["input_ids"][0].tolist()
        assert lvlm.tokenizer.decode(tokens[start:]) == "circle<|im_end|>"
        assert view.cells_thwk.shape[:3] == (prompted.grid or (0, 0, 0))


def test_packed_questions_lose_what_separate_sequences_lose(checkpoint: Path, examples: list[Example]) -> None:
    lvlm: Any = load_lvlm(training_settings(checkpoint, "cpu"))
    for bucket in buckets(checkpoint, examples, 1):
        chosen = bucket.queries[0][:3]
        with torch.no_grad():
            packed = Learner(lvlm).answer_loss(bucket, torch.tensor([0]), pack([chosen]))
            lvlm.model.config.vision_config._attn_implementation = "sdpa"
            total = weights = 0.0
            for tokens, start in chosen:
                losses = _separately(lvlm, bucket, torch.from_numpy(tokens).long(), start)
                total += float(losses.sum()) * len(losses) ** -0.5
                weights += len(losses) ** 0.5
        assert float(packed) == pytest.approx(total / weights, abs=2e-5)


def _separately(lvlm: Any, bucket: Bucket, tail_S: torch.Tensor, start: int) -> torch.Tensor:
    """The answer's losses by the model's own forward pass over one ordinary sequence."""
    prefix = len(bucket.prefix_P)
    ids_1L = torch.cat([bucket.prefix_P, tail_S])[None]
    inputs = bucket.inputs(torch.tensor([0])) if prefix else {}
    if bucket.position_3P is not None:
        kind = {"clip": 2, "picture": 1, "text": 0}[bucket.kind]
        inputs["mm_token_type_ids"] = torch.nn.functional.pad(bucket.visual_P.int() * kind, (0, len(tail_S)))[None]
    lvlm.reset_rope_state()
    logits_LV = lvlm.model(input_ids=ids_1L, attention_mask=torch.ones_like(ids_1L), **inputs).logits[0]
    return torch.nn.functional.cross_entropy(logits_LV[prefix + start - 1 : -1], tail_S[start:], reduction="none")


def test_glances_are_the_attention_that_methods_find(checkpoint: Path, examples: list[Example]) -> None:
    """The head's attention from the last token of each prompt, shown whole, to the objects asked about."""
    lvlm: Any = load_lvlm(training_settings(checkpoint, "cpu"))
    clip = next(view for view in shown(lvlm, examples[0]) if view.kind == "clip")
    bucket = next(b for b in buckets(checkpoint, examples[:1], 1) if b.kind == "clip")
    about = [index for index, question in enumerate(clip.questions) if question.targets][:3]
    general = next(index for index, question in enumerate(clip.questions) if not question.targets)
    missed = []
    for index in about:
        question = clip.questions[index]
        prompted = lvlm.clip(list(examples[0].frames_THW3), question.prompt)
        with torch.no_grad(), capture(lvlm.text_model, [1]) as captured:
            lvlm.model.model(**lvlm.batched([prompted]), use_cache=False)
        (layer,) = captured.layers()
        row_L = (layer.key_BKLD[0, GLANCING] @ layer.query_BALD[0, GLANCING, -1] * layer.scale).softmax(-1)
        fraction_thw = target_fraction(examples[0], range(8), question.targets, prompted.grid)
        missed.append(-np.log((prompted.to_grid(row_L).numpy() * fraction_thw).sum()))
    chosen = [np.array([general, *about])]
    found = glances(bucket, np.array([0]), chosen)
    assert len(found.view_G) == len(about)
    queries = pack([[bucket.queries[0][index] for index in chosen[0]]])
    with torch.no_grad():
        learner = Learner(lvlm)
        both = learner.read_loss(bucket, torch.tensor([0]), queries, found, 1.0)
        by_image = learner.answer_loss(bucket, torch.tensor([0]), queries)
    assert float(both - by_image) == pytest.approx(np.mean(missed), abs=2e-3)


def test_what_the_tower_saw_is_remembered(checkpoint: Path, examples: list[Example]) -> None:
    lvlm: Any = load_lvlm(training_settings(checkpoint, "cpu"))
    learner = Learner(lvlm)
    bucket = next(b for b in buckets(checkpoint, examples, 1) if b.kind == "clip")
    queries = pack([bucket.queries[0][:2]])
    with torch.no_grad():
        fresh = learner.answer_loss(bucket, torch.tensor([0]), queries)
        learner.remember(bucket, 2)
        assert not bucket.pixels
        again = learner.answer_loss(bucket, torch.tensor([0]), queries)
    # Kept in bfloat16.
    assert float(again) == pytest.approx(float(fresh), rel=0.02)


def test_training_lowers_both_losses_and_repeats(qwen: Path, examples: list[Example]) -> None:
    ends = []
    for _ in range(2):
        lvlm: Any = load_lvlm(training_settings(qwen, "cpu"))
        initialise(lvlm.model, 0)
        torch.manual_seed(0)
        messages: list[str] = []
        ended = train(
            Learner(lvlm),
            buckets(qwen, examples, 1),
            Schedule(12, 12, views=2, questions=3, rate=3e-3),
            messages.append,
        )
        ends.append(ended)
        guessing = sum(math.log(count) for count in label_counts())
        assert ended.cell_loss < 0.75 * guessing and ended.read_loss < 7.2, messages
    assert (ends[0].cell_loss, ends[0].read_loss) == (ends[1].cell_loss, ends[1].read_loss)
