"""The ``ground`` stage (answers and maps of their tokens), and which of its maps makes the masks.

Shape legend: T keyframes, t time slots of a view, n answer tokens, h w token grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rvosbench.harness.settings import Json
from rvosbench.harness.stages import Outcome, Request, VideoFrames, one_by_one
from rvosbench.harness.store import typed
from rvosbench.harness.store.artefacts import Artefact
from rvosbench.methods.ground.fusion import Float32, match_keyframes
from rvosbench.methods.models.lvlm.keyframes import keyframe_indices
from rvosbench.methods.reason.expression_prompts import object_prompt
from rvosbench.methods.segment.from_map import ReadMaps, SampleMaps
from rvosbench.methods.tam.settings import GroundSettings, Token, TokenMapSettings

if TYPE_CHECKING:
    from rvosbench.methods.models.lvlm.model import Lvlm


class Ground:
    """Asks for the object's name and maps every token of the answer.

    Artefact: one array a view, ``view_000`` (the clip) or one for every keyframe, (n, t, h, w) float32 in [0, 1], in
    the answer's order; ``meta`` ``keyframes``, ``prompt``, ``answers`` and ``tokens`` (view by view), and ``fallback``:
    how many answers are empty and give no map, or "".
    """

    def __init__(self, settings: GroundSettings, lvlm: Lvlm) -> None:
        self.settings = settings
        self.lvlm = lvlm

    def run(self, video: VideoFrames, requests: Sequence[Request]) -> Iterator[tuple[int, Outcome]]:
        return one_by_one(requests, lambda request: self._maps(video, request.expression.text))

    def _maps(self, video: VideoFrames, expression: str) -> Artefact:
        # Here, so that planning a run imports no torch.
        from rvosbench.methods.tam.explaining import explain
        from rvosbench.methods.tam.maps import answer_maps

        settings, lvlm = self.settings, self.lvlm
        prompt = object_prompt(settings.object_prompt, expression)
        keyframes = keyframe_indices(len(video), settings.keyframes)
        views = []
        if settings.view == "clip":
            asked = lvlm.clip([video[index] for index in keyframes], prompt)
            views.append(explain(lvlm, asked, prompt))
        else:
            grid = lvlm.clip_grid(video[keyframes[0]])
            for index in keyframes:
                asked = lvlm.frame(video[index], prompt, grid)
                views.append(explain(lvlm, asked, prompt))
        answers: list[Json] = [view.answer for view in views]
        tokens: list[Json] = [list(view.tokens) for view in views]
        empty = sum(not view.tokens for view in views)
        return Artefact(
            meta={
                "keyframes": list(keyframes),
                "prompt": prompt,
                "answers": answers,
                "tokens": tokens,
                "fallback": f"{empty} of {len(views)} answers are empty" if empty else "",
            },
            arrays={
                f"view_{number:03d}": answer_maps(view.activations, settings.version, settings.causal)
                for number, view in enumerate(views)
            },
        )


def token_reader(settings: TokenMapSettings) -> ReadMaps:
    """One token's map of every view.

    The segment artefact's ``meta`` has ``tokens``, what stands behind each view's map; null for an empty answer, whose
    map is 0 and gives no mask.
    """

    def read(ground: Artefact) -> SampleMaps:
        keyframes, told = typed.keyframes(ground), typed.text_lists(ground, "tokens")
        views = typed.array_names(ground, r"view_\d{3}")
        if len(views) != len(told):
            raise typed.ForeignArtefactError(f"an artefact has tokens of {len(told)} views and maps of {len(views)}")
        maps, behind = [], []
        for name, tokens in zip(views, told, strict=True):
            # An empty answer has no map, and keeps the shape of one.
            maps_nthw = np.asarray(ground.arrays[name], dtype=np.float32)
            if tokens:
                maps_nthw = typed.floats(ground, name, (len(tokens), None, None, None))
            map_thw, which = chosen_map(maps_nthw, settings.token)
            maps.append(map_thw)
            behind.append(None if which is None else "".join(tokens) if which < 0 else tokens[which])
        map_Thw = match_keyframes(np.concatenate(maps), len(keyframes))
        return SampleMaps(keyframes, map_Thw, meta={"tokens": behind})

    return read


def chosen_map(maps_nthw: Float32, token: Token) -> tuple[Float32, int | None]:
    """The map that makes masks, (t, h, w), and the token it is of: -1 for all, None where the answer is empty."""
    if not len(maps_nthw):
        return np.zeros(maps_nthw.shape[1:], dtype=np.float32), None
    if token == "mean":
        return maps_nthw.mean(0, dtype=np.float32), -1
    index = {"first": 0, "last": len(maps_nthw) - 1, "strongest": int(maps_nthw.max((1, 2, 3)).argmax())}[token]
    return maps_nthw[index], index
