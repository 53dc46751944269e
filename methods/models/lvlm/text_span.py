"""Where a text of a chat stands among its tokens.

Methods that read single positions (the last token of an expression, every token of the question) ask here. The text
is found in the chat as the checkpoint's template renders it. Images and videos are one placeholder there and many
tokens in the sequence, so a text behind all of them is counted from the end of the sequence, and another one is looked
for between its neighbours.

Shape legend: L sequence.
"""

from __future__ import annotations

from collections.abc import Sequence

from rvosbench.harness.errors import PrerequisiteError, SampleError
from rvosbench.methods.models.lvlm.base import ModelInputs
from rvosbench.methods.models.lvlm.messages import Message, Text
from rvosbench.methods.models.lvlm.model import Lvlm


def text_span(lvlm: Lvlm, inputs: ModelInputs, text: str, part: str | None = None) -> range:
    """Positions, among the L tokens, of those that hold the last text of a chat.

    A token that holds characters of the text and of the template counts as the text's.

    Args:
        lvlm: the model that made ``inputs``.
        inputs: a chat whose last text stands behind all images and videos.
        text: that text.
        part: some words of it, their first occurrence; None: all of it.

    Raises:
        SampleError: the text is blank, or ``part`` is not in it.
        PrerequisiteError: the checkpoint's template or tokenizer does not keep the text as it is.
    """
    start, end = _characters(lvlm, inputs.chat, text, len(inputs.chat))
    if part is not None:
        if part not in text:
            raise SampleError(f"the prompt does not hold '{part}'")
        if not part.strip():
            raise SampleError("there is no text to look for in the prompt")
        at = inputs.chat.find(part, start, end)
        if at < 0:
            raise _altered(lvlm, "chat template")
        start, end = at, at + len(part)
    return _tokens(lvlm, inputs, start, end, len(inputs.visuals))


def named_spans(lvlm: Lvlm, messages: Sequence[Message], inputs: ModelInputs) -> dict[str, range]:
    """Positions, among the L tokens, of every named text of a chat, by its name.

    Raises:
        SampleError: a named text is blank, or its tokens merge with those of an image beside it.
        PrerequisiteError: the checkpoint's template or tokenizer does not keep the text as it is.
        ValueError: two texts have one name.
    """
    spans: dict[str, range] = {}
    before, upper = len(inputs.visuals), len(inputs.chat)
    # From the end, because the template may put words of its own in front of the first turn.
    for part in reversed([part for message in messages for part in message.parts]):
        if not isinstance(part, Text):
            before -= 1
        elif part.name is not None:
            if part.name in spans:
                raise ValueError(f"two texts of the chat are named '{part.name}'")
            upper, end = _characters(lvlm, inputs.chat, part.text, upper)
            spans[part.name] = _tokens(lvlm, inputs, upper, end, before)
        elif part.text.strip():
            upper, _ = _characters(lvlm, inputs.chat, part.text, upper)
    return spans


def _characters(lvlm: Lvlm, chat: str, text: str, upper: int) -> tuple[int, int]:
    """Where the last occurrence of a text before ``upper`` stands in the chat."""
    if not text.strip():
        raise SampleError("there is no text to look for in the prompt")
    # Some templates trim the text.
    found = text if chat.rfind(text, 0, upper) >= 0 else text.strip()
    start = chat.rfind(found, 0, upper)
    if start < 0:
        raise _altered(lvlm, "chat template")
    return start, start + len(found)


def _tokens(lvlm: Lvlm, inputs: ModelInputs, start: int, end: int, before: int) -> range:
    """Positions of the tokens that hold the chat's characters [start, end), with ``before`` visuals in front."""
    encoded = lvlm.tokenizer(inputs.chat, return_offsets_mapping=True)
    inside = [index for index, (low, high) in enumerate(encoded["offset_mapping"]) if low < end and high > start]
    ids: list[int] = inputs.inputs["input_ids"][0].tolist()
    if before == len(inputs.visuals):
        known = list(encoded["input_ids"])[inside[0] :]
        if ids[-len(known) :] != known:
            raise _altered(lvlm, "tokenizer")
        first = len(ids) - len(known)
        return range(first, first + len(inside))
    known = [encoded["input_ids"][index] for index in inside]
    lowest = 0 if before == 0 else int(inputs.visuals[before - 1].cells_n.max()) + 1
    highest = int(inputs.visuals[before].cells_n.min()) - len(known)
    for first in range(highest, lowest - 1, -1):
        if ids[first : first + len(known)] == known:
            return range(first, first + len(known))
    raise SampleError("the tokens of a text in front of an image merge with the image's; end it with a line break")


def _altered(lvlm: Lvlm, what: str) -> PrerequisiteError:
    return PrerequisiteError(
        f"The checkpoint's {what} changes the text of a prompt, so that its tokens cannot be found ({lvlm.family}).",
        "Download the checkpoint again, all files, or use a released one.",
    )
