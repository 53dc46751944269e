"""Qwen3-VL (arXiv 2511.21631): released as Qwen/Qwen3-VL-2B-Instruct, -4B-, -8B-, -32B-.

A token covers 32 x 32 pixels (patch 16, merge 2). A clip shows two frames to a temporal slot, and every slot has its
time in front of it as text and marks of its own around it (``<0.2 seconds><|vision_start|>...<|vision_end|>``), so the
visual tokens of a clip are not contiguous; head weights look at each slot's own columns (``RolloutSpec.visual_columns``
"own"; "reference_span" would take in the times). Times follow from ``seconds_per_grid``, as in Qwen2.5-VL; positions
count on through text and slots. A soft prompt "before_vision" stands between the first slot's time and its marks.

Features of earlier vision layers are added to the hidden states of the first language layers at the visual tokens
(DeepStack). That is a part of the model's forward pass and changes nothing in how attention is captured or rolled out.

Source: transformers 5.19 for the model; 4.57, with which the models were released, for the tokens around a clip. The
chat template writes one pair of marks around a video, which 4.57 replaced together with the placeholder, while 5.19
leaves it standing around the slots' own marks. Here it is taken out. A vLLM server with transformers 5.10 or later has
it in. No attention sinks are published for the family, and no chat of it has a system turn that was not given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rvosbench.methods.models.lvlm.base import LvlmOptions
from rvosbench.methods.models.lvlm.family import Prepared
from rvosbench.methods.models.lvlm.messages import Visual
from rvosbench.methods.models.lvlm.qwen import Qwen
from rvosbench.methods.models.lvlm.views import Views

if TYPE_CHECKING:
    from rvosbench.methods.models.lvlm.model import Lvlm

_AROUND_SLOT = 9
"""Tokens of a slot's time ("<12.2 seconds>" is 7) and its two marks."""


class Qwen3Vl(Qwen):
    """The Qwen3-VL family."""

    model_type = "qwen3_vl"
    title = "Qwen3-VL"
    model_class = "Qwen3VLForConditionalGeneration"
    processor_class = "Qwen3VLProcessor"

    def views(self, config: Any, options: LvlmOptions, frames: int, height: int, width: int) -> Views:
        seen = super().views(config, options, frames, height, width)
        around = _AROUND_SLOT * seen.clip.grid[0]
        return replace(seen, clip=replace(seen.clip, tokens=seen.clip.tokens + around))

    def prepare(self, lvlm: Lvlm, chat: str, visuals: Sequence[Visual]) -> Prepared:
        named = lvlm.processor
        marked = f"{named.vision_start_token}{named.video_token}{named.vision_end_token}"
        return super().prepare(lvlm, chat.replace(marked, named.video_token), visuals)


FAMILY = Qwen3Vl()
