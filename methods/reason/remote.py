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
from typing import Any

from PIL import Image

from rvosbench.harness.data.types import FrameHW3
from rvosbench.harness.errors import SampleError
from rvosbench.harness.servers import ChatModel, ModelServer
from rvosbench.methods.models.lvlm.checkpoints import config_of, family_of
from rvosbench.methods.models.lvlm.family import Family
from rvosbench.methods.reason.parser import schema
from rvosbench.methods.reason.settings import CotSettings
from rvosbench.methods.reason.stage import Answer

_TEXT_TOKENS = 2048
"""Room for the prompt's text."""


class ServerReasoner:
    """Prompts of a video go to one server, several at a time."""

    def __init__(self, settings: CotSettings, servers: ChatModel) -> None:
        self.settings = settings
        self.servers = servers
        self.engine = servers.software()
        self.family = family_of(settings.lvlm.checkpoint)
        self.config = config_of(settings.lvlm.checkpoint)

    def answers(self, video: str, frames: Sequence[FrameHW3], prompts: Sequence[str]) -> Iterator[tuple[int, Answer]]:
        shown = clip_part(self.family.server_clip(_of_one_size(frames), self.config, self.settings.lvlm))
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
                messages(self.family, shown, prompt),
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
    family, config = family_of(lvlm.checkpoint), config_of(lvlm.checkpoint)
    length = reasoning.keyframes * family.server_frame_limit(lvlm) + _TEXT_TOKENS + reasoning.max_new_tokens
    limit = config.get("text_config", config).get("max_position_embeddings")
    name, at, commit = lvlm.digest.partition("@")
    return ModelServer(
        model=name if at else lvlm.checkpoint,
        revision=commit or None,
        served_name=reasoning.served_name or (name if at else lvlm.checkpoint.rstrip("/").rpartition("/")[2]),
        dtype=lvlm.dtype,
        max_length=min(length, limit) if limit else length,
        videos=1,
        frame_rate=family.server_frame_rate(config, lvlm),
    )


def clip_part(images: Sequence[Image.Image]) -> dict[str, Any]:
    """A clip, as the family makes its frames ready for a server, as a part of a chat message."""
    encoded = ",".join(map(_png, images))
    return {"type": "video_url", "video_url": {"url": f"data:video/jpeg;base64,{encoded}"}}


def messages(family: Family, clip: Mapping[str, Any], prompt: str) -> list[dict[str, Any]]:
    """The chat as the local model is given it: the family's system turn, clip, text."""
    turns: list[dict[str, Any]] = []
    if family.system_turn is not None:
        turns.append({"role": "system", "content": [{"type": "text", "text": family.system_turn}]})
    return [*turns, {"role": "user", "content": [dict(clip), {"type": "text", "text": prompt}]}]


def _of_one_size(frames: Sequence[FrameHW3]) -> Sequence[FrameHW3]:
    if any(frame.shape != frames[0].shape for frame in frames):
        raise SampleError("the frames of a clip differ in size")
    return frames


def _png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()
