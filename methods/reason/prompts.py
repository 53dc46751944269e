"""The chain-of-thought prompt.

Source: SteerSeg (arXiv 2605.14908) asks once for discriminative attributes and reasons; its wording is not public. The
sentences here are ours. The expression is prepared as in every prompt (``expression_prompts.sentence``).
"""

from __future__ import annotations

from rvosbench.methods.reason.expression_prompts import sentence

_COT = (
    'Expression: "{sentence}"\n'
    "Decide which object the expression refers to. Return JSON: "
    '{{"reasons": "<at most two sentences>", "attributes": ["<colour or appearance>", "<position in the frame>", '
    '"<motion or size>"]}}. '
    "Attributes are visible facts that tell this object from similar ones, at most four words each."
)


def cot_prompt(expression: str) -> str:
    """Asks for reasons and attributes of the object an expression means, as JSON.

    Raises:
        SampleError: nothing but spaces.
    """
    return _COT.format(sentence=sentence(expression))
