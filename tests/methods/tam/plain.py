"""Token activation maps the slow way: from whole logits, cell by cell, token by token.

Logits are those of a model that was given the prompt and the answer at once, (S, V). Written from the description of
the released code; ``released`` follows it into its first round.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize_scalar


def plain_filter(map_hw: np.ndarray) -> np.ndarray:
    out = np.zeros_like(map_hw)
    padded = np.pad(map_hw, 1, mode="reflect")
    for y, x in np.ndindex(*map_hw.shape):
        window = sorted(padded[y : y + 3, x : x + 3].ravel())
        mean = sum(window) / 9
        if mean <= 0:
            continue
        sigma = np.sqrt(sum((value - mean) ** 2 for value in window) / 9) / mean
        if sigma == 0:
            out[y, x] = window[4]
            continue
        weights = [np.exp(-((rank - 4) ** 2) / (2 * sigma**2)) for rank in range(9)]
        out[y, x] = sum(w * v for w, v in zip(weights, window, strict=True)) / sum(weights)
    return out


def plain_maps(
    logits_SV: np.ndarray,
    ids_S: Sequence[int],
    visual: Sequence[int],
    prompt: Sequence[int],
    length: int,
    shape: tuple[int, int, int],
    *,
    released: bool,
) -> list[np.ndarray]:
    """The answer tokens' maps, (t, h, w) each.

    Args:
        ids_S: prompt and answer.
        visual: positions of the visual tokens, cell by cell.
        prompt: positions of the prompt's text.
        length: L; the answer starts there.
    """
    relu = np.maximum(logits_SV, 0)
    answer = list(range(length, len(ids_S)))
    words = [ids_S[p] for p in (*prompt, *answer)]
    maps = [relu[visual, word] for word in words]
    results = []
    for index in range(len(answer)):
        at = len(prompt) + index
        if released and index == 0:
            word = int(logits_SV[prompt[0]].argmax())
            own, text = relu[visual, word], [relu[p, word] for p in prompt]
            # What the code keeps of this round: this map, and the last prompt token's for the answer's first.
            maps[0] = own
            maps[at] = relu[visual, ids_S[length - 1]]
        else:
            word = words[at]
            own = relu[visual, word]
            # A prompt word stands at its own position, an answer word where it is predicted.
            text = [relu[p, word] for p in prompt] + [relu[length - 1 + k, word] for k in range(index)]
            others = [i for i in range(at) if words[i] != word]
            weights = np.array([text[i] for i in others])
            weights = weights / (weights.sum() + 1e-8)
            interference = sum(w * maps[i] for w, i in zip(weights, others, strict=True))
            scale = minimize_scalar(lambda s, a=own, b=interference: ((a - s * b) ** 2).sum()).x
            own = np.maximum(own - scale * interference, 0)
        both = [*own, *text]
        low, high = min(both), max(both)
        normal = (own - low) / (high - low)
        results.append(np.stack([plain_filter(one) for one in normal.reshape(shape)]))
    return results
