"""Qwen2-VL (arXiv 2409.12191): released as Qwen/Qwen2-VL-2B-Instruct, -7B-, -72B-."""

from __future__ import annotations

from pathlib import Path

from transformers import Qwen2VLForConditionalGeneration, Qwen2VLProcessor

from rvosbench.methods.models.lvlm.base import Lvlm, LvlmSettings
from rvosbench.methods.models.lvlm.qwen import QwenLvlm
from rvosbench.methods.models.lvlm.running import load_model, load_processor


def load(folder: Path, settings: LvlmSettings) -> Lvlm:
    """The checkpoint in ``folder``. Its temporal positions count grid steps; ``seconds_per_grid`` has no effect."""
    model = load_model(Qwen2VLForConditionalGeneration, folder, settings)
    return QwenLvlm("qwen2_vl", model, load_processor(Qwen2VLProcessor, folder), settings)
