"""Qwen2.5-VL (arXiv 2502.13923): released as Qwen/Qwen2.5-VL-3B-Instruct, -7B-, -32B-, -72B-.

Temporal positions are in seconds, ``seconds_per_grid`` apart. No attention sinks are published for it.
"""

from __future__ import annotations

from rvosbench.methods.models.lvlm.qwen import Qwen


class Qwen25Vl(Qwen):
    """The Qwen2.5-VL family."""

    model_type = "qwen2_5_vl"
    title = "Qwen2.5-VL"
    model_class = "Qwen2_5_VLForConditionalGeneration"
    processor_class = "Qwen2_5_VLProcessor"


FAMILY = Qwen25Vl()
