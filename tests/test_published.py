"""The published table: complete, consistent, and honest about what is doubtful."""

from __future__ import annotations

import pandas as pd
import pytest

from rvosbench.harness.data.cards import load_card, titles
from rvosbench.harness.published import (
    AS_PUBLISHED,
    PATH,
    display_lvlm,
    display_method,
    flag_of,
    is_variant,
    load_published,
    protocol_of,
    source_link,
)


def test_all_rows_are_there_with_their_provenance() -> None:
    raw = pd.read_csv(PATH)
    assert len(raw) == len(load_published()) == 668
    for column in ("method", "venue", "lvlm", "training", "dataset", "split", "source", "source_ref"):
        assert raw[column].notna().all(), column
    assert set(raw["dataset"]) == set(titles())
    assert raw[["jf", "j", "f"]].notna().any(axis=1).all()
    assert raw[["jf", "j", "f"]].stack().dropna().between(0, 100).all()


def test_j_and_f_is_the_mean_of_j_and_f_or_the_row_is_flagged() -> None:
    rows = load_published().dropna(subset=["J_and_F", "J", "F"])
    off = (rows["J_and_F"] - (rows["J"] + rows["F"]) / 2).abs() > 0.101
    assert off.sum() == 2
    assert (rows.loc[off, "flag"] == "suspect").all() and (rows.loc[off, "note"] != "").all()


def test_revos_overall_is_the_mean_of_its_halves_or_the_row_is_flagged() -> None:
    rows = load_published()
    rows = rows[(rows["dataset"] == "ReVOS") & rows["J_and_F"].notna()]
    keys = ["method", "lvlm", "source", "run_by"]
    once = rows.drop_duplicates([*keys, "subset"], keep=False)
    wide = once.pivot(index=keys, columns="subset", values="J_and_F").dropna()
    off = wide[(wide["all"] - (wide["referring"] + wide["reasoning"]) / 2).abs() > 0.11]
    assert len(wide) > 40
    flagged = rows[(rows["subset"] == "all") & (rows["flag"] == "suspect")].set_index(keys).index
    assert set(off.index) <= set(flagged)


def test_starred_rows_say_who_ran_them() -> None:
    rows = load_published()
    assert (rows["kind"] == "starred").sum() == 223
    assert (rows.loc[rows["kind"] == "starred", "run_by"] != "").all()
    assert (rows.loc[rows["kind"] == "published", "run_by"] == "").all()


def test_every_named_protocol_is_one_of_the_cards() -> None:
    rows = load_published()
    for (dataset, split), group in rows.groupby(["dataset", "split"]):
        known = set(load_card(titles()[str(dataset)]).splits[str(split)].protocols)
        assert set(group["protocol"]) <= known | {AS_PUBLISHED}, dataset


@pytest.mark.parametrize(
    ("dataset", "split", "method", "run_by", "expected"),
    [
        ("Ref-DAVIS17", "val", "DecAF", "", "refdavis17/expr"),
        ("Ref-DAVIS17", "val", "DecAF", "SteerSeg authors", "refdavis17/expr"),
        ("Ref-DAVIS17", "val", "LISA", "VISA authors", "refdavis17/expr"),
        ("Ref-DAVIS17", "val", "LISA", "VideoLISA authors", "refdavis17/anno4"),
        ("Ref-DAVIS17", "val", "VideoLISA", "", "refdavis17/anno4"),
        ("Ref-DAVIS17", "val", "Veason-R1", "", AS_PUBLISHED),
        ("ReasonVOS", "test", "SteerSeg", "", "reasonvos/v2"),
        ("ReasonVOS", "test", "VideoLISA", "", AS_PUBLISHED),
        ("ReVOS", "val", "VISA", "", "revos/v1"),
        ("MeViS", "valid", "VISA", "", "server"),
        ("MeViS", "valid_u", "Sa2VA", "", "mevis-v1/valid_u"),
        ("MeViS", "valid_u", "EMC", "", AS_PUBLISHED),
        ("Ref-YouTube-VOS", "valid", "VISA", "", "server"),
    ],
)
def test_protocols_follow_whoever_ran_the_number(
    dataset: str, split: str, method: str, run_by: str, expected: str
) -> None:
    assert protocol_of(dataset, split, method, run_by, "") == expected


def test_a_row_whose_subset_is_uncertain_has_no_protocol() -> None:
    note = "secondary source; so the subset of this value is uncertain"
    assert protocol_of("ReVOS", "val", "X", "", note) == AS_PUBLISHED


def test_flags() -> None:
    nan = float("nan")
    assert flag_of("", 50.0, 49.0, 51.0) == ""
    assert flag_of("", 50.0, 49.0, 51.3) == "suspect"
    assert flag_of("J&F only", 50.0, nan, nan) == ""
    assert flag_of("quoted; LIKELY TYPO: really 3", 50.0, nan, nan) == "suspect"
    assert flag_of("superseded on 15 May 2026", 50.0, 50.0, 50.0) == "superseded"
    assert flag_of("so this one is most likely copied", 50.0, 50.0, 50.0) == "copied"


def test_variants_are_told_apart() -> None:
    assert is_variant("DecAF ablation (rollout: Max)", "") and is_variant("TAM (attention mask only)", "")
    assert not is_variant("CoT-RVS (online)", "") and not is_variant("DecAF", "quoted")


def test_names_of_runs_are_spelt_as_in_papers() -> None:
    assert display_method("decaf") == "DecAF" and display_method("loc_head") == "Loc-Head"
    assert display_method("mine") == "mine"
    names = {
        "Qwen/Qwen2.5-VL-7B-Instruct": "Qwen2.5VL-7B",
        "Qwen/Qwen2-VL-2B-Instruct@0123abc": "Qwen2VL-2B",
        "OpenGVLab/InternVL3-8B-hf": "InternVL3-8B",
        "llava-hf/llava-onevision-qwen2-7b-ov-hf": "LLaVA-OV-7B",
        "/models/tiny/": "tiny",
        "me/Qwen2.5-VL-7B-finetuned": "Qwen2.5-VL-7B-finetuned",
    }
    assert {name: display_lvlm(name) for name in names} == names
    assert display_lvlm(None) == display_lvlm("") == "none"


def test_links_lead_to_sources_only() -> None:
    assert source_link("arXiv:2510.19592") == "https://arxiv.org/abs/2510.19592"
    assert source_link("https://github.com/x/y (arXiv:2509.18094)") == "https://github.com/x/y"
    assert source_link("FeVOS (2026)") is None
