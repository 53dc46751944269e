"""A whole training, as every worker runs it: the model, the data, each prompt in turn, the files at the end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rvosbench.harness.settings import identity_of
from rvosbench.harness.store.keys import digest_of
from rvosbench.methods.models.lvlm.base import LvlmSettings
from rvosbench.methods.models.lvlm.checkpoints import lvlm_settings
from rvosbench.methods.models.lvlm.load import load_lvlm
from rvosbench.methods.models.lvlm.model import Lvlm
from rvosbench.methods.steerseg.prompt_files import BaseModelFacts, DataFacts, Role, save_soft_prompts
from rvosbench.methods.steerseg.training.attributes import attributes_of
from rvosbench.methods.steerseg.training.calls import CallBuilder
from rvosbench.methods.steerseg.training.files import PICTURES, PROMPTS, TrainingFolder
from rvosbench.methods.steerseg.training.loop import PromptTraining, Trained, require_frozen
from rvosbench.methods.steerseg.training.recipe import TrainRecipe
from rvosbench.methods.steerseg.training.sampling import Attributes, Split, split
from rvosbench.methods.steerseg.training.sources import Source, open_source
from rvosbench.methods.steerseg.training.targets import Float32
from rvosbench.methods.steerseg.training.workers import SingleProcess, Workers


def train(recipe: TrainRecipe, path: Path, workers: Workers | None = None) -> dict[Role, Trained]:
    """Trains the recipe's prompts in the folder, going on where it stands, and writes them to ``prompts/``.

    Args:
        recipe: what to train.
        path: the training's folder, shared by all workers.
        workers: who works; by default this process alone.

    Raises:
        PrerequisiteError: the model or the data is missing or damaged, or the loss is not finite; what was reached is
            kept.
    """
    workers, folder = workers or SingleProcess(), TrainingFolder(path)
    settings = lvlm_settings(recipe.lvlm, **vars(recipe.options))
    lvlm = load_lvlm(settings)
    require_frozen(lvlm)
    source = open_source(recipe.data, recipe.data_root, recipe.runs / "media-index", recipe.keyframes)
    attributes = attributes_of(recipe, path)
    parts = split(recipe, source, attributes)
    fingerprint = fingerprint_of(recipe, settings, source, attributes)
    call_builder = CallBuilder(lvlm, source, int(recipe.cache_gb * 2**30))
    trained: dict[Role, Trained] = {}
    for role in recipe.prompts:
        training = PromptTraining(recipe, role, lvlm, call_builder, parts, workers)
        trained[role] = training.run(folder, fingerprint)
        if workers.first and recipe.pictures:
            _draw(training, path / PICTURES)
    if workers.first:
        _save(recipe, lvlm, source, parts, trained, path / PROMPTS)
    return trained


def fingerprint_of(recipe: TrainRecipe, settings: LvlmSettings, source: Source, attributes: Attributes) -> str:
    """What a state belongs to: the recipe's identity, the model, the data and the attributes shown with it."""
    return digest_of(
        {
            "recipe": identity_of(recipe),
            "lvlm": identity_of(settings),
            "data": source.digest,
            "attributes": {key: list(texts) for key, texts in attributes.items()},
        }
    )


def _draw(training: PromptTraining, folder: Path) -> None:
    """Held-out calls without and with the prompt, one of each view for the first samples that have one."""
    # Here, as it needs packages of the command line.
    from rvosbench.methods.steerseg.training.pictures import draw

    for view in training.views:
        drawn = 0
        for sample in training.held_out:
            if drawn == training.recipe.pictures:
                break
            for call in training.call_builder.evaluation_calls(sample, view, 1):
                maps: list[Float32] = [training.maps([call], soft)[0].cpu().numpy() for soft in (None, training.soft)]
                draw(folder / f"{training.role}-{view}-{drawn}.png", call, *maps)
                drawn += 1


def _save(
    recipe: TrainRecipe,
    lvlm: Lvlm,
    source: Source,
    parts: Split,
    trained: Mapping[Role, Trained],
    folder: Path,
) -> None:
    settings = lvlm.settings
    _, _, commit = settings.digest.partition("@")
    base = BaseModelFacts(
        name=recipe.lvlm,
        digest=settings.digest,
        revision=commit or None,
        family=lvlm.family,
        width=int(lvlm.text_model.get_input_embeddings().weight.shape[1]),
        dtype=settings.dtype,
    )
    data = DataFacts(
        dataset=recipe.data.name,
        split=recipe.data.split,
        digest=source.digest,
        seed=recipe.data.seed if recipe.data.generate is not None else None,
        videos=parts.videos(parts.trained),
        held_out_videos=parts.videos(parts.held_out),
        samples=len(parts.trained),
    )
    save_soft_prompts(
        folder,
        {role: done.soft for role, done in trained.items()},
        base_model=base,
        training={role: (recipe.init, done.steps, done.losses) for role, done in trained.items()},
        data=data,
        seed=recipe.seed,
        recipe=identity_of(recipe),
        note=recipe.note,
    )
