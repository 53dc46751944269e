"""Gradients of rollout through a model, down to soft prompts, with and without activation checkpointing.

Shape legend: B batch, L sequence, P soft prompt tokens, C hidden size, N layers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor
from toy.tiny_qwen import write_small

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.methods.attention.capture import capture
from rvosbench.methods.attention.recursion import LayerQK, rollout_rows
from rvosbench.methods.attention.spec import RolloutSpec
from rvosbench.methods.models.lvlm.checkpoints import lvlm_settings
from rvosbench.methods.models.lvlm.load import load_lvlm

from .test_recursion import plain_definition

PROMPTS = 5
"""Soft prompt tokens."""
Rollout = Callable[[list[LayerQK], Tensor, RolloutSpec], Tensor]


@dataclass(frozen=True, eq=False)
class Embedded:
    """What the text model of a small Qwen2.5-VL gets for a clip and a question."""

    text_model: Any
    inputs_embeds_BLC: Tensor
    position_ids_3BL: Tensor
    visual_L: Tensor

    def double(self) -> Embedded:
        text_model = copy.deepcopy(self.text_model).double()
        return Embedded(text_model, self.inputs_embeds_BLC.double(), self.position_ids_3BL, self.visual_L)

    def soft_prompt(self) -> Tensor:
        """(P, C), as large as the embeddings of the text."""
        hidden = self.inputs_embeds_BLC.shape[2]
        drawn_PC = torch.randn(PROMPTS, hidden, generator=torch.Generator().manual_seed(4))
        return (drawn_PC * self.inputs_embeds_BLC.std()).to(self.inputs_embeds_BLC.dtype).requires_grad_(True)

    def inputs(self, soft_PC: Tensor) -> dict[str, Any]:
        """The sequence with the soft prompt in front of it, every position moved on by P."""
        embeds_BLC = torch.cat([soft_PC.unsqueeze(0), self.inputs_embeds_BLC], 1)
        front_3BP = torch.arange(PROMPTS).expand(*self.position_ids_3BL.shape[:2], PROMPTS)
        positions_3BL = torch.cat([front_3BP, self.position_ids_3BL + PROMPTS], 2)
        return {"inputs_embeds": embeds_BLC, "position_ids": positions_3BL, "use_cache": False}

    def visual(self) -> Tensor:
        """(1, P + L)"""
        return torch.nn.functional.pad(self.visual_L, (PROMPTS, 0)).unsqueeze(0)

    def mass(self, row_BL: Tensor) -> Tensor:
        """The rollout's mass on the first third of the visual tokens."""
        columns = self.visual()[0].nonzero().flatten()
        return row_BL[0, columns[: len(columns) // 3]].sum()


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Embedded:
    folder: Path = write_small("qwen2_5_vl", tmp_path_factory.mktemp("checkpoint"), seed=0)
    model = load_lvlm(lvlm_settings(str(folder), dtype="float32", clip_max_tokens=24, device="cpu"))
    frames = list(np.random.default_rng(0).integers(0, 256, (3, 90, 150, 3), dtype=np.uint8))
    prompted = model.clip(frames, "the dog. \nWhat is it? ")
    given: dict[str, Tensor] = {}

    def look(_module: Any, _args: Any, arguments: dict[str, Any]) -> None:
        given.update({name: arguments[name] for name in ("inputs_embeds", "position_ids")})

    hook = model.text_model.register_forward_pre_hook(look, with_kwargs=True)
    with torch.no_grad():
        model.model.model(**prompted.inputs, use_cache=False)
    hook.remove()
    # A fourth row of positions, where there is one, is the text's own and is derived again.
    return Embedded(model.text_model, given["inputs_embeds"], given["position_ids"][-3:], prompted.visual_L)


def ours(layers: list[LayerQK], visual_BL: Tensor, spec: RolloutSpec) -> Tensor:
    return rollout_rows(layers, visual_BL, spec).rows_BL


def plain(layers: list[LayerQK], visual_BL: Tensor, spec: RolloutSpec) -> Tensor:
    return plain_definition(layers, visual_BL, spec)[0]


def soft_gradient(
    embedded: Embedded,
    spec: RolloutSpec,
    rollout: Rollout = ours,
    *,
    backward: Literal["inside", "outside"] = "outside",
) -> Tensor:
    """Of the mass with respect to the soft prompt; backward runs inside or outside the capture."""
    soft_PC = embedded.soft_prompt()
    text_model = embedded.text_model
    with capture(text_model, spec.layers(text_model.config.num_hidden_layers)) as captured:
        text_model(**embedded.inputs(soft_PC))
        mass = embedded.mass(rollout(captured.layers(), embedded.visual(), spec))
        if backward == "inside":
            mass.backward()
    if backward == "outside":
        mass.backward()
    assert soft_PC.grad is not None and soft_PC.grad.norm() > 1e-6
    return soft_PC.grad


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("head_weights", ["vmax", "max", "mean"])
@pytest.mark.parametrize("layers", [(None, None), (0, 4), (1, 3), (3, 4)])
def test_soft_prompts_get_the_plain_definitions_gradient(
    embedded: Embedded, head_weights: str, layers: tuple[int | None, int | None]
) -> None:
    start, end = layers
    spec = RolloutSpec(start_layer=start, end_layer=end, head_weights=head_weights, block=16)  # type: ignore[arg-type]
    double = embedded.double()
    expected = soft_gradient(double, spec, plain)
    assert relative(soft_gradient(double, spec), expected) < 1e-10
    assert relative(soft_gradient(embedded, spec), soft_gradient(embedded, spec, plain)) < 1e-5
    assert relative(soft_gradient(embedded, spec), expected) < 1e-5


@pytest.mark.parametrize("side", ["left", "right"])
def test_items_of_unequal_lengths_get_their_own_gradients(embedded: Embedded, side: str) -> None:
    # One item has the soft prompt in front, the other has not and is padded to the same length.
    spec = RolloutSpec()
    expected = soft_gradient(embedded, spec)
    soft_PC = embedded.soft_prompt()
    longer = embedded.inputs(soft_PC)
    length = longer["inputs_embeds"].shape[1]
    missing = (PROMPTS, 0) if side == "left" else (0, PROMPTS)
    pad = torch.nn.functional.pad
    shorter_BLC = pad(embedded.inputs_embeds_BLC, (0, 0, *missing), value=3.0)
    mask_BL = torch.ones(2, length, dtype=torch.long)
    mask_BL[1] = pad(torch.ones(length - PROMPTS, dtype=torch.long), missing)
    visual_BL = torch.cat([embedded.visual(), pad(embedded.visual_L, missing).unsqueeze(0)])
    with capture(embedded.text_model, range(2, 4)) as captured:
        embedded.text_model(
            inputs_embeds=torch.cat([longer["inputs_embeds"], shorter_BLC]),
            position_ids=torch.cat([longer["position_ids"], pad(embedded.position_ids_3BL, missing)], 1),
            attention_mask=mask_BL,
            use_cache=False,
        )
        rows_BL = rollout_rows(captured.layers(), visual_BL, spec, mask_BL).rows_BL
    with torch.no_grad(), capture(embedded.text_model, range(2, 4)) as captured:
        embedded.text_model(inputs_embeds=embedded.inputs_embeds_BLC, position_ids=embedded.position_ids_3BL)
        alone_BL = rollout_rows(captured.layers(), embedded.visual_L.unsqueeze(0), spec).rows_BL
    torch.testing.assert_close(rows_BL[1:, mask_BL[1] == 1].detach(), alone_BL, rtol=1e-4, atol=1e-7)
    embedded.mass(rows_BL).backward()
    assert soft_PC.grad is not None
    assert relative(soft_PC.grad, expected) < 1e-4


def test_the_gradient_points_uphill(embedded: Embedded) -> None:
    # A small step along it changes the mass by what it says, computed by the inference path.
    double = embedded.double()
    slope_PC = soft_gradient(double, RolloutSpec())
    masses = []
    with torch.inference_mode():
        for step in (-1e-2, 1e-2):
            with capture(double.text_model, range(2, 4)) as captured:
                double.text_model(**double.inputs(double.soft_prompt() + step * slope_PC / slope_PC.norm()))
            masses.append(double.mass(ours(captured.layers(), double.visual(), RolloutSpec())))
    assert float((masses[1] - masses[0]) / 2e-2) == pytest.approx(float(slope_PC.norm()), rel=1e-3)


@contextmanager
def checkpointed(embedded: Embedded, kernel: str = "sdpa") -> Iterator[tuple[Embedded, list[int]]]:
    """A copy whose layers are computed again in the backward pass, and how often each layer's attention ran."""
    text_model = copy.deepcopy(embedded.text_model)
    text_model.set_attn_implementation(kernel)
    text_model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    text_model.train()
    runs = [0] * len(text_model.layers)
    for index, layer in enumerate(text_model.layers):

        def count(*_: Any, index: int = index) -> None:
            runs[index] += 1

        layer.self_attn.register_forward_pre_hook(count)
    yield Embedded(text_model, embedded.inputs_embeds_BLC, embedded.position_ids_3BL, embedded.visual_L), runs


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("backward", ["inside", "outside"])
@pytest.mark.parametrize("start", [0, 2])
def test_checkpointing_changes_nothing(
    embedded: Embedded, kernel: str, backward: Literal["inside", "outside"], start: int
) -> None:
    spec = RolloutSpec(start_layer=start)
    with checkpointed(embedded, kernel) as (model, runs):
        found = soft_gradient(model, spec, backward=backward)
        assert runs == [2, 2, 2, 2]
        model.text_model.gradient_checkpointing_disable()
        expected = soft_gradient(model, spec)
        assert runs == [3, 3, 3, 3]
    assert relative(found, expected) < 1e-6


def test_an_earlier_backward_inside_a_later_capture(embedded: Embedded) -> None:
    # Layers of the earlier pass are computed again while the later capture, of other inputs, is open.
    spec = RolloutSpec()
    expected = soft_gradient(embedded, spec)
    with checkpointed(embedded) as (again, _):
        earlier, later = again.soft_prompt(), again.soft_prompt()
        with capture(again.text_model, range(2, 4)) as captured:
            again.text_model(**again.inputs(earlier))
        earlier_mass = again.mass(ours(captured.layers(), again.visual(), spec))
        with capture(again.text_model, range(2, 4)) as captured:
            earlier_mass.backward()
            with pytest.raises(PrerequisiteError, match="was not captured"):
                captured.layers()
            again.text_model(**again.inputs(2 * later))
            kept = captured.layers()[0].query_BALD
            again.mass(ours(captured.layers(), again.visual(), spec)).backward()
            assert captured.layers()[0].query_BALD is kept
            with pytest.raises(RuntimeError, match="one forward pass"):
                again.text_model(**again.inputs(later))
    assert earlier.grad is not None and later.grad is not None
    assert relative(earlier.grad, expected) < 1e-6
    assert relative(later.grad, expected) > 1e-3


def test_a_training_loop_moves_the_mass(embedded: Embedded) -> None:
    # Three steps down the loss: the mass on the chosen tokens grows.
    spec = RolloutSpec()
    with checkpointed(embedded) as (again, _):
        soft_PC = again.soft_prompt()
        optimiser = torch.optim.SGD([soft_PC], lr=0.1)
        masses = []
        for _ in range(4):
            optimiser.zero_grad()
            with capture(again.text_model, range(2, 4)) as captured:
                again.text_model(**again.inputs(soft_PC))
            mass = again.mass(ours(captured.layers(), again.visual(), spec))
            (-mass.log()).backward()
            optimiser.step()
            masses.append(mass.item())
    assert masses == sorted(masses) and masses[-1] > masses[0]
