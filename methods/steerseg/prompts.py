"""SteerSeg's attention prompts.

Source: the question's wording is in the paper's Figure 2; the layout around it and the answer format, DecAF's, are
ours (the paper's prompts are not public).
"""

from __future__ import annotations

from collections.abc import Sequence

from rvosbench.methods.reason.expression_prompts import object_prompt, sentence

_ATTRIBUTES = (
    "{sentence} \n"
    "Attributes: {attributes} \n"
    "What is the main object mentioned in the given expression using the attributes above? \n"
    "Respond with a single word (e.g., 'cat', 'person', 'dog') that best describes the target object(s). "
)


def attention_prompt(expression: str, attributes: Sequence[str]) -> str:
    """The prompt whose response token's attention is read; without attributes it is DecAF's object prompt.

    Raises:
        SampleError: the expression is nothing but spaces.
    """
    if not attributes:
        return object_prompt("v0", expression)
    return _ATTRIBUTES.format(sentence=sentence(expression), attributes="; ".join(attributes))
