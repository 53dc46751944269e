"""Published numbers: the table as printed, plus what is known about each row.

Values stay as printed, in percent. Protocols are named only where the scoring code of whoever ran the number is known.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pandas as pd

PATH = Path(__file__).with_name("published_results.csv")
AS_PUBLISHED = "as published"
MAIN_SOURCE = "SteerSeg project page, main table (seed document 1)"
"""The one table that compares the frozen-LVLM methods across LVLMs beside the trained ones."""

SPLITS = {("Ref-DAVIS17", "val"): "valid", ("ReasonVOS", "test"): "valid", ("ReVOS", "val"): "valid"}
"""Splits that papers name differently from the cards."""

_BOARD_NAMES = {"jf": "J_and_F", "j": "J", "f": "F", "reproduced_by": "run_by"}
_ROUNDING = 0.101
"""Percent: three numbers rounded to one decimal may miss J&F = (J + F) / 2 by up to 0.1."""
_SUSPECT = re.compile(
    r"CHECK|LIKELY TYPO|SUSPICIOUS|INFERRED|suspicious|copy error|may be swapped"
    r"|uncertain|inferred|approximately|conflicts with|MeViS triple equals"
)
_EXPR = {"VISA", "DecAF", "SteerSeg", "GLUS", "Sa2VA", "UniPixel", "VRS-HQ"}
_ANNO4 = {"ReferFormer", "VideoLISA", "OnlineRefer", "InstructSeg"}
_MEVIS_V1 = {"VideoLISA", "Sa2VA"}


@cache
def load_published() -> pd.DataFrame:
    """All rows with the board's columns: kind "published", or "starred" where others ran the method.

    Adds ``protocol``, ``flag`` (see `flag_of`), ``variant`` (ablations and other non-default forms) and
    ``main`` (rows of the main comparison). ``subset`` is "all" for a whole split.
    """
    table = pd.read_csv(PATH, dtype={"note": str, "subset": str, "reproduced_by": str}, keep_default_na=True)
    text = ["method", "venue", "lvlm", "training", "dataset", "split", "subset", "reproduced_by", "note"]
    table[text] = table[text].fillna("")
    table = table.rename(columns=_BOARD_NAMES)
    table["protocol"] = [
        protocol_of(*row)
        for row in zip(table["dataset"], table["split"], table["method"], table["run_by"], table["note"], strict=True)
    ]
    table["split"] = [
        SPLITS.get((dataset, split), split) for dataset, split in zip(table["dataset"], table["split"], strict=True)
    ]
    table["subset"] = table["subset"].replace({"": "all", "overall": "all"})
    table["kind"] = table["run_by"].map(lambda name: "starred" if name else "published")
    table["flag"] = [flag_of(*row) for row in zip(table["note"], table["J_and_F"], table["J"], table["F"], strict=True)]
    table["variant"] = [is_variant(method, note) for method, note in zip(table["method"], table["note"], strict=True)]
    table["main"] = table["source"] == MAIN_SOURCE
    return table


def protocol_of(dataset: str, split: str, method: str, run_by: str, note: str) -> str:
    """Our protocol id for a printed number, or "as published".

    Ref-DAVIS17: VISA, DecAF, SteerSeg, GLUS, Sa2VA, UniPixel and VRS-HQ score expressions one by one; ReferFormer,
    VideoLISA, OnlineRefer and InstructSeg fuse objects and average four annotators. ReVOS: all use VISA's script.
    ReasonVOS: DecAF and SteerSeg use the corrected files. Hidden splits are scored by their server.
    """
    runner = run_by.removesuffix(" authors") if run_by else method.partition(" (")[0].partition(" ablation")[0]
    if (dataset, split) in {("MeViS", "valid"), ("Ref-YouTube-VOS", "valid")}:
        return "server"
    if dataset == "Ref-DAVIS17" and runner in _EXPR:
        return "refdavis17/expr"
    if dataset == "Ref-DAVIS17" and runner in _ANNO4:
        return "refdavis17/anno4"
    if dataset == "ReVOS" and not re.search(r"subset not stated|subset.*uncertain|labels 65 only", note):
        return "revos/v1"
    if dataset == "ReasonVOS" and runner in {"DecAF", "SteerSeg"}:
        return "reasonvos/v2"
    if (dataset, split) == ("MeViS", "valid_u") and runner in _MEVIS_V1:
        return "mevis-v1/valid_u"
    return AS_PUBLISHED


def flag_of(note: str, jf: float, j: float, f: float) -> str:
    """What to beware of, or an empty string.

    "superseded": the source replaced it. "suspect": the note doubts the value, or J&F is not the mean of J and F.
    "copied": the value stands in another paper too, so who ran it is doubtful.
    """
    if note.startswith("superseded"):
        return "superseded"
    impossible = abs(jf - (j + f) / 2) > _ROUNDING  # False where a value is absent
    if impossible or _SUSPECT.search(note):
        return "suspect"
    return "copied" if "most likely copied" in note else ""


def is_variant(method: str, note: str) -> bool:
    """Whether the row is an ablation or another non-default form of a method."""
    form = r"ablation|\((attention mask only|prompt variant|one token|first 5|uniform 5|first-frame token)"
    return bool(re.search(form, method) or re.search(r"ablation (model|table|value|baseline|with)", note))


def source_link(reference: str) -> str | None:
    """A link to the source, where its reference names one."""
    if match := re.search(r"https://[^\s)]+", reference):
        return match.group()
    if match := re.search(r"arXiv:(\d{4}\.\d{5})", reference):
        return f"https://arxiv.org/abs/{match.group(1)}"
    return None


def display_method(name: str) -> str:
    """The spelling papers use, so that "decaf" and "DecAF" are one method; other names unchanged."""
    return _published_methods().get(_folded(name), name)


def display_lvlm(name: str | None) -> str:
    """The spelling papers use for a checkpoint: "Qwen/Qwen2.5-VL-7B-Instruct" -> "Qwen2.5VL-7B".

    Only release suffixes are dropped. A fine-tuned or local checkpoint keeps its own name; none gives "none".
    """
    if not name:
        return "none"
    base = name.rstrip("/").rpartition("/")[2].partition("@")[0]
    folded = re.sub(r"(instruct|hf|chat)+$", "", _folded(base))
    folded = {"llavaonevisionqwen27bov": "llavaov7b", "llavaonevisionqwen27b": "llavaov7b"}.get(folded, folded)
    return _published_lvlms().get(folded, base)


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


@cache
def _published_methods() -> dict[str, str]:
    return {_folded(name): name for name in load_published()["method"].unique()}


@cache
def _published_lvlms() -> dict[str, str]:
    return {_folded(name): name for name in load_published()["lvlm"].unique() if not name.startswith("none")}
