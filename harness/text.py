"""Text from files of others, as it may be shown: no character of it moves the cursor or turns the reading direction."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

_UNSAFE = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 and C1 controls; tab and line feed are layout
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # direction marks, embeddings, overrides, isolates
    "\u2028\u2029\ufeff"  # line and paragraph separators, byte order mark
    "\ud800-\udfff"  # halves of a pair, which no encoding can write
    "]"
)


def shown(text: str) -> str:
    r"""The text with control characters, direction marks and lone surrogates written as escapes.

    >>> print(shown("car\x1b[31m\u202egnp"))
    car\x1b[31m\u202egnp
    """
    return _UNSAFE.sub(_escape, text)


def one_line(text: str) -> str:
    r"""Like `shown`, for names: line breaks and tabs are escapes too."""
    return shown(text).replace("\n", "\\n").replace("\t", "\\t")


_FORMULA = re.compile(r"\s*[=+\-@]|[\t\r\n]|\ufeff")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def inert(value: str) -> str:
    r"""Text for a cell of a CSV file: what a spreadsheet would run as a formula gets a leading apostrophe.

    Spreadsheets drop white space, and read a leading ``=``, ``+``, ``-`` or ``@`` as the start of a formula. Plain
    decimal numbers stay; control characters and direction marks are escapes.

    >>> inert("=cmd()"), inert("-1.5"), inert("-1+cmd()"), inert(" @x")
    ("'=cmd()", '-1.5', "'-1+cmd()", "' @x")
    """
    formula = _FORMULA.match(value) and not _NUMBER.fullmatch(value)
    return f"'{shown(value)}" if formula else shown(value)


def markdown(text: str) -> str:
    r"""One line of text in which nothing is Markdown or HTML, in a paragraph or in a cell of a table.

    >>> print(markdown("a|b *c* <i> www.x.org"))
    a\|b \*c\* \<i\> www\.x.org
    """
    # Addresses and mentions become links without any mark-up where Markdown is extended.
    escaped = re.sub(r"([\\`*_{}\[\]<>|#!~&$@])", r"\\\1", _on_one_line(text))
    escaped = re.sub(r":(?=//)|(?<=www)\.|(?<=mailto):|(?<=xmpp):", r"\\\g<0>", escaped, flags=re.IGNORECASE)
    # At the start of a line these would begin a list or underline a heading.
    return re.sub(r"^([0-9]*)([-+=](?=[-= ]*$| )|[.)](?= |$))", r"\1\\\2", escaped)


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "†": r"$^\dagger$",
    "‡": r"$^\ddagger$",
    "?": r"$^?$",
    "°": r"$^\circ$",
    "!": r"$^!$",
}


def latex(text: str) -> str:
    r"""One line of text in which nothing is a command of LaTeX.

    A bracket or a star at its start is in braces: the end of a row before it would take it for an argument.

    >>> print(latex("50% of_{x} [2]"), latex("[2cm] a"))
    50\% of\_\{x\} [2] {[}2cm] a
    """
    line = _on_one_line(text)
    escaped = "".join(_LATEX.get(character, character) for character in line)
    return f"{{{line[0]}}}{escaped[1:]}" if line.startswith(("[", "*")) else escaped


def markup(text: str) -> str:
    r"""One line of text as HTML shows it.

    >>> print(markup("<b>\u202ex"))
    &lt;b&gt;\u202ex
    """
    return html.escape(one_line(text))


def _on_one_line(text: str) -> str:
    return one_line(re.sub(r"[ \t\r\n]+", " ", text).strip(" "))


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class SafeConsole(Console):
    """A rich console that shows every text by `shown`, wherever in a table or a message it stands."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Segments of the renderable; cursor movements of rich itself pass."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(shown(segment.text), segment.style)
