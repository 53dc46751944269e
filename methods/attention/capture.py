"""Queries and keys of chosen layers, from any model that goes through transformers' attention interface.

The kernel that computes the forward pass stays the configured one; a thin function in front of it keeps Q and K as
attention saw them (after rotary embedding, in the model's own type). No model class is subclassed and no attention
matrix is formed.

Shape legend: B batch, A attention heads, K key heads, L sequence, D head dim.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.methods.attention.recursion import LayerQK

_PREFIX = "rvosbench_capture_"
_here = threading.local()
_taken: set[int] = set()
_lock = threading.Lock()


class Captured:
    """What one forward pass left behind; filled inside ``capture``."""

    def __init__(self, text_model: Any, layers: Sequence[int], earlier: int) -> None:
        self._wanted = {id(text_model.layers[layer].self_attn): layer for layer in layers}
        self._order = tuple(layers)
        self._seen: dict[int, LayerQK] = {}
        self._name = type(text_model).__name__
        self._earlier = earlier

    def keep(self, module: nn.Module, query_BALD: Tensor, key_BKLD: Tensor, scaling: float | None) -> None:
        """Called by the attention function of every layer; decoding steps, which come later, are passed over."""
        layer = self._wanted.get(id(module))
        if layer is None or (layer in self._seen and query_BALD.shape[2] == 1):
            return
        if layer in self._seen:
            raise RuntimeError("a capture holds one forward pass; open a new one for the next")
        if query_BALD.shape[2] + self._earlier != key_BKLD.shape[2]:
            raise RuntimeError(
                f"capture needs the whole sequence in one forward pass after {self._earlier} earlier keys, but "
                f"{key_BKLD.shape[2] - query_BALD.shape[2]} stand before it"
            )
        scale = query_BALD.shape[3] ** -0.5 if scaling is None else scaling
        if self._earlier:
            # A copy, so that the earlier keys are not held once more by every pass that continues them.
            key_BKLD = key_BKLD[:, :, self._earlier :].clone()
        self._seen[layer] = LayerQK(query_BALD, key_BKLD, scale)

    def layers(self) -> list[LayerQK]:
        """The captured layers in order.

        Raises:
            PrerequisiteError: a layer did not pass through the attention interface.
        """
        missing = [layer for layer in self._order if layer not in self._seen]
        if missing:
            raise PrerequisiteError(
                f"Attention of {len(missing)} of {len(self._order)} layers of {self._name} was not captured "
                f"(the first is layer {missing[0]}).",
                "Use a model whose attention goes through transformers' AttentionInterface, loaded with kernel "
                "'sdpa' or 'eager'.",
            )
        return [self._seen[layer] for layer in self._order]


@contextmanager
def capture(text_model: Any, layers: Sequence[int], *, earlier: int = 0) -> Iterator[Captured]:
    """Keeps Q and K of ``layers`` of the first forward pass inside the block.

    Args:
        text_model: the language model alone, with ``layers[i].self_attn``; a vision tower is never touched.
        layers: 0-based, ascending.
        earlier: tokens whose keys the pass finds in its cache; kept are the queries and keys of its own tokens.

    Raises:
        PrerequisiteError: the model's kernel is neither "sdpa" nor "eager".
        RuntimeError: a capture of this model, or another one in this thread, is open.
    """
    config = text_model.config
    captured = Captured(text_model, layers, earlier)
    with _lock:
        if id(config) in _taken or getattr(_here, "captured", None) is not None:
            raise RuntimeError("a capture is already open for this model or in this thread")
        kernel = config._attn_implementation
        if kernel not in _KERNELS:
            raise PrerequisiteError(
                f"Attention kernel '{kernel}' cannot be captured.",
                f"Load the model with one of: {', '.join(_KERNELS)}.",
            )
        _taken.add(id(config))
    _here.captured = captured
    config._attn_implementation = _PREFIX + kernel
    try:
        yield captured
    finally:
        config._attn_implementation = kernel
        _here.captured = None
        with _lock:
            _taken.discard(id(config))


def _eager_forward(module: Any, *args: Any, **kwargs: Any) -> Any:
    # Eager attention is not registered: each modelling file has its own function of this name.
    return sys.modules[type(module).__module__].eager_attention_forward(module, *args, **kwargs)


def _capturing(forward: Callable[..., Any]) -> Callable[..., Any]:
    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        **kwargs: Any,
    ) -> Any:
        captured: Captured | None = getattr(_here, "captured", None)
        # Activation checkpointing runs layers again while backward runs; what was kept is what gradients go through.
        if captured is not None and torch._C._current_graph_task_id() == -1:
            captured.keep(module, query, key, scaling)
        return forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)

    return attention


# The mask function goes with the name: for a name without one, transformers drops the mask without a word.
_KERNELS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "sdpa": (sdpa_attention_forward, sdpa_mask),
    "eager": (_eager_forward, eager_mask),
}
for _kernel, (_forward, _mask) in _KERNELS.items():
    AttentionInterface.register(_PREFIX + _kernel, _capturing(_forward))
    AttentionMaskInterface.register(_PREFIX + _kernel, _mask)
