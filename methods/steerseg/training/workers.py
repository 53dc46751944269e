"""Several processes that train one prompt: each takes a fraction of every step, sums go over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")


class Workers(Protocol):
    """The workers of a training, seen by one of them."""

    @property
    def first(self) -> bool:
        """Whether this one writes the files."""
        ...

    def shard(self, items: Sequence[Item]) -> list[Item]:
        """The items of this process."""
        ...

    def sum(self, tensor: Tensor) -> Tensor:
        """Sums a tensor over all workers, in place."""
        ...

    def gather(self, words: Sequence[str]) -> list[str]:
        """Concatenates the texts of all workers."""
        ...


class SingleProcess:
    """The only process of a training."""

    first = True

    def shard(self, items: Sequence[Item]) -> list[Item]:
        return list(items)

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor

    def gather(self, words: Sequence[str]) -> list[str]:
        return list(words)


class DistributedGroup:
    """One process of several, in torch's process group (gloo on CPUs, NCCL on GPUs)."""

    def __init__(self) -> None:
        group: Any = torch.distributed
        self._rank, self._size = int(group.get_rank()), int(group.get_world_size())

    @property
    def first(self) -> bool:
        return self._rank == 0

    def shard(self, items: Sequence[Item]) -> list[Item]:
        return list(items[self._rank :: self._size])

    def sum(self, tensor: Tensor) -> Tensor:
        torch.distributed.all_reduce(tensor)
        return tensor

    def gather(self, words: Sequence[str]) -> list[str]:
        found: list[list[str] | None] = [None] * self._size
        torch.distributed.all_gather_object(found, list(words))
        return [word for part in found for word in part or ()]
