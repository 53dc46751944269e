"""ray_cluster.yaml is what Ray's own launcher accepts."""

from __future__ import annotations

from pathlib import Path

import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

FILE = Path(__file__).resolve().parents[2] / "ray_cluster.yaml"


def test_ray_validates_the_cluster_file() -> None:
    config = yaml.safe_load(FILE.read_text())
    validate_config(prepare_config(config))
    commands = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    assert any("--head" in command for command in commands)
