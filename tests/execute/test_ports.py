"""What listens where: a cluster of this machine alone can be reached from this machine alone."""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_LISTENING = """
import json, sys
from pathlib import Path
import psutil
from rvosbench.harness.execute.ray_pool import RayExecutor
from rvosbench.harness.recipes import ExecutorChoice

executor = RayExecutor(ExecutorChoice(), Path(sys.argv[1]))
executor._connect()
try:
    import ray
    ray.get(ray.remote(lambda: 1).remote())
    here = psutil.Process()
    found = [
        (process.name(), connection.laddr.ip)
        for process in (here, *here.children(recursive=True))
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
finally:
    executor.close()
print(json.dumps(found))
"""


@pytest.mark.slow
def test_nothing_of_a_local_cluster_listens_where_others_could_reach_it(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-P", "-c", _LISTENING, str(tmp_path)],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    listening = json.loads(done.stdout.splitlines()[-1])
    assert {"raylet", "gcs_server"} <= {name for name, _ in listening}
    for name, address in listening:
        ip = ipaddress.ip_address(address)
        assert (getattr(ip, "ipv4_mapped", None) or ip).is_loopback, (name, address)
