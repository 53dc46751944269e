"""The examples of the documentation, run as a reader would: files are written as shown, commands given in order."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from pages import DOCS, blocks, write_files
from processes import rvosbench

PAGES = [page for page in sorted(DOCS.glob("*.md")) if any(block.language == "sh" for block in blocks(page))]


def test_the_pages_with_examples_are_found() -> None:
    assert {page.name for page in PAGES} >= {"first_method.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_example_works_as_written(page: Path, tmp_path: Path) -> None:
    """Lines with figures of a ``text`` block are what the commands before it printed."""
    printed = ""
    for block in blocks(page):
        if block.title:
            (tmp_path / block.title).write_text(block.text)
        elif block.language == "sh":
            printed = "".join(run(line, tmp_path) for line in block.text.splitlines())
        elif block.language == "text":
            for line in block.text.splitlines():
                if any(character.isdigit() for character in line):
                    assert " ".join(line.split()) in " ".join(printed.split()), line


def run(line: str, folder: Path) -> str:
    """Standard output of a command, which must succeed."""
    words = shlex.split(line, comments=True)
    if words[0] == "python":
        done = subprocess.run([sys.executable, *words[1:]], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, (line, done.stderr)
        return done.stdout
    assert words[0] == "rvosbench", f"only these two programs are run here: {line}"
    code, stdout, stderr = rvosbench(*words[1:], folder=folder)
    assert code == 0, (line, stdout, stderr)
    return stdout


def test_the_method_has_forty_lines_and_its_second_plan_reuses_everything(tmp_path: Path) -> None:
    files = write_files(DOCS / "first_method.md", tmp_path)
    code = [line for line in files["moving.py"].splitlines() if line.strip()]
    assert len(code) <= 40
    run("rvosbench datasets shapes --data-root data --videos 1", tmp_path)
    run("rvosbench run moving.yaml", tmp_path)
    _, before, _ = rvosbench("plan", "moving.yaml", folder=tmp_path)
    commented = files["moving.py"].replace("class Moving:", "# A comment.\nclass Moving:")
    (tmp_path / "moving.py").write_text(commented)
    assert rvosbench("plan", "moving.yaml", folder=tmp_path)[1] == before, "a comment is no change"
    (tmp_path / "moving.py").write_text(files["moving.py"].replace(".sum(axis=3)", ".max(axis=3)"))
    assert rvosbench("plan", "moving.yaml", folder=tmp_path)[1] != before
