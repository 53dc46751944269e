"""Token activation maps from activations: interference, joint normalisation, rank filter (TAM, xmed-lab/TAM 7c7df1d).

An activation is max(0, logit) of a token's class at some position. Pure numpy in float64.

Shape legend: M text tokens (n_p of the prompt, then the answer's), n visual cells, t h w visual grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rvosbench.methods.ground.fusion import Float32
from rvosbench.methods.tam.settings import Version

Float64 = NDArray[np.float64]
_EPSILON = 1e-8


@dataclass(frozen=True, eq=False)
class Activations:
    """What a generation left behind, for the text tokens in order: the prompt's, then the answer's."""

    ids_M: NDArray[np.int64]
    """Vocabulary ids; equal ones are the same word."""
    prompt: int
    """n_p."""
    visual_Mthw: Float64
    """Each token's class at the visual positions."""
    text_MM: Float64
    """Row M: the token's class at the positions of the text tokens. A prompt token's position is its own; an answer
    token's is the one that predicts it. Columns after the row's own are not looked at; rows of the prompt neither."""
    first_thw: Float64
    """At the visual positions, the class that the model predicts at the first prompt token."""
    first_text_p: Float64
    """The same at the prompt's positions, (n_p,)."""
    last_thw: Float64
    """At the visual positions, the class of the last token before the answer."""

    @property
    def answer(self) -> int:
        """Tokens of the answer."""
        return len(self.ids_M) - self.prompt


def answer_maps(found: Activations, version: Version, causal: bool) -> Float32:
    """The map of every answer token, (answer, t, h, w) float32 in [0, 1].

    "released" repeats what the code does at its first round: what it returns for the first answer token is the map of
    the first prompt token with the class predicted there, without interference; and what later tokens hold against
    those two is that same map, for the first prompt token, and for the first answer token the map of the last prompt
    token's class. In "fixed" every token has the map of its own class.
    """
    maps = [_answer_map(found, index, version, causal) for index in range(found.answer)]
    if not maps:
        return np.zeros((0, *found.visual_Mthw.shape[1:]), dtype=np.float32)
    return np.stack(maps).astype(np.float32)


def _answer_map(found: Activations, index: int, version: Version, causal: bool) -> Float64:
    if version == "released" and index == 0:
        return filtered(jointly_normalised(found.first_thw, found.first_text_p))
    at = found.prompt + index
    earlier_Mthw = found.visual_Mthw[:at]
    if version == "released":
        earlier_Mthw = earlier_Mthw.copy()
        earlier_Mthw[0] = found.first_thw
        earlier_Mthw[found.prompt] = found.last_thw
    own_thw = found.visual_Mthw[at]
    text_m = found.text_MM[at, :at]
    if causal:
        others = found.ids_M[:at] != found.ids_M[at]
        own_thw = without_interference(own_thw, earlier_Mthw[others], text_m[others])
    return filtered(jointly_normalised(own_thw, text_m))


def without_interference(own_thw: Float64, others_mthw: Float64, weight_m: Float64) -> Float64:
    """What other words do not explain: the map less their weighted mean, scaled by least squares, at least 0.

    Args:
        own_thw: the token's map.
        others_mthw: maps of earlier, different tokens; none leave the map as it is.
        weight_m: the token's activation at their positions.
    """
    interference_thw = np.tensordot(weight_m / (weight_m.sum() + _EPSILON), others_mthw, 1)
    power = float((interference_thw**2).sum())
    scale = float((own_thw * interference_thw).sum()) / power if power > 0 else 0.0
    return np.asarray(np.maximum(own_thw - scale * interference_thw, 0.0))


def jointly_normalised(map_thw: Float64, text_m: Float64) -> Float64:
    """Min-max over the map and the text's activations together; all 0 where they are all equal.

    A map that stays low says that the token comes from the text.
    """
    both = np.concatenate([map_thw.ravel(), text_m])
    span = both.max() - both.min()
    return np.asarray((map_thw - both.min()) / (span if span > 0 else 1.0))


def filtered(map_thw: Float64) -> Float64:
    """Every slice through ``rank_filter``."""
    return np.stack([rank_filter(map_hw) for map_hw in map_thw])


def rank_filter(map_hw: Float64, size: int = 3) -> Float64:
    """Each cell becomes a Gaussian-weighted mean over the ranks of its window, whose middle rank weighs most.

    The Gaussian's sigma is the window's standard deviation over its mean: the more even a window, the nearer to its
    median. Borders are reflected. A window of equal values, where the released code divides 0 by 0, keeps its value.
    """
    half = size // 2
    padded = np.pad(map_hw, half, mode="reflect")
    windows_hwr = np.sort(np.lib.stride_tricks.sliding_window_view(padded, (size, size)).reshape(*map_hw.shape, -1))
    mean_hw1 = windows_hwr.mean(-1, keepdims=True)
    above = mean_hw1 > 0
    sigma_hw1 = windows_hwr.std(-1, keepdims=True) / np.where(above, mean_hw1, 1.0)
    rank_r = np.arange(size**2) - size**2 // 2
    with np.errstate(divide="ignore", invalid="ignore"):
        exponent_hwr = -(rank_r**2) / (2 * sigma_hw1**2)
    exponent_hwr[..., size**2 // 2] = 0.0
    weight_hwr = np.exp(exponent_hwr)
    value_hw = (windows_hwr * weight_hwr).sum(-1) / weight_hwr.sum(-1)
    return np.where(above[..., 0], value_hw, 0.0)
