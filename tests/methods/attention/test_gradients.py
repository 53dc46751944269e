"""Gradients of rolled-out rows against the plain definition, and the memory that they take.

Shape legend: B batch, A attention heads, K key heads, L sequence, D head dim, N layers.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rvosbench.methods.attention.recursion import LayerQK, layer_pass, rollout_rows
from rvosbench.methods.attention.spec import RolloutSpec

from .test_recursion import plain_definition, random_layers, visual_mask


def gradients(
    layers: Sequence[LayerQK], loss: Callable[[list[LayerQK]], Tensor], dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """Of every layer's queries and keys, in order; the values are those of ``layers`` in ``dtype``."""
    leaves = [
        LayerQK(
            layer.query_BALD.to(dtype).detach().requires_grad_(True),
            layer.key_BKLD.to(dtype).detach().requires_grad_(True),
            layer.scale,
        )
        for layer in layers
    ]
    inputs = [tensor for layer in leaves for tensor in (layer.query_BALD, layer.key_BKLD)]
    return list(torch.autograd.grad(loss(leaves), inputs))


def apart(ours: Sequence[Tensor], plain: Sequence[Tensor]) -> float:
    """Largest distance over tensors, each relative to the size of the plain gradient."""
    assert all(expected.norm() > 1e-6 for expected in plain)
    pairs = zip(ours, plain, strict=True)
    return max(float((found.double() - expected).norm() / expected.norm()) for found, expected in pairs)


def some_function(rows_BL: Tensor, weights_BNA: Tensor) -> Tensor:
    """A loss in which every row entry and every head weight counts differently."""
    generator = torch.Generator().manual_seed(9)
    target_BL = torch.randn(rows_BL.shape, generator=generator, dtype=torch.float64)
    wanted_BNA = torch.randn(weights_BNA.shape, generator=generator, dtype=torch.float64)
    return (rows_BL.double() * target_BL).sum() + (rows_BL[:, 3:9] ** 2).sum() + 0.1 * (weights_BNA * wanted_BNA).sum()


@pytest.mark.parametrize("head_weights", ["vmax", "max", "mean"])
@pytest.mark.parametrize("block", [1, 16, 200])
def test_gradients_equal_the_plain_definition(head_weights: str, block: int) -> None:
    layers = random_layers(67, batch=2)
    visual_BL = visual_mask(67, (5, 20), (24, 60), batch=2)
    visual_BL[1, 30:40] = False
    spec = RolloutSpec(head_weights=head_weights, block=block, residual=0.3)  # type: ignore[arg-type]

    def ours(leaves: list[LayerQK]) -> Tensor:
        rows = rollout_rows(leaves, visual_BL, spec)
        return some_function(rows.rows_BL, rows.head_weights_BNA)

    plain = gradients(layers, lambda leaves: some_function(*plain_definition(leaves, visual_BL, spec)))
    assert apart(gradients(layers, ours), plain) < 1e-11
    assert apart(gradients(layers, ours, torch.float32), plain) < 1e-5


@pytest.mark.parametrize("heads", [(1, 1), (4, 4), (4, 1)])
def test_shared_and_separate_keys(heads: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(3)
    layers = [
        LayerQK(
            torch.randn(1, heads[0], 33, 8, generator=generator),
            torch.randn(1, heads[1], 33, 8, generator=generator),
            0.5,
        )
        for _ in range(2)
    ]
    visual_BL = visual_mask(33, (2, 30))
    ours = gradients(layers, lambda leaves: rollout_rows(leaves, visual_BL, RolloutSpec(block=8)).rows_BL[0, 4:9].sum())
    plain = gradients(layers, lambda leaves: plain_definition(leaves, visual_BL, RolloutSpec())[0][0, 4:9].sum())
    assert apart(ours, plain) < 1e-11


def test_head_weights_as_constants() -> None:
    layers, visual_BL = random_layers(40), visual_mask(40, (5, 30))

    def ours(leaves: list[LayerQK]) -> Tensor:
        return rollout_rows(leaves, visual_BL, RolloutSpec(), weight_gradient=False).rows_BL[0, 7:12].sum()

    def plain(leaves: list[LayerQK]) -> Tensor:
        return plain_definition(leaves, visual_BL, RolloutSpec(), weight_gradient=False)[0][0, 7:12].sum()

    through = gradients(layers, lambda leaves: rollout_rows(leaves, visual_BL, RolloutSpec()).rows_BL[0, 7:12].sum())
    constant = gradients(layers, plain)
    assert apart(gradients(layers, ours), constant) < 1e-11
    assert apart(through, constant) > 1e-2


def test_one_pass_against_finite_differences() -> None:
    generator = torch.Generator().manual_seed(5)
    query = torch.randn(4, 9, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    key = torch.randn(2, 9, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    rows = torch.rand(2, 9, generator=generator, dtype=torch.float64, requires_grad=True)

    def one_pass(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        return layer_pass(inputs[0], inputs[1], 0.7, inputs[2], [(1, 3), (5, 7)], block=4)

    assert torch.autograd.gradcheck(one_pass, (query, key, rows))


@pytest.mark.parametrize("head_weights", ["vmax", "max", "mean"])
def test_gradients_of_several_response_tokens(head_weights: str) -> None:
    layers = random_layers(40, layers=3, dtype=torch.float64)
    visual_BL, spec = visual_mask(40, (5, 25)), RolloutSpec(head_weights=head_weights, block=8)
    target_RL = torch.randn(3, 40, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def together(leaves: list[LayerQK]) -> Tensor:
        return (rollout_rows(leaves, visual_BL, spec, positions=(-1, 30, 33)).rows_BRL[0] * target_RL).sum()

    def one_by_one(leaves: list[LayerQK]) -> Tensor:
        rows = [rollout_rows(leaves, visual_BL, spec, positions=(at,)).rows_BL[0] for at in (-1, 30, 33)]
        return (torch.stack(rows) * target_RL).sum()

    assert apart(gradients(layers, together), gradients(layers, one_by_one)) < 1e-11


def test_a_row_known_to_be_zero_at_first() -> None:
    # Rows before `first` are skipped where nothing needs them; what is computed must not change.
    query, key = random_layers(30, layers=1, dtype=torch.float64)[0].query_BALD[0], torch.randn(2, 30, 16).double()
    row = torch.zeros(1, 30, dtype=torch.float64)
    row[:, 21:] = torch.rand(9, dtype=torch.float64)
    found = []
    for first in (0, 21):
        leaves = [tensor.clone().requires_grad_(True) for tensor in (query, key, row)]
        mass_ARL, _ = layer_pass(leaves[0], leaves[1], 0.25, leaves[2], None, block=8, first=first)
        found.append(torch.autograd.grad((mass_ARL**2).sum(), leaves))
    torch.testing.assert_close(found[0][:2], found[1][:2], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found[0][2][:, 21:], found[1][2][:, 21:], rtol=1e-12, atol=1e-14)
    assert found[1][2][:, :21].abs().sum() == 0


def test_equal_maxima_share_their_gradient() -> None:
    # Columns 6 and 20 hold the same key, and heads 0 and 1 the same queries: each has half of what arrives.
    layers = random_layers(30, layers=2)
    for layer in layers:
        layer.key_BKLD[:, :, 20] = layer.key_BKLD[:, :, 6] = 3 * layer.query_BALD[:, [0, 3]].mean(2)
        layer.query_BALD[:, 1] = layer.query_BALD[:, 0]
    visual_BL = visual_mask(30, (4, 9), (18, 26))
    weights = torch.arange(30.0, dtype=torch.float64)
    with_equals = plain_definition(layers, visual_BL, RolloutSpec())[1][0, 0]
    assert with_equals[0] == with_equals[1] == with_equals.max()

    def plain(leaves: list[LayerQK]) -> Tensor:
        return plain_definition(leaves, visual_BL, RolloutSpec())[0][0] @ weights

    def ours(leaves: list[LayerQK]) -> Tensor:
        return rollout_rows(leaves, visual_BL, RolloutSpec(block=8)).rows_BL[0] @ weights

    assert apart(gradients(layers, ours), gradients(layers, plain)) < 1e-11


def test_peaky_attention() -> None:
    layers = [LayerQK(12 * layer.query_BALD, layer.key_BKLD, layer.scale) for layer in random_layers(40)]
    visual_BL = visual_mask(40, (5, 30))
    ours = gradients(layers, lambda leaves: rollout_rows(leaves, visual_BL, RolloutSpec()).rows_BL[0, 5:25].sum())
    plain = gradients(layers, lambda leaves: plain_definition(leaves, visual_BL, RolloutSpec())[0][0, 5:25].sum())
    assert apart(ours, plain) < 1e-10


def test_padding_gets_no_gradient() -> None:
    layers, visual_BL = random_layers(40, batch=2), visual_mask(40, (10, 25), batch=2)
    mask_BL = torch.ones(2, 40)
    mask_BL[0, :6], mask_BL[1, 33:] = 0, 0
    found = gradients(
        layers, lambda leaves: rollout_rows(leaves, visual_BL, RolloutSpec(), mask_BL).rows_BL[:, 12:20].sum()
    )
    for item, (start, end) in enumerate(((6, 40), (0, 33))):
        alone = [
            LayerQK(qk.query_BALD[item : item + 1, :, start:end], qk.key_BKLD[item : item + 1, :, start:end], qk.scale)
            for qk in layers
        ]
        visual = visual_BL[item : item + 1, start:end]
        columns = slice(12 - start, 20 - start)

        def single(leaves: list[LayerQK], visual: Tensor = visual, columns: slice = columns) -> Tensor:
            return plain_definition(leaves, visual, RolloutSpec())[0][0, columns].sum()

        plain = gradients(alone, single)
        assert apart([tensor[item : item + 1, :, start:end] for tensor in found], plain) < 1e-11
        assert all(tensor[item, :, :start].abs().sum() + tensor[item, :, end:].abs().sum() == 0 for tensor in found)


def test_half_precision_and_autocast() -> None:
    layers, visual_BL = random_layers(40, dtype=torch.bfloat16), visual_mask(40, (5, 30))

    def ours(leaves: list[LayerQK]) -> Tensor:
        return rollout_rows(leaves, visual_BL, RolloutSpec()).rows_BL[0, 5:25].sum()

    plain = gradients(layers, lambda leaves: plain_definition(leaves, visual_BL, RolloutSpec())[0][0, 5:25].sum())
    half = gradients(layers, ours, torch.bfloat16)
    assert {tensor.dtype for tensor in half} == {torch.bfloat16}
    assert apart(half, plain) < 4e-3  # the type's own rounding; the arithmetic before it is float32
    single = gradients(layers, ours, torch.float32)
    assert apart(single, plain) < 1e-5

    def cast_ours(leaves: list[LayerQK]) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return ours(leaves)

    cast = gradients(layers, cast_ours, torch.float32)
    assert all(torch.equal(found, expected) for found, expected in zip(cast, single, strict=True))


def test_without_gradients_nothing_changes_and_nothing_is_kept() -> None:
    layers, visual_BL = random_layers(50), visual_mask(50, (5, 30))
    leaves = [LayerQK(layer.query_BALD.clone().requires_grad_(True), layer.key_BKLD, layer.scale) for layer in layers]
    tracked = rollout_rows(leaves, visual_BL, RolloutSpec())
    assert tracked.rows_BL.requires_grad
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            rows = rollout_rows(leaves, visual_BL, RolloutSpec())
        assert not rows.rows_BL.requires_grad
        assert torch.equal(rows.rows_BL, tracked.rows_BL)
        assert torch.equal(rows.head_weights_BNA, tracked.head_weights_BNA)


def test_a_second_derivative_is_refused() -> None:
    query = random_layers(20, layers=1)[0].query_BALD[0].requires_grad_(True)
    mass_ARL, _ = layer_pass(query, torch.randn(2, 20, 16), 0.25, torch.rand(1, 20), [(0, 9)], block=8)
    (slope,) = torch.autograd.grad((mass_ARL**2).sum(), query, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


class Memory(TorchDispatchMode):
    """Sizes in bytes of the tensors that operations make: the largest, and the most alive at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.alive = self.peak = 0
        self.operations: set[str] = set()
        self._known: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        made = func(*args, **(kwargs or {}))
        self.operations.add(func.name())
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor) and id(leaf.untyped_storage()) not in given:
                storage = leaf.untyped_storage()
                if storage not in self._known:
                    size = storage.nbytes()
                    self._known[storage] = size
                    self.alive += size
                    self.largest, self.peak = max(self.largest, size), max(self.peak, self.alive)
                    weakref.finalize(storage, self._gone, size)
        return made

    def _gone(self, size: int) -> None:
        self.alive -= size


@contextmanager
def saved_bytes() -> Iterator[Callable[[], int]]:
    """Bytes of the distinct storages that autograd keeps of what runs inside the block."""
    kept: dict[int, tuple[Tensor, int]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = (tensor, storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield lambda: sum(size for _, size in kept.values())


HEADS, KEY_HEADS, DEPTH, BLOCK, LAYERS = 6, 2, 16, 8, 3


def leaves_of(length: int) -> tuple[list[LayerQK], Tensor]:
    layers = random_layers(length, layers=LAYERS)
    for layer in layers:
        layer.query_BALD.requires_grad_(True)
        layer.key_BKLD.requires_grad_(True)
    return layers, visual_mask(length, (5, length - 20))


@pytest.mark.parametrize("head_weights", ["vmax", "mean"])
def test_what_is_kept_for_backward_grows_with_the_length_alone(head_weights: str) -> None:
    spec = RolloutSpec(head_weights=head_weights, block=BLOCK)  # type: ignore[arg-type]
    kept = {}
    for length in (256, 512, 1024):
        layers, visual_BL = leaves_of(length)
        with saved_bytes() as total:
            rollout_rows(layers, visual_BL, spec)
            kept[length] = total()
        inputs = 4 * LAYERS * (HEADS + KEY_HEADS) * length * DEPTH
        # Beside Q and K, which the model's graph holds anyway: a few numbers per head and row.
        assert inputs <= kept[length] <= inputs + 4 * LAYERS * 5 * HEADS * length
    assert kept[1024] < 2.02 * kept[512] < 4.1 * kept[256]
    assert kept[1024] < 0.1 * 4 * LAYERS * HEADS * 1024 * 1024


@pytest.mark.parametrize("head_weights", ["vmax", "max", "mean"])
def test_a_block_of_rows_is_the_most_that_is_held(head_weights: str) -> None:
    spec = RolloutSpec(head_weights=head_weights, block=BLOCK)  # type: ignore[arg-type]
    length = 1024
    layers, visual_BL = leaves_of(length)
    block = 4 * HEADS * BLOCK * length
    vectors = 4 * LAYERS * 8 * HEADS * length
    inputs = 4 * (HEADS + KEY_HEADS) * length * DEPTH

    with torch.inference_mode(), Memory() as forward:
        rollout_rows(layers, visual_BL, spec)
    assert block <= forward.largest <= max(block, inputs)
    assert forward.peak <= 2 * block + vectors + 2 * inputs

    rows_BL = rollout_rows(layers, visual_BL, spec).rows_BL
    with Memory() as backward:
        rows_BL[0, 5:100].sum().backward()
    assert "aten::baddbmm_" in backward.operations  # the backward of the blocks was watched
    assert block <= backward.largest <= max(block, inputs)
    # Gradients of Q and K of every layer are the result; blocks come and go.
    assert backward.peak <= 5 * block + vectors + (LAYERS + 2) * inputs
    assert backward.peak < 0.5 * 4 * HEADS * length * length
    assert layers[0].query_BALD.grad is not None


def test_the_plain_definition_would_not_pass() -> None:
    layers, visual_BL = leaves_of(256)
    with saved_bytes() as total, Memory() as memory:
        plain_definition(layers, visual_BL, RolloutSpec())
        kept = total()
    assert kept > 4 * LAYERS * HEADS * 256 * 256
    assert memory.largest >= 4 * HEADS * 256 * 256
