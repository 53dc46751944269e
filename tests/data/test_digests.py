"""Media digests: what changes them, what does not, and many processes at once."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from rvosbench.harness.data import digests
from rvosbench.harness.data.digests import MediaIndex
from rvosbench.harness.data.types import Video
from rvosbench.harness.errors import PrerequisiteError, SampleError

OLD = time.time_ns() - 3600 * 10**9


def write(path: Path, content: bytes, mtime_ns: int = OLD) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, ns=(mtime_ns, mtime_ns))
    return path


def clip(folder: Path, contents: list[bytes]) -> Video:
    paths = tuple(write(folder / f"{index:05d}.jpg", content) for index, content in enumerate(contents))
    return Video("set", "valid", "clip", tuple(path.stem for path in paths), paths, ())


def test_digest_is_the_hash_of_the_frames_hashes_in_order(tmp_path: Path) -> None:
    video = clip(tmp_path / "clip", [b"one", b"two"])
    by_hand = hashlib.sha256(hashlib.sha256(b"one").digest() + hashlib.sha256(b"two").digest()).hexdigest()
    index = MediaIndex(tmp_path / "index")
    assert index.video(video) == by_hand
    assert index.video(video) == by_hand, "the remembered digests give the same"
    assert MediaIndex(tmp_path / "index").video(video) == by_hand
    assert MediaIndex(tmp_path / "index").video(clip(tmp_path / "elsewhere", [b"one", b"two"])) == by_hand


def test_order_content_and_number_of_frames_change_the_digest(tmp_path: Path) -> None:
    index = MediaIndex(tmp_path / "index")
    clips = [[b"one", b"two"], [b"two", b"one"], [b"onet", b"wo"], [b"one"], [b"one", b"two", b""]]
    found = {index.video(clip(tmp_path / str(number), contents)) for number, contents in enumerate(clips)}
    assert len(found) == len(clips)


def test_known_files_are_not_read_again_and_changed_ones_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = digests._hash_file

    def counted(path: Path) -> str:
        read.append(path.name)
        return original(path)

    monkeypatch.setattr(digests, "_hash_file", counted)
    index = MediaIndex(tmp_path / "index")
    video = clip(tmp_path / "clip", [b"one", b"two"])
    before = index.video(video)
    assert sorted(read) == ["00000.jpg", "00001.jpg"]
    read.clear()
    assert index.video(video) == before
    assert read == []
    write(video.frame_paths[1], b"owt", OLD + 1)
    assert index.video(video) != before
    assert read == ["00001.jpg"]


def test_a_file_that_just_changed_is_hashed_every_time(tmp_path: Path) -> None:
    # Two writes within one tick of the clock may leave size and time the same.
    video = clip(tmp_path / "clip", [b"one"])
    index = MediaIndex(tmp_path / "index")
    now = time.time_ns()
    write(video.frame_paths[0], b"new", now)
    first = index.video(video)
    write(video.frame_paths[0], b"wen", now)
    assert index.video(video) != first


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        '{"folder": 3}',
        '{"folder": "FOLDER", "files": {"00000.jpg": 5}}',
        "[" * 5000,
        "ENTRY:zz",
        "ENTRY:ab",
    ],
)
def test_a_damaged_index_is_rebuilt(tmp_path: Path, damage: str) -> None:
    video = clip(tmp_path / "clip", [b"one"])
    index = MediaIndex(tmp_path / "index")
    before = index.video(video)
    (slot,) = (tmp_path / "index").rglob("*.json")
    entry = {"folder": str(tmp_path / "clip"), "files": {"00000.jpg": [3, OLD, damage.partition(":")[2]]}}
    slot.write_text(json.dumps(entry) if "ENTRY" in damage else damage.replace("FOLDER", str(tmp_path / "clip")))
    assert index.video(video) == before
    assert json.loads(slot.read_text())["files"]


def test_a_missing_frame_is_named(tmp_path: Path) -> None:
    video = clip(tmp_path / "clip", [b"one", b"two"])
    video.frame_paths[1].unlink()
    with pytest.raises(SampleError, match=r"clip/00001\.jpg cannot be read: No such file"):
        MediaIndex(tmp_path / "index").video(video)


def test_folder_digest_depends_on_names_and_contents_but_not_on_caches_and_cards(tmp_path: Path) -> None:
    index = MediaIndex(tmp_path / "index")
    model = tmp_path / "model"
    write(model / "config.json", b"{}")
    write(model / "weights/part.bin", b"12")
    digest = index.folder(model)
    write(model / ".cache/lock", b"x")
    write(model / ".gitattributes", b"x")
    write(model / "README.md", b"a card")
    assert index.folder(model) == digest
    blob = write(tmp_path / "blobs/abc", b"12")
    (model / "weights/part.bin").unlink()
    (model / "weights/part.bin").symlink_to(blob)
    assert index.folder(model) == digest, "a link counts as what it points to"
    (model / "weights/again").symlink_to(model)
    assert index.folder(model) == digest, "a link to a folder above adds nothing"
    (model / "weights/part.bin").rename(model / "weights/other.bin")
    assert index.folder(model) != digest


def test_a_folder_that_is_none_is_a_prerequisite(tmp_path: Path) -> None:
    index = MediaIndex(tmp_path / "index")
    with pytest.raises(PrerequisiteError, match="is not a folder"):
        index.folder(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PrerequisiteError, match="is empty"):
        index.folder(tmp_path / "empty")


def _hash_often(index: Path, video: Video, results: multiprocessing.Queue[set[str]]) -> None:
    found = set()
    for turn in range(20):
        # Each turn changes one file's time, so that every process keeps rewriting the shared slot.
        os.utime(video.frame_paths[turn % 3], ns=(OLD + turn, OLD + turn))
        found.add(MediaIndex(index).video(video))
    results.put(found)


def test_processes_share_an_index(tmp_path: Path) -> None:
    video = clip(tmp_path / "clip", [b"one", b"two", b"three"])
    context = multiprocessing.get_context("fork")
    results: multiprocessing.Queue[set[str]] = context.Queue()
    workers = [context.Process(target=_hash_often, args=(tmp_path / "index", video, results)) for _ in range(4)]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=500) for _ in workers]
    for worker in workers:
        worker.join()
    assert found == [{MediaIndex(tmp_path / "other").video(video)}] * 4
    assert not list((tmp_path / "index").rglob("*.tmp"))


def test_an_index_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    video = clip(tmp_path / "clip", [b"one"])
    (tmp_path / "index").write_text("a file where the folder belongs")
    assert MediaIndex(tmp_path / "index").video(video) == MediaIndex(tmp_path / "other").video(video)
