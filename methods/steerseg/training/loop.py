"""The training of one prompt: units in order, maps, losses, one step after the other.

Needs torch and transformers only; Ray and MLflow stand around it.

Shape legend: n soft tokens, D hidden size, t h w a map's grid.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.methods.models.lvlm.model import Lvlm
from rvosbench.methods.models.lvlm.soft import SoftPrompt, with_soft
from rvosbench.methods.steerseg.prompt_files import Role
from rvosbench.methods.steerseg.training.calls import Call, CallBuilder, ahead
from rvosbench.methods.steerseg.training.files import METRICS, STEPS, State, TrainingFolder
from rvosbench.methods.steerseg.training.losses import map_loss
from rvosbench.methods.steerseg.training.passes import soft_maps, together
from rvosbench.methods.steerseg.training.recipe import TrainRecipe, View
from rvosbench.methods.steerseg.training.sampling import Sample, Split, Unit, UnitSampler, evaluation_samples
from rvosbench.methods.steerseg.training.targets import concentration, points_inside
from rvosbench.methods.steerseg.training.workers import Workers

Batch = dict[View, list[Call]]
"""This worker's calls of one step."""


@dataclass(frozen=True, eq=False)
class Trained:
    """A prompt after its last step."""

    soft: SoftPrompt
    steps: int
    losses: dict[str, float]
    """First and last of the training, and the held-out figures without and with the prompt."""


@dataclass(frozen=True)
class EvalResult:
    """The evaluation of one call's map against its target."""

    name: str
    """Of the call."""
    loss: float
    concentration: float
    """Fraction of the map's attention mass on the target."""
    pointing: bool
    """Whether the highest cell lies on the target."""


@dataclass(frozen=True)
class Figures:
    """Means over the held-out calls of a view."""

    loss: float
    concentration: float
    pointing: float
    calls: int


class PromptTraining:
    """Trains one prompt on the calls it enters."""

    def __init__(
        self,
        recipe: TrainRecipe,
        role: Role,
        lvlm: Lvlm,
        call_builder: CallBuilder,
        split: Split,
        workers: Workers,
    ) -> None:
        self.recipe = recipe
        self.role: Role = role
        self.views = recipe.prompts[role]
        self.lvlm = lvlm
        self.call_builder = call_builder
        self.workers = workers
        self.samplers = {view: UnitSampler(recipe, split.trained, view) for view in self.views}
        self.held_out = evaluation_samples(recipe, split.held_out)
        self.steps = max(samplers.steps for samplers in self.samplers.values())
        self.soft = SoftPrompt(self._first_vectors().requires_grad_(True), recipe.position)
        optimiser = recipe.optimiser
        self.optimiser = torch.optim.AdamW(
            [self.soft.vectors_nD], lr=optimiser.rate, weight_decay=optimiser.weight_decay
        )

    def run(self, folder: TrainingFolder, fingerprint: str) -> Trained:
        """Trains from the folder's last state, or from the start.

        Raises:
            PrerequisiteError: the loss is not finite, or the data is damaged; the last state is kept.
        """
        state = folder.load(self.role, fingerprint)
        losses: dict[str, float] = {}
        start = 0
        if state is not None:
            start, losses = state.step, dict(state.losses)
            with torch.no_grad():
                self.soft.vectors_nD.copy_(state.vectors_nD)
            self.optimiser.load_state_dict(dict(state.optimiser))
            if self.workers.first:
                folder.rewind(self.role, start)
        else:
            if self.workers.first:
                folder.rewind(self.role, -1)
            losses |= self._evaluate(folder, 0, None) | self._evaluate(folder, 0, self.soft)
            self._save(folder, 0, losses, fingerprint)
        batches = ahead(islice(self._units(start), self.steps - start), self._prepared)
        with self._ready():
            for step, batch in enumerate(batches, start + 1):
                line = self._step(step, batch)
                losses["last"] = float(line["loss"])
                losses.setdefault("first", losses["last"])
                if self.workers.first:
                    folder.append(STEPS, {"prompt": self.role, "step": step, "of": self.steps, **line})
                every = self.recipe.evaluate_every
                if step == self.steps or (every is not None and step % every == 0):
                    losses |= self._evaluate(folder, step, self.soft)
                if step == self.steps or step % self.recipe.checkpoint_every == 0:
                    self._save(folder, step, losses, fingerprint)
        return Trained(self.soft, self.steps, losses)

    def evaluate_view(self, view: View, soft: SoftPrompt | None) -> Figures:
        """The held-out figures of a view, over all workers.

        Raises:
            PrerequisiteError: a map is not finite, or no held-out object is to be seen.
        """
        bad: list[str] = []
        totals = torch.zeros(4, dtype=torch.float64)
        for sample in self.workers.shard(self.held_out):
            for one in self.evaluate_sample(sample, view, soft):
                totals += torch.tensor([one.loss, one.concentration, one.pointing, 1.0], dtype=torch.float64)
                bad += [one.name] if not math.isfinite(one.loss) else []
        totals = self.workers.sum(totals.to(self.lvlm.model.device)).cpu()
        loss, mass, inside, calls_done = totals.tolist()
        if not math.isfinite(loss):
            self._refuse("on held-out videos", self.workers.gather(bad))
        if not calls_done:
            raise PrerequisiteError(
                "No held-out expression has its object on a keyframe.", "Give more videos, or another data.held_out."
            )
        return Figures(loss / calls_done, mass / calls_done, inside / calls_done, int(calls_done))

    def evaluate_sample(self, sample: Sample, view: View, soft: SoftPrompt | None) -> list[EvalResult]:
        """The maps of the calls by which a sample is evaluated, none where its object is on no keyframe.

        Raises:
            PrerequisiteError: a file is damaged, or a prompt too long; names the sample.
        """
        choice = self.recipe.loss
        calls = self.call_builder.evaluation_calls(sample, view, self.recipe.optimiser.frames_per_sample)
        results = []
        for call, map_thw in zip(calls, self.maps(calls, soft), strict=True):
            bce, dice = map_loss(map_thw, torch.from_numpy(call.fractions_thw).to(map_thw.device), choice)
            found = map_thw.cpu().numpy()
            results.append(
                EvalResult(
                    call.name,
                    float(choice.bce * bce + choice.dice * dice),
                    concentration(found, call.fractions_thw),
                    points_inside(found, call.masks_THW),
                )
            )
        return results

    @torch.no_grad()
    def maps(self, calls: Sequence[Call], soft: SoftPrompt | None) -> list[Tensor]:
        """The calls' maps without gradients."""
        made: dict[int, Tensor] = {}
        for some, maps in self._passes(calls, soft):
            made.update(zip(some, maps, strict=True))
        return [made[index] for index in range(len(calls))]

    def _passes(
        self, calls: Sequence[Call], soft: SoftPrompt | None, *, weight_gradient: bool = False
    ) -> Iterator[tuple[list[int], list[Tensor]]]:
        """Pass by pass, indices of calls and their maps."""
        items = [with_soft(self.lvlm, call.prompted, soft) for call in calls]
        for some in together(items, self.lvlm.settings.frame_batch):
            seen = [self.call_builder.seen(calls[index]) for index in some]
            batch = [items[index] for index in some]
            yield some, soft_maps(self.lvlm, batch, seen, self.recipe.rollout, weight_gradient=weight_gradient)

    def _units(self, start: int) -> Iterator[dict[View, list[Unit]]]:
        streams = {view: samplers.units(start) for view, samplers in self.samplers.items()}
        while True:
            yield {view: next(units) for view, units in streams.items()}

    def _prepared(self, units: dict[View, list[Unit]]) -> Batch:
        return {
            view: self.call_builder.calls(self.workers.shard(own), self.samplers[view]) for view, own in units.items()
        }

    def _step(self, step: int, batch: Batch) -> dict[str, float]:
        """One step of the optimiser, and its figures over all workers."""
        recipe, vectors_nD = self.recipe, self.soft.vectors_nD
        counts = torch.tensor([len(batch[view]) for view in self.views], dtype=torch.float64)
        counts = self.workers.sum(counts.to(vectors_nD.device)).cpu()
        self.optimiser.zero_grad(set_to_none=True)
        sums = torch.zeros(len(self.views), 2, dtype=torch.float64, device=vectors_nD.device)
        bad: list[str] = []
        for index, view in enumerate(self.views):
            calls = batch[view]
            for some, maps in self._passes(calls, self.soft, weight_gradient=recipe.weight_gradient):
                parts = self._losses([calls[key] for key in some], maps)
                finite = parts.isfinite().all(1).tolist()
                bad += [calls[key].name for key, fine in zip(some, finite, strict=True) if not fine]
                weights = parts.new_tensor([recipe.loss.bce, recipe.loss.dice])
                torch.autograd.backward((parts * weights).sum() / float(counts[index]))
                sums[index] += parts.detach().double().sum(0)
        gradient_nD = vectors_nD.grad if vectors_nD.grad is not None else torch.zeros_like(vectors_nD)
        vectors_nD.grad = self.workers.sum(gradient_nD)
        sums = self.workers.sum(sums).cpu() / counts.clamp_min(1.0).unsqueeze(1)
        norm = float(torch.nn.utils.clip_grad_norm_([vectors_nD], recipe.optimiser.clip_norm))
        total = recipe.loss.bce * float(sums[:, 0].sum()) + recipe.loss.dice * float(sums[:, 1].sum())
        if not math.isfinite(total + norm):
            self._refuse(
                f"at step {step}", self.workers.gather(bad or [call.name for calls in batch.values() for call in calls])
            )
        rate = recipe.optimiser.rate * recipe.optimiser.factor(step - 1, self.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        require_frozen(self.lvlm)
        parts_line = {
            f"{view}_{name}": value
            for view, values in zip(self.views, sums.tolist(), strict=True)
            for name, value in zip(("bce", "dice"), values, strict=True)
        }
        return {"loss": total, **parts_line, "rate": rate, "norm": norm}

    def _losses(self, calls: Sequence[Call], maps: Sequence[Tensor]) -> Tensor:
        """BCE and Dice of each call, (calls, 2)."""
        rows = [
            torch.stack(map_loss(map_thw, torch.from_numpy(call.fractions_thw).to(map_thw.device), self.recipe.loss))
            for call, map_thw in zip(calls, maps, strict=True)
        ]
        return torch.stack(rows)

    def _refuse(self, when: str, names: Sequence[str]) -> None:
        shown = "; ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        raise PrerequisiteError(
            f"The loss of the {self.role} prompt is not finite {when}, in the batch with {shown}.",
            "The last state is kept. Lower optimiser.rate, set options.dtype to float32, or leave the video out.",
        )

    def _evaluate(self, folder: TrainingFolder, step: int, soft: SoftPrompt | None) -> dict[str, float]:
        """Evaluates the held-out videos and appends the figures to the metrics file."""
        found: dict[str, float] = {}
        for view in self.views:
            figures = self.evaluate_view(view, soft)
            if self.workers.first:
                line = {"prompt": self.role, "view": view, "step": step, "soft": soft is not None, **vars(figures)}
                folder.append(METRICS, line)
            moment = "without" if soft is None else "at first" if step == 0 else "held out"
            found |= {f"{view} {name}, {moment}": value for name, value in vars(figures).items() if name != "calls"}
        return found

    def _save(self, folder: TrainingFolder, step: int, losses: dict[str, float], fingerprint: str) -> None:
        if self.workers.first:
            state = State(step, self.soft.vectors_nD, self.optimiser.state_dict(), dict(losses))
            folder.save(self.role, state, fingerprint)

    def _first_vectors(self) -> Tensor:
        """(n, D) float32 on the model's device, from the seed alone."""
        table_VD = self.lvlm.text_model.get_input_embeddings().weight
        shape = (self.recipe.tokens, int(table_VD.shape[1]))
        # The two prompts of a training begin apart.
        generator = torch.Generator().manual_seed(2 * self.recipe.seed + (self.role == "frame"))
        if self.recipe.init == "normal":
            vectors_nD = 0.02 * torch.randn(shape, generator=generator)
        else:
            ids_n = torch.randint(int(table_VD.shape[0]), shape[:1], generator=generator)
            vectors_nD = table_VD[ids_n.to(table_VD.device)].detach().float()
        return vectors_nD.to(self.lvlm.model.device)

    @contextmanager
    def _ready(self) -> Iterator[None]:
        """The language model computes its layers again in the backward pass, where the recipe sets it.

        Raises:
            PrerequisiteError: the device ran out of memory.
        """
        text_model = self.lvlm.text_model
        if self.recipe.activation_checkpointing:
            text_model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            # Checkpointing depends on this mode; dropout, which also depends on it, is 0 in these models.
            text_model.train()
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise PrerequisiteError(
                "The device ran out of memory.", "Lower options.frame_batch, or set activation_checkpointing to true."
            ) from error
        finally:
            if self.recipe.activation_checkpointing:
                text_model.gradient_checkpointing_disable()
                text_model.eval()


def require_frozen(lvlm: Lvlm) -> None:
    """Nothing of the model learns.

    Raises:
        RuntimeError: a parameter would, or did, get a gradient.
    """
    for name, parameter in lvlm.model.named_parameters():
        if parameter.requires_grad or parameter.grad is not None:
            raise RuntimeError(f"'{name}' of the frozen model gets a gradient")
