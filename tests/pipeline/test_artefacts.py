"""The store: deterministic bytes, commits that are all or nothing, clear words when the disk says no."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.store.artefacts import (
    Artefact,
    ArtefactStore,
    DamagedArtefactError,
    from_bytes,
    to_bytes,
    write_json,
)

ARTEFACT = Artefact(
    meta={"answer": "swän", "n": 3, "rles": ["a", None]},
    arrays={"map": np.arange(6, dtype=np.float32).reshape(1, 2, 3), "flags": np.array([True, False])},
)


def test_round_trip_keeps_values_dtypes_and_order() -> None:
    again = from_bytes(to_bytes(ARTEFACT))
    assert again.meta == ARTEFACT.meta
    assert set(again.arrays) == {"map", "flags"}
    for name, array in ARTEFACT.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array)
        assert again.arrays[name].dtype == array.dtype


def test_equal_artefacts_give_equal_bytes_whatever_the_order_of_construction() -> None:
    other = Artefact(
        meta=dict(reversed(ARTEFACT.meta.items())), arrays={name: ARTEFACT.arrays[name] for name in ("flags", "map")}
    )
    assert to_bytes(other) == to_bytes(ARTEFACT)


def test_nan_in_meta_and_object_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        to_bytes(Artefact(meta={"x": float("nan")}))
    with pytest.raises(ValueError, match="allow_pickle"):
        to_bytes(Artefact(arrays={"x": np.array([object()])}))


def test_a_full_disk_leaves_nothing_under_the_final_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ArtefactStore(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("rvosbench.harness.store.artefacts.os.fsync", full)
    with pytest.raises(PrerequisiteError, match="No space left") as caught:
        store.write("ground", "ab12", ARTEFACT)
    assert "Free disk space" in caught.value.fix
    assert not store.has("ground", "ab12")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_a_file_in_the_way_is_a_prerequisite_error(tmp_path: Path) -> None:
    (tmp_path / "ground").write_text("not a folder")
    with pytest.raises(PrerequisiteError, match="Cannot write"):
        ArtefactStore(tmp_path).write("ground", "ab12", ARTEFACT)


def test_missing_and_damaged_artefacts_are_named(tmp_path: Path) -> None:
    store = ArtefactStore(tmp_path)
    with pytest.raises(PrerequisiteError, match="is missing"):
        store.read("ground", "ab12")
    store.write("ground", "ab12", ARTEFACT)
    path = store.path("ground", "ab12")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(PrerequisiteError, match="is damaged"):
        store.read("ground", "ab12")


def test_every_flipped_bit_and_every_truncation_is_found(tmp_path: Path) -> None:
    store, key = ArtefactStore(tmp_path), "ab" * 32
    store.write("ground", key, Artefact(meta={"size": [4, 6], "text": "x" * 40}, arrays={"v": np.arange(9)}))
    path = store.path("ground", key)
    good = path.read_bytes()
    assert store.damage("ground", key) is None
    meta = store.read_meta("ground", key)
    for bit in range(0, len(good) * 8):
        flipped = bytearray(good)
        flipped[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises(ValueError, match="checksum"):
            from_bytes(bytes(flipped))
        if bit % 7 == 0:
            path.write_bytes(bytes(flipped))
            with pytest.raises(DamagedArtefactError):
                store.read("ground", key)
            try:
                assert store.read_meta("ground", key) == meta, "a value that was not written"
            except DamagedArtefactError:
                continue
    for length in range(0, len(good), 5):
        path.write_bytes(good[:length])
        for read in (store.read, store.read_meta):
            with pytest.raises(DamagedArtefactError):
                read("ground", key)
        assert store.damage("ground", key) is not None


def test_files_have_the_permissions_the_user_asks_for(tmp_path: Path) -> None:
    for mask, mode in ((0o077, 0o600), (0o022, 0o644), (0o002, 0o664)):
        before = os.umask(mask)
        try:
            write_json(tmp_path / "x.json", {})
        finally:
            os.umask(before)
        assert (tmp_path / "x.json").stat().st_mode & 0o777 == mode


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "x.json", {"x": float("inf")})
    assert list(tmp_path.iterdir()) == []
