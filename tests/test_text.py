"""Text of others in terminals, tables and pages: whatever it is, nothing of it acts."""

from __future__ import annotations

import csv
import html
import io
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rvosbench.harness.text import inert, latex, markdown, markup, shown

NAMES = st.text(st.sampled_from("=+-@ \t\r\n\x00\x1b\x85\u2028\u202e\u200f\ufeff'\"|\\`*_{}[]<>#!~^&$%.:/w1ae,;\u00a0"))
ACTIVE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029\ufeff]")


@given(NAMES | st.text())
@example("\u202egnp.exe")
def test_nothing_moves_the_cursor_or_turns_the_direction(text: str) -> None:
    for given_out in (shown(text), inert(text), markdown(text), latex(text), markup(text)):
        assert not ACTIVE.search(given_out)
    for one_line in (markdown(text), latex(text), markup(text)):
        assert "\n" not in one_line and "\t" not in one_line


@pytest.mark.parametrize(
    "text",
    ["=cmd()", "+1+cmd()", "-1+cmd()", "-cmd()", "@SUM(1)", "\t=1", "\r=1", "\n=1", " =1", "\u00a0=1", "\ufeff=1", "-",
     "- 1", "+1e5x", "-1,5", "1\n=2"[1:]],
)  # fmt: skip
def test_formulas_become_text(text: str) -> None:
    assert inert(text).startswith("'")


@pytest.mark.parametrize("text", ["-1", "+1.5", "-.5", "-1e-5", "1", "0.5", "a=b", "a-b", "", "x @y"])
def test_numbers_and_names_stay(text: str) -> None:
    assert inert(text) == text


@given(NAMES)
def test_no_cell_of_a_csv_file_begins_a_formula(text: str) -> None:
    file = io.StringIO()
    csv.writer(file).writerow([inert(text), "next"])
    (cell, following), *others = csv.reader(io.StringIO(file.getvalue(), newline=""))
    assert following == "next" and not others
    number = re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", cell)
    assert number or not cell.strip().startswith(("=", "+", "-", "@")), cell


@given(NAMES)
def test_a_markdown_cell_stays_one_cell_without_markup(text: str) -> None:
    cell = re.sub(r"\\[!-/:-@\[-`{-~]", "x", markdown(text))
    assert not re.search(r"[\\`*_{}\[\]<>|#!~&$@]|://|www\.", cell), cell
    assert not re.match(r"([-+]|\d+[.)])( |$)|[-= ]+$", cell), cell


def test_addresses_are_no_links() -> None:
    assert markdown("http://x.org www.x.org a@x.org") == r"http\://x.org www\.x.org a\@x.org"
    assert markdown("![x](http://x.org/beacon.png)").startswith(r"\!\[x\]")


@given(NAMES)
def test_a_latex_cell_holds_no_command_and_ends_no_row(text: str) -> None:
    cell = latex(text)
    known = r"\\(textbackslash|textasciitilde|textasciicircum|textless|textgreater|textbar)\{\}|\\[&%$#_{}]|\$\^[?!]\$"
    rest = re.sub(known, "", cell).replace("{[}", "").replace("{*}", "")
    assert not re.search(r"[\\&%$#_{}~^|]", rest), cell
    assert not cell.startswith(("[", "*")), "the end of the row before would take it for its argument"


@given(NAMES)
def test_markup_is_text_in_html(text: str) -> None:
    assert not re.search(r"[<>\"']", markup(text))
    assert "&" not in re.sub(r"&(lt|gt|amp|quot|#x27);", "", markup(text))
    assert ACTIVE.search(text) or "\n" in text or "\t" in text or html.unescape(markup(text)) == text
