"""The fenced blocks of the documentation's pages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    title: str
    """The file it shows; "" for others."""
    text: str


def blocks(page: Path) -> list[Block]:
    """All fenced blocks, in order."""
    pattern = r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$'
    found = re.findall(pattern, page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [Block(*parts) for parts in found]


def write_files(page: Path, folder: Path) -> dict[str, str]:
    """Writes the files that a page shows; returns their texts by name."""
    files = {block.title: block.text for block in blocks(page) if block.title}
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return files
