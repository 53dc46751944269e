"""The ``ground`` stage: every keyframe is shown alone, and the fixed heads' attention is read.

Shape legend: T keyframes, K heads, h w token grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rvosbench.harness.stages import Outcome, Request, VideoFrames, one_by_one
from rvosbench.harness.store import typed
from rvosbench.harness.store.artefacts import Artefact
from rvosbench.methods.ground.fusion import Float32
from rvosbench.methods.lochead.heads import check_sizes
from rvosbench.methods.lochead.settings import GroundSettings, MapSettings
from rvosbench.methods.models.lvlm.keyframes import keyframe_indices

if TYPE_CHECKING:
    from rvosbench.methods.models.lvlm.model import Lvlm


class Ground:
    """Attention of the fixed heads.

    Artefact: ``arrays`` ``heads`` (K, T, h, w) float32, neither smoothed nor normalised; ``meta`` ``keyframes``,
    ``heads``, ``prompt`` (the text) and ``query`` (the token whose attention it is).

    Raises:
        PrerequisiteError: the model has no such heads.
    """

    def __init__(self, settings: GroundSettings, lvlm: Lvlm) -> None:
        config = lvlm.text_model.config
        check_sizes(settings.heads, lvlm.layers, int(config.num_attention_heads), settings.lvlm.checkpoint)
        self.settings = settings
        self.lvlm = lvlm

    def run(self, video: VideoFrames, requests: Sequence[Request]) -> Iterator[tuple[int, Outcome]]:
        return one_by_one(requests, lambda request: self._maps(video, request.expression.text))

    def _maps(self, video: VideoFrames, expression: str) -> Artefact:
        # Here, so that planning a run imports no torch.
        from rvosbench.methods.lochead.attention import build_inputs, head_maps, prompt_text, query_position

        settings, lvlm = self.settings, self.lvlm
        text = prompt_text(settings.prompt, expression)
        keyframes = keyframe_indices(len(video), settings.keyframes)
        grid = lvlm.clip_grid(video[keyframes[0]])
        size = settings.lvlm.frame_batch
        maps = []
        for start in range(0, len(keyframes), size):
            # A batch at a time: the pixels of frame calls are what fills memory.
            frames = [video[index] for index in keyframes[start : start + size]]
            batch = [build_inputs(lvlm, frame, grid, settings.prompt, expression) for frame in frames]
            position = query_position(lvlm, batch[0], settings.prompt, settings.query, expression)
            maps += head_maps(lvlm, batch, settings.heads, position)
            token = int(batch[0].inputs["input_ids"][0, position])
        maps_TKhw = np.stack([np.concatenate(of_frame) for of_frame in maps])
        return Artefact(
            meta={
                "keyframes": list(keyframes),
                "heads": [list(head) for head in settings.heads],
                "prompt": text,
                "query": lvlm.tokenizer.decode([token]),
            },
            arrays={"heads": np.ascontiguousarray(maps_TKhw.swapaxes(0, 1))},
        )


def summed_map(ground: Artefact, settings: MapSettings) -> tuple[tuple[int, ...], Float32]:
    """The keyframes of a ground artefact and the heads' map, (T, h, w) in [0, 1]."""
    keyframes = typed.keyframes(ground)
    return keyframes, settings.fuse(typed.floats(ground, "heads", (None, len(keyframes), None, None)))
