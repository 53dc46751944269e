"""Metadata and mask dictionaries from strangers: one sentence, exit code 2, the other data sets still listed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rvosbench.harness import cli
from rvosbench.harness.data.parsing import parse_json, why_no_name
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.text import SafeConsole, one_line, shown

META = "shapes/valid/meta_expressions.json"
MASKS = "shapes/valid/mask_dict.json"
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["rvosbench", *map(str, arguments)])
        code: object = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code
        captured = capsys.readouterr()
        return int(str(code or 0)), captured.out + captured.err

    return run


@pytest.fixture
def shapes(tree: Any, rle: Any, square: Any) -> Any:
    """A sound benchmark of one video, and a second data set beside it."""
    expressions = {"0": {"exp": "it", "obj_id": [0], "anno_id": [4], "subset": "referring"}}
    tree.json(META, {"videos": {"v": {"frames": ["00000"], "expressions": expressions}}})
    tree.json(MASKS, {"4": [rle(square(1, 1))]})
    tree.frames("shapes/valid/JPEGImages/v", ["00000"])
    tree.json(
        "mevis/valid_u/meta_expressions.json",
        {"videos": {"m": {"frames": ["0"], "expressions": {"0": {"exp": "x", "obj_id": [0], "anno_id": [0]}}}}},
    )
    tree.json("mevis/valid_u/mask_dict.json", {"0": [rle(square(1, 1))]})
    tree.frames("mevis/valid_u/JPEGImages/m", ["0"])
    return tree


VALID = '{"videos": {"v": {"frames": ["00000"], "expressions": {"0": {"exp": "it", "obj_id": [0], "anno_id": [4]}}}}}'
BROKEN = {
    "a name of 300 characters": VALID.replace('"v"', '"' + "v" * 300 + '"'),
    "300 folders": VALID.replace('"v"', '"' + "v/" * 600 + 'v"'),
    "half a character as a name": VALID.replace('"v"', '"v\\ud800"'),
    "half a character in a text": VALID.replace('"it"', '"it \\udfff"'),
    "half a character as an id": VALID.replace('"0"', '"\\udc00"'),
    "5,000 digits": VALID.replace("[4]", "[" + "9" * 5000 + "]"),
    "5,000 digits of text": VALID.replace("[4]", '["' + "9" * 5000 + '"]'),
    "nesting": VALID.replace("[4]", "[" * 100_000 + "]" * 100_000),
    "nan": VALID.replace("[4]", "[NaN]"),
    "infinity": VALID.replace("[4]", "[1e999]"),
    "a key twice": VALID.replace('"frames"', '"frames": ["1"], "frames"'),
    "a path upwards": VALID.replace('"v"', '"../v"'),
    "an absolute path": VALID.replace('"v"', '"/v"'),
    "a path of Windows": VALID.replace('"v"', '"..\\\\v"'),
    "nul": VALID.replace('"v"', '"v\\u0000"'),
    "an escape sequence": VALID.replace('"v"', '"v\\u001b]0;title\\u0007"'),
    "a line break": VALID.replace('"00000"', '"00000\\n"'),
    "a frame that is a path": VALID.replace('"00000"', '"../00000"'),
    "a frame with its suffix": VALID.replace('"00000"', '"00000.JPG"'),
    "a list as a field": VALID.replace('"exp": "it"', '"exp": ["it"]'),
    "a height of 0": VALID.replace('"frames"', '"height": 0, "width": 0, "frames"'),
    "utf-16": VALID.encode("utf-16").decode("latin-1"),
    "a pointer": "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n",
    "a page": "<!DOCTYPE html><html><body>Sign in</body></html>",
    "nothing": "",
    "blanks": " \n ",
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_metadata_is_one_sentence_and_hides_no_other_data_set(shapes: Any, run: Run, name: str) -> None:
    path = shapes.text(META, BROKEN[name])
    code, text = run("datasets", "verify", "shapes", "--data-root", shapes.root)
    assert code == 2 and str(path) in text.replace("\n", "")
    _, text = run("datasets", "list", "--data-root", shapes.root)
    assert "1 of 50 videos" in text and "\x1b" not in text
    code, _ = run("score", shapes.root, "--dataset", "shapes", "--data-root", shapes.root, "--out", shapes.root / "o")
    assert code == 2 and not (shapes.root / "o").exists()


@pytest.mark.parametrize("name", ["a name of 300 characters", "half a character as a name", "5,000 digits"])
def test_doctor_goes_on_after_a_broken_data_set(shapes: Any, run: Run, name: str) -> None:
    shapes.text(META, BROKEN[name])
    _, text = run("doctor", "--data-root", shapes.root)
    assert "1 of 50 videos" in text


@pytest.mark.parametrize(
    "masks",
    [
        "[]",
        '{"4": 3}',
        '{"4": [3]}',
        '{"4": [{"size": [6], "counts": "x"}]}',
        '{"4": [{"size": [6, true], "counts": "x"}]}',
        '{"4": [{"size": [1099511627776, 1], "counts": "x"}]}',
        '{"4": [{"size": [65536, 65536], "counts": "x"}]}',
        '{"4": [{"size": [6, 8], "counts": {}}]}',
        '{"4": [], "4": []}',
        "version https://git-lfs.github.com/spec/v1\n",
    ],
)
def test_broken_mask_dictionaries_are_one_sentence(shapes: Any, run: Run, masks: str) -> None:
    path = shapes.text(MASKS, masks)
    for command in (("datasets", "verify", "shapes"), ("score", shapes.root, "--dataset", "shapes", "--out", "o")):
        code, text = run(*command, "--data-root", shapes.root)
        assert code == 2 and str(path) in text.replace("\n", "")


def test_direction_marks_and_escapes_in_names_are_printed_as_escapes(shapes: Any, run: Run) -> None:
    meta = json.loads((shapes.root / META).read_text())
    meta["videos"]["v\u202egnp"] = meta["videos"].pop("v")
    shapes.json(META, meta)
    _, text = run("datasets", "verify", "shapes", "--data-root", shapes.root)
    assert "v\\u202egnp" in text and "\u202e" not in text
    _, text = run("datasets", "list", "--data-root", shapes.root)
    assert "\u202e" not in text and "1 of 50 videos" in text


@pytest.mark.parametrize("text", ["\x1b]0;t\x07", "\x9b31m", "\u2067x", "\u200f", "\ud800", "a\u2028b", "\x7f"])
def test_shown_text_is_harmless_and_stays_so(text: str) -> None:
    once = shown(text)
    assert once.isascii() and once.isprintable() and shown(once) == once


def test_ordinary_text_is_shown_as_it_is() -> None:
    for text in ("dog 狗 ñ", "a\nb\tc", "[bold]x[/bold]"):
        assert shown(text) == text
    assert one_line("a\nb\tc") == "a\\nb\\tc"


def test_a_console_escapes_tables_too(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table

    table = Table("video")
    table.add_row("v\x9b31m\u202e")
    SafeConsole().print(table)
    shown_text = capsys.readouterr().out
    assert "\\x9b" in shown_text and "\x9b" not in shown_text and "\u202e" not in shown_text


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a\\b", "a\0", "a\x85", "x" * 256, "é" * 128, "\udfff"])
def test_what_cannot_name_a_file(name: str) -> None:
    assert why_no_name(name) is not None


def test_what_can_name_a_file_or_a_folder_below() -> None:
    for name in ("00000", "-CiPki3XuVI", "a b", "狗", "x" * 255, "..a"):
        assert why_no_name(name) is None
    assert why_no_name("UVO/all/-CiPki3XuVI", folders=True) is None
    assert why_no_name("UVO//x", folders=True) is not None and why_no_name("UVO/../x", folders=True) is not None


def test_sound_json_is_read_as_it_is() -> None:
    value = {"a": [1, -2.5, None, True, "\u202e"], "b": {"a": {}}}
    assert parse_json(json.dumps(value).encode("utf-8-sig"), Path("x.json")) == value
    with pytest.raises(PrerequisiteError):
        parse_json(b'{"a": 1, "b": {"c": 1, "c": 2}}', "text")
