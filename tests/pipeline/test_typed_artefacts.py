"""Artefacts that another stage wrote, or that hold nonsense, end as one error of one sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rvosbench.harness.data.types import MaskTrack
from rvosbench.harness.errors import SampleError
from rvosbench.harness.settings import Json
from rvosbench.harness.store import typed
from rvosbench.harness.store.artefacts import Artefact
from rvosbench.harness.store.tracks import mask_track, segment_artefact
from rvosbench.methods.lochead.grounding import summed_map
from rvosbench.methods.lochead.settings import MapSettings
from rvosbench.methods.segment.from_map import rollout_maps
from rvosbench.methods.tam.settings import TokenMapSettings
from rvosbench.methods.tam.stages import token_reader

NONSENSE: list[Json] = [
    None,
    True,
    1,
    -1,
    1.5,
    "",
    "x",
    [],
    [None],
    [True],
    [1.5],
    ["0"],
    [-1],
    [3, 1],
    [1, 1],
    {},
    [[]],
]
"""Values of a field that no writer writes; those that a field may hold are taken out."""


def segment() -> dict[str, Any]:
    return dict(segment_artefact(MaskTrack(4, 6, (0, 2), (None, "04"))).meta)


def rollouts() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    clip, frame = rng.random((2, 2, 3), dtype=np.float32), rng.random((3, 4, 6), dtype=np.float32)
    return {"object_clip": clip, "object_frame": frame, "background_clip": clip, "background_frame": frame}


def test_what_was_written_is_read() -> None:
    assert mask_track(Artefact(segment())) == MaskTrack(4, 6, (0, 2), (None, "04"))
    keyframes, maps = rollout_maps(Artefact({"keyframes": [0, 3, 9]}, rollouts()))
    assert keyframes == (0, 3, 9) and maps.background_clip_thw is not None
    alone = {name: array for name, array in rollouts().items() if name.startswith("object")}
    assert rollout_maps(Artefact({"keyframes": [0, 3, 9]}, alone))[1].background_clip_thw is None


@pytest.mark.parametrize("field", ["size", "frames", "rles"])
@pytest.mark.parametrize(
    "value", [*NONSENSE, [0, 6], [4, 6, 8], [4, 1 << 40], ["a"], [None, 1], ["a", "b", "c"]], ids=str
)
def test_a_track_of_nonsense_is_a_sample_error(field: str, value: Json) -> None:
    if (field, value) in (("size", [3, 1]), ("size", [1, 1]), ("frames", [0, 6])):
        assert mask_track(Artefact({**segment(), field: value})).rles == (None, "04")
        return
    with pytest.raises(SampleError, match="artefact"):
        mask_track(Artefact({**segment(), field: value}))


@pytest.mark.parametrize("field", ["size", "frames", "rles"])
def test_a_track_without_a_field_is_a_sample_error(field: str) -> None:
    meta = segment()
    del meta[field]
    with pytest.raises(SampleError, match=field):
        mask_track(Artefact(meta))


ARRAYS: list[Any] = [
    np.zeros((0, 2, 3), np.float32),
    np.zeros((2, 3), np.float32),
    np.zeros((7, 2, 3), np.float32),
    np.zeros((2, 0, 3), np.float32),
    np.zeros((2, 2, 3), np.int64),
    np.zeros((2, 2, 3), np.complex64),
    np.full((2, 2, 3), "x"),
    np.full((2, 2, 3), np.nan, np.float32),
    np.full((2, 2, 3), np.inf, np.float64),
]


@pytest.mark.parametrize("name", sorted(rollouts()))
@pytest.mark.parametrize("array", ARRAYS, ids=range(len(ARRAYS)))
def test_maps_of_nonsense_are_a_sample_error(name: str, array: Any) -> None:
    with pytest.raises(SampleError, match="artefact"):
        rollout_maps(Artefact({"keyframes": [0, 3, 9]}, {**rollouts(), name: array}))


@pytest.mark.parametrize("name", sorted(rollouts()))
def test_missing_maps_are_a_sample_error(name: str) -> None:
    arrays = rollouts()
    del arrays[name]
    with pytest.raises(SampleError, match="artefact"):
        rollout_maps(Artefact({"keyframes": [0, 3, 9]}, arrays))


@pytest.mark.parametrize("keyframes", [*NONSENSE, [0, 3], ["C:\\x"]], ids=str)
def test_keyframes_of_nonsense_are_a_sample_error(keyframes: Json) -> None:
    artefact = Artefact({"keyframes": keyframes, "tokens": [["a"]]}, {**rollouts(), "heads": np.zeros((1, 3, 2, 2))})
    with pytest.raises(SampleError, match="artefact"):
        rollout_maps(artefact)
    with pytest.raises(SampleError, match="artefact"):
        summed_map(artefact, MapSettings())


@pytest.mark.parametrize("tokens", [None, "a", [None], [[1]], [["a"], ["b"]], [["a", "b"]], [[]] * 3], ids=str)
def test_tokens_that_are_not_the_maps_are_a_sample_error(tokens: Json) -> None:
    maps = {"view_000": np.zeros((1, 1, 2, 2), np.float32)}
    with pytest.raises(SampleError, match="artefact"):
        token_reader(TokenMapSettings("first"))(Artefact({"keyframes": [0], "tokens": tokens}, maps))


def test_names_of_frames_are_names() -> None:
    assert typed.names(Artefact({"frames": ["00000", "a b.1"]}), "frames") == ("00000", "a b.1")
    for value in ([None], ["../../x"], ["a/b"], ["a", "a"], [{}], "a", None, ["\x00"], ["\ud800"]):
        with pytest.raises(SampleError, match="frames"):
            typed.names(Artefact({"frames": value}), "frames")


def test_counts_are_counts() -> None:
    held = np.zeros((2, 6), np.int64)
    np.testing.assert_array_equal(typed.integers(Artefact(arrays={"counts": held}), "counts", (2, 6)), held)
    for array in (held[:1], held.astype(np.float64), held - 1, held[0], held.astype(bool)):
        with pytest.raises(SampleError, match="counts"):
            typed.integers(Artefact(arrays={"counts": array}), "counts", (2, 6))
    assert typed.counts(Artefact({"kinds": {"a": 0}}), "kinds") == {"a": 0}
    for value in ({"a": -1}, {"a": True}, {"a": "1"}, [], None):
        with pytest.raises(SampleError, match="kinds"):
            typed.counts(Artefact({"kinds": value}), "kinds")
