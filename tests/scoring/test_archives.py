"""Archives come from strangers: their members leave no folder, fill no memory, and one bad member spoils no other."""

from __future__ import annotations

import gzip
import io
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rvosbench.harness.data.reader import Dataset
from rvosbench.harness.data.types import BoolHW
from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.scoring.predictions import Problem, open_predictions, trees

from .builders import SIZE, Clip, Entry, mevis, square

MASK = square(2, 3)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return mevis(tmp_path / "data", {"a": Clip({"x": [MASK] * 3}, {"0": Entry(("x",))}, 3)})


def png(mask: BoolHW = MASK) -> bytes:
    out = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(out, "PNG")
    return out.getvalue()


def tar(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def plain(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def kinds(path: Path, dataset: Dataset) -> list[str]:
    video = dataset.videos[0]
    masks = open_predictions(path, dataset).of_video(video)
    read = [masks.read(video.expressions[0], frame, SIZE) for frame in range(3)]
    return [mask.kind if isinstance(mask, Problem) else "read" for mask in read]


def test_names_that_leave_the_archive_and_links_are_ignored(tmp_path: Path, dataset: Dataset) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(png())
    names = ["../a/0/00001.png", "/a/0/00001.png", "x/../../a/0/00001.png", "a//0/00001.png"]
    path = tar(
        tmp_path / "p.tar",
        [
            (plain("a/0/00000.png"), png()),
            *((plain(name), png()) for name in names),
            (plain("a/0/00001.png", tarfile.SYMTYPE, str(secret)), b""),
            (plain("a/0/00002.png", tarfile.LNKTYPE, "a/0/00000.png"), b""),
            (plain("a/0/00003.png", tarfile.FIFOTYPE), b""),
            (plain("a/0/00004.png", tarfile.CHRTYPE), b""),
        ],
    )
    before = sorted(tmp_path.rglob("*"))
    predictions = open_predictions(path, dataset)
    assert kinds(path, dataset) == ["read", "missing", "missing"]
    assert any("8 links, special files or unsafe names" in note for note in predictions.reading.notes)
    assert predictions.unexpected() == []
    assert sorted(tmp_path.rglob("*")) == before

    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.writestr("a/0/00000.png", png())
        for name in [*names, "a\\..\\..\\a/0/00001.png", "a/0/00002.png\0.txt"]:
            archive.writestr(name, png())
        link = zipfile.ZipInfo("a/0/00001.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, str(secret))
    # A zip name ends at its first zero byte, so the last name is a plain one.
    assert kinds(tmp_path / "p.zip", dataset) == ["read", "missing", "read"]
    assert sorted(set(tmp_path.rglob("*")) - set(before)) == [tmp_path / "p.zip"]


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def header(width: int, height: int) -> bytes:
    """A PNG of any size, in few bytes."""
    size = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + size + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


DAMAGED: dict[str, bytes] = {
    "large in its header": header(13300, 13300),
    "beyond any limit": header(2**31 - 1, 2**31 - 1),
    "long": png() + b"\0" * (2 << 20),
    "empty": b"",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 12\nshowpage\n",
    "text that expands": png()[:33] + chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * (80 << 20))) + png()[33:],
}


@pytest.mark.parametrize("kind", DAMAGED)
@pytest.mark.parametrize("form", ["p.zip", "p.tar", "folder"])
def test_one_bad_member_spoils_no_other(tmp_path: Path, dataset: Dataset, kind: str, form: str) -> None:
    path, content = tmp_path / form, DAMAGED[kind]
    members = {"a/0/00000.png": png(), "a/0/00001.png": content, "a/0/00002.png": png()}
    if form == "p.zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
    elif form == "p.tar":
        tar(path, [(plain(name), data) for name, data in members.items()])
    else:
        for name, data in members.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    first, middle, last = kinds(path, dataset)
    assert (first, last) == ("read", "read")
    assert middle in ("unreadable", "wrong size")


def damaged_zip(change: Callable[[bytearray, zipfile.ZipInfo], None]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for frame in range(3):
            archive.writestr(f"a/0/{frame:05d}.png", png(np.random.default_rng(frame).random(SIZE) < 0.5))
        info = archive.infolist()[1]
    content = bytearray(out.getvalue())
    change(content, info)
    return bytes(content)


def spoil_data(content: bytearray, info: zipfile.ZipInfo) -> None:
    content[info.header_offset + 50 : info.header_offset + 90] = b"\xff" * 40


def encrypt(content: bytearray, info: zipfile.ZipInfo) -> None:
    # The flag stands in the member's own header and in the directory at the end.
    content[info.header_offset + 6] |= 1
    entry = content.find(b"PK\x01\x02", content.find(b"PK\x01\x02") + 4)
    content[entry + 8] |= 1


def unknown_compression(content: bytearray, info: zipfile.ZipInfo) -> None:
    content[info.header_offset + 8] = 77
    entry = content.find(b"PK\x01\x02", content.find(b"PK\x01\x02") + 4)
    content[entry + 10] = 77


@pytest.mark.parametrize("change", [spoil_data, encrypt, unknown_compression])
def test_a_damaged_member_of_a_zip(
    tmp_path: Path, dataset: Dataset, change: Callable[[bytearray, zipfile.ZipInfo], None]
) -> None:
    (tmp_path / "p.zip").write_bytes(damaged_zip(change))
    assert kinds(tmp_path / "p.zip", dataset) == ["read", "unreadable", "read"]


def test_a_member_that_expands_is_read_up_to_a_limit(tmp_path: Path, dataset: Dataset) -> None:
    with zipfile.ZipFile(tmp_path / "p.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for frame in (0, 2):
            archive.writestr(f"a/0/{frame:05d}.png", png())
        with archive.open("a/0/00001.png", "w", force_zip64=True) as member:
            for _ in range(300):
                member.write(b"\0" * (1 << 20))
    assert kinds(tmp_path / "p.zip", dataset) == ["read", "unreadable", "read"]


@pytest.mark.parametrize("name", ["p.tar.gz", "p.json.gz"])
def test_a_compressed_file_expands_up_to_a_limit(
    tmp_path: Path, dataset: Dataset, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trees, "FREE_EXPANSION", 1 << 20)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / name).write_bytes(gzip.compress(b"\0" * (32 << 20)))
    with pytest.raises(PrerequisiteError, match="expands to more than"):
        open_predictions(tmp_path / name, dataset)
    assert not list(tmp_path.glob("rvosbench-*")), "nothing is left behind"


def test_an_archive_of_too_many_files(tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "MAX_FILES", 2)
    tar(tmp_path / "p.tar", [(plain(f"a/0/{frame:05d}.png"), png()) for frame in range(3)])
    with pytest.raises(PrerequisiteError, match="more than 2 files"):
        open_predictions(tmp_path / "p.tar", dataset)


def test_a_member_that_occurs_twice_is_named(tmp_path: Path, dataset: Dataset) -> None:
    members = [(plain(f"a/0/{frame:05d}.png"), png()) for frame in (0, 1, 2, 2)]
    predictions = open_predictions(tar(tmp_path / "p.tar", members), dataset)
    assert [(problem.kind, problem.where) for problem in predictions.unexpected()] == [("extra", "a/0/00002.png")]


@pytest.mark.parametrize("name", ["p.zip", "p.tar", "p.tar.gz"])
def test_damaged_archives_end_in_a_sentence_or_in_bad_masks(tmp_path: Path, dataset: Dataset, name: str) -> None:
    whole = tmp_path / "whole.tar"
    tar(whole, [(plain(f"a/0/{frame:05d}.png"), png()) for frame in range(3)])
    content = {"p.tar": whole.read_bytes(), "p.tar.gz": gzip.compress(whole.read_bytes())}.get(
        name, damaged_zip(lambda content, info: None)
    )
    rng, path = np.random.default_rng(0), tmp_path / name
    for _ in range(80):
        damaged = bytearray(content[: int(rng.integers(1, len(content)))] if rng.random() < 0.3 else content)
        for position in rng.integers(0, len(damaged), int(rng.integers(1, 20))):
            damaged[position] = int(rng.integers(0, 256))
        path.write_bytes(damaged)
        try:
            assert set(kinds(path, dataset)) <= {"read", "missing", "unreadable", "wrong size"}
        except PrerequisiteError as error:
            assert name in error.problem


def test_folders_with_loops_special_files_and_links_to_nowhere(tmp_path: Path, dataset: Dataset) -> None:
    folder = tmp_path / "p/a/0"
    folder.mkdir(parents=True)
    (folder / "00000.png").write_bytes(png())
    (folder / "loop").symlink_to(tmp_path / "p")
    (folder / "self").symlink_to(folder / "self")
    (folder / "00001.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(folder / "00002.png")
    assert kinds(tmp_path / "p", dataset) == ["read", "missing", "missing"]
    notes = open_predictions(tmp_path / "p", dataset).reading.notes
    assert any("3 links, special files or unsafe names" in note for note in notes)
