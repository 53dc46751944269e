"""Evaluates soft prompts on held-out synthetic clips: maps without a prompt, with an untrained one and with trained
ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter

from rvosbench.methods.models.lvlm.checkpoints import lvlm_settings
from rvosbench.methods.models.lvlm.load import load_lvlm
from rvosbench.methods.models.lvlm.soft import SoftPrompt
from rvosbench.methods.steerseg.prompt_files import SoftPromptSettings, load_soft_prompts, read_card
from rvosbench.methods.steerseg.training.calls import CallBuilder
from rvosbench.methods.steerseg.training.loop import EvalResult, PromptTraining
from rvosbench.methods.steerseg.training.recipe import DataChoice, TrainRecipe, View
from rvosbench.methods.steerseg.training.sampling import Split, split
from rvosbench.methods.steerseg.training.sources import open_source
from rvosbench.methods.steerseg.training.workers import SingleProcess

WITHOUT, UNTRAINED = "without", "untrained"
EvalResults = dict[tuple[str, str], EvalResult]
"""Results by (seed and video, call)."""


class PromptEvaluator:
    """Prompts of one model and recipe, on a CPU in float32."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        """
        Args:
            folders: name -> prompts. The training of the first gives the recipe and the untrained vectors.

        Raises:
            PrerequisiteError: no prompts there, or of another model.
        """
        first = read_card(next(iter(folders.values())))
        chosen = {
            "name": "worth",
            "lvlm": first.base_model.name,
            "options": {"dtype": "float32", "device": "cpu", "frame_batch": 32},
            "evaluate_samples": 100_000,
        }
        self.recipe: TrainRecipe = TypeAdapter(TrainRecipe).validate_python({**first.recipe, **chosen})
        lvlm = load_lvlm(lvlm_settings(self.recipe.lvlm, **vars(self.recipe.options)))
        self.lvlm = lvlm
        self.prompts = {
            name: load_soft_prompts(SoftPromptSettings(folder=str(folder)), lvlm) for name, folder in folders.items()
        }

    def evaluate(self, view: View, seed: int, clips: int) -> dict[str, EvalResults]:
        """Evaluation of every row's maps on the first ``clips`` (two at least) of a seed's valid split."""
        data = DataChoice(name="shapes", split="valid", generate=clips, seed=seed)
        training = self._training(replace(self.recipe, data=data), view)
        rows: dict[str, SoftPrompt | None] = {WITHOUT: None, UNTRAINED: training.soft}
        rows |= {name: soft.clip if view == "clip" else soft.frame for name, soft in self.prompts.items()}
        return {
            name: {
                (f"{seed} {sample.video}", f"{sample.expression} {number}"): one
                for sample in training.held_out
                for number, one in enumerate(training.evaluate_sample(sample, view, soft))
            }
            for name, soft in rows.items()
        }

    def _training(self, recipe: TrainRecipe, view: View) -> PromptTraining:
        """A training that is never run; it holds the untrained vectors and evaluates maps."""
        source = open_source(recipe.data, recipe.data_root, recipe.runs, recipe.keyframes)
        parts = split(recipe, source, {})
        everything = Split((), (*parts.trained, *parts.held_out))
        return PromptTraining(
            recipe, view, self.lvlm, CallBuilder(self.lvlm, source, 2**30), everything, SingleProcess()
        )
