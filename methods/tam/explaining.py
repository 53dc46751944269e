"""From a prompt to an answer and the activations behind it, on a loaded model.

The answer is generated greedily with a cache; a hook keeps the last hidden states of every step. Only the few classes
that are needed are projected, never the whole vocabulary at all positions.

Shape legend: L prompt tokens, S = L + answer tokens, D hidden size, C classes, M text tokens, t h w visual grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rvosbench.harness.errors import SampleError
from rvosbench.methods.models.lvlm.base import ModelInputs
from rvosbench.methods.models.lvlm.hidden import answer_with_states
from rvosbench.methods.models.lvlm.model import Lvlm
from rvosbench.methods.models.lvlm.text_span import text_span
from rvosbench.methods.tam.maps import Activations


@dataclass(frozen=True, eq=False)
class Explained:
    """A generated answer and its activations."""

    answer: str
    tokens: tuple[str, ...]
    """The answer token by token, without what ends it."""
    activations: Activations


def explain(lvlm: Lvlm, prompted: ModelInputs, prompt: str) -> Explained:
    """Answers a prompt and reads the activations of its words.

    Args:
        lvlm: the model.
        prompted: the prompt put to a view.
        prompt: its text.

    Raises:
        SampleError: the device ran out of memory, or activations are not finite.
    """
    span = text_span(lvlm, prompted, prompt)
    with lvlm.inference([prompted]):
        answer, hidden_SD = _generate(lvlm, prompted)
        return Explained(
            lvlm.tokenizer.decode(answer, skip_special_tokens=True, clean_up_tokenization_spaces=False),
            tuple(lvlm.tokenizer.decode([token]) for token in answer),
            _activations(lvlm, prompted, span, answer, hidden_SD),
        )


def _generate(lvlm: Lvlm, prompted: ModelInputs) -> tuple[list[int], Tensor]:
    """The answer's tokens up to what ends it, and the last hidden state of every position that was run."""
    answer, hidden_SD = answer_with_states(lvlm, prompted)
    ends = {*np.atleast_1d(lvlm.model.generation_config.eos_token_id or []).tolist(), *lvlm.tokenizer.all_special_ids}
    stop = next((index for index, token in enumerate(answer) if token in ends), len(answer))
    return answer[:stop], hidden_SD


def _activations(lvlm: Lvlm, prompted: ModelInputs, span: range, answer: list[int], hidden_SD: Tensor) -> Activations:
    head = lvlm.model.get_output_embeddings()
    ids_L = prompted.inputs["input_ids"][0].tolist()
    text = [*(ids_L[position] for position in span), *answer]
    at = [*span, *range(prompted.last_token, prompted.last_token + len(answer))]
    first = int(head(hidden_SD[span[0]]).argmax())
    classes = torch.tensor([*text, first, ids_L[-1]], device=hidden_SD.device)
    seen_SD = hidden_SD[: prompted.length + max(len(answer) - 1, 0)].float()
    scores_CS = (head.weight[classes].float() @ seen_SD.T).clamp(min=0).cpu()
    if not torch.isfinite(scores_CS).all():
        raise SampleError("the activations are not finite: the model overflowed in its number type")
    visual_Cthw = prompted.to_grid(scores_CS[:, : prompted.length]).double().numpy()
    text_CM = scores_CS[:, at].double().numpy()
    return Activations(
        ids_M=np.array(text, dtype=np.int64),
        prompt=len(span),
        visual_Mthw=visual_Cthw[:-2],
        text_MM=text_CM[:-2],
        first_thw=visual_Cthw[-2],
        first_text_p=text_CM[-2, : len(span)],
        last_thw=visual_Cthw[-1],
    )
