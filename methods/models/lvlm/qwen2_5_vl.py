"""Qwen2.5-VL (arXiv 2502.13923): released as Qwen/Qwen2.5-VL-3B-Instruct, -7B-, -32B-, -72B-."""

from __future__ import annotations

from pathlib import Path

from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from rvosbench.methods.models.lvlm.base import Lvlm, LvlmSettings
from rvosbench.methods.models.lvlm.qwen import QwenLvlm
from rvosbench.methods.models.lvlm.running import load_model, load_processor


def load(folder: Path, settings: LvlmSettings) -> Lvlm:
    """The checkpoint in ``folder``. Temporal positions are in seconds, ``seconds_per_grid`` apart."""
    model = load_model(Qwen2_5_VLForConditionalGeneration, folder, settings)
    return QwenLvlm("qwen2_5_vl", model, load_processor(Qwen2_5_VLProcessor, folder), settings)
