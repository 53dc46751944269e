"""Asks an OpenAI-compatible server what ``LocalReasoner`` asks the model in its process.

The frames go as one video, frame by frame as PNG under ``data:video/jpeg`` (vLLM's form for a video that is sampled
already; it opens each frame by its content), so the server sees the pixels the local model sees. The clip stands before
the question and is the same for all expressions of a video: the server keeps its keys and values (prefix caching).

Against the local model (vLLM 0.32 on CPU, transformers 5.19, small random checkpoints, float32): Qwen2.5-VL, Qwen2-VL,
InternVL3 and LLaVA-OneVision give the same greedy text, but for a character that the limit on tokens cuts in half,
which vLLM leaves out. A schema changes no answer that has the prompt's form anyway. Known differences:

* Qwen2.5-VL positions agree while the clip's extent in temporal position ids (``2 x seconds_per_grid`` a step in the
  released models) stays below its larger side in tokens. Beyond that transformers 5.19 lets the text begin within the
  clip's temporal range, vLLM after it; log-probabilities then differ from the second digit.
* Checkpoints of LLaVA-OneVision that transformers 5 has written name the vision tower's weights in a way vLLM 0.32 does
  not know, and it refuses them; the released ones load.
* vLLM computes questions together as they come, so a near tie may go another way from run to run: one answer of 24 was
  not the local model's in one of two runs (trained small Qwen2.5-VL, CPU).
* ``extra_tokens: drop`` cannot be asked of a server, which runs the model as released.
* Given endpoints must be started with ``--media-io-kwargs '{"video": {"num_frames": -1, "fps": 2.0}}'`` (for
  ``seconds_per_grid`` 1), or they take at most 32 frames at another rate, and with ``--structured-outputs-config
  '{"backend": "guidance"}'``, or their schema leaves the blanks out of an answer, or lets it be full of them.

Shape legend: T frames, H W pixels, h w visual tokens of a frame.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any

from PIL import Image

from rvosbench.harness.data.types import FrameHW3
from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.harness.servers import ModelServer
from rvosbench.methods.models.lvlm.base import LvlmOptions
from rvosbench.methods.models.lvlm.checkpoints import config_of
from rvosbench.methods.models.lvlm.sizes import token_grid
from rvosbench.methods.reason.parser import schema
from rvosbench.methods.reason.settings import CotSettings
from rvosbench.methods.reason.stage import Answer

if TYPE_CHECKING:
    from rvosbench.harness.serving.chat import ChatServers

_QWEN = ("qwen2_vl", "qwen2_5_vl")
_TEXT_TOKENS = 2048
"""Room for the prompt's text."""
_FIXED_TOKENS = 280
"""Tokens of a clip frame at most, in families whose frames have one size (InternVL3: 256 and the text around them)."""


class ServerReasoner:
    """Prompts of a video go to one server, several at a time."""

    def __init__(self, settings: CotSettings, servers: ChatServers) -> None:
        self.settings = settings
        self.servers = servers
        self.engine = servers.software()
        self.config = config_of(settings.lvlm.checkpoint)

    def answers(self, video: str, frames: Sequence[FrameHW3], prompts: Sequence[str]) -> Iterator[tuple[int, Answer]]:
        shown = clip_part(frames, self.config, self.settings.lvlm)
        pool = ThreadPoolExecutor(self.servers.in_flight)
        try:
            waiting = {pool.submit(self._answer, video, shown, prompt): index for index, prompt in enumerate(prompts)}
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _answer(self, video: str, shown: Mapping[str, Any], prompt: str) -> Answer:
        reasoning = self.settings.reasoning
        try:
            return self.servers.complete(
                messages(self.config, shown, prompt),
                affinity=video,
                max_tokens=reasoning.max_new_tokens,
                schema=schema(reasoning.max_attributes) if reasoning.structured else None,
            )
        except SampleError as error:
            return error


def server_need(settings: CotSettings) -> ModelServer:
    """The server a stage with these settings asks.

    Raises:
        PrerequisiteError: the model's configuration is not to be had.
    """
    lvlm, reasoning = settings.lvlm, settings.reasoning
    config = config_of(lvlm.checkpoint)
    qwen = config["model_type"] in _QWEN
    frame_tokens = max(lvlm.clip_max_tokens if qwen else _FIXED_TOKENS, 1)
    length = reasoning.keyframes * frame_tokens + _TEXT_TOKENS + reasoning.max_new_tokens
    limit = config.get("text_config", config).get("max_position_embeddings")
    name, at, commit = lvlm.digest.partition("@")
    return ModelServer(
        model=name if at else lvlm.checkpoint,
        revision=commit or None,
        served_name=reasoning.served_name or (name if at else lvlm.checkpoint.rstrip("/").rpartition("/")[2]),
        dtype=lvlm.dtype,
        max_length=min(length, limit) if limit else length,
        videos=1,
        frame_rate=_temporal_patch(config) / lvlm.seconds_per_grid if qwen else None,
    )


def clip_part(frames: Sequence[FrameHW3], config: Mapping[str, Any], options: LvlmOptions) -> dict[str, Any]:
    """The clip as a part of a chat message, its pixels those that the local model is shown.

    Raises:
        SampleError: the frames differ in size.
    """
    if any(frame.shape != frames[0].shape for frame in frames):
        raise SampleError("the frames of a clip differ in size")
    images = [Image.fromarray(frame) for frame in frames]
    if config["model_type"] in _QWEN:
        vision = config["vision_config"]
        factor = vision["patch_size"] * vision["spatial_merge_size"]
        height, width = frames[0].shape[:2]
        h, w = token_grid(height, width, factor, options.clip_min_tokens, options.clip_max_tokens)
        images = [image.resize((w * factor, h * factor), Image.Resampling.BICUBIC) for image in images]
        images += [images[-1]] * (-len(images) % _temporal_patch(config))
    encoded = ",".join(map(_png, images))
    return {"type": "video_url", "video_url": {"url": f"data:video/jpeg;base64,{encoded}"}}


def messages(config: Mapping[str, Any], clip: Mapping[str, Any], prompt: str) -> list[dict[str, Any]]:
    """The chat, as the local families have it: their system turn where the template inserts none, clip, text."""
    turns: list[dict[str, Any]] = []
    if config["model_type"] not in _QWEN:
        turns.append({"role": "system", "content": [{"type": "text", "text": _system(config["model_type"])}]})
    return [*turns, {"role": "user", "content": [dict(clip), {"type": "text", "text": prompt}]}]


def _system(family: str) -> str:
    # Here, because these modules import torch, which a worker that asks a Qwen server does without.
    if family == "internvl":
        from rvosbench.methods.models.lvlm import internvl

        return internvl.SYSTEM
    if family == "llava_onevision":
        from rvosbench.methods.models.lvlm import llava_onevision

        return llava_onevision.SYSTEM
    raise PrerequisiteError(f"Family '{family}' is not asked through a server.", "Set reasoning.engine to local.")


def _temporal_patch(config: Mapping[str, Any]) -> int:
    return int(config["vision_config"].get("temporal_patch_size", 2))


def _png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()
