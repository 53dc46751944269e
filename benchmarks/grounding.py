"""Counts and times DecAF's grounding of one video: visual tokens run for every prompt, against once for all prompts.

A video of noise with 16 keyframes and 1, 4 and 16 expressions goes through the ``ground`` stage with the small
Qwen2.5-VL, with ``prefix: separate`` (the reference's way) and ``prefix: shared``. Every expression has an object
prompt and a background prompt of its own, the most that grounding can be asked. Before the clock starts each way has
run once on a small video. Maps of both ways are compared.

Printed per way: passes through the language model, tokens run through it, floating-point operations, CPU seconds; then
the ratios per expression. Operations are counted at every pass, a multiplication and an addition as two:

    language model   2 (weights of its layers) tokens + 4 layers A D (pairs of query and key under the causal mask)
    vision tower     2 (its weights) patches + 4 depth width (pairs: all patches of a clip step or frame with each
                     other, an upper bound for layers with windows, counted alike both ways)
    rollout          per rolled-out layer 2 A (D + R) pairs: scores, and the product with R carried rows. R is
                     ``prefix_stack`` for the rows of a shared prefix, whose last layer has no product, otherwise 1

    python benchmarks/grounding.py [--expressions 1 4 16] [--height 288] [--width 512] [--threads 1]

Shape legend: T keyframes, A attention heads, D head dim, L sequence, R stacked rows.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from toy.tiny_qwen import write_small

from rvosbench.harness.data.types import Expression, FrameHW3, Video
from rvosbench.harness.stages import Request
from rvosbench.harness.store.artefacts import Artefact
from rvosbench.methods.attention.spec import RolloutSpec
from rvosbench.methods.ground.rollouts import ContrastSettings, Rollouts, contrast_prompts
from rvosbench.methods.models.lvlm.base import LvlmSettings
from rvosbench.methods.models.lvlm.load import load_lvlm
from rvosbench.methods.models.lvlm.model import Lvlm

KEYFRAMES = 16
NAMES = ("person", "dog", "cat", "horse", "man", "woman", "car", "ball")


class Noise:
    """A decoded video of noise."""

    def __init__(self, height: int, width: int) -> None:
        names = tuple(f"{index:05d}" for index in range(KEYFRAMES))
        self.video = Video("noise", "val", "v", names, tuple(Path(f"{name}.jpg") for name in names), ())
        self.size = (height, width)
        generator = np.random.default_rng(0)
        self.frames_THW3 = generator.integers(0, 256, (KEYFRAMES, height, width, 3), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.frames_THW3)

    def __getitem__(self, index: int) -> FrameHW3:
        frame: FrameHW3 = self.frames_THW3[index]
        return frame


@dataclass
class Cost:
    """What one way took."""

    passes: int = 0
    tokens: int = 0
    operations: float = 0.0
    seconds: float = 0.0


class Meter:
    """Counts every pass of a model's towers into ``cost``."""

    def __init__(self, lvlm: Lvlm, spec: RolloutSpec) -> None:
        self.cost = Cost()
        self.stack = lvlm.settings.prefix_stack
        config = lvlm.text_model.config
        self.heads = int(config.num_attention_heads)
        self.depth = int(config.hidden_size) // self.heads
        self.layers = int(config.num_hidden_layers)
        self.rolled = len(spec.layers(self.layers))
        self.weights = sum(parameter.numel() for parameter in lvlm.text_model.layers.parameters())
        tower = lvlm.model.model.visual
        self.tower_weights = sum(parameter.numel() for parameter in tower.parameters())
        self.tower_pairs = 4 * int(tower.config.depth) * int(tower.config.hidden_size)
        lvlm.text_model.register_forward_pre_hook(self._text, with_kwargs=True)
        tower.register_forward_pre_hook(self._tower, with_kwargs=True)

    def _text(self, _: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        given = kwargs["inputs_embeds"] if kwargs.get("inputs_embeds") is not None else kwargs["input_ids"]
        batch, tokens = given.shape[:2]
        cache = kwargs.get("past_key_values")
        earlier = 0 if cache is None else int(cache.get_seq_length())
        pairs = batch * (tokens * earlier + tokens * (tokens + 1) / 2)
        width = self.heads * self.depth
        self.cost.passes += 1
        self.cost.tokens += batch * tokens
        self.cost.operations += 2 * self.weights * batch * tokens + 4 * self.layers * width * pairs
        self.cost.operations += 2 * self.rolled * width * pairs
        prefix = cache is not None and earlier == 0
        products = (self.rolled - 1) * self.stack if prefix else self.rolled
        self.cost.operations += 2 * self.heads * products * pairs

    def _tower(self, _: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        grids = kwargs["grid_thw"] if "grid_thw" in kwargs else args[1]
        for t, h, w in grids.tolist():
            self.cost.operations += 2 * self.tower_weights * t * h * w + self.tower_pairs * t * (h * w) ** 2


def requests(count: int) -> list[Request]:
    """Expressions whose objects all have another name, so that no background prompt is asked twice."""
    made = []
    for index in range(count):
        name = f"{('small', 'large')[index // len(NAMES) % 2]} {NAMES[index % len(NAMES)]}"
        text = f"the {name} that moves to the left behind the others"
        made.append(Request(Expression(str(index), text), {"reason": Artefact(meta={"object_name": name})}))
    return made


def measure(stage: Rollouts, meter: Meter, video: Noise, asked: Sequence[Request]) -> tuple[Cost, list[Artefact]]:
    """One run of the stage; the cost, and the artefacts in order."""
    meter.cost = Cost()
    started = time.process_time()
    outcomes = dict(stage.run(video, asked))
    meter.cost.seconds = time.process_time() - started
    artefacts = [outcomes[index] for index in range(len(asked))]
    return meter.cost, [artefact for artefact in artefacts if isinstance(artefact, Artefact)]


def furthest(ours: Sequence[Artefact], theirs: Sequence[Artefact]) -> float:
    """The largest difference of two maps, as a fraction of the map's maximum."""
    apart = 0.0
    for one, other in zip(ours, theirs, strict=True):
        for name, expected in other.arrays.items():
            map_thw = np.asarray(expected, dtype=np.float64)
            difference = np.abs(np.asarray(one.arrays[name], dtype=np.float64) - map_thw).max()
            apart = max(apart, float(difference / map_thw.max()))
    return apart


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--expressions", type=int, nargs="+", default=[1, 4, 16], help="of the video")
    parser.add_argument("--height", type=int, default=288, help="of its frames, in pixels")
    parser.add_argument("--width", type=int, default=512, help="of its frames, in pixels")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch (default 1)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        write_small("qwen2_5_vl", Path(folder), seed=0)
        lvlm = load_lvlm(LvlmSettings(checkpoint=folder, digest="", dtype="float32", device="cpu"))
    settings = ContrastSettings(lvlm.settings, KEYFRAMES, RolloutSpec(), "separate", "v0", "v0")
    shared = replace(settings, prefix="shared")
    stages = {
        name: Rollouts(how, lvlm, contrast_prompts(how)) for name, how in (("separate", settings), ("shared", shared))
    }
    meter = Meter(lvlm, settings.rollout)
    video = Noise(arguments.height, arguments.width)
    for stage in stages.values():
        measure(stage, meter, Noise(60, 100), requests(1))
    clip = lvlm.clip(list(video.frames_THW3), "")
    assert clip.grid is not None
    lengths = clip.length, lvlm.frame(video[0], "", clip.grid).length
    print(f"{KEYFRAMES} frames of {arguments.width}x{arguments.height}: {lengths[0]} tokens in a clip call and")
    print(
        f"{lengths[1]} in a frame call before the prompt's text; {meter.layers} layers, {arguments.threads} thread(s)"
    )
    print(f"{'expressions':>11} {'way':<9} {'passes':>7} {'tokens':>9} {'GFLOP':>8} {'CPU s':>7}  per expression")
    for count in arguments.expressions:
        asked = requests(count)
        theirs, expected = measure(stages["separate"], meter, video, asked)
        ours, maps = measure(stages["shared"], meter, video, asked)
        against = (
            f"{theirs.tokens / ours.tokens:.1f}x fewer tokens, {theirs.operations / ours.operations:.1f}x fewer "
            f"operations, {theirs.seconds / ours.seconds:.1f}x less time, maps within {furthest(maps, expected):.1e}"
        )
        for way, cost, ratio in (("separate", theirs, ""), ("shared", ours, against)):
            line = f"{count:>11} {way:<9} {cost.passes:>7} {cost.tokens:>9} {cost.operations / 1e9:>8.0f} "
            print(f"{line}{cost.seconds:>7.1f}  {ratio}".rstrip(), flush=True)


if __name__ == "__main__":
    main()
