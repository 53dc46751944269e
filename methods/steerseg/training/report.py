"""What a training gave: a few lines for its user, and its curves for MLflow."""

from __future__ import annotations

from pathlib import Path

from rvosbench.methods.steerseg.training.files import METRICS, PICTURES, PROMPTS, RECIPE, STEPS, TrainingFolder
from rvosbench.methods.steerseg.training.recipe import TrainRecipe, plain

_FIGURES = ("loss", "concentration", "pointing")


def report(path: Path) -> list[str]:
    """Held-out figures of every prompt and call, without it, before its training and after."""
    lines = TrainingFolder(path).lines(METRICS)
    out = []
    for prompt, view in dict.fromkeys((line["prompt"], line["view"]) for line in lines):
        own = [line for line in lines if (line["prompt"], line["view"]) == (prompt, view)]
        without = next(line for line in own if not line["soft"])
        steered = [line for line in own if line["soft"]]
        parts = [
            f"{name} {without[name]:.4f} -> {steered[0][name]:.4f} -> {steered[-1][name]:.4f}" for name in _FIGURES
        ]
        out.append(
            f"{prompt} prompt, {view} calls (without -> untrained -> after {steered[-1]['step']} steps; "
            f"{without['calls']} held-out calls): {', '.join(parts)}"
        )
    return out


def mirror(recipe: TrainRecipe, path: Path) -> str | None:
    """Copies curves and images to MLflow; why that failed, or None.

    Raises:
        PrerequisiteError: the package mlflow is not installed.
    """
    from rvosbench.harness.results.mlflow import MirrorFailure, default_uri
    from rvosbench.harness.results.mlflow_curves import Curves, mirror_curves

    folder = TrainingFolder(path)
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in folder.lines(STEPS):
        for name, value in line.items():
            if name not in ("prompt", "step", "of"):
                curves.setdefault(f"{line['prompt']}/{name}", []).append((line["step"], value))
    for line in folder.lines(METRICS):
        kind = "held_out" if line["soft"] else "held_out_without"
        for name in _FIGURES:
            curves.setdefault(f"{line['prompt']}/{kind}/{line['view']}_{name}", []).append((line["step"], line[name]))
    finished = (path / PROMPTS / "card.json").is_file()
    files = [path / name for name in (RECIPE, METRICS, STEPS) if (path / name).is_file()]
    outcome = mirror_curves(
        path,
        recipe.tracking.uri or default_uri(recipe.runs),
        Curves(
            name=f"train steerseg {recipe.name}",
            finished=finished,
            curves=curves,
            recipe=plain(recipe),
            tags={"rvosbench.training": "steerseg"},
            files=[*files, *([path / PROMPTS / "card.json"] if finished else [])],
            pictures=sorted((path / PICTURES).glob("*.png")),
        ),
    )
    return outcome.reason if isinstance(outcome, MirrorFailure) else None
