"""Hidden states of the language model's last layer, after the final norm, at named positions of a chat.

Shape legend: L prompt tokens, S = L + answer tokens, D hidden size, n positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.methods.models.lvlm.base import ModelInputs
from rvosbench.methods.models.lvlm.messages import (
    AnswerTokens,
    Hidden,
    HiddenStates,
    LastToken,
    Message,
    Position,
    TextTokens,
)
from rvosbench.methods.models.lvlm.model import Lvlm
from rvosbench.methods.models.lvlm.text_span import named_spans


def answer_with_states(lvlm: Lvlm, inputs: ModelInputs, max_new_tokens: int | None = None) -> tuple[list[int], Tensor]:
    """The ids of the greedy answer, and the hidden state of every position that was run, (S - 1 or less, D).

    What ends the answer stays in it. To be called inside ``Lvlm.inference``.
    """
    states: list[Tensor] = []

    def keep(module: object, arguments: object, output: Any) -> None:
        states.append(output.last_hidden_state[0])

    hook = lvlm.model.model.register_forward_hook(keep)
    try:
        generated_BS = lvlm.generate([inputs], max_new_tokens)
    finally:
        hook.remove()
    return generated_BS[0, inputs.length :].tolist(), torch.cat(states)


def hidden_states(lvlm: Lvlm, messages: Sequence[Message], inputs: ModelInputs, want: Hidden) -> HiddenStates:
    """The hidden states that a chat asks for.

    The last generated token is never run by generation itself; its state is computed in a second pass.

    Raises:
        SampleError: the device ran out of memory, a state is not finite, or a named text is blank.
        PrerequisiteError: ``AnswerTokens.token`` is not one token of the checkpoint.
        ValueError: there is no text of that name.
    """
    answered = any(isinstance(position, AnswerTokens) for position in want.positions.values())
    spans = named_spans(lvlm, messages, inputs)
    answer: list[int] = []
    whole = inputs
    if answered:
        with lvlm.inference([inputs]):
            answer = lvlm.generate([inputs], want.max_new_tokens)[0, inputs.length :].tolist()
        whole = _continued(inputs, answer)
    with lvlm.inference([whole]):
        hidden_SD = lvlm.model.model(**lvlm.batched([whole]), use_cache=False).last_hidden_state[0].float().cpu()
    places = {name: _places(lvlm, position, inputs, answer, spans) for name, position in want.positions.items()}
    states = {name: hidden_SD[at].numpy() for name, at in places.items()}
    if not all(np.isfinite(state_nD).all() for state_nD in states.values()):
        raise SampleError("the hidden states are not finite: the model overflowed in its number type")
    text = lvlm.tokenizer.decode(answer, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return HiddenStates(states, text)


def _continued(inputs: ModelInputs, answer: Sequence[int]) -> ModelInputs:
    """The chat with its answer behind it."""
    made = dict(inputs.inputs)
    for name, value in inputs.inputs.items():
        if value.shape == (1, inputs.length):
            filling = {"input_ids": list(answer), "attention_mask": [1] * len(answer)}.get(name, [0] * len(answer))
            made[name] = torch.cat([value, value.new_tensor(filling).unsqueeze(0)], 1)
    return ModelInputs(made, inputs.visuals, inputs.chat, inputs.soft)


def _places(
    lvlm: Lvlm, position: Position, inputs: ModelInputs, answer: Sequence[int], spans: Mapping[str, range]
) -> list[int]:
    if isinstance(position, LastToken):
        return [inputs.last_token]
    if isinstance(position, TextTokens):
        if position.name not in spans:
            raise ValueError(f"no text of the chat is named '{position.name}'")
        return list(spans[position.name])
    wanted: int | None = None
    if position.token is not None:
        known = lvlm.tokenizer.get_vocab().get(position.token)
        ids = lvlm.tokenizer(position.token, add_special_tokens=False)["input_ids"] if known is None else [known]
        if len(ids) != 1:
            raise PrerequisiteError(
                f"'{position.token}' is {len(ids)} tokens of {lvlm.settings.checkpoint}, not one.",
                "Name a token of the checkpoint's vocabulary, or use a checkpoint that has it.",
            )
        (wanted,) = ids
    first = inputs.length - (position.state == "before_token")
    return [first + index for index, token in enumerate(answer) if wanted is None or token == wanted]
