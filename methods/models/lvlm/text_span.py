"""Where the user's text stands among a prompt's tokens.

Methods that read single positions (the last token of an expression, every token of the question) ask here. The text
is found in the chat as the family's template writes it; what the template puts behind it is counted in tokens, from
the end, because the visual tokens in front are multiplied by the processor.

Shape legend: L sequence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.methods.models.lvlm.base import Prompted
from rvosbench.methods.models.lvlm.running import RunningLvlm


def text_span(
    lvlm: RunningLvlm, prompted: Prompted, visual: Mapping[str, str], prompt: str, part: str | None = None
) -> range:
    """Positions, among the L tokens, of those that hold the prompt's text.

    A token that holds characters of the text and of the template counts as the text's.

    Args:
        lvlm: the model that made ``prompted``.
        prompted: the prompt put to a view.
        visual: the view's item in the chat, ``{"type": "image"}`` or ``{"type": "video"}``.
        prompt: the text of the prompt.
        part: a piece of the prompt, its first occurrence; None: all of it.

    Raises:
        SampleError: the text is blank, or ``part`` is not in it.
        PrerequisiteError: the checkpoint's template or tokenizer does not keep the text as it is.
    """
    if part is not None and part not in prompt:
        raise SampleError(f"the prompt does not hold '{part}'")
    family: Any = lvlm  # each builds its chat from its messages, through its processor
    chat = family.processor.apply_chat_template(
        family.messages(visual, prompt), add_generation_prompt=True, tokenize=False
    )
    # Some templates trim the text.
    text = prompt if prompt in chat else prompt.strip()
    wanted = text if part is None else part
    if not wanted.strip():
        raise SampleError("there is no text to look for in the prompt")
    whole = chat.rfind(text)
    if whole < 0 or wanted not in text:
        raise _altered(lvlm, "chat template")
    start = whole + text.index(wanted)
    end = start + len(wanted)
    encoded = lvlm.tokenizer(chat, return_offsets_mapping=True)
    offsets = encoded["offset_mapping"]
    inside = [index for index, (low, high) in enumerate(offsets) if low < end and high > start]
    behind = len(offsets) - inside[-1] - 1
    known = encoded["input_ids"][inside[0] :]
    found = prompted.inputs["input_ids"][0, -len(known) :].tolist()
    if found != list(known):
        raise _altered(lvlm, "tokenizer")
    last = prompted.length - behind
    return range(last - len(inside), last)


def _altered(lvlm: RunningLvlm, what: str) -> PrerequisiteError:
    return PrerequisiteError(
        f"The checkpoint's {what} changes the text of a prompt, so that its tokens cannot be found "
        f"({type(lvlm).__name__}).",
        "Download the checkpoint again, all files, or use a released one.",
    )
