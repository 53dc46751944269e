"""What the committed soft prompts are worth on clips that nobody trained on, with the small Qwen2.5-VL.

Margins stand below what three worlds of four clips showed (``benchmarks/soft_prompt_maps.py --worlds N``; loss of the
clip calls, share of them whose highest cell lies on the target):

    without     1.056 0.718   1.066 0.619   1.104 0.579
    untrained   1.082 0.538   1.097 0.500   1.113 0.553
    committed   1.042 0.692   1.007 0.810   1.083 0.605

They do not concentrate the maps: 0.278, 0.247 and 0.252 of the mass is on the target without, 0.223, 0.240 and 0.210
with them. The loss asks for a standardised map.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from methods.steerseg.training.worth import UNTRAINED, WITHOUT, Bench

REPOSITORY = Path(__file__).parents[4]


def test_training_steers_the_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)  # the card names its model from there
    rows = Bench({"committed": Path("checkpoints/shapes/steerseg/qwen2_5_vl")}).judge("clip", 1, 4)
    assert len({len(judged) for judged in rows.values()}) == 1 and len(rows[WITHOUT]) >= 30
    loss = {name: float(np.mean([one.loss for one in judged.values()])) for name, judged in rows.items()}
    pointing = {name: float(np.mean([one.pointing for one in judged.values()])) for name, judged in rows.items()}
    assert loss["committed"] < loss[WITHOUT] - 0.005
    assert loss["committed"] < loss[UNTRAINED] - 0.02
    assert pointing["committed"] > pointing[UNTRAINED] + 0.05
