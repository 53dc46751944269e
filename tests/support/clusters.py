"""The one local Ray cluster that tests share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

CPUS, GPUS = 4, 4


@contextmanager
def local_cluster() -> Iterator[str]:
    """Starts Ray in this process and gives the address under which other processes join it.

    Ray only believes in the GPUs, and maybe in some of the CPUs: what can be tested with them is scheduling.
    """
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        _start()
        try:
            yield str(ray.get_runtime_context().gcs_address)
        finally:
            ray.shutdown()


def _start(attempts: int = 5) -> None:
    """Ray gives a node half a minute to start, which a busy machine may not keep."""
    import ray

    for attempt in range(attempts):
        try:
            ray.init(
                num_cpus=CPUS,
                num_gpus=GPUS,
                include_dashboard=False,
                log_to_driver=False,
                object_store_memory=100 * 2**20,
            )
            return
        except Exception as error:
            if "timed out during startup" not in str(error) or attempt == attempts - 1:
                raise
            ray.shutdown()
