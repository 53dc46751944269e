"""A small local Ray for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def local_ray(gpus: int) -> Iterator[None]:
    """Two CPUs, and GPUs that Ray only believes in: what can be tested with them is scheduling."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        ray.init(
            num_cpus=2, num_gpus=gpus, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20
        )
        yield
        ray.shutdown()
