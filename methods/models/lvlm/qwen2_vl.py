"""Qwen2-VL (arXiv 2409.12191): released as Qwen/Qwen2-VL-2B-Instruct, -7B-, -72B-.

Temporal positions count grid steps, so ``seconds_per_grid`` has no effect. Attention sinks: DecAF (appendix C) found
the right-most column.
"""

from __future__ import annotations

from rvosbench.methods.models.lvlm.qwen import Qwen


class Qwen2Vl(Qwen):
    """The Qwen2-VL family."""

    model_type = "qwen2_vl"
    title = "Qwen2-VL"
    model_class = "Qwen2VLForConditionalGeneration"
    processor_class = "Qwen2VLProcessor"
    sink_edges = ("right",)


FAMILY = Qwen2Vl()
