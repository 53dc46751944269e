"""Files of a training that are not what they were: one sentence each."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.methods.steerseg.training.attributes import read_attributes
from rvosbench.methods.steerseg.training.files import TrainingFolder


@pytest.mark.parametrize("line", [b"{", b"[]", b"\xff", b"3", b"[" * 5000, b"9" * 5000, b'{"step": 1} x'])
def test_lines_that_are_no_json_objects(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "log.jsonl").write_bytes(b'{"loss": NaN}\n' + line + b"\n")
    with pytest.raises(PrerequisiteError, match=r"log\.jsonl"):
        TrainingFolder(tmp_path).lines("log.jsonl")
    (tmp_path / "log.jsonl").write_bytes(b'{"loss": NaN}\n' + line)
    assert len(TrainingFolder(tmp_path).lines("log.jsonl")) == 1, "the last line may have been cut off"


class _Runs:
    """A pickle of it would make a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return Path.touch, (self.marker,)  # type: ignore[return-value]


def test_a_state_that_is_another_pickle_runs_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    for content in (pickle.dumps(_Runs(marker)), pickle.dumps([1]), b"", b"PK\x03\x04", b"\x80\x02" * 50):
        (tmp_path / "state-clip.pt").write_bytes(content)
        with pytest.raises(PrerequisiteError, match=r"state-clip\.pt"):
            TrainingFolder(tmp_path).load("clip", "f")
    assert not marker.exists()
    pickle.loads(pickle.dumps(_Runs(marker)))
    assert marker.exists(), "elsewhere it would have run"


@pytest.mark.parametrize("content", ["{", "[]", '{"a": [1]}', '{"a": NaN}', "[" * 5000, '{"a": [], "a": []}'])
def test_attributes_of_another_form(tmp_path: Path, content: str) -> None:
    (tmp_path / "attributes.json").write_text(content)
    with pytest.raises(PrerequisiteError, match=r"attributes\.json"):
        read_attributes(tmp_path / "attributes.json")
