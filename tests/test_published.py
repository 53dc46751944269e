"""The published table: complete, consistent, and honest about what is doubtful."""

from __future__ import annotations

import pandas as pd
import pytest

from rvosbench.harness.data.cards import load_card, titles
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.published import (
    AS_PUBLISHED,
    PATH,
    display_lvlm,
    display_method,
    load_published,
    published_number,
    require_reference,
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
    ("method", "lvlm", "run_by", "dataset", "split", "J_and_F", "protocol", "flag", "variant"),
    [
        # Whose code scored the number decides its protocol.
        ("DecAF", "Qwen2.5VL-7B", "", "Ref-DAVIS17", "valid", 75.2, "refdavis17/expr", "", False),
        ("DecAF", "Qwen2.5VL-7B", "SteerSeg authors", "Ref-DAVIS17", "valid", 75.2, "refdavis17/expr", "copied", False),
        ("LISA", "LLaVA-7B", "VISA authors", "Ref-DAVIS17", "valid", 64.8, "refdavis17/expr", "", False),
        ("LISA", "LLaVA-7B", "VideoLISA authors", "Ref-DAVIS17", "valid", 58.4, "refdavis17/anno4", "", False),
        ("LISA", "LLaVA-13B", "VISA authors", "Ref-DAVIS17", "valid", 66.9, "refdavis17/expr", "suspect", False),
        ("LISA", "LLaVA-7B", "VideoLISA authors", "ReasonVOS", "valid", 31.1, AS_PUBLISHED, "suspect", False),
        ("VideoLISA", "LLaVA-Phi-3-V", "", "Ref-DAVIS17", "valid", 68.8, "refdavis17/anno4", "", False),
        ("VideoLISA", "LLaVA-Phi-3-V", "", "ReasonVOS", "valid", 47.5, AS_PUBLISHED, "", False),
        ("VideoLISA", "LLaVA-Phi-3-V", "", "MeViS", "valid_u", 54.5, "mevis-v1/valid_u", "", True),
        ("VISA", "ChatUniVi-7B", "", "MeViS", "valid", 44.5, "server", "suspect", False),
        ("SteerSeg", "Qwen2.5VL-7B", "", "ReasonVOS", "valid", 65.9, "reasonvos/v2", "", False),
        ("SteerSeg", "LLaVA-OV-7B", "", "ReVOS", "valid", 49.2, "revos/v1", "suspect", False),
        ("X2SAM", "not recorded", "", "ReVOS", "valid", 69.9, AS_PUBLISHED, "", False),
        ("DecAF", "LLaVA-OV-7B", "SteerSeg authors", "ReVOS", "valid", 37.0, "revos/v1", "superseded", False),
        ("DecAF (attention mask only)", "Qwen2.5VL-7B", "", "Ref-DAVIS17", "valid", 25.3, "refdavis17/expr", "", True),
        ("CoT-RVS (online)", "LLaVA1.5-7B", "", "ReVOS", "valid", 46.2, "revos/v1", "", False),
    ],
)  # fmt: skip
def test_what_is_known_of_a_row(
    method: str,
    lvlm: str,
    run_by: str,
    dataset: str,
    split: str,
    J_and_F: float,
    protocol: str,
    flag: str,
    variant: bool,
) -> None:
    rows = load_published()
    for name, value in {
        "method": method, "lvlm": lvlm, "run_by": run_by, "dataset": dataset, "split": split, "J_and_F": J_and_F
    }.items():  # fmt: skip
        rows = rows[rows[name] == value]
    found = rows[rows["subset"] == "all"][["protocol", "flag", "variant"]].itertuples(index=False, name=None)
    assert (protocol, flag, variant) in set(found)


def test_protocols_flags_and_variants_are_counted() -> None:
    rows = load_published()
    assert rows.groupby("flag").size().to_dict() == {"": 568, "copied": 30, "superseded": 35, "suspect": 35}
    assert rows.groupby("protocol").size().to_dict() == {
        AS_PUBLISHED: 131,
        "mevis-v1/valid_u": 15,
        "reasonvos/v2": 56,
        "refdavis17/anno4": 9,
        "refdavis17/expr": 80,
        "revos/v1": 226,
        "server": 151,
    }
    assert rows["variant"].sum() == 58


def test_a_reproduction_is_set_beside_the_main_comparison_or_the_number_under_its_protocol() -> None:
    line = ("LISA", "LLaVA-7B", "Ref-DAVIS17", "valid", "all")
    main = published_number(*line)
    assert main is not None and (main.J_and_F, main.protocol) == (64.8, "refdavis17/expr")
    assert published_number(*line, "refdavis17/expr") == published_number(*line, "another/protocol") == main
    four = published_number(*line, "refdavis17/anno4")
    assert four is not None and (four.J_and_F, four.run_by) == (58.4, "VideoLISA authors")
    assert "64.8" in four.elsewhere and "58.4" in main.elsewhere
    assert published_number("LISA", "LLaVA-7B", "Ref-DAVIS17", "train", "all") is None


def test_a_number_that_was_replaced_is_shown_only_where_there_is_no_other() -> None:
    found = published_number("DecAF", "LLaVA-OV-7B", "Ref-DAVIS17", "valid", "all", "refdavis17/expr")
    assert found is not None and (found.J_and_F, found.flag) == (59.4, "copied") and "59.6" in found.elsewhere


def test_the_authors_of_a_method_print_two_numbers() -> None:
    found = published_number("SteerSeg", "Qwen2.5VL-7B", "Ref-DAVIS17", "valid", "all")
    assert found is not None and (found.J_and_F, found.J, found.F) == (81.4, 78.0, 84.8)
    assert found.elsewhere == "80.3 (SteerSeg code repository README)"


@pytest.mark.parametrize(
    ("method", "lvlm", "nearest"),
    [("Decaf", None, "DecAF"), ("DecAF", "Qwen2.5-VL-7B", "Qwen2.5VL-7B"), ("SteerSeg", "LLaVA-13B", "LLaVA-OV-7B")],
)
def test_a_reference_that_no_source_prints_is_refused(method: str, lvlm: str | None, nearest: str) -> None:
    with pytest.raises(PrerequisiteError) as caught:
        require_reference(method, lvlm)
    assert nearest in caught.value.fix
    require_reference("DecAF", None)
    require_reference("DecAF", "Qwen2.5VL-7B")


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
