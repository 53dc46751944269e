"""The parser over a corpus of what models really write, and over anything at all."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rvosbench.methods.reason.parser import LONGEST, LONGEST_REASONS, parse, schema, well_formed

GOOD = '{"reasons": "It is the only grey one.", "attributes": ["grey", "on the left", "small"]}'
THREE = ("grey", "on the left", "small")


@pytest.mark.parametrize(
    ("text", "attributes"),
    [
        (GOOD, THREE),
        (f"```json\n{GOOD}\n```", THREE),
        (f"```\n{GOOD}", THREE),
        (f"Let me look at the video {{carefully}}. The answer is:\n{GOOD}\nI hope this helps!", THREE),
        ('Thinking: {"step": 1}\n' + GOOD, THREE),
        ('{"answer": ' + GOOD + "}", THREE),
        ('{"attributes": ["grey"], "reasons": ["a", "list"]}', ("grey",)),
        ('{"attributes": ["grey"]}', ("grey",)),
        ('{"attributes": ["红色的圆", "à gauche", "\\u00e9carlate", "😀"]}', ("红色的圆", "à gauche", "écarlate")),
        ('{"attributes": [" Grey.", "grey", "", "  ", "\\"striped\\""]}', ("Grey", "striped")),
        ('{"attributes": ["one\\ntwo\\tthree"]}', ("one two three",)),
        ('{"attributes": ["line\nbreak in the string"]}', ("line break in the string",)),
        ('{"attributes": [1, "grey", null, ["left"], {"x": 1}]}', ("grey",)),
        ('{"attributes": ["a", "b", "c", "d", "e"]}', ("a", "b", "c")),
        (json.dumps({"attributes": ["x" * (LONGEST + 1), "y" * LONGEST]}), ("y" * LONGEST,)),
        ('{"attributes": ["<colour or appearance>", "<|image_pad|>", "left"]}', ("left",)),
        ('{"attributes": ["bad \\ud800 surrogate"]}', ("bad � surrogate",)),
    ],
)
def test_attributes_are_found(text: str, attributes: tuple[str, ...]) -> None:
    parsed = parse(text, max_attributes=3)
    assert parsed.attributes == attributes
    assert parsed.fallback == ""


@pytest.mark.parametrize(
    ("text", "fallback"),
    [
        ("", "empty"),
        (" \n\t ", "empty"),
        ("I'm sorry, but I can't watch videos.", "refusal"),
        ("As an AI, I am unable to identify people.", "refusal"),
        ("The grey cat on the left.", "no JSON"),
        ("[]", "no JSON"),
        ('["grey", "left"]', "no JSON"),
        (GOOD[:40], "cut off"),
        (GOOD[:-1], "cut off"),
        ('{"reasons": "It is', "cut off"),
        ('```json\n{"reasons": "a", "attributes": ["grey", "on th', "cut off"),
        ("{'reasons': 'single quotes', 'attributes': ['grey']}", "malformed"),
        ('{"attributes": ["grey",]}', "malformed"),
        ('{"attributes": "grey, left"}', "wrong types"),
        ('{"attributes": {"colour": "grey"}}', "wrong types"),
        ('{"attributes": [1, 2, 3]}', "wrong types"),
        ('{"attributes": null}', "wrong types"),
        ('{"reasons": "none given"}', "wrong types"),
        ('{"attributes": []}', "no attribute"),
        ('{"attributes": ["", " . "]}', "no attribute"),
        ('{"attributes": ["<colour or appearance>", "<position in the frame>", "<motion or size>"]}', "no attribute"),
        (json.dumps({"attributes": ["the one that everybody is looking at " * 4]}), "no attribute"),
        ("the grey cat " * 30, "looping"),
        ('{"reasons": "' + "because it is grey and " * 30, "looping"),
        ("!" * 200, "looping"),
        ('{"a":' * 5000, "looping"),
        ("{" * 100_000, "looping"),
    ],
)
def test_bad_answers_have_a_reason_and_no_attributes(text: str, fallback: str) -> None:
    parsed = parse(text, max_attributes=3)
    assert parsed.attributes == ()
    assert parsed.fallback == fallback


def test_reasons_are_kept_even_where_attributes_are_not() -> None:
    assert parse(GOOD, 3).reasons == "It is the only grey one."
    assert parse('{"reasons": "two\\n lines", "attributes": []}', 3).reasons == "two lines"


@given(st.text() | st.text(alphabet='{}[]":,\\ntrue0123 attributesreasons<>\ud800'))
@example(GOOD + GOOD)
@example('{"attributes": ["' + "\\ud83d" * 50)
@example('{"attributes": [' + "1" * 5000 + "]}")
@example('{"attributes": [NaN, Infinity]}')
@example('{"attributes": ' + "[" * 3000 + "]" * 3000 + "}")
def test_anything_gives_attributes_or_a_reason_and_can_be_stored(text: str) -> None:
    parsed = parse(text, max_attributes=3)
    assert bool(parsed.attributes) == (parsed.fallback == "")
    assert len(parsed.attributes) <= 3
    for attribute in parsed.attributes:
        assert 0 < len(attribute) <= LONGEST and attribute == attribute.strip() and attribute.isprintable()
        assert not set(attribute) & set("<>")
    json.dumps([*parsed.attributes, parsed.reasons, well_formed(text)], ensure_ascii=False).encode()


values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.fixed_dictionaries({"attributes": values, "reasons": values}), st.text(alphabet="abc \n`", max_size=20))
def test_any_types_in_the_right_places(value: dict[str, object], prose: str) -> None:
    parsed = parse(prose + json.dumps(value), max_attributes=2)
    listed = value["attributes"]
    strings = [entry for entry in listed if isinstance(entry, str)] if isinstance(listed, list) else []
    assert parsed.fallback in ("", "wrong types", "no attribute")
    if not strings:
        assert not parsed.attributes


@given(
    st.lists(st.text("abcdefgh ", min_size=1, max_size=LONGEST).filter(str.strip), min_size=1, max_size=3),
    st.text("xyz ", max_size=LONGEST_REASONS),
)
def test_what_follows_the_schema_is_understood(attributes: list[str], reasons: str) -> None:
    form = schema(3)["properties"]
    assert len(attributes) <= form["attributes"]["maxItems"] and len(reasons) <= form["reasons"]["maxLength"]
    parsed = parse(json.dumps({"reasons": reasons, "attributes": attributes}), max_attributes=3)
    assert parsed.fallback == ""
    assert set(parsed.attributes) == {" ".join(attribute.split()) for attribute in attributes}
    assert parsed.reasons == " ".join(reasons.split())


@pytest.mark.parametrize(
    "text, accepted",
    [
        ('{"reasons": "it is red", "attributes": ["red", "at the top"]}', True),
        ('{"reasons": "", "attributes": ["red"]}', True),
        ('{"reasons":"it is red","attributes":["red","at the top"]}', False),
        ('{"reasons":  "it is red", "attributes": ["red"]}', False),
        ('{\n"reasons": "it is red", "attributes": ["red"]}', False),
        ('{"reasons": "it is red", "attributes": []}', False),
        ('{"attributes": ["red"], "reasons": "it is red"}', False),
        ('{"reasons": "' + "x" * (LONGEST_REASONS + 1) + '", "attributes": ["red"]}', False),
    ],
)
def test_a_server_keeps_to_the_prompts_form(text: str, accepted: bool) -> None:
    """The prompt's form has blanks: without them a small trained model lost its thread."""
    guidance = pytest.importorskip("llguidance", reason="comes with vLLM")
    tokenizer = guidance.LLTokenizer("byte")
    grammar = guidance.LLMatcher.grammar_from_json_schema(json.dumps(schema(3)), defaults={"whitespace_flexible": True})
    matcher = guidance.LLMatcher(tokenizer, grammar)
    tokens = tokenizer.tokenize_str(text)
    assert (matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()) == accepted
