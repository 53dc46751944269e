"""DecAF's prompts, letter by letter.

Source: DecAF (arXiv 2510.19592) appendix and Tables 10-12 for the variants; the wording is the one of the released
code, whose figures in the paper are shortened. ``v0`` is the default of each kind; the reference has ``v1``-``v3``
for Qwen only, here they exist for every model. Clip calls and frame calls use the same text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rvosbench.harness.errors import SampleError

PromptVersion = Literal["v0", "v1", "v2", "v3"]
VERSIONS: tuple[PromptVersion, ...] = ("v0", "v1", "v2", "v3")

_FOCUS = (
    "Focus on the **primary subject or agent** involved in the described action or behavior. "
    "Respond with a single word (e.g., 'cat', 'person', 'dog') that best describes the target object(s). "
)

# {sentence} is the prepared expression.
_OBJECT: dict[PromptVersion, str] = {
    "v0": "{sentence} \n"
    "What is the main object (or objects) referred to in the given expression or question? \n" + _FOCUS,
    "v1": "{sentence} \nIdentify the primary object referred to in the expression and answer with a single word. \n",
    "v2": "{sentence} \nIdentify the primary object referred to in the expression. \n" + _FOCUS,
    "v3": "{sentence} \nDetermine the primary subject or agent mentioned in the expression or question, "
    "and provide the object's label within a single word or phrase. ",
}

_BRIEFLY = "Answer the question using a single word or phrase."

# {name} is the object name that the choice call gave.
_BACKGROUND: dict[PromptVersion, str] = {
    "v0": "Describe the background scene of the video, excluding any {name}. " + _BRIEFLY,
    "v1": "Describe the background scene of the video. " + _BRIEFLY,
    "v2": "Describe the background of the video while excluding any {name}, using a single word or short phrase.",
    "v3": "Describe the background scene of the video, excluding the objects referred to in the given expression "
    "or question '{sentence}'. " + _BRIEFLY,
}

# {candidates} are the answers of the object calls, clip first.
_CHOICE: dict[PromptVersion, str] = {
    "v0": "Given:\n"
    "- Expression: '{sentence}'\n"
    "- Candidate object class list: {candidates}\n"
    "Goal: Identify the object class referred to by the expression. Instructions:\n"
    "1. If the expression is **clear**, rely on it directly (e.g., 'a person driving a car' → 'person').\n"
    "2. If the expression is **vague**, use the object class list to support your decision "
    "(e.g., check frequency and plausibility).\n"
    "3. Avoid defaulting to the most frequent class unless the expression lacks clarity.\n"
    "Output the most likely referred object class - just the label.\n",
    "v1": "Given the expression ‘{sentence}’ and the candidate object classes {candidates}, "
    "select the single class label that best matches the object referred to in the expression.\n",
    "v2": "Using the expression ‘{sentence}’ and the candidate object classes {candidates}, "
    "determine which object class the expression refers to.\n"
    "If the reference is explicit, rely on the expression; if ambiguous, use the class list as support.\n"
    "Output only the most likely object class.\n",
    "v3": "Given:\n"
    "- Expression: '{sentence}'\n"
    "Goal: Identify the object class referred to by the expression. (e.g., 'a person driving a car' → 'person').\n"
    "Output the most likely referred object class - just the label.\n",
}


def punctuated(expression: str) -> str:
    """The expression with a full stop, unless it ends in one or in a question mark.

    Spaces at either end stay, as in the reference: ``"a cat "`` becomes ``"a cat ."``.

    Raises:
        SampleError: nothing but spaces.
    """
    if not expression.strip():
        raise SampleError("the expression is empty")
    return expression if expression.endswith(("?", ".")) else expression + "."


def sentence(expression: str) -> str:
    """The expression as it stands in every prompt: punctuated, lower case."""
    return punctuated(expression).lower()


def object_prompt(version: PromptVersion, expression: str) -> str:
    """Asks for the class of the object an expression means."""
    return _OBJECT[version].format(sentence=sentence(expression))


def background_needs_name(version: PromptVersion) -> bool:
    """True when the background prompt names the object, so that a ``reason`` stage must have found the name."""
    return "{name}" in _BACKGROUND[version]


def background_prompt(version: PromptVersion, expression: str, name: str | None) -> str:
    """Asks for the scene without the object.

    Raises:
        ValueError: the version needs the object's name and ``name`` is None.
    """
    if name is None and background_needs_name(version):
        raise ValueError(f"background prompt {version} needs the object's name")
    return _BACKGROUND[version].format(sentence=sentence(expression), name=name)


def choice_lists_candidates(version: PromptVersion) -> bool:
    """False when the choice is made from the expression alone, so that the object calls need not be answered."""
    return "{candidates}" in _CHOICE[version]


def choice_prompt(version: PromptVersion, expression: str, candidates: Sequence[str]) -> str:
    """Asks, in text only, for one class out of the candidates (see ``candidate``)."""
    return _CHOICE[version].format(sentence=sentence(expression), candidates=",".join(candidates).lower())


def candidate(answer: str) -> str:
    """An object call's answer as it is kept: stripped; the choice prompt lower-cases it."""
    return answer.strip()


def object_name(answer: str) -> str:
    """The choice call's answer as the background prompt uses it: stripped and lower-cased, otherwise unfiltered."""
    return answer.strip().lower()
