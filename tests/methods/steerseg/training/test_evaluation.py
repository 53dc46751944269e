"""The gain of the committed soft prompts on held-out clips, with the small Qwen2.5-VL.

The tested margins are below those of three seeds with four clips each (``benchmarks/soft_prompt_maps.py --seeds N``;
of the clip calls the loss, the fraction of the map's mass on the target, and the fraction of calls whose highest cell
lies there):

    without     0.827 0.278 0.718   0.879 0.247 0.619   0.910 0.252 0.579
    untrained   0.842 0.271 0.538   0.892 0.246 0.500   0.910 0.260 0.553
    committed   0.783 0.318 0.769   0.820 0.295 0.714   0.857 0.301 0.605
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rvosbench.methods.steerseg.training.evaluation import UNTRAINED, WITHOUT, PromptEvaluator

REPOSITORY = Path(__file__).parents[4]


def test_training_steers_the_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)  # the card names its model from there
    rows = PromptEvaluator({"committed": Path("checkpoints/shapes/steerseg/qwen2_5_vl")}).evaluate("clip", 1, 4)
    assert len({len(results) for results in rows.values()}) == 1 and len(rows[WITHOUT]) >= 30

    def mean(row: str, measure: str) -> float:
        return float(np.mean([getattr(one, measure) for one in rows[row].values()]))

    for other in (WITHOUT, UNTRAINED):
        assert mean("committed", "loss") < mean(other, "loss") - 0.02
        assert mean("committed", "concentration") > mean(other, "concentration") + 0.02
    assert mean("committed", "pointing") > mean(UNTRAINED, "pointing") + 0.05
