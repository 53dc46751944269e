"""Text from files of others, as it may be shown: no character of it moves the cursor or turns the reading direction."""

from __future__ import annotations

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


def markdown(text: str) -> str:
    r"""One line of text in which nothing is Markdown.

    >>> print(markdown("a|b *c*"))
    a\|b \*c\*
    """
    return re.sub(r"([\\`*_{}\[\]<>|#!~&])", r"\\\1", " ".join(text.split()))


def inert(value: str) -> str:
    """Text that a spreadsheet would run as a formula gets a leading apostrophe; numbers stay.

    >>> inert("=cmd()"), inert("-1.5"), inert("-x")
    ("'=cmd()", '-1.5', "'-x")
    """
    return f"'{value}" if re.match(r"[=+@\t\r]|-\D", value) else value


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class SafeConsole(Console):
    """A rich console that shows every text by `shown`, wherever in a table or a message it stands."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Segments of the renderable; cursor movements of rich itself pass."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(shown(segment.text), segment.style)
