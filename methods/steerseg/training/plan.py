"""What a training recipe would do, and what memory it takes; nothing is trained."""

from __future__ import annotations

from collections.abc import Iterator

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.methods.models.lvlm.checkpoints import config_of
from rvosbench.methods.models.lvlm.estimate import in_words
from rvosbench.methods.models.lvlm.training_memory import step_memory
from rvosbench.methods.steerseg.training.recipe import TrainRecipe, View
from rvosbench.methods.steerseg.training.sampling import Split, UnitSampler, evaluation_samples, split
from rvosbench.methods.steerseg.training.sources import Source, open_source

USUAL_SIZE = (480, 854)
"""(H, W) in pixels, of videos that are not on disk."""


def planned(recipe: TrainRecipe) -> Iterator[str]:
    """Yields the lines for the reader; what is missing (data, the model's configuration) is a line too."""
    size = USUAL_SIZE
    try:
        source = open_source(recipe.data, recipe.data_root, recipe.runs / "media-index", recipe.keyframes)
        parts = split(recipe, source, {})
    except PrerequisiteError as error:
        yield f"Data: {error}"
    else:
        yield from _counted(recipe, source, parts)
        height, width = source.frames(source.videos[0])[0].shape[:2]
        size = height, width
    for role, views in recipe.prompts.items():
        for view in views:
            try:
                yield f"{role} prompt, {_memory(recipe, view, size)}"
            except PrerequisiteError as error:
                yield f"{role} prompt, {view} calls: memory cannot be estimated. {error}"


def _counted(recipe: TrainRecipe, source: Source, parts: Split) -> Iterator[str]:
    trained, held_out = parts.videos(parts.trained), parts.videos(parts.held_out)
    yield (
        f"{recipe.data.name}, split {recipe.data.split}: {trained} videos with {len(parts.trained)} expressions to "
        f"train on, {held_out} held out, {len(evaluation_samples(recipe, parts.held_out))} of their expressions "
        "evaluated"
    )
    yield from source.notes
    for role, views in recipe.prompts.items():
        samplers = [UnitSampler(recipe, parts.trained, view) for view in views]
        steps = max(own.steps for own in samplers)
        batches = " and ".join(f"{own.batch} {own.view} calls" for own in samplers)
        yield f"{role} prompt: {recipe.tokens} tokens at {recipe.position}, {steps} steps of {batches}"


def _memory(recipe: TrainRecipe, view: View, size: tuple[int, int]) -> str:
    config = config_of(recipe.lvlm)
    optimiser = recipe.optimiser
    height, width = size
    need = step_memory(
        config,
        recipe.options,
        recipe.rollout,
        view,
        calls=-(-(optimiser.clips if view == "clip" else optimiser.frames) // recipe.workers.count),
        tokens=recipe.tokens,
        frames=recipe.keyframes,
        height=height,
        width=width,
        checkpointing=recipe.activation_checkpointing,
    )
    return (
        f"{view} calls, {need.calls} to a pass, {recipe.keyframes} keyframes of {width}x{height} (L {need.length}): "
        f"{in_words(need.weight_bytes)} weights, {in_words(need.kept_bytes)} kept for the backward pass, "
        f"{in_words(need.rollout_bytes)} rollout, {in_words(need.working_bytes)} temporaries "
        f"({in_words(need.vision_bytes)} of the vision tower, before), about {in_words(need.total_bytes)} in all"
    )
