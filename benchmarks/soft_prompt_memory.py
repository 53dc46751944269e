"""Measures the memory of one step of soft-prompt training and prints it beside the estimate of ``rvosbench plan``.

Qwen2.5-VL-7B with random weights in bfloat16 on CUDA, keyframes of 854x480, 64 soft tokens in front, V-Max rollout
over the upper half of the layers, activation checkpointing; one step of clip calls and one of frame calls through the
training's own loop, on a video of noise. The tokenizer is the small checkpoints', with their few words; everything
that memory depends on is the released model's.

    python benchmarks/soft_prompt_memory.py [--calls 1] [--keyframes 8 16] [--keep]
    python benchmarks/soft_prompt_memory.py --small           the path alone, with a small model; on a CPU too

``--calls`` go into one pass; ``--keep`` computes no layer again. On a CPU nothing is measured. Needs torch,
transformers and this package's own requirements, but neither Ray nor MLflow.

Shape legend: T keyframes, H W pixels.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from toy.tiny_qwen import write_small
from transformers import AutoConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from rvosbench.harness.data.types import FrameHW3
from rvosbench.methods.models.lvlm.base import LvlmOptions, LvlmSettings
from rvosbench.methods.models.lvlm.loading import load_processor
from rvosbench.methods.models.lvlm.model import Lvlm
from rvosbench.methods.models.lvlm.qwen2_5_vl import FAMILY
from rvosbench.methods.models.lvlm.training_memory import step_memory
from rvosbench.methods.steerseg.training.calls import CallBuilder
from rvosbench.methods.steerseg.training.files import TrainingFolder
from rvosbench.methods.steerseg.training.loop import PromptTraining
from rvosbench.methods.steerseg.training.recipe import DataChoice, Optimisation, TrainRecipe, View
from rvosbench.methods.steerseg.training.sampling import split
from rvosbench.methods.steerseg.training.sources import BoolTHW, TargetExpression
from rvosbench.methods.steerseg.training.workers import SingleProcess

NAME = "Qwen/Qwen2.5-VL-7B-Instruct"
RELEASED = {
    "model_type": "qwen2_5_vl",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "num_heads": 16,
        "intermediate_size": 3420,
        "out_hidden_size": 3584,
    },
}
"""The sizes in that model's config.json, so that nothing is downloaded."""
HEIGHT, WIDTH = 480, 854
EXPRESSION = "the dog on the left that runs away from the others and stops in the middle"


class Noise:
    """Two videos of noise with the same expression several times; a box in the middle is the target."""

    videos = ("a", "b")
    digest = "noise"
    notes = ()

    def __init__(self, expressions: int, keyframes: int) -> None:
        self._expressions = [TargetExpression(str(index), EXPRESSION) for index in range(expressions)]
        self._frames_THW3 = np.random.default_rng(0).integers(0, 256, (keyframes, HEIGHT, WIDTH, 3), dtype=np.uint8)
        self._masks_THW = np.zeros((keyframes, HEIGHT, WIDTH), dtype=bool)
        self._masks_THW[:, HEIGHT // 3 : HEIGHT // 2, WIDTH // 3 : WIDTH // 2] = True

    def expressions(self, video: str) -> list[TargetExpression]:
        return self._expressions

    def frames(self, video: str) -> list[FrameHW3]:
        return list(self._frames_THW3)

    def masks(self, video: str, expression: str) -> BoolTHW:
        return self._masks_THW


def described(*, small: bool) -> dict[str, Any]:
    """The model's config.json: the released sizes, or much smaller ones."""
    config: dict[str, Any] = dict(RELEASED)
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    config["max_position_embeddings"] = 128000
    if small:
        config |= {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4, "vocab_size": 2048}
        config |= {"num_attention_heads": 4, "num_key_value_heads": 2}
        vision = {"depth": 2, "hidden_size": 128, "num_heads": 2, "intermediate_size": 256, "out_hidden_size": 512}
        config["vision_config"] = {**config["vision_config"], **vision}
    return config


def built(config: dict[str, Any], options: LvlmOptions, device: torch.device) -> Lvlm:
    """The model with random weights, and the small checkpoints' processor."""
    with tempfile.TemporaryDirectory() as folder:
        write_small("qwen2_5_vl", Path(folder), seed=0)
        processor = load_processor(Qwen2_5_VLProcessor, Path(folder))
        ids = AutoConfig.from_pretrained(folder)
    values = dict(config)
    full: Any = AutoConfig.for_model(values.pop("model_type"), **values)
    for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"):
        setattr(full, name, getattr(ids, name))
    factory: Any = Qwen2_5_VLForConditionalGeneration
    with torch.device(device):
        model = factory._from_config(full, dtype=getattr(torch, options.dtype), attn_implementation="sdpa")
    settings = LvlmSettings(checkpoint="random", digest="random", **vars(options))
    return Lvlm(FAMILY, model.eval().requires_grad_(False), processor, settings)


def measured(lvlm: Lvlm, recipe: TrainRecipe, view: View) -> tuple[float, int]:
    """Seconds and peak bytes of one training step (bytes are 0 on a CPU)."""
    cuda = lvlm.model.device.type == "cuda"
    source = Noise(recipe.optimiser.clips, recipe.keyframes)
    training = PromptTraining(
        recipe, view, lvlm, CallBuilder(lvlm, source, 2**30), split(recipe, source, {}), SingleProcess()
    )
    with tempfile.TemporaryDirectory() as folder:
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        training.run(TrainingFolder(Path(folder)), "noise")
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - started, torch.cuda.max_memory_allocated() if cuda else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="a small model")
    parser.add_argument("--calls", type=int, nargs="+", default=[1, 4], help="in a pass")
    parser.add_argument("--keyframes", type=int, nargs="+", default=[16], help="of a clip call")
    parser.add_argument("--keep", action="store_true", help="no activation checkpointing")
    parser.add_argument("--tokens", type=int, default=64, help="of the soft prompt")
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not given.small:
        parser.error("the 7B model needs a CUDA device; --small runs anywhere")
    config = described(small=given.small)
    for calls in given.calls:
        options = LvlmOptions(dtype="float32" if device.type == "cpu" else "bfloat16", frame_batch=calls)
        lvlm = built(config, options, device)
        views: list[tuple[View, int]] = [("clip", keyframes) for keyframes in given.keyframes]
        for view, keyframes in [*views, ("frame", given.keyframes[0])]:
            recipe = TrainRecipe(
                name="memory",
                lvlm=NAME,
                options=options,
                data=DataChoice(name="shapes", held_out=0.5),
                keyframes=keyframes,
                granularity=view,
                tokens=given.tokens,
                optimiser=Optimisation(steps=1, clips=calls, frames=calls, frames_per_sample=1),
                evaluate_samples=1,
                activation_checkpointing=not given.keep,
            )
            seconds, peak = measured(lvlm, recipe, view)
            need = step_memory(
                config,
                options,
                recipe.rollout,
                view,
                calls=calls,
                tokens=given.tokens,
                frames=keyframes,
                height=HEIGHT,
                width=WIDTH,
                checkpointing=not given.keep,
            )
            words = f"estimated {need.total_bytes / 2**30:.2f} GiB"
            if peak:
                words = f"measured {peak / 2**30:.2f} GiB, {words} ({need.total_bytes / peak:.2f} of it)"
            where = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
            print(f"{view} calls, {calls} to a pass, L {need.length}, {where}: {words}; {seconds:.1f} s with two looks",
                  flush=True)  # fmt: skip
        del lvlm


if __name__ == "__main__":
    main()
